"""What all commands have in common."""

import pytest

from splatmend.plugin import cli


@pytest.mark.parametrize("command", ["restore_video", "main"])
def test_commands_keep_freed_memory(command, monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: calls.append(command))
    arguments = ["restore-video"] if command == "main" else []
    assert getattr(cli, command)(arguments) == 2  # no input was named
    assert calls

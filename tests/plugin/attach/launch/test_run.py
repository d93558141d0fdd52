"""`splatmend run`: scripts that know nothing of it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from splatmend.core.errors import InputError
from splatmend.plugin.attach.launch import main

# Scripts


def script(folder: Path, text: str, name: str = "viewer.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


@pytest.mark.slow
def test_a_script_and_its_world(modules, server, tmp_path) -> None:
    """The one that has a process of its own."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "helper.py").write_text("def load():\n    import gsplat\n    return gsplat")
    script(home, """
        import os, pickle, sys
        import torch
        import helper

        class Point: pass

        if __name__ == "__main__":
            assert sys.modules["__main__"].Point is type(pickle.loads(pickle.dumps(Point())))
            assert sys.argv == ["home/viewer.py", "--url", "x", "--", "-m", "-h"], sys.argv
            assert __file__ == os.path.abspath("home/viewer.py") and __spec__ is None
            assert sys.path[0] == os.path.dirname(__file__)
            m, v = torch.ones(4, 3), torch.eye(4)[None]
            def render():
                image = helper.load().rasterization(m, m, m, m[:, 0], m * m, v, v, 7, 5,
                                                    sh_degree=3)[0]
                return image.mean().item()
            on = render()
            with torch.no_grad():
                off = render()
            assert abs(on + off - 1) < 0.01, (on, off)
            print("whole")
            sys.exit(7)
    """)  # fmt: skip
    command = [sys.executable, "-m", "splatmend.plugin.attach.launch"]
    command += ["--url", server.urls[0], "--deadline-ms", "20000"]
    done = subprocess.run(
        [*command, "home/viewer.py", "--url", "x", "--", "-m", "-h"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.returncode) == ("whole\n", 7), done.stderr
    assert done.stderr == (
        "splatmend run: 1 of 1 pictures restored (gsplat.rendering.rasterization, "
        "gsplat.rendering.rasterization_2dgs)\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "def fail():\n    raise KeyError('mine')\nfail()\n",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise OSError from error\n",
        "import a_module_that_is_not_there\n",
        "x = (\n",
    ],
)
def test_a_traceback_is_the_script_s_own(text, tmp_path, world, capsys) -> None:
    path = script(tmp_path, text)
    plain = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert main([str(path)]) == plain.returncode == 1
    assert capsys.readouterr().err == plain.stderr
    world[0]()
    assert "nothing restored: no known rasterizer was imported" in capsys.readouterr().err


@pytest.mark.usefixtures("world")
def test_how_scripts_end(tmp_path, capsys) -> None:
    assert main([str(script(tmp_path, "raise KeyboardInterrupt"))]) == 130
    assert capsys.readouterr().err.endswith("\nKeyboardInterrupt\n")
    with pytest.raises(SystemExit, match="why"):
        main([str(script(tmp_path, "import sys; sys.exit('why')"))])
    assert main([str(script(tmp_path, "done = True"))]) == 0
    assert sys.modules["__main__"].done  # type: ignore[attr-defined]


@pytest.mark.usefixtures("world")
def test_a_module(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "package").mkdir()
    script(tmp_path / "package", """
        import sys
        from package.part import value
        print(__name__, sys.argv[1:], value, sys.path[0])
        import package.absent
    """, "app.py")  # fmt: skip
    (tmp_path / "package" / "part.py").write_text("value = 3")
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "package.app", "--port", "8080"]) == 1
    said = capsys.readouterr()
    assert said.out == f"__main__ ['--port', '8080'] 3 {tmp_path}\n"
    assert "frozen" not in said.err
    assert said.err.endswith("ModuleNotFoundError: No module named 'package.absent'\n")
    del sys.modules["package"]


RENDERS = """
    import torch
    from diff_gaussian_rasterization import GaussianRasterizer, GaussianRasterizationSettings
    points = torch.zeros(4, 3)
    raster = GaussianRasterizer(GaussianRasterizationSettings(5, 7, points[0]))
    for training in (True, False):
        with torch.set_grad_enabled(training and not ONLY_VIEWING):
            raster(points, points, points, shs=points[:, None] + 1)
            raster(points, points, points, colors_precomp=points + 1)
"""


NO_SERVER = (
    "0 of 2 pictures restored (NAME); shown as they were: down 2; left alone: of one colour 2; "
    "no server was found: start one with `splatmend serve`"
)


@pytest.mark.parametrize(
    ("url", "only_viewing", "summary"),
    [
        (None, False, "1 of 1 pictures restored (NAME); left alone: of one colour 1"),
        ("tcp://127.0.0.1:9", True, NO_SERVER),
    ],
    ids=["server", "none"],
)
@pytest.mark.usefixtures("modules")
def test_the_last_line(url, only_viewing, summary, world, server, tmp_path, capsys) -> None:
    path = script(tmp_path, RENDERS.replace("ONLY_VIEWING", str(only_viewing)))
    deadline = "100" if url else "20000"
    assert main(["--url", url or server.urls[0], "--deadline-ms", deadline, str(path)]) == 0
    world[0]()
    name = "diff_gaussian_rasterization.GaussianRasterizer"
    assert capsys.readouterr().err == f"splatmend run: {summary.replace('NAME', name)}\n"


@pytest.mark.usefixtures("modules", "world")
def test_nothing_without_gradients(world, tmp_path, capsys) -> None:
    assert main([str(script(tmp_path, "import diff_gaussian_rasterization"))]) == 0
    world[0]()
    assert "GaussianRasterizer rendered nothing without gradients" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.py"], "there is no script nothing.py"),
        (["--url", "nowhere", "x.py"], "nowhere"),
        (["--deadline-ms", "0", "x.py"], "above 0"),
    ],
)
def test_what_cannot_be_run(arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        main(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: SCRIPT; see splatmend run --help"),
        (["-m"], "required: SCRIPT"),
        (["--colours", "sh", "x.py"], "--colours; did you mean --colors"),
        (["--mode", "ordered"], "--mode: 'ordered' is not one of latest, sync"),
        (["--deadline-ms", "soon", "x.py"], "--deadline-ms: could not convert string to float"),
    ],
)
def test_wrong_options(arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        main(arguments)


def test_all_after_the_script_is_its_own(tmp_path, capsys) -> None:
    path = str(script(tmp_path, "import sys; print(sys.argv[1:])"))
    words = ["-m", "--url", "--", "--help", "--no-temporal", "--"]
    assert main(["--url=tcp://127.0.0.1:1", "--no-temporal", path, *words]) == 0
    assert capsys.readouterr().out == f"{words}\n"

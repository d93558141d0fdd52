"""The Markdown files: their links lead somewhere, and the README stays short."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "core").glob("*/README.md"),
    ]
)
MOST_WORDS = 900
MOST_NUMBERS = 4
"""Numbers per 100 words."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    """Drop blocks between fences, blocks indented by four spaces, and code within a line."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: Path) -> Iterator[str]:
    """Yield the targets of links and pictures, but those on the web."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_exist(page: Path) -> None:
    missing = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        there = file.is_relative_to(ROOT) and file.exists()
        if not there or (anchor and anchor not in anchors(file)):
            missing.append(target)
    assert missing == []


def test_links_are_found_at_all() -> None:
    found = list(links(ROOT / "README.md"))
    assert any(target.startswith("docs/") and "#" in target for target in found)
    assert any(target.endswith((".webp", ".jpg", ".png")) for target in found)


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {index.name}
    assert pages - set(links(index)) == set()


def test_the_readme_stays_short() -> None:
    text = (ROOT / "README.md").read_text()
    words = len(text.split())
    numbers = len(re.findall(r"(?<![\w.,])\d[\d.,]*", text))
    assert words <= MOST_WORDS
    assert 100 * numbers / words <= MOST_NUMBERS


def test_commands_in_code_blocks_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    commands = project["entry-points"]["splatmend.commands"]
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"^```$(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    ]
    used = set(re.findall(r"^splatmend ([a-z-]+)", "\n".join(blocks), re.MULTILINE))
    assert {"fit", "serve"} <= used
    assert used - set(commands) == set()

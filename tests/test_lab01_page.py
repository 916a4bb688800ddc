"""The page of lab 01 shows only what is so: its commands are run here, its outputs compared."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from pages import course, read_page

PAGE = read_page("01-dev-server")
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]*)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BOXES = {"In the box, with the starter": [], "In the box, with your answer": ["--solution"]}
ELSEWHERE = {"./course check 01", "./course shell 01"}  # what other tests run


def blocks() -> list[tuple[str, str, str]]:
    """The page's code blocks: language, title, text."""
    return [(one[1], one[2] or "", one[3]) for one in BLOCK.finditer(PAGE)]


def run_in_box(title: str) -> tuple[list[str], list[str]]:
    """Run all commands for one box, in their order; what was printed, and what the page shows."""
    commands, shown = "", ""
    for (language, name, text), (after, _, output) in pairwise(blocks()):
        if language == "sh" and name == title:
            assert after == "text", f"no output after {text}"
            commands, shown = commands + text, shown + output
    assert commands
    done = course("shell", "01", *BOXES[title], script=f"exec 2>&1\n{commands}")
    return words(done.stdout), words(shown)


def words(text: str) -> list[str]:
    """The lines, without the blanks at both ends."""
    return [line.strip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("title", BOXES)
def test_commands_print_what_the_page_shows(title: str) -> None:
    printed, shown = run_in_box(title)
    rest = iter(printed)
    for line in shown:
        assert line in rest, f"{line!r} is missing, or in another place, in {printed}"


def test_every_other_command_is_run_elsewhere() -> None:
    for language, title, text in blocks():
        assert language in ("sh", "text", "python"), language
        if language == "sh" and title not in BOXES:
            assert set(text.split("\n")) - {""} <= ELSEWHERE

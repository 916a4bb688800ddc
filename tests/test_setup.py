"""The page about setting up says what the launcher does: it is run, on machines made of fakes."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_launcher import CLONE, Machine

from answers import ROOT
from pages import blocks

PAGE = (ROOT / "docs" / "guides" / "setup.md").read_text()
LAUNCHER = (ROOT / "course").read_text()
SHOWN = [body for language, body in blocks(PAGE) if language == "text"]
COMMANDS = [body.strip() for language, body in blocks(PAGE) if language == "sh"]
PYTHON = re.compile(r"Python \d+\.\d+\.\d+")


def rows(head: str) -> list[list[str]]:
    """The cells of the table that begins with a heading, without their backticks."""
    table = PAGE.partition(f"| {head} |")[2].partition("\n\n")[0]
    return [
        [cell.strip("` ") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]
    ]


def pairs(words: str) -> list[list[str]]:
    """The launcher's pairs of program and package."""
    return [one.split(":") for one in words.split() if ":" in one]


def machine(folder: Path) -> Machine:
    """A machine without any of the packages."""
    folder.mkdir(exist_ok=True)
    return Machine(folder)


def files(folder: Path) -> set[str]:
    """All that is in a folder."""
    return {str(one.relative_to(folder)) for one in folder.rglob("*")}


def test_packages_are_those_of_the_launcher() -> None:
    asked = re.search(r"for pair in (.*?); do", LAUNCHER)
    assert asked
    assert [row[:2] for row in rows("program")] == pairs(asked[1])


def test_packages_of_some_commands_are_those_of_the_launcher() -> None:
    told = re.findall(r"^(\w+)\) needs_more='(.*)' ;;$", LAUNCHER, re.MULTILINE)
    wanted = [[f"./course {name}", *pair] for name, words in told for pair in pairs(words)]
    assert len(wanted) > 2
    assert [row[:3] for row in rows("command")] == wanted


def test_the_first_use_says_what_the_page_shows(tmp_path: Path) -> None:
    done = machine(tmp_path).run(*COMMANDS[0].split()[1:])
    words = ("check", "03", "--solution")
    assert done.stdout.splitlines() == [f"grader got <{word}>" for word in words]
    assert PYTHON.sub("Python", done.stderr) == PYTHON.sub("Python", SHOWN[0])


def test_without_apt_it_says_what_the_page_shows(tmp_path: Path) -> None:
    bare = machine(tmp_path)
    (bare.folder / "bin/apt-get").unlink()
    assert bare.run("list").stderr == SHOWN[1]


def test_elsewhere_than_on_linux_it_says_what_the_page_shows(tmp_path: Path) -> None:
    other = machine(tmp_path)
    (other.folder / "bin/uname").unlink()
    (other.folder / "bin/uname").write_text("#!/bin/sh\necho Darwin\n")
    (other.folder / "bin/uname").chmod(0o755)
    done = other.run("list")
    assert (done.returncode, done.stderr) == (3, SHOWN[2])
    assert len(SHOWN) == 3


def test_what_is_removed_is_all_that_was_made(tmp_path: Path) -> None:
    used = machine(tmp_path)
    before = files(used.clone)
    used.run("list")
    assert {".venv", ".course", ".course/setup.log"} < files(used.clone) - before
    used.run(launcher=("sh", "-c", COMMANDS[-1]), cwd=CLONE)
    assert files(used.clone) == before


def test_every_other_command_is_run_elsewhere() -> None:
    other = {". .venv/bin/activate", "pytest labs/01"}
    assert COMMANDS[0] == "./course check 03 --solution"
    assert {line for body in COMMANDS[1:-1] for line in body.splitlines()} == other
    assert COMMANDS[-1] == "rm -rf .venv .course"


@pytest.mark.parametrize("text", [PAGE, LAUNCHER], ids=["page", "launcher"])
def test_python_is_what_the_package_needs(text: str) -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    told = re.findall(r"Python (\d+\.\d+) or newer", text)
    assert told
    assert {f">={one}" for one in told} == {wanted}

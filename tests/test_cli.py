"""The learner's commands: where am I, what next, begin again, compare; and the author's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from grader.lab import SOLUTIONS, all_labs
from grader.new import left_to_fill_in
from grader.starters import HERE as STARTERS
from grader.starters import given

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT
from clones import Clone


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "course")


def test_course_alone_says_where_you_are(clone: Clone) -> None:
    told = clone.course()
    assert told.returncode == 0
    assert "03  Nginx in front             0 of 35 points  not graded yet" in told.stdout
    assert "Next: lab 01, The development server" in told.stdout
    assert "Read labs/01/README.md" in told.stdout
    assert all(len(line) <= 80 for line in told.stdout.splitlines())
    clone.course("check", "03", "-k", "site_answers or ipv6")
    told = clone.course()
    assert "03  Nginx in front             2 of 35 points  begun" in told.stdout
    assert told.stdout.endswith(clone.course("next").stdout)


def test_next_is_the_first_lab_that_has_not_passed(clone: Clone) -> None:
    clone.solve("01")
    assert clone.course("check", "01").returncode == 0
    assert "01  The development server    20 of 20 points  passed" in clone.course().stdout
    assert "Next: lab 02, Gunicorn" in clone.course("next").stdout


def test_check_all_grades_every_lab(clone: Clone) -> None:
    done = clone.course(
        "check", "all", "--solution", "-k", "nothing_is_called_so", "--collect-only"
    )
    assert done.returncode == 5
    done = clone.course("check", "all", "-k", "test_site_answers")
    for number in ("03", "04"):
        assert f"Lab {number}: " in done.stdout
    assert clone.course("check", "all", "--submission", ".").returncode == 2


def test_hint_is_about_the_first_failing_check(clone: Clone) -> None:
    assert "course hint 03 site-answers" in clone.course("hint", "03").stdout  # the list of names
    clone.course("check", "03", "-k", "site_answers or ipv6 or host")
    first = clone.course("hint", "03").stdout
    assert first.startswith("The check 'ipv6' failed last.\n\n1. ")
    assert "\n2. " not in first
    assert "\n\n2. " in clone.course("hint", "03").stdout  # one more level
    assert clone.course("hint", "03", "host").stdout.startswith("1. ")


def test_reset_keeps_what_was_there(clone: Clone) -> None:
    own = clone.folder / "labs" / "03" / "nginx.conf"
    given = own.read_text()
    assert clone.course("reset", "03").stdout == "Nothing to do: it is as it was given.\n"
    clone.solve("03")
    solved = own.read_text()
    done = clone.course("reset", "03", "nginx.conf")
    assert own.read_text() == given
    (backup,) = re.findall(r"is in (.*)\n", done.stdout)
    assert (Path(backup) / "nginx.conf").read_text() == solved
    assert not (Path(backup) / "wsgi.py").exists()
    own.unlink()
    (own.parent / "wsgi.py").write_text("my own\n")
    done = clone.course("reset", "03")
    (second,) = re.findall(r"is in (.*)\n", done.stdout)
    assert second != backup
    assert own.read_text() == given
    assert (Path(second) / "wsgi.py").read_text() == "my own\n"
    assert clone.course("reset", "03", "other.conf").returncode == 2


def test_diff_asks_before_it_shows_the_solution(clone: Clone) -> None:
    asked = clone.course("diff", "03", "wsgi.py", typed="n\n")
    assert "This shows the solution" in asked.stdout
    assert "ProxyFix" not in asked.stdout
    shown = clone.course("diff", "03", "wsgi.py", typed="y\n").stdout
    assert "--- labs/03/wsgi.py\n+++ solutions/03/wsgi.py\n" in shown
    assert re.search(r"^\+.*ProxyFix", shown, re.MULTILINE)
    assert "nginx.conf" not in shown
    clone.solve("03")
    assert clone.course("diff", "03").stdout == "There is no difference.\n"


def test_new_makes_a_lab_that_says_what_to_fill_in(clone: Clone) -> None:
    done = clone.course("new", "42", "my-lab")
    assert "labs/42/test_lab.py\n" in done.stdout
    assert clone.course("check", "42", "--solution").returncode == 0
    assert "42  My lab" in clone.course("list").stdout
    told = subprocess.run(
        [sys.executable, "-c", "from grader.new import *; from grader.lab import *\n"
         "print('\\n'.join(left_to_fill_in(LABS / '42')))"],
        env=clone.environment, capture_output=True, text=True, cwd=clone.folder,
    ).stdout  # fmt: skip
    assert "labs/42/README.md:3: FILL IN the goal in one sentence." in told
    assert "docs/labs/42-my-lab.md:3: FILL IN what the learner gets" in told
    for wrong in (("42", "again"), ("4", "x"), ("43", "Big Name"), ("43", "../x")):
        assert clone.course("new", *wrong).returncode == 2


@pytest.mark.parametrize("lab", all_labs(), ids=lambda lab: lab.number)
def test_nothing_is_left_to_fill_in(lab: object) -> None:
    assert left_to_fill_in(lab.folder) == []  # type: ignore[attr-defined]


def test_labs_are_as_they_are_given() -> None:
    """In a learner's clone they are not; there the starters are what counts."""
    edited = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "labs"], cwd=ROOT).returncode
    if edited:
        pytest.skip("files in labs/ were edited here")
    for lab in all_labs():
        for name in lab.files:
            assert given(lab, name) == (lab.folder / name).read_bytes(), f"labs/{lab.number}/{name}"
        for kept in (STARTERS / lab.number).iterdir():
            assert kept.name in lab.files
            assert kept.read_bytes() != (SOLUTIONS / lab.number / kept.name).read_bytes()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_for_three_shells(shell: str, clone: Clone) -> None:
    told = clone.course("completion", shell)
    assert told.returncode == 0
    assert "_COURSE_COMPLETE" in told.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("re", {"report", "reset"}),
        ("check 0", {f"0{number}" for number in range(1, 10)}),
        ("hint 03 host", {"host"}),
        ("reset 03 n", {"nginx.conf"}),
        ("new 0", set()),
    ],
)
def test_completion_knows(typed: str, offered: set[str], clone: Clone) -> None:
    words = {"COMP_WORDS": f"course {typed}", "COMP_CWORD": str(len(typed.split()))}
    done = subprocess.run(
        clone.command(),
        env={**clone.environment, "_COURSE_COMPLETE": "bash_complete", **words},
        capture_output=True,
        text=True,
    )
    assert {line.partition(",")[2] for line in done.stdout.split()} == offered


def test_what_is_printed_can_be_pasted(clone: Clone) -> None:
    """The launcher says how it was called; in the activated environment that is `course`."""
    plain = clone.course("next").stdout
    pasted = subprocess.run(
        clone.command("next"),
        env={**clone.environment, "COURSE_COMMAND": "./course"},
        capture_output=True,
        text=True,
    ).stdout
    assert "then: course check 01" in plain
    assert pasted == plain.replace("course check", "./course check")


@pytest.mark.parametrize(
    "broken",
    [
        '{"03": []}',
        '{"03": {"ipv6": 5}}',
        "[1]",
        '{"03": {"gone": {"verdict": "passed", "points": 9}}}',
    ],
)
def test_progress_of_another_shape_is_nobodys(broken: str, clone: Clone) -> None:
    state = clone.folder / ".course"
    state.mkdir()
    (state / "progress.json").write_text(broken)
    done = clone.course()
    assert "03  Nginx in front             0 of 35 points" in done.stdout
    assert done.stderr == ""


def test_diff_shows_line_ends(clone: Clone) -> None:
    clone.solve("03")
    own = clone.folder / "labs" / "03" / "wsgi.py"
    text = own.read_text()
    own.write_bytes(text.rstrip("\n").encode())
    assert "(no line end)" in clone.course("diff", "03", "--yes").stdout
    own.write_bytes(text.replace("\n", "\r\n").encode())
    assert "\\r" in clone.course("diff", "03", "--yes").stdout


def test_version_is_one_line(clone: Clone) -> None:
    assert re.fullmatch(r"course, version [\d.]+\n", clone.course("--version").stdout)


@pytest.mark.parametrize(
    "words", [("check", "77"), ("next", "more"), ("nonsense",), ("up", "01", "--port", "0")]
)
def test_a_wrong_command_is_a_sentence_and_code_2(words: tuple[str, ...], clone: Clone) -> None:
    done = clone.course(*words)
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_the_installed_command_hands_on_to_the_launcher() -> None:
    """In the activated environment `course serve` is `./course serve`."""
    course = Path(sys.executable).parent / "course"
    done = subprocess.run(
        [course, "serve", "--help"],
        env={**os.environ, "PATH": f"{course.parent}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "mkdocs serve" in done.stdout


ESCAPES = re.compile(r"\x1b\[[\d;]*m")


@pytest.mark.parametrize("words", [(), ("diff", "03", "wsgi.py", "--yes")])
def test_colour_adds_nothing(words: tuple[str, ...], clone: Clone) -> None:
    """A terminal gets colours, a pipe none; the words are the same."""
    clone.course("check", "03", "-k", "site_answers")
    plain = clone.course(*words).stdout
    assert not ESCAPES.search(plain)
    coloured = subprocess.run(
        ["script", "-qec", " ".join(map(shlex.quote, clone.command(*words))), "/dev/null"],
        env={**clone.environment, "TERM": "xterm-256color", "COLUMNS": "40"},
        capture_output=True, text=True, cwd=clone.folder, stdin=subprocess.DEVNULL,
    ).stdout  # fmt: skip
    assert ESCAPES.search(coloured)
    words_of = [ESCAPES.sub("", line).rstrip() for line in coloured.splitlines()]
    assert words_of == [line.rstrip() for line in plain.splitlines()]

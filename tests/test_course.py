"""The course is whole: every lab has its parts, and the command line says what it should."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grader.hints import LEVELS, load_hints
from grader.lab import LABS, SOLUTIONS, Lab, all_labs

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT, checks
from pages import course

ALL = all_labs()
NUMBERS = [lab.number for lab in ALL]
each_lab = pytest.mark.parametrize("lab", ALL, ids=NUMBERS)


@each_lab
def test_lab_toml_counts_its_points(lab: Lab) -> None:
    assert sum(one.points for one in checks(lab)) == lab.points


@each_lab
def test_every_check_says_what_and_why(lab: Lab) -> None:
    for check in checks(lab):
        assert 8 < len(check.title) <= 60, check.title
        assert not check.title.endswith("."), check.title
        assert len(check.why) > 20, check.name


@each_lab
def test_every_check_has_four_hints(lab: Lab) -> None:
    hints = load_hints(lab)
    assert list(hints) == [one.name for one in checks(lab)]
    for name, levels in hints.items():
        assert len(levels) == LEVELS, name
        assert all(len(level) > 5 for level in levels), name


@each_lab
def test_starter_and_solution_have_the_files(lab: Lab) -> None:
    for folder in (lab.folder, SOLUTIONS / lab.number):
        for name in lab.files:
            assert (folder / name).read_text().strip(), f"{folder / name}"
    assert {path.name for path in (SOLUTIONS / lab.number).iterdir()} - {"__pycache__"} == set(
        lab.files
    )
    assert (lab.folder / "README.md").is_file()


@each_lab
def test_galleries_are_large_enough(lab: Lab) -> None:
    wrong = [one for one in (ROOT / "tests" / "wrong" / lab.number).iterdir() if one.is_dir()]
    right = [one for one in (ROOT / "tests" / "right" / lab.number).iterdir() if one.is_dir()]
    assert len(wrong) >= 8
    assert len(right) >= 3


def test_list_names_the_labs() -> None:
    done = course("list")
    assert done.returncode == 0
    for lab in ALL:
        assert f"{lab.number}  {lab.title}" in done.stdout


@pytest.mark.parametrize("number", ["3", "03"])
def test_check_passes_options_on(number: str, tmp_path: Path) -> None:
    done = course("check", number, "--solution", "-k", "host and not spoofed", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ The app sees the host" in done.stdout
    assert "Checks: 1 passed, 0 failed, 0 blocked." in done.stdout


def test_check_of_a_folder_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "mine here"
    shutil.copytree(SOLUTIONS / "03", folder)
    (folder / "nginx.conf").unlink()
    done = course("check", "03", "--submission", str(folder))
    assert done.returncode == 1
    assert "no such file" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "77"], "there is no lab '77'; the labs are 01"),
        (["check", "03/../01"], "there is no lab"),
        (["hint", "03", "nonsense"], "lab 03 has no check 'nonsense'"),
        (["shell", "77"], "there is no lab '77'"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_a_wrong_command_says_what_there_is(arguments: list[str], says: str) -> None:
    done = course(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_hint_gives_one_more_level_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing was graded there: what failed last is what it asks about, without a name.
    monkeypatch.setenv("COURSE_STATE", str(tmp_path / "state"))
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "grader", clone / "grader")
    shutil.copytree(LABS, clone / "labs", symlinks=True)
    for level in (1, 2, 3, 4, 4):
        done = subprocess.run(
            [sys.executable, "-m", "grader", "hint", "03", "host"],
            capture_output=True,
            text=True,
            cwd=clone,
        )
        assert len(re.findall(r"^\d\. ", done.stdout, re.MULTILINE)) == level, done.stdout
    assert "course hint 03 host" in course("hint", "03").stdout


def test_shell_opens_a_shell_beside_the_site() -> None:
    commands = """
    id -un; pwd
    curl -s --interface 203.0.113.77 http://board.example/whoami
    curl -s --interface 2001:db8::77 http://anything.board.example/whoami
    exit 7
    """
    done = course("shell", "03", "--solution", script=commands)
    assert done.returncode == 7, done.stderr
    assert "/srv/board" in done.stdout
    assert '"client":"203.0.113.77"' in done.stdout
    assert '"client":"2001:db8::77"' in done.stdout
    assert '"host":"anything.board.example"' in done.stdout


def test_shell_opens_the_shell_also_when_the_site_does_not_start(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(SOLUTIONS / "03", folder)
    (folder / "nginx.conf").write_text("servr {}\n")
    done = course("shell", "03", "--submission", str(folder), script="nginx -t; exit 0\n")
    assert 'unknown directive "servr"' in done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("python", "script"),
    [
        (sys.executable, "repeat"),
        (sys.executable, "vm/live"),
        (shutil.which("python3", path="/usr/bin") or sys.executable, "vm/run"),  # under sudo
    ],
)
def test_the_proofs_that_run_apart_can_begin(python: str, script: str) -> None:
    done = subprocess.run(
        [python, ROOT / "tests" / script, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout

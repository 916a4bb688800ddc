"""Every solution passes, every starter fails as it should, every gallery is judged exactly."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT, answers, cards, checks, expectation, grade, lay_out
from grader import tree
from grader.lab import find_lab

LABS = [path.parent.name for path in sorted((ROOT / "labs").glob("[0-9][0-9]/lab.toml"))]


def name_of(path: Path) -> str:
    """A test's name for an answer."""
    return f"{path.parent.name}-{path.name}"


def skip_where_it_cannot_run(lab: str) -> None:
    """A lab about systemd takes a container, which takes root and a root tree."""
    lacks = tree.missing() if find_lab(lab).systemd else ""
    if lacks:
        pytest.skip(f"lab {lab} takes a systemd container: {lacks}")


@pytest.mark.parametrize("lab", LABS)
def test_solution_passes(lab: str, tmp_path: Path) -> None:
    skip_where_it_cannot_run(lab)
    graded = grade(lab, "--solution", scratch=tmp_path)
    assert graded.names("passed") == list(graded.results), graded.output
    assert graded.results
    assert graded.code == 0
    assert sum(one["of"] for one in graded.results.values()) == find_lab(lab).points


@pytest.mark.parametrize("lab", LABS)
def test_starter_fails_as_it_should(lab: str, tmp_path: Path) -> None:
    skip_where_it_cannot_run(lab)
    graded = grade(lab, scratch=tmp_path)
    expected = tomllib.loads((ROOT / "tests" / "starters.toml").read_text())[lab]
    assert graded.names("failed") == expected["fails"], graded.output
    assert graded.names("inconclusive") == []
    assert graded.code == 1


def left_out(answer: Path, fails: list[str]) -> list[str]:
    """Options that leave out the checks that a wrong answer passes, but for those that others need.

    All of them, for all answers, take most of an hour: tests/repeat and --thorough run them.
    """
    number = answer.parent.name
    known = {one.name: one for one in checks(find_lab(number))}
    wanted = {next(iter(known))}
    more = set(fails)
    while more:
        wanted |= more
        more = {need for name in more for need in known[name].needs} - wanted
    file = f"labs/{number}/test_lab.py"
    others = [name.replace("-", "_") for name in known if name not in wanted]
    return [f"--deselect={file}::test_{one}" for one in others]


def without_log(text: str) -> str:
    """Cards without their lines of the error log."""
    return re.sub(r"(?m)^  log  .*\n", "", text)


@pytest.mark.parametrize("answer", answers("wrong"), ids=name_of)
def test_wrong_answer_fails(answer: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    skip_where_it_cannot_run(answer.parent.name)
    folder = lay_out(answer, tmp_path / "submission")
    expected = expectation(answer)["fails"]
    whole = request.config.getoption("thorough")
    options = [] if whole else left_out(answer, expected)
    graded = grade(
        answer.parent.name, f"--submission={folder}", *options, scratch=tmp_path, seed="golden"
    )
    assert graded.names("failed") == expected, graded.output
    assert graded.names("inconclusive") == [], graded.output
    assert graded.code == 1
    golden = answer / "card.txt"
    if request.config.getoption("golden"):
        golden.write_text(cards(graded))
    if whole:  # the line of the log may be an earlier check's, where there is one
        assert without_log(cards(graded)) == without_log(golden.read_text())
    else:
        assert cards(graded) == golden.read_text()


@pytest.mark.parametrize("answer", answers("right"), ids=name_of)
def test_other_right_answer_passes(answer: Path, tmp_path: Path) -> None:
    skip_where_it_cannot_run(answer.parent.name)
    folder = lay_out(answer, tmp_path / "submission")
    graded = grade(answer.parent.name, f"--submission={folder}", scratch=tmp_path)
    assert graded.names("passed") == list(graded.results), graded.output
    assert graded.results
    assert graded.code == 0

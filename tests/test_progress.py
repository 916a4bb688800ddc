"""A learner's progress: kept by gradings of the files in labs/, shown by `./course serve`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT, lay_out
from built import build
from grader import progress
from grader.hints import load_hints
from grader.lab import all_labs, find_lab
from grader.results import Result
from grader.status import next_lab, next_step, state
from grader.text import COURSE


def pytest_run(state: Path, *arguments: str) -> None:
    """Grade, with a memory of its own."""
    subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        env={**os.environ, "COURSE_STATE": str(state)},
        cwd=ROOT,
        capture_output=True,
    )


def home_page(state: Path, target: Path, **environment: str) -> str:
    """The home page of a build."""
    build(target, COURSE_STATE=str(state), **environment)
    return (target / "index.html").read_text()


def test_gradings_are_kept_and_shown(tmp_path: Path) -> None:
    state = tmp_path / "state"
    pytest_run(state, "labs/03", "-k", "ipv6 or site_answers or host")
    kept = json.loads((state / "progress.json").read_text())
    assert set(kept) == {"03"}
    assert {"site-answers", "ipv6", "host", "spoofed-host"} == set(kept["03"])
    assert kept["03"]["site-answers"] == {"verdict": "passed", "points": 2}
    pytest_run(state, "labs/03", "-k", "site_answers or methods", "-n", "2")
    assert len(json.loads((state / "progress.json").read_text())["03"]) == 5
    shown = home_page(state, tmp_path / "with", COURSE_PROGRESS="yes")
    assert "<td>03 Nginx in front</td>\n<td>4 of 35</td>\n<td>begun</td>" in shown
    assert "<td>04 Static files</td>\n<td>0 of 30</td>\n<td>not graded yet</td>" in shown
    assert "Your progress" not in home_page(state, tmp_path / "without")


@pytest.mark.parametrize("other", ["solution", "submission"])
def test_other_files_are_nobodys_progress(other: str, tmp_path: Path) -> None:
    folder = lay_out(ROOT / "tests" / "right" / "03" / "unix-socket", tmp_path / "mine")
    option = "--solution" if other == "solution" else f"--submission={folder}"
    pytest_run(tmp_path / "state", "labs/03", option, "-k", "site_answers")
    assert not (tmp_path / "state" / "progress.json").exists()


def test_a_broken_memory_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text("{ half")
    pytest_run(tmp_path, "labs/03", "-k", "site_answers")
    assert set(json.loads((tmp_path / "progress.json").read_text())) == {"03"}


def test_a_lab_that_cannot_be_graded_here_keeps_nobody_from_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PROGRESS", tmp_path / "progress.json")

    def grade(number: str, verdict: str, points: int = 0) -> None:
        names = load_hints(find_lab(number))
        earned = [points, *[0] * (len(names) - 1)]
        progress.keep(
            [
                Result(number, name, "", verdict, have, have, "", 0.0)
                for name, have in zip(names, earned, strict=True)
            ]
        )

    first = next_lab()
    assert first and first.number == "01"
    grade("01", "inconclusive")
    assert state(first) == "cannot be graded here"
    assert (after := next_lab()) and after.number == "02"
    grade("01", "failed")
    assert next_lab() == first
    for lab in all_labs():
        grade(lab.number, "passed", lab.points)
    assert next_lab() is None
    grade("12", "inconclusive")
    assert next_step().endswith(f"This machine cannot grade it. Where can: {COURSE} check 12")

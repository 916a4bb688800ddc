"""Grading the galleries: a wrong or other right answer is the solution with some files replaced."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader.checks import Check, check_of
from grader.lab import Lab

ROOT = Path(__file__).resolve().parent.parent
NOT_SUBMITTED = {"expect.toml", "card.txt", "__pycache__"}


@dataclass
class Graded:
    """What came of one grading: results by the check's name, the exit code, all output."""

    results: dict[str, dict[str, Any]]
    code: int
    output: str

    def names(self, verdict: str) -> list[str]:
        """The checks that came out like this, in their order."""
        return [name for name, one in self.results.items() if one["verdict"] == verdict]


def checks(lab: Lab) -> list[Check]:
    """The checks of a lab, in order."""
    space: dict[str, object] = {"__name__": "checks"}
    code = (lab.folder / "test_lab.py").read_text()
    exec(compile(code, lab.folder / "test_lab.py", "exec"), space)
    return [
        check_of(one) for name, one in space.items() if name.startswith("test_") and callable(one)
    ]


def answers(kind: str) -> list[Path]:
    """All folders of a gallery: tests/wrong/NN/<mistake> or tests/right/NN/<variant>."""
    return sorted(path for path in (ROOT / "tests" / kind).glob("[0-9][0-9]/*") if path.is_dir())


def expectation(answer: Path) -> dict[str, Any]:
    """Read an answer's expect.toml: `why`, `fails`, and maybe `remove`."""
    return tomllib.loads((answer / "expect.toml").read_text())


def few(found: list[Path], most: int = 7) -> list[Path]:
    """Some of these answers: of each lab the first right one, and at most so many wrong ones.

    Each of these fails another check, and few besides.
    """
    fails = {one: expectation(one)["fails"] for one in found if one.parent.parent.name == "wrong"}
    right: dict[Path, Path] = {}
    wrong: dict[Path, dict[str, Path]] = {}
    for answer in found:
        if answer not in fails:
            right.setdefault(answer.parent, answer)
    for answer in sorted(fails, key=lambda one: len(fails[one])):
        for name in fails[answer]:
            wrong.setdefault(answer.parent, {}).setdefault(name, answer)
    kept = [
        one for by_check in wrong.values() for one in [*dict.fromkeys(by_check.values())][:most]
    ]
    return [*right.values(), *kept]


def lay_out(answer: Path, target: Path) -> Path:
    """Copy the solution of an answer's lab, with the answer's own files over it."""
    shutil.copytree(ROOT / "solutions" / answer.parent.name, target)
    for path in answer.iterdir():
        if path.name not in NOT_SUBMITTED:
            shutil.copy(path, target / path.name)
    told = answer / "expect.toml"
    for name in expectation(answer).get("remove", []) if told.exists() else []:
        (target / name).unlink()
    return target


def grade(lab: str, *options: str, scratch: Path, seed: str | None = None) -> Graded:
    """Run pytest on a lab's folder as a learner does, and read its results.

    With a seed, what is drawn is the same each time, as a golden card needs it.
    """
    options += (f"--seed={seed}",) if seed else ()
    results = scratch / "results.json"
    results.unlink(missing_ok=True)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            str(ROOT / "labs" / lab),
            f"--results={results}",
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=180,
    )
    told = json.loads(results.read_text())["results"] if results.exists() else []
    return Graded({one["check"]: one for one in told}, done.returncode, done.stdout + done.stderr)


MASKS = [
    (r"\d{4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d:\d\d( \+0000)?", "<time>"),
    (r"\b\d+#\d+: \*\d+", "<pid>"),
    (r"app-[0-9a-f]{12}", "<instance>"),
    (r"\b(pid:?) \d+", r"\1 <pid>"),
    (r"\[\d+\]", "[<pid>]"),
    (r"\b(\d+\.\d+|0) s\b", "<seconds> s"),
    # A worker that is killed: whether its last bytes were read decides which of the two it is.
    (r"upstream prematurely closed connection|recv\(\) failed \(104: [^)]*\)", "<it ended>"),
    (r"\bsession=[\w.-]+", "session=<random>"),
    (r"\bexcess: \d+\.\d+", "excess: <number>"),
    (r"\bmeasured: [\d.e+]+ times", "measured: <number> times"),
    (r"/notices/\d+\?", "/notices/<id>?"),
    (r"\b[0-9a-f]{16,}\b", "<random>"),
    (r", for \d+ of \d+\b", ", for <n> of <m>"),
    (r'upstream: "http://127\.0\.1\.1[123]', 'upstream: "http://<host>'),
    (r"has answered \d+", "has answered <n>"),
    (r"ended after \d+ to \d+", "ended after <n> to <m>"),
    (r"sleeps \d+ minutes", "sleeps <n> minutes"),
    (r"X-Cache: (STALE|UPDATING)", "X-Cache: <an old page>"),  # whether others asked just then
]


def masked(text: str) -> str:
    """Replace what differs from run to run."""
    for pattern, replacement in MASKS:
        text = re.sub(pattern, replacement, text)
    return text


def cards(graded: Graded) -> str:
    """The cards of all failed checks, masked, as the golden file keeps them."""
    failed = [graded.results[name]["card"] for name in graded.names("failed")]
    return "".join(masked(card).rstrip() + "\n\n" for card in failed)

"""A learner's progress: what came of the last gradings of the files in labs/."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from typing import Any

from grader.lab import STATE
from grader.results import Result

PROGRESS = STATE / "progress.json"


def read_progress() -> dict[str, dict[str, Any]]:
    """The last verdicts: lab number, check's name, `verdict` and `points`; {} for none."""
    try:
        told = json.loads(PROGRESS.read_text())
        return told if isinstance(told, dict) else {}
    except (OSError, ValueError):
        return {}


def keep(results: Sequence[Result]) -> None:
    """Remember verdicts; those of checks that were not run stay. A read-only clone keeps none."""
    if not results:
        return
    told = read_progress()
    for one in results:
        told.setdefault(one.lab, {})[one.check] = {"verdict": one.verdict, "points": one.points}
    with contextlib.suppress(OSError):
        PROGRESS.parent.mkdir(parents=True, exist_ok=True)
        new = PROGRESS.with_name(f"progress.{os.getpid()}")
        new.write_text(json.dumps(told, indent=1))
        new.replace(PROGRESS)  # at once, so that a reader never sees half of it


def points(number: str) -> int | None:
    """The points of a lab's last gradings; None when it was not graded."""
    checks = read_progress().get(number)
    return None if checks is None else sum(one["points"] for one in checks.values())

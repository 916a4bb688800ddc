"""The result of one grading: a verdict for each check, and the sums."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

VERDICTS = ("passed", "failed", "blocked", "inconclusive")


@dataclass
class Result:
    """What came of one check.

    Attributes:
        lab: its number.
        check: its name.
        title: its title.
        verdict: passed, failed, blocked or inconclusive.
        points: earned.
        of: what it is worth.
        card: the text shown; one line for a check that passed.
        seconds: how long it took.
    """

    lab: str
    check: str
    title: str
    verdict: str
    points: int
    of: int
    card: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def count(results: list[Result], verdict: str) -> int:
    """How many checks came out like this."""
    return sum(one.verdict == verdict for one in results)

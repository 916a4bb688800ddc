"""What can go wrong, and whose fault it is.

CourseError                  anything below; its text is meant for a person
├── UsageError               a wrong command line, a lab that does not exist       (exit code 2)
├── GraderError              the grader's own fault, or the machine's: inconclusive (exit code 3)
│   ├── NotAllowed           the machine forbids what the sandbox needs; says the way out
│   └── NotLive              a check that cannot be made on a server that runs; says why
├── DeployFailed             files that a server is better off without            (exit code 1)
├── NotEarned                a certificate that points are missing for           (exit code 1)
├── StartFailed              a file of the learner's that does not start: one card
└── Mismatch                 a check saw something else than it expected (also an AssertionError)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CourseError(Exception):
    """Anything that the course tells a person."""


class UsageError(CourseError):
    """The command cannot be done as it was given."""


class GraderError(CourseError):
    """The grader could not find out: never the learner's fault, never counted."""


class NotAllowed(GraderError):
    """The machine forbids namespaces, or lacks a program that the sandbox needs."""


class NotLive(GraderError):
    """A check cannot be made on a server that runs already."""


class DeployFailed(CourseError):
    """The files of a deploy are not good enough: the server is as it was."""


class NotEarned(CourseError):
    """Points are missing for a certificate."""


@dataclass(frozen=True)
class Place:
    """A line of one of the learner's files; `line` counts from 1, 0 means the whole file."""

    file: str
    line: int = 0


class StartFailed(CourseError):
    """A service of the site did not start.

    Args:
        service: its name, or "" when a file could not even be read.
        expected: one line.
        got: the tool's own message, in the learner's file names.
        place: where the tool points to, if it does.
        note: what the grader makes of it, if anything.
        look_at: files and texts of the likely line, when the tool points nowhere.
    """

    def __init__(
        self,
        service: str,
        expected: str,
        got: str,
        place: Place | None = None,
        note: str = "",
        look_at: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(f"{service} did not start: {got}" if service else f"{expected}: {got}")
        self.service = service
        self.expected = expected
        self.got = got
        self.place = place
        self.note = note
        self.look_at = look_at


class Mismatch(AssertionError, CourseError):
    """A check saw something else than it expected.

    Args:
        expected: what must hold, in a few words.
        got: what was seen.
        note: a sentence that helps to see the cause; may be empty.
        look_at: files and texts of the likely line, when what was seen tells more than the check's
            own `look_at`.
    """

    def __init__(
        self, expected: str, got: str, note: str = "", look_at: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(f"expected {expected}; got {got}")
        self.expected = expected
        self.got = got
        self.note = note
        self.look_at = look_at

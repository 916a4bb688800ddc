"""Running things inside a box, and waiting for events, for the tests of the sandbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypeVar

from grader.sandbox import Box
from grader.site import wait_for

Seen = TypeVar("Seen")
PATIENCE = 30.0  # seconds; what is waited for comes within one, on an idle machine
NUMBERS = count(1)


def wait_until(look: Callable[[], Seen], what: str, seconds: float = PATIENCE) -> Seen:
    """Look until something true is seen; fail with `what` was waited for."""
    seen = wait_for(look, seconds)
    if not seen:
        raise AssertionError(f"waited {seconds:g} s in vain for {what}")
    return seen


@dataclass
class Ran:
    """How a program in a box ended, and what it printed."""

    status: int
    killed_for: str | None
    out: str
    err: str


def status_of(box: Box, name: str) -> dict[str, object]:
    """What the box says of a service: pid, status, killed_for."""
    told: dict[str, object] = box.request("status")["services"][name]
    return told


def wait_end(box: Box, name: str) -> dict[str, object]:
    """Wait until a service's first process has ended."""

    def look() -> dict[str, object] | None:
        told = status_of(box, name)
        return told if told["status"] is not None else None

    return wait_until(look, f"the end of {name}")


def run(box: Box, *argv: str) -> Ran:
    """Run a program as a service, to its end."""
    name = f"run-{next(NUMBERS)}"
    box.spawn(name, argv, {})
    told = wait_end(box, name)
    killed_for = told["killed_for"]
    assert killed_for is None or isinstance(killed_for, str)
    status = told["status"]
    assert isinstance(status, int)
    return Ran(status, killed_for, box.log(name, "stdout"), box.log(name, "stderr"))


def shell(box: Box, script: str) -> Ran:
    """Run a shell script as a service, to its end."""
    return run(box, "sh", "-c", script)


def python(box: Box, script: str) -> Ran:
    """Run a Python script as a service, to its end."""
    return run(box, "/usr/bin/env", "python3", "-c", script)


def printed(box: Box, name: str, text: str) -> None:
    """Wait until a service has printed something on standard output."""
    wait_until(lambda: text in box.log(name, "stdout"), f"{text!r} from {name}")


def processes_with(word: str) -> list[int]:
    """The processes of this machine whose command line has a word in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@contextmanager
def patched(place: dict[str, object], **values: object) -> Iterator[None]:
    """Change a dictionary for a while."""
    kept = dict(place)
    place.update(values)
    try:
        yield
    finally:
        place.clear()
        place.update(kept)

"""A lab's files as they were given: to begin again, and to compare with the solution.

Only those are kept here that the lab is about; the others are given as the solution has them.
"""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
import time
from pathlib import Path

from grader.errors import UsageError
from grader.lab import SOLUTIONS, STATE, Lab

HERE = Path(__file__).resolve().parent / "starters"


def given(lab: Lab, name: str) -> bytes:
    """One of a lab's files as it was given."""
    kept = HERE / lab.number / name
    return (kept if kept.exists() else SOLUTIONS / lab.number / name).read_bytes()


def wanted_files(lab: Lab, name: str | None) -> list[str]:
    """One of a lab's files, or all.

    Raises:
        UsageError: the lab has no such file; names those that it has.
    """
    if name is None:
        return list(lab.files)
    name = os.path.normpath(name)  # ./nginx.conf, as a shell completes it
    if name not in lab.files:
        raise UsageError(f"lab {lab.number} has no file {name!r}; it has {', '.join(lab.files)}")
    return [name]


def reset(lab: Lab, name: str | None = None) -> Path | None:
    """Put a lab's files back as they were given.

    Args:
        lab: the lab.
        name: of one file; None for all.

    Returns:
        The folder with a backup of what was replaced; None when nothing had been changed.

    Raises:
        UsageError: the lab has no such file.
    """
    backup: Path | None = None
    for file in wanted_files(lab, name):
        own = lab.folder / file
        if not own.is_symlink() and own.is_file() and own.read_bytes() == given(lab, file):
            continue
        backup = backup or new_backup(lab)
        if own.is_symlink() or own.exists():
            shutil.move(own, backup / file)  # a link is kept as one, not followed
        own.write_bytes(given(lab, file))
    return backup


def new_backup(lab: Lab) -> Path:
    """Make a folder for what is replaced, with a name that begins with the time."""
    backups = STATE / "backups" / lab.number
    backups.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=time.strftime("%Y-%m-%d-%H%M%S-"), dir=backups))


def compare(lab: Lab, name: str | None = None) -> str:
    """The difference between a lab's files and the solution's; "" when there is none.

    Raises:
        UsageError: the lab has no such file.
    """
    parts: list[str] = []
    for file in wanted_files(lab, name):
        own, wanted = lab.folder / file, SOLUTIONS / lab.number / file
        parts += difflib.unified_diff(
            lines(own), lines(wanted), f"labs/{lab.number}/{file}", f"solutions/{lab.number}/{file}"
        )
    return "".join(parts)


def lines(path: Path) -> list[str]:
    """A file's lines, each with its end; none when there is no such file."""
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", "replace").replace("\r", "\\r")
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([f"{rest} (no line end)\n"] if rest else [])

"""Hints: a lab's hints.md has, for each check, a heading with its name and four numbered levels."""

from __future__ import annotations

import json
import re

from grader.errors import UsageError
from grader.lab import STATE, Lab
from grader.text import COURSE

MEMORY = STATE / "hints"
LEVELS = 4  # the idea, where to look, the directive, the change


def load_hints(lab: Lab) -> dict[str, list[str]]:
    """Read a lab's hints: the levels' texts by the check's name.

    Raises:
        UsageError: hints.md is missing.
    """
    path = lab.folder / "hints.md"
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise UsageError(f"{path} is missing") from None
    found: dict[str, list[str]] = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        levels = re.split(r"^\d\. ", body, flags=re.MULTILINE)[1:]
        found[name.strip()] = [re.sub(r"\n   ?(?=\S)", "\n", one).strip() for one in levels]
    return found


def next_hint(lab: Lab, check: str | None, level: int | None) -> str:
    """The hints of a check up to one more level than last time; remembered beside the lab.

    Args:
        lab: the lab.
        check: the check's name; None lists the names.
        level: show up to this level instead.

    Raises:
        UsageError: the lab has no such check.
    """
    hints = load_hints(lab)
    names = "\n".join(f"  {COURSE} hint {lab.number} {name}" for name in hints)
    if check is None:
        return f"Hints of lab {lab.number}, one more level each time:\n{names}"
    if check not in hints:
        raise UsageError(f"lab {lab.number} has no check {check!r}; its hints are\n{names}")
    memory = MEMORY / f"{lab.number}.json"
    seen: dict[str, int] = json.loads(memory.read_text()) if memory.exists() else {}
    shown = level or min(LEVELS, seen.get(check, 0) + 1)
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(json.dumps({**seen, check: shown}))
    levels = [f"{number}. {text}" for number, text in enumerate(hints[check][:shown], 1)]
    more = "" if shown == LEVELS else f"\n\n({LEVELS - shown} more: ask again)"
    return "\n\n".join(levels) + more

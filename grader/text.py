"""Text that a submission controls, made safe and short enough to show."""

from __future__ import annotations

import os

LONGEST = 2000
# How this user calls the course: what is printed must work when it is pasted.
COURSE = os.environ.get("COURSE_COMMAND") or "course"


def clean(text: str, longest: int = LONGEST) -> str:
    r"""Escape control characters (a terminal obeys them) and cap the length, saying so.

    Args:
        text: anything.
        longest: characters kept.
    """
    kept = text[:longest]
    made = "".join(one if one == "\n" or one.isprintable() else _escape(one) for one in kept)
    if len(text) > longest:
        made += f" [... {len(text) - longest} more characters]"
    return made


def _escape(one: str) -> str:
    if one == "\t":
        return "    "
    return f"\\x{ord(one):02x}" if ord(one) < 256 else f"\\u{ord(one):04x}"

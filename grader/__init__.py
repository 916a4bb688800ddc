"""Runs a lab folder for real in a disposable box, and judges what the site does.

Notebooks take what they need from here: `Site` and the loads. Names are imported when first asked
for, because the grader itself must start at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grader.load import Load, Waits, h2load, normal_visitors, slow_visitors, wrk
    from grader.site import Site

WHERE = {
    "Site": "grader.site",
    "Load": "grader.load",
    "Waits": "grader.load",
    "h2load": "grader.load",
    "normal_visitors": "grader.load",
    "slow_visitors": "grader.load",
    "wrk": "grader.load",
}

__all__ = ["Load", "Site", "Waits", "h2load", "normal_visitors", "slow_visitors", "wrk"]


def __getattr__(name: str) -> Any:
    if name not in WHERE:
        raise AttributeError(f"module 'grader' has no attribute {name!r}")
    return getattr(import_module(WHERE[name]), name)

"""What a check may say about itself: decorators for the functions of a test_lab.py.

    @needs(test_nginx_answers)
    @points(2)
    def test_app_sees_the_visitor(site): ...

The docstring's first line is the check's title, the rest is why it matters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass
class Check:
    """One check of a lab.

    Attributes:
        name: as `course hint` knows it.
        title: one line.
        why: why it matters; may be several lines.
        points: what it is worth.
        needs: names of the checks without which it means nothing.
        alone: whether it has a box of its own, and runs beside the others.
        look_at: file and text of the likely line, in order of likelihood.
        by_hand: the command that shows the same; "" to derive it from the request.
    """

    name: str = ""
    title: str = ""
    why: str = ""
    points: int = 1
    needs: list[str] = field(default_factory=list)
    alone: bool = False
    look_at: list[tuple[str, str]] = field(default_factory=list)
    by_hand: str = ""


def check_of(function: Callable[..., Any]) -> Check:
    """The check that a function is; its own attributes are kept on the function."""
    found = function.__dict__.get("course_check")
    if found is None:
        title, _, why = inspect.cleandoc(function.__doc__ or function.__name__).partition("\n")
        name = function.__name__.removeprefix("test_").replace("_", "-")
        found = function.__dict__["course_check"] = Check(name, title, " ".join(why.split()))
    return found


def points(number: int) -> Callable[[Function], Function]:
    """Set what a check is worth (1 when not set)."""

    def decorate(function: Function) -> Function:
        check_of(function).points = number
        return function

    return decorate


def needs(*others: Callable[..., Any]) -> Callable[[Function], Function]:
    """Name the checks without which this one means nothing: it is blocked when one fails.

    Every check but a file's first needs that first one, without saying so.
    """

    def decorate(function: Function) -> Function:
        check_of(function).needs += [check_of(other).name for other in others]
        return function

    return decorate


def alone(function: Function) -> Function:
    """Give a check a box of its own: it breaks the site, or takes long. It runs beside others."""
    check_of(function).alone = True
    return function


def look_at(file: str, *texts: str) -> Callable[[Function], Function]:
    """Name the likely line: the first that contains one of the texts; without texts the file.

    Of several such decorators the one next to the function counts first.
    """

    def decorate(function: Function) -> Function:
        check_of(function).look_at += [(file, text) for text in texts] or [(file, "")]
        return function

    return decorate


def by_hand(command: str) -> Callable[[Function], Function]:
    """Give the command that shows the same in the box, where it is not the last request."""

    def decorate(function: Function) -> Function:
        check_of(function).by_hand = command
        return function

    return decorate

"""What the notebooks share: claims that are checked, exercises, tables and charts.

A claim or a table is shown as text, and beside the text as data: `docs/measured.md` and the lessons
take their numbers from there.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

from grader.sandbox import find_program

DATA = "application/vnd.flask-behind-nginx+json"
COLOURS = ("#0f766e", "#b45309", "#6d28d9", "#be123c")  # dark enough for lines on white
HATCHES = ("", "///", "...", "xxx")
MARKERS = ("o", "s", "^", "D")


def machine() -> str:
    """What was measured, and on what: versions and cores."""
    said = subprocess.run([find_program("nginx"), "-V"], capture_output=True, text=True).stderr
    nginx = re.search(r"nginx/([\d.]+)", said)
    openssl = re.search(r"OpenSSL ([\d.]+\w*)", said)
    return (
        f"nginx {nginx[1] if nginx else '?'} (OpenSSL {openssl[1] if openssl else '?'}), "
        f"Gunicorn {version('gunicorn')}, Flask {version('flask')}, "
        f"Python {platform.python_version()}, {os.cpu_count()} cores of {platform.machine()}"
    )


def claim(
    so: str,
    measured: float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    usual: str = "",
) -> None:
    """Check a ratio against a wide margin, and keep it for the table of all claims.

    Args:
        so: what is so, in a sentence.
        measured: the ratio.
        at_least: what it must not be below.
        at_most: what it must not be above.
        usual: what articles and tutorials say about it; "" when they say the same.

    Raises:
        AssertionError: it is outside of these.
    """
    low = float("-inf") if at_least is None else at_least
    high = float("inf") if at_most is None else at_most
    bounds = [f"at least {at_least:g}"] if at_least is not None else []
    bounds += [f"at most {at_most:g}"] if at_most is not None else []
    told = f"{so}\n  measured {number(measured)}, must be {' and '.join(bounds)}"
    assert low <= measured <= high, f"not so on this machine: {told}"
    data = {"claim": so, "usual": usual, "measured": number(measured), "must": " and ".join(bounds)}
    _show({"text/plain": f"✓ {told}", DATA: data})


def number(value: float) -> str:
    """Write a measured number with the digits that mean something."""
    if value == float("inf"):
        return "∞"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def exercise(answer: object, right: Callable[[Any], bool], because: str, hint: str) -> None:
    """Say whether an answer is right; `...` is none yet.

    Args:
        answer: the learner's.
        right: tells whether an answer is right; it may raise anything for one that makes no sense.
        because: what is said about a right one.
        hint: what is said about another one.
    """
    if answer is ...:
        print("Your turn: put your answer in place of the dots, and run the cell again.")
        return
    try:
        good = bool(right(answer))
    except Exception:
        good = False
    print(f"Right. {because}" if good else f"Not yet. {hint}")


def table(name: str, head: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> None:
    """Show a table of measurements, with the machine above it, and keep it for a lesson.

    Args:
        name: of the file in notebooks/tables/, without its ending.
        head: the names of the columns; the first one's cells are words, the others' numbers.
        rows: a row's cells; numbers are shortened to the digits that mean something.
        note: what was done, in a line or two.
    """
    cells = [list(map(_cell, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in [list(head), *cells]
    ]
    text = "\n".join([machine(), *([note] if note else []), "", *lines])
    _show({"text/plain": text, DATA: {"table": name, "text": text}})


def _cell(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    return str(value)


def bars(
    labels: Sequence[str], series: Mapping[str, Sequence[float]], *, unit: str, alt: str,
    log: bool = False,
) -> None:  # fmt: skip
    """Draw groups of horizontal bars, each with its number.

    Args:
        labels: one for each group, from the top down.
        series: the numbers of each kind of bar, in the order of the labels.
        unit: what the numbers are, for the axis.
        alt: what the picture says, for those who do not see it.
        log: whether the axis is logarithmic.
    """
    figure, axes = _figure(0.9 + 0.34 * len(labels) * len(series))
    thick = 0.8 / len(series)
    for at, (name, numbers) in enumerate(series.items()):
        places = [row + at * thick for row in range(len(labels))]
        drawn = axes.barh(
            places, numbers, thick * 0.92, label=name, color=COLOURS[at], hatch=HATCHES[at],
            edgecolor="white", linewidth=0,
        )  # fmt: skip
        axes.bar_label(drawn, [number(one) for one in numbers], padding=3)
    axes.set_yticks([row + 0.4 - thick / 2 for row in range(len(labels))], labels)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.margins(x=0.15)
    if log:
        axes.set_xscale("log")
    _finish(figure, len(series) > 1, alt)


def curves(
    xs: Sequence[float], series: Mapping[str, Sequence[float]], *, x: str, y: str, alt: str,
    log: bool = False,
) -> None:  # fmt: skip
    """Draw lines over a common axis.

    Args:
        xs: the places on the axis; each is a tick.
        series: the numbers of each line.
        x: what the axis is.
        y: what the numbers are.
        alt: what the picture says, for those who do not see it.
        log: whether the numbers' axis is logarithmic.
    """
    figure, axes = _figure(3.4)
    for at, (name, numbers) in enumerate(series.items()):
        axes.plot(xs, numbers, label=name, color=COLOURS[at], marker=MARKERS[at], linewidth=2)
    axes.set_xticks(list(xs), [f"{one:g}" for one in xs])
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#d6d3d1", linewidth=0.6)
    _finish(figure, len(series) > 1, alt)


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _finish(figure: Any, legend: bool, alt: str) -> None:
    """Show a figure as SVG: its own white ground makes it readable on any page."""
    from io import StringIO

    import matplotlib

    if legend:
        figure.legend(loc="outside upper left", ncols=2, frameon=False)
    told = StringIO()
    # The same numbers make the same file; text stays text.
    with matplotlib.rc_context({"svg.hashsalt": "course", "svg.fonttype": "none"}):
        figure.savefig(told, format="svg", metadata={"Date": None, "Creator": None})
    svg = told.getvalue()
    _show(
        {"image/svg+xml": svg[svg.index("<svg") :], "text/plain": alt},
        {"image/svg+xml": {"alt": alt}},
    )


def _show(data: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
    display: Any = import_module("IPython.display").display  # slow to import, and untyped
    display(data, metadata=metadata or {}, raw=True)

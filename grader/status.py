"""Where a learner is: labs, points, and what to do next."""

from __future__ import annotations

from grader.hints import load_hints
from grader.lab import LABS, Lab, all_labs
from grader.progress import points, read_progress
from grader.text import COURSE

NOT_HERE = "cannot be graded here"


def state(lab: Lab) -> str:
    """A word or two: "passed", "begun", "not graded yet" or "cannot be graded here"."""
    have = points(lab)
    if have is None:
        return "not graded yet"
    if all(one["verdict"] == "inconclusive" for one in read_progress()[lab.number].values()):
        return NOT_HERE
    return "passed" if have == lab.points else "begun"


def next_lab(after: Lab | None = None) -> Lab | None:
    """The first lab (after another) that has not all its points; None when all have.

    One that this machine cannot grade keeps nobody from the labs behind it.
    """
    labs = [lab for lab in all_labs() if after is None or lab.number > after.number]
    states = {lab.number: state(lab) for lab in labs}
    open_ones = [lab for lab in labs if states[lab.number] != "passed"]
    here = [lab for lab in open_ones if states[lab.number] != NOT_HERE]
    return next(iter(here or open_ones), None)


def first_failing(lab: Lab) -> str | None:
    """The first check that failed in a lab's last gradings; None when none did."""
    told = read_progress().get(lab.number, {})
    return next(
        (name for name in load_hints(lab) if told.get(name, {}).get("verdict") == "failed"), None
    )


def overview() -> str:
    """All labs with their points, and the next step."""
    lines = []
    for lab in all_labs():
        have = points(lab) or 0
        lines.append(
            f"{lab.number}  {lab.title:<24}  {have:>2} of {lab.points} points  {state(lab)}"
        )
    return "\n".join([*lines, "", next_step()])


def next_step() -> str:
    """What to do now, with the command for it."""
    lab = next_lab()
    if lab is None:
        return "You have passed all labs."
    told = f"Next: lab {lab.number}, {lab.title}, about {lab.minutes} minutes."
    if state(lab) == "not graded yet":
        folder = lab.folder.relative_to(LABS.parent)
        read = f"Read {folder}/README.md and edit the files beside it, then"
        return f"{told}\n{read}: {COURSE} check {lab.number}"
    if state(lab) == NOT_HERE:
        return f"{told}\nThis machine cannot grade it. Where can: {COURSE} check {lab.number}"
    failing = first_failing(lab)
    if failing:
        return f"{told}\nIts check {failing!r} failed last. A hint: {COURSE} hint {lab.number}"
    return f"{told}\nGrade it again: {COURSE} check {lab.number}"


def progress_table() -> str:
    """The progress of all labs as Markdown, for the site's home page."""
    rows = ["## Your progress", "", "| lab | points | state |", "| --- | --- | --- |"]
    for lab in all_labs():
        have = points(lab) or 0
        rows.append(f"| {lab.number} {lab.title} | {have} of {lab.points} | {state(lab)} |")
    return "\n".join([*rows, "", "From your last gradings with `./course check` on this machine."])

"""`course watch`: grade a lab again on every save, with a box that is warm by then.

The next grading's box is started at once after each one, its app included, from the files as they
are. A save of Nginx's file then costs the start of Nginx alone. Each grading has a box of its own,
so a verdict never depends on the one before.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from watchfiles import watch as changes

from grader.errors import CourseError
from grader.lab import Lab, read_submission
from grader.site import Site
from grader.sites import STARTED
from grader.status import next_lab, state

QUIET_MS, LONGEST_MS = 25, 400  # a save is over when nothing was written for so long
READY_MS = 100  # after which it is known that the folder is watched
WALL = 86400.0  # seconds that a box waits at most
NGINX = "/etc/nginx/"


class End:
    """The user's wish to end (Ctrl-C, SIGTERM): asked for at every step, and never lost.

    An exception out of the signal's handler could be: Python drops those that come at a bad moment,
    in the middle of a fork for one.
    """

    def __init__(self) -> None:
        self.wished = False
        self.child = 0  # the grading that runs now

    def is_set(self) -> bool:
        """Tell whether it was wished; watchfiles asks by this name."""
        return self.wished

    def on_signal(self, *_: object) -> None:
        """Remember the wish, and end the grading: its boxes end with it."""
        self.wished = True
        if self.child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGKILL)


def watch(lab: Lab, options: list[str]) -> None:
    """Grade a lab's files now, and again on every save, until the user ends it.

    When the lab has passed it goes on to the next one, which is graded when its files are saved.

    Args:
        lab: the first lab.
        options: for pytest.
    """
    logging.getLogger("watchfiles").setLevel(logging.ERROR)  # it would talk about the end
    end = End()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end.on_signal)
    import_all()
    passed_before = ""
    while not end.is_set():
        with Spare(lab) as spare:
            for names in saves(lab, end):
                if not names and passed_before:  # now that no save can be missed
                    click.echo(f"{passed_before} Now watching lab {lab.number}: edit that.")
                    spare.prepare()
                    continue
                why = f"{', '.join(names)} saved: " if names else ""
                passed = grade(lab, spare, options, why, end)
                # One that passes from the start is one that the user wants to go on with.
                if end.is_set() or (names and passed and state(lab) == "passed"):
                    break
                spare.prepare()
        following = next_lab(lab)
        if end.is_set():
            return
        if following is None:
            click.echo(f"Lab {lab.number} has passed, and so have all after it.")
            return
        passed_before = f"Lab {lab.number} has passed."
        lab = following


def saves(lab: Lab, end: End) -> Iterator[list[str]]:
    """The names of a lab's files that were saved, once for each save, until the end is wished.

    The first list is empty: from then on no save is missed, however long the caller takes.
    """
    ready = False
    for saved in changes(
        lab.folder,
        step=QUIET_MS,
        debounce=LONGEST_MS,
        rust_timeout=READY_MS,
        yield_on_timeout=True,
        stop_event=end,
        recursive=False,
    ):
        names = {Path(path).name for _, path in saved} & set(lab.files)
        if names or not ready:
            ready = True
            yield sorted(names)


def import_all() -> None:
    """Let this process import once what each grading's process would import again."""
    import grader.board
    import grader.client  # noqa: F401

    # A whole run, but of a test of its own: the lab's checks are read anew each time.
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        nothing = Path(folder, "test_nothing.py")
        nothing.write_text("def test_nothing():\n    assert True\n")
        pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:anyio", str(nothing)])


class Spare:
    """A box that waits for the next grading: its app runs, Nginx does not yet."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.site: Site | None = None

    def prepare(self) -> None:
        """Begin to start one from the files as they are; it is not waited for."""
        self.close()
        with contextlib.suppress(CourseError):
            files = read_submission(self.lab, self.lab.folder)
            self.site = Site(self.lab, files, start=False, wall=WALL)
            for name in self.lab.run:
                if self.site.service(name).program.app:
                    self.site.service(name).spawn()

    def take(self) -> Site | None:
        """The site with the files as they are now; None when it must be started anew."""
        site = self.site
        if site is None:
            return None
        with contextlib.suppress(CourseError):
            files = read_submission(self.lab, self.lab.folder)
            changed = [one for one in files if one not in site.files]
            if all(one.path.startswith(NGINX) for one in changed):
                site.files = files
                site.box.write(*changed)
                site.box.drop_spare()
                return site
        self.close()
        return None

    def close(self) -> None:
        """End the box."""
        if self.site:
            self.site.close()
        self.site = None

    def __enter__(self) -> Spare:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def grade(lab: Lab, spare: Spare, options: list[str], why: str, end: End) -> bool:
    """Grade in a process of its own; tells whether the lab passed."""
    if sys.stdout.isatty():
        click.clear()
    click.echo(f"{time.strftime('%H:%M:%S')} {why}grading lab {lab.number}; Ctrl-C ends this")
    sys.stdout.flush()
    site = spare.take()
    child = os.fork()
    if child == 0:
        code = 3
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                # The parent ends it. Not SIG_IGN: the site's programs would inherit that.
                signal.signal(number, lambda *_: None)
            end_with_parent()
            if site:
                STARTED[lab.folder] = site
            code = int(pytest.main([str(lab.folder), *options]))
            sys.stdout.flush()
        finally:
            os._exit(code)
    end.child = child
    if end.is_set():
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    end.child = 0
    return os.waitstatus_to_exitcode(status) == 0


def end_with_parent() -> None:
    """Let the kernel end this process when the one that watches has ended, however it did."""
    parent_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)

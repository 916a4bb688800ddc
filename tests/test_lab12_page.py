"""Lab 12's page: every command on it is run on a server, every output and every line is real."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grader.lab import SOLUTIONS, find_lab, read_solution
from grader.site import wait_for
from grader.systemd import START, ContainerServer, SystemdSite
from grader.tree import COURSE_THERE, missing

sys.path.insert(0, str(Path(__file__).parent))
from pages import blocks, check_session, read_page, sessions, steps, stripped, troubles

PAGE = read_page("12-systemd")
LAB = find_lab("12")
BEFORE = PAGE.partition("\n## What can go wrong\n")[0]
TROUBLES = troubles(PAGE)
CLONE = "/home/vagrant/course"
in_container = pytest.mark.skipif(bool(missing()), reason=f"no systemd container: {missing()}")


@contextmanager
def server() -> Iterator[ContainerServer]:
    """A server as a virtual machine is one, without a board.service."""
    made = ContainerServer()
    try:
        made.begin(LAB)
        yield made
    finally:
        made.close()


@in_container
def test_commands_print_what_the_page_shows() -> None:
    (_, *by_hand) = steps(BEFORE)
    assert len(by_hand) == 5
    with server() as machine:
        machine.run("ln", "-s", COURSE_THERE, CLONE)
        machine.run("systemctl", "start", "nginx")
        for commands, output in by_hand:
            assert all(one.startswith("# ") for one in commands)
            script = "\n".join(one[2:] for one in commands)
            printed = machine.run("bash", "-c", f"exec 2>&1\n{script}").output
            assert printed.strip() == output.strip(), script


@in_container
def test_the_solution_gets_all_points() -> None:
    check_session((sessions(BEFORE)[0][0], sessions(BEFORE)[0][1]))


def test_shown_lines_are_those_of_the_solution() -> None:
    text = "\n".join(stripped(one.read_text()) for one in (SOLUTIONS / "12").iterdir())
    shown = [body for language, body in blocks(PAGE) if language in ("ini", "python", "sh")]
    assert len(shown) == 4
    for body in shown:
        assert "--8<--" in body or stripped(body) in text, body


GUNICORN = "/opt/board/venv/bin/gunicorn --config /srv/board/gunicorn.conf.py wsgi:app"
# Heading: file, old text, new text; then what is done before the units are started.
MISTAKES: dict[str, tuple[list[tuple[str, str, str]], str]] = {
    "The socket is refused": ([("board.socket", "ListenStream=127.0.0.1:8000", "")], ""),
    "Start request repeated too quickly": (
        [
            ("board.service", "StartLimitIntervalSec=0\n", ""),
            ("board.service", "ExecStart=/opt/board/venv/bin/gunicorn", "ExecStart=/bin/false"),
            ("board.service", "RestartSec=1\n", ""),
        ],
        "",
    ),
    "The service ends with 217/USER": ([("board.service", "User=board\n", "User=boards\n")], ""),
    "The service ends with 226/NAMESPACE": (
        [("board.service", "PrivateTmp=yes\n", "PrivateTmp=yes\nReadWritePaths=/var/lib/boards\n")],
        "",
    ),
    "The service ends with 200/CHDIR": ([], "ln -sfn releases/none /srv/board/current"),
    "Gunicorn says that the connection is in use": (
        [("board.service", f"ExecStart={GUNICORN}", f'ExecStart=/bin/sh -c "{GUNICORN}; true"')],
        "",
    ),
}


@in_container
@pytest.mark.parametrize("heading", TROUBLES)
def test_mistakes_say_what_the_page_shows(heading: str) -> None:
    changes, before = MISTAKES[heading]
    (line,) = [text.strip() for language, text in blocks(TROUBLES[heading]) if language == "text"]
    with server() as machine:
        site = SystemdSite(LAB, read_solution(LAB, *changes), machine)
        site.place()
        machine.run("sh", "-c", before)
        machine.run("sh", "-c", START)
        assert wait_for(lambda: line in site.journal(), 20), site.journal()


def test_all_mistakes_are_on_the_page() -> None:
    assert list(MISTAKES) == list(TROUBLES)
    assert len(MISTAKES) >= 5


def test_times_on_the_page_are_those_of_the_solution() -> None:
    unit = (SOLUTIONS / "12" / "board.service").read_text()
    conf = (SOLUTIONS / "12" / "gunicorn.conf.py").read_text()
    told = re.search(r"Gunicorn waits (\d+) s for it, and after (\d+) s systemd", PAGE)
    assert told
    assert f"graceful_timeout = {told[1]} " in conf
    assert f"TimeoutStopSec={told[2]}\n" in unit

"""Lab 09's page: every command on it is run, every output and every error-log line is real."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from grader.lab import SOLUTIONS, find_lab
from grader.machine import File
from grader.site import Site, wait_for

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT, lay_out
from pages import (
    blocks,
    check_session,
    course,
    in_box,
    read_page,
    sessions,
    shown_of,
    site_with,
    solution_text,
    steps,
    troubles,
)
from pages import not_started as said_by

PAGE = read_page("09-failing-gracefully")
LAB = find_lab("09")
BEFORE = PAGE.partition("\n## What can go wrong\n")[0]
TROUBLES = troubles(PAGE)
SWITCH = "/srv/board/maintenance.on"
ERRORS = "    location /errors/ {\n        internal;\n        root /srv/board;\n"
TELLS_FULL = "        if ($upstream_addr = board) {\n            return 503;\n        }\n"


def test_the_solution_gets_all_points() -> None:
    (check, _), _ = sessions(BEFORE)
    assert check == "./course check 09 --solution"
    check_session(sessions(BEFORE)[0])


def test_commands_print_what_the_page_shows() -> None:
    _, session = sessions(BEFORE)
    assert session[0] == "./course shell 09 --solution"
    assert len(session[1]) > 4
    check_session(session)


def test_shown_lines_are_those_of_the_solution() -> None:
    assert shown_of(PAGE, solution_text(LAB)) > 10


def changed(*changes: tuple[str, str]) -> Site:
    """The solution, with texts of nginx.conf replaced."""
    return site_with(LAB, *(("nginx.conf", old, new) for old, new in changes))


def in_the_server() -> tuple[tuple[str, str], ...]:
    """The switch, moved from the location into the server."""
    text = (SOLUTIONS / "09" / "nginx.conf").read_text()
    start = text.index("        set $closed")
    lines = text[start : text.index("        proxy_pass")]
    return (lines, ""), ("    # From the disk", lines + "    # From the disk")


def app_down(*changes: tuple[str, str]) -> Callable[[], str]:
    """A mistake that shows when the app is down: Nginx's own page, and what the log says."""

    def mistake() -> str:
        with changed(*changes) as site:
            site.service("gunicorn").kill()
            reply = site.get("/")
            assert b"<center>nginx" in reply.content
            return site.error_log()

    return mistake


def circle() -> str:
    """The switch stands in the server."""
    with changed(*in_the_server()) as site:
        site.box.write(File(SWITCH, b""))
        assert site.get("/").status_code == 500
        return site.error_log()


def no_circle() -> str:
    """The same, without `recursive_error_pages`."""
    with changed(*in_the_server(), ("    recursive_error_pages on;\n", "")) as site:
        site.box.write(File(SWITCH, b""))
        reply = site.get("/")
        assert (reply.status_code, b"<center>nginx" in reply.content) == (503, True)
        return site.error_log()


def too_small() -> str:
    """Nothing is said about the size of bodies."""
    with changed(("    client_max_body_size 10m;\n", "")) as site:
        assert site.post("/upload", data=bytes(8_000_000)).status_code == 413
        return site.error_log()


def named() -> str:
    """The page for 413 by way of a named location."""
    place = "    location @too_large {\n        root /srv/board/errors;\n"
    place += "        try_files /413.html =413;\n    }\n"
    changes = (
        ("error_page 413 $error_body;", "error_page 413 @too_large;"),
        ("    # A link leads", place + "\n    # A link leads"),
    )
    with changed(*changes) as site:
        assert site.post("/upload", data=bytes(11_000_000)).status_code == 405
        return site.error_log()


def hangs() -> str:
    """A page that hangs, and a Nginx whose patience is over."""
    with changed(("proxy_read_timeout 4s;", "proxy_read_timeout 1s;")) as site:
        assert site.get("/hang").status_code == 504
        return site.error_log()


def full() -> str:
    """No room, which nobody calls 503."""
    with changed((TELLS_FULL, ""), (" max_conns=32;", " max_conns=1;")) as site:
        done = site.together([lambda: site.get("/slow?seconds=0.5")] * 4)
        assert {one.value.status_code for one in done} == {200, 502}
        return site.error_log()


def worker_dies() -> str:
    """All workers are killed while one of them makes a page."""
    with changed() as site:
        gunicorn = site.service("gunicorn")
        with site.connect() as visitor:
            visitor.sendall(b"GET /slow?seconds=3 HTTP/1.1\r\nHost: board.example\r\n\r\n")

            def asked() -> bool:
                told = requests.Response()
                with contextlib.suppress(OSError):
                    told = site.get("/stats")
                return told.status_code == 200 and "/slow" in told.json()["paths"]

            assert wait_for(asked, 10)
            gunicorn.signal(signal.SIGKILL, gunicorn.workers())
            assert b" 502 " in visitor.recv(100)
        return site.error_log()


MISTAKES: dict[str, Callable[[], str]] = {
    "The error page is Nginx's own": app_down(
        ("location /errors/ {", "location /pages/ {"), ("= /errors/no-answer;", "$error_body;")
    ),
    "The error page is Nginx's own, and it has a location": app_down(
        (ERRORS, ERRORS.replace("/srv/board;", "/srv/board/errors;"))
    ),
    "500 during maintenance": circle,
    "413 for every photo": too_small,
    "405 in the place of 413": named,
    "504 after a minute": hangs,
    "502 while the app is well": full,
    "502 in the middle of a page": worker_dies,
    "Nginx does not start: named location": lambda: said_by(
        LAB,
        (
            "nginx.conf",
            "        internal;\n        root /srv/board;\n",
            "        internal;\n        location @down {\n        }\n        root /srv/board;\n",
        ),
    ),
    "Nginx does not start: zero size": lambda: said_by(
        LAB, ("nginx.conf", "        proxy_pass", "        limit_conn site 32;\n        proxy_pass")
    ),
}
# Nothing fails, as far as Nginx sees: these are shown with commands.
SILENT: dict[str, tuple[tuple[str, str], ...]] = {
    "Maintenance does not begin, or does not end": (
        (
            "    client_max_body_size",
            "    open_file_cache max=9;\n    open_file_cache_errors on;\n    client_max_body_size",
        ),
    ),
    "Retry-After is missing": (("$retry_after always;", "$retry_after;"),),
}


@pytest.mark.parametrize("heading", MISTAKES)
def test_mistakes_leave_the_line_that_the_page_shows(heading: str) -> None:
    log = MISTAKES[heading]()
    (line,) = [body.strip() for language, body in blocks(TROUBLES[heading]) if language == "text"]
    assert line in log, log


@pytest.mark.parametrize("heading", SILENT)
def test_silent_mistakes_print_what_the_page_shows(heading: str, tmp_path: Path) -> None:
    body = TROUBLES[heading]
    assert "No line in the log" in body
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in LAB.files:
        text = (SOLUTIONS / "09" / name).read_text()
        for old, new in SILENT[heading] if name == "nginx.conf" else ():
            assert old in text
            text = text.replace(old, new)
        (folder / name).write_text(text)
    commands = [[one[2:] for one in lines] for lines, _ in steps(body)]
    shown = [output.strip() for _, output in steps(body)]
    assert shown
    printed = in_box(
        [*commands, ["cat /var/log/nginx/error.log"]], "09", "--submission", str(folder)
    )
    assert [one.strip() for one in printed] == [*shown, ""]


def test_all_mistakes_are_on_the_page() -> None:
    assert sorted([*MISTAKES, *SILENT]) == sorted(TROUBLES)


def test_without_recursion_there_is_no_circle() -> None:
    assert "cycle" not in no_circle()


def test_a_slow_page_that_comes_piece_by_piece_is_not_cut_off() -> None:
    with changed(("proxy_read_timeout 4s;", "proxy_read_timeout 500ms;")) as site:
        reply = site.get("/stream")  # five events, 0.2 s apart: longer than that in all
        assert reply.text.count("data:") == 5


def test_gunicorns_timeout_does_not_end_a_thread_that_hangs() -> None:
    quick = ("gunicorn.conf.py", "timeout = 10", "timeout = 2")
    with site_with(LAB, quick) as site:
        gunicorn = site.service("gunicorn")
        assert wait_for(lambda: len(gunicorn.workers()) == 2, 10)  # one answers before the other
        before = gunicorn.workers()
        assert site.get("/hang").status_code == 504  # after four of those seconds
        assert gunicorn.workers() == before


BY_HAND = {
    ("app-down", "says-200"): "200 OK",
    ("too-large", "any-size"): "HTTP/1.1 200",
    ("own-errors", "intercepts-all"): "HTTP/1.1 503",
    ("hang", "too-impatient"): "HTTP/1.1 504",
    ("maintenance", "switch-by-redirect"): "302",
    ("operator", "operator-by-header"): "HTTP/1.1 200 OK",
    ("overload", "busy-is-down"): " 502",
    ("twelve-at-once", "limit-too-low"): "503",
    ("slow-uploads", "unbuffered"): '"/upload":1',
    ("closed-properly", "hangs-up"): "",
    ("ten-megabytes", "body-size-untold"): "413",
    ("problems", "pages-for-programs"): "<h1>Out of order</h1>",
    ("missing-file", "plain-404"): "<center>nginx</center>",
    ("hidden-pages", "pages-for-everybody"): "200 OK",
    ("leaks", "version-shown"): "nginx/",
    ("gone-visitors", "work-for-nobody"): "50",  # 503, or 504 for who was let in and waited
}


@pytest.mark.slow
@pytest.mark.parametrize(("check", "answer"), BY_HAND)
def test_what_a_card_says_to_do_by_hand_works(check: str, answer: str, tmp_path: Path) -> None:
    folder = ROOT / "tests" / "wrong" / "09" / answer
    cards = (folder / "card.txt").read_text().split("\n\n")
    card = next(one for one in cards if f"hint 09 {check}\n" in one)
    command = card.partition("by hand    course shell 09, then: ")[2]
    laid = lay_out(folder, tmp_path / "mine")
    words = ("shell", "09", "--submission", str(laid))
    printed = course(*words, script=f"exec 2>&1\n{command}\nwait\n").stdout
    assert re.search(re.escape(BY_HAND[check, answer]), printed), printed

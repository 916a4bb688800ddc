"""Lab 04's page: every command on it is run, every output and every error-log line is real."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grader.lab import SOLUTIONS, find_lab, read_solution
from grader.machine import File
from grader.site import Site

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT, lay_out
from inside import shell
from pages import (
    Session,
    blocks,
    check_session,
    course,
    read_page,
    sessions,
    stripped,
    troubles,
)
from pages import not_started as said_by
from pages import site_with as pages_site_with

PAGE = read_page("04-static")
LAB = find_lab("04")
TROUBLES = troubles(PAGE)


@pytest.mark.parametrize("session", sessions(PAGE), ids=lambda one: one[0])
def test_commands_print_what_the_page_shows(session: Session) -> None:
    check_session(session)


def test_shown_lines_are_those_of_real_files() -> None:
    texts = [stripped((one / "nginx.conf").read_text()) for one in (SOLUTIONS / "04", LAB.folder)]
    shown = [body for language, body in blocks(PAGE) if language == "nginx"]
    assert len(shown) > 4
    for body in shown:
        assert "--8<--" in body or any(stripped(body) in text for text in texts), body


def test_slashes_do_what_the_table_says() -> None:
    head, *rows = re.findall(r"^\| (.*) \|$", PAGE.partition("| written |")[2], re.MULTILINE)
    targets = re.findall(r"`(/[^`]+)`", PAGE.partition("| written |")[2].partition("\n")[0])
    assert len(targets) == 4
    servers, wanted = "", {}
    for number, row in enumerate(rows):
        first, *cells = row.split(" | ")
        location, directive = re.findall(r"`([^`]+)`", first)
        host = f"way{number}.board.example"
        servers += f"server {{ listen 80; server_name {host}; {location} {{ {directive} }} }}\n"
        wanted[host] = [int(cell.strip("*")) for cell in cells]
    assert len(wanted) == 6, head
    table = File(LAB.files["nginx.conf"], servers.encode())
    with Site(LAB, [*read_solution(LAB), table]) as site:  # what is placed last stays
        for host, statuses in wanted.items():
            assert [site.get(one, host=host).status_code for one in targets] == statuses, host


def site_with(*changes: tuple[str, str]) -> Site:
    """The solution, with texts of nginx.conf replaced."""
    return pages_site_with(LAB, *(("nginx.conf", old, new) for old, new in changes))


def do(site: Site, command: str) -> None:
    """Run a command in the box, as the services' user."""
    ran = shell(site.box, f"cd /srv/board && {command}")
    assert ran.status == 0, ran.err


SERVED = "root /srv/board;"


def asked(
    status: int,
    *changes: tuple[str, str],
    path: str = "/static/style.css",
    before: str = "",
) -> Callable[[], str]:
    """A mistake that shows when a path is asked for; what the error log then says."""

    def mistake() -> str:
        with site_with(*changes) as site:
            if before:
                do(site, before)
            assert site.get(path).status_code == status
            return site.error_log()

    return mistake


def not_started(old: str, new: str) -> Callable[[], str]:
    """A mistake that keeps nginx from starting; what it says, with its own path of the file."""
    return lambda: said_by(LAB, ("nginx.conf", old, new))


def app_down() -> str:
    """No location for files, and Gunicorn is down."""
    with site_with(("location /static/ {", "location /files/ {")) as site:
        assert site.get("/static/style.css").status_code == 200
        site.service("gunicorn").kill()
        assert site.get("/static/style.css").status_code == 502
        return site.error_log()


def no_style() -> str:
    """A `types` block for one type more."""
    with site_with((SERVED, SERVED + " types { font/woff2 woff2; }")) as site:
        told = site.get("/static/style.css").headers["Content-Type"]
        assert told == "application/octet-stream"
    mended = SERVED + " include /etc/nginx/mime.types; types { font/woff2 woff2; }"
    with site_with((SERVED, mended)) as site:
        assert site.get("/static/style.css").headers["Content-Type"] == "text/css"
        return site.error_log()


MISTAKES: dict[str, Callable[[], str]] = {
    "404 for every file": asked(404, (SERVED, "root /srv/board/static;")),
    "403 for every file": asked(
        403,
        ("disable_symlinks on from=/srv/board/static;", ""),
        (SERVED, "root /home/board;"),
        before="cp -r static /home/board/ && chmod 0 /home/board",
    ),
    "404 for every file after a release was put live by a link": asked(
        404,
        ("disable_symlinks on from=/srv/board/static;", "disable_symlinks on;"),
        (SERVED, "root /srv/board/current;"),
        before="ln -s /srv/board current",
    ),
    "403 for one file": asked(403, path="/static/users.txt"),
    "403 for the folder": asked(403, path="/static/"),
    "502 for a style sheet": app_down,
    "500 for a missing file": asked(
        500, (SERVED, SERVED + " try_files $uri /static/index.html;"), path="/static/none.css"
    ),
    "The page has no style, and the file is there": no_style,
    "Nginx does not start: alias and root": not_started(
        SERVED, SERVED + "\n        alias /srv/board/static/;"
    ),
    "Nginx does not start: outside location": not_started(
        SERVED, SERVED + "\n        location = /favicon.ico { }"
    ),
}


@pytest.mark.parametrize("heading", TROUBLES)
def test_mistakes_leave_the_line_that_the_page_shows(heading: str) -> None:
    log = MISTAKES[heading]()
    lines = [body.strip() for language, body in blocks(TROUBLES[heading])]
    assert all(line in log for line in lines), log
    assert lines or not log


def test_all_mistakes_are_on_the_page() -> None:
    assert list(MISTAKES) == list(TROUBLES)


def test_from_lets_the_path_to_the_folder_be_a_link() -> None:
    changes = (
        ("on from=/srv/board/static;", "on from=/srv/board/current/static;"),
        (SERVED, "root /srv/board/current;"),
    )
    with site_with(*changes) as site:
        do(site, "ln -s /srv/board current")
        assert site.get("/static/style.css").status_code == 200
        assert site.get("/static/users.txt").status_code == 403


BY_HAND = {
    ("without-the-app", "static-proxied"): "HTTP/1.1 502",
    ("missing-file", "try-files-to-the-app"): '"/static/none.css":1',
    ("private-files", "caret-prefix"): "200 /static/old.pyc",
    ("symbolic-links", "symlinks-if-not-owner"): "no visitor should ever read it",
    ("unreadable-file", "soft-404"): "(13: Permission denied)",
    ("slow-readers", "large-buffers"): "VmRSS",
}


@pytest.mark.slow
@pytest.mark.parametrize(("check", "answer"), BY_HAND)
def test_what_a_card_says_to_do_by_hand_works(check: str, answer: str, tmp_path: Path) -> None:
    folder = ROOT / "tests" / "wrong" / "04" / answer
    cards = (folder / "card.txt").read_text().split("\n\n")
    card = next(one for one in cards if f"hint 04 {check}\n" in one)
    command = card.partition("by hand    course shell 04, then: ")[2]
    laid = lay_out(folder, tmp_path / "mine")
    words = ("shell", "04", "--submission", str(laid))
    printed = course(*words, script=f"exec 2>&1\n{command}\n").stdout
    assert BY_HAND[check, answer] in printed
    if check == "slow-readers":
        sizes = [int(one) for one in re.findall(r"VmRSS:\s+(\d+) kB", printed)]
        assert sum(sizes) > 60 * 1024

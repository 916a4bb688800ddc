"""Lab 08's page: every command on it is run, every output and every error-log line is real."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grader.board import LOGIN
from grader.hosts import freeze, set_delay, silent, thaw
from grader.lab import SOLUTIONS, find_lab
from grader.site import Site, wait_for

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT, lay_out
from pages import (
    Session,
    blocks,
    check_session,
    course,
    not_started,
    read_page,
    sessions,
    stripped,
    troubles,
)
from pages import site_with as pages_site_with

PAGE = read_page("08-load-balancing")
LAB = find_lab("08")
TROUBLES = troubles(PAGE)
HOSTS = ("app1", "app2", "app3")


@pytest.mark.parametrize("session", sessions(PAGE), ids=lambda one: one[0])
def test_commands_print_what_the_page_shows(session: Session) -> None:
    check_session(session)


def test_shown_lines_are_those_of_the_solution() -> None:
    solution = stripped((SOLUTIONS / "08" / "nginx.conf").read_text())
    shown = [body for language, body in blocks(PAGE) if language == "nginx"]
    assert len(shown) > 6
    for body in shown:
        assert "--8<--" in body or stripped(body) in solution, body


def test_the_table_of_failures_says_what_is_so() -> None:
    rows = re.findall(r"^\| (dies|refuses|hangs|is silent)\b.*$", PAGE, re.MULTILINE)
    assert rows == ["dies", "refuses", "hangs", "is silent"]
    unsaid = [("        proxy_connect_timeout 1s;\n", ""), ("        proxy_read_timeout 2s;\n", "")]
    with site_with(*unsaid) as site:
        site.service("app1").kill()
        assert [site.get("/whoami", timeout=5).status_code for _ in range(6)] == [200] * 6
        freeze(site, "app2")
        waits = [one.error for one in site.together([lambda: site.get("/", timeout=5)] * 4)]
        assert any(waits), "no limit of less than a minute"


def test_a_host_that_ends_takes_connections_and_answers_none() -> None:
    door = {"port": 8000, "server": LAB.hosts["app1"]}
    with site_with() as site, site.connect(None, **door) as early:
        early.sendall(b"GET /slow?seconds=4 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        requests = "/var/lib/board/board.db.requests"
        assert wait_for(lambda: b"/slow" in (site.box.read(requests) or b""), 10)
        site.service("app1").signal(signal.SIGTERM)

        def nobody_answers() -> bool:
            with site.connect(None, **door) as late:  # it does connect
                late.settimeout(0.3)
                late.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                try:
                    return not late.recv(1)
                except TimeoutError:
                    return True

        assert wait_for(nobody_answers, 2)
        assert early.recv(65536).startswith(b"HTTP/1.1 200 OK")


def site_with(*changes: tuple[str, str]) -> Site:
    """The solution, with texts of nginx.conf replaced."""
    return pages_site_with(LAB, *(("nginx.conf", old, new) for old, new in changes))


def wrong_port() -> str:
    """One host is not where Nginx looks for it."""
    with site_with(("127.0.1.13:8000", "127.0.1.13:8001")) as site:
        assert [site.get("/whoami").status_code for _ in range(6)] == [200] * 6
        return site.error_log()


def hangs() -> str:
    """A host hangs; the visitors are served all the same."""
    with site_with() as site:
        freeze(site, "app2")
        assert [site.get("/whoami").status_code for _ in range(6)] == [200] * 6
        thaw(site, "app2")
        return site.error_log()


def is_silent() -> str:
    """A host does not even take connections."""
    with site_with() as site, silent(site, "app3"):
        assert [site.get("/whoami").status_code for _ in range(6)] == [200] * 6
        return site.error_log()


def page_hangs() -> str:
    """One page takes all hosts out."""
    defaults = [
        (" max_fails=2 fail_timeout=2s", ""),
        ("proxy_read_timeout 2s", "proxy_read_timeout 1s"),
    ]
    with site_with(*defaults, ("        proxy_next_upstream_timeout 3s;\n", "")) as site:
        assert site.get("/hang").status_code == 504
        assert site.get("/").status_code == 502
        return site.error_log()


def pinned(site: Site) -> int:
    """How often the notice is there."""
    told = site.get("/api/notices").json()["notices"]
    return sum(one["title"] == "Once" for one in told)


def pinned_twice() -> str:
    """Hosts die when they have pinned a notice, and before they say so."""
    again = (
        "proxy_next_upstream error timeout;",
        "proxy_next_upstream error timeout non_idempotent;",
    )
    with site_with(again) as site:
        for name in HOSTS:
            set_delay(site, name, 1.5)

        def pin() -> int:
            user = (LOGIN["name"], LOGIN["password"])
            notice = {"title": "Once", "body": "and no more"}
            return site.post("/api/notices", json=notice, auth=user).status_code

        def kill() -> None:
            requests = "/var/lib/board/board.db.requests"
            assert wait_for(lambda: b"/api/notices" in (site.box.read(requests) or b""), 10)
            wait_for(lambda: False, 0.5)  # a password is checked before the notice is pinned
            for name in HOSTS:
                site.service(name).kill()

        posted, _ = site.together([pin, kill])
        assert posted.value == 201
        assert pinned(site) == 2
        return site.error_log()


def logged_out() -> str:
    """Each host has a key of its own."""
    changes = (
        "wsgi.py",
        "app = create_app()\n",
        "app = create_app()\napp.secret_key = urandom(9)\n",
    )
    imported = ("wsgi.py", "from werkzeug", "from os import urandom\n\nfrom werkzeug")
    with pages_site_with(LAB, changes, imported) as site, site.visitor() as visitor:
        visitor.post("/login", data=LOGIN)
        assert {visitor.get("/account").status_code for _ in range(6)} == {200, 303}
        return site.error_log()


def method_last() -> str:
    """`least_conn` below `keepalive`."""
    last = ("    keepalive 16;\n", "    keepalive 16;\n    least_conn;\n")
    with site_with(("    least_conn;\n", ""), last) as site:
        assert "redefined" not in site.error_log()
        return site.service("nginx").log()


MISTAKES: dict[str, Callable[[], str]] = {
    "One host gets nothing, and nobody notices": wrong_port,
    "Now and then a visitor waits for two seconds": hangs,
    "Visitors wait for a minute, and then all is well": is_silent,
    "502 for everybody, after one page hung": page_hangs,
    "A notice is there twice": pinned_twice,
    "Whoever logs in is logged out at the next click": logged_out,
    "Connections are opened again and again": method_last,
    "Nginx does not start: backup": lambda: not_started(
        LAB, ("nginx.conf", "least_conn;", "ip_hash;")
    ),
}


@pytest.mark.parametrize("heading", TROUBLES)
def test_mistakes_leave_the_line_that_the_page_shows(heading: str) -> None:
    log = MISTAKES[heading]()
    lines = [body.strip() for language, body in blocks(TROUBLES[heading]) if language == "text"]
    assert all(line in log for line in lines), log
    if "No line in the log" in TROUBLES[heading]:
        assert not lines and "[error]" not in log
    else:
        assert len(lines) == 1


def test_all_mistakes_are_on_the_page() -> None:
    assert list(MISTAKES) == list(TROUBLES)


# A part of what the command of a check's card prints in the box of a wrong answer.
BY_HAND = {
    ("load-is-spread", "backup-in-rotation"): "-backup",
    ("connections-are-reused", "no-keepalive"): "200 connections to hosts",
    ("crash-is-an-answer", "retries-500"): '"/crash":4',
    ("host-hangs", "patient"): "000 after 4.",
    ("host-is-silent", "no-connect-timeout"): "000 after 4.",
    ("post-runs-once", "non-idempotent"): "Once\nOnce",
    ("refused-post", "next-upstream-off"): "HTTP/1.1 502 Bad Gateway",
    ("backup", "no-backup"): "502 after 0.",
    ("none-left", "friendly-page"): "HTTP/1.1 200 OK",
}


@pytest.mark.slow
@pytest.mark.parametrize(("check", "answer"), BY_HAND)
def test_what_a_card_says_to_do_by_hand_works(check: str, answer: str, tmp_path: Path) -> None:
    folder = ROOT / "tests" / "wrong" / "08" / answer
    cards = (folder / "card.txt").read_text().split("\n\n")
    card = next(one for one in cards if f"hint 08 {check}\n" in one)
    command = card.partition("by hand    course shell 08, then: ")[2]
    laid = lay_out(folder, tmp_path / "mine")
    words = ("shell", "08", "--submission", str(laid))
    printed = course(*words, script=f"exec 2>&1\n{command}\n").stdout
    assert BY_HAND[check, answer] in printed, printed

"""Lab 03's page: every command on it is run, every output and every error-log line is real."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grader.lab import SOLUTIONS, find_lab, read_solution
from grader.machine import File
from grader.site import Site, wait_for

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT
from pages import (
    Session,
    blocks,
    check_session,
    not_started,
    read_page,
    sessions,
    site_with,
    stripped,
    troubles,
)

PAGE = read_page("03-nginx")
LAB = find_lab("03")
TROUBLES = troubles(PAGE)
MASKS = [
    (r"app-[0-9a-f]{12}", "app-x"),
    (r'"pid": \d+', '"pid": x'),
    (r"curl/[\d.]+", "curl/x"),
    (r"after \d+ ms: .*", "after x ms"),  # the rest is worded differently from curl to curl
]


def masked(text: str) -> str:
    """Leave out what differs from run to run and from machine to machine."""
    for pattern, replacement in MASKS:
        text = re.sub(pattern, replacement, text)
    return text.strip()


@pytest.mark.parametrize("session", sessions(PAGE), ids=lambda one: one[0])
def test_commands_print_what_the_page_shows(session: Session) -> None:
    check_session(session, masked)


def test_shown_lines_are_those_of_real_files() -> None:
    folders = [SOLUTIONS / "03", ROOT / "tests" / "right" / "03", ROOT / "tests" / "wrong" / "03"]
    files = [one for folder in folders for one in folder.rglob("*") if one.is_file()]
    texts = [stripped(one.read_text()) for one in files]
    shown = [body for language, body in blocks(PAGE) if language in ("nginx", "python")]
    assert shown
    for body in shown:
        assert "--8<--" in body or any(stripped(body) in text for text in texts), body


def refused() -> str:
    """Nobody listens."""
    with site_with(LAB, ("nginx.conf", "127.0.0.1:8000", "127.0.0.1:5000")) as site:
        assert site.get("/whoami").status_code == 502
        return site.error_log()


def no_socket() -> str:
    """Nginx looks for a unix socket; Gunicorn listens on TCP."""
    to_socket = ("nginx.conf", "127.0.0.1:8000", "unix:/run/board/gunicorn.sock")
    with site_with(LAB, to_socket) as site:
        assert site.get("/whoami").status_code == 502
        return site.error_log()


def worker_died() -> str:
    """A worker is killed while it has a request."""
    # On a connection that was kept open, Nginx would ask once more.
    with site_with(LAB, ("nginx.conf", "keepalive 16;", "")) as site:
        gunicorn = site.service("gunicorn")

        def kill_all() -> None:
            asked = wait_for(lambda: "/slow" in site.get("/stats").json()["paths"], 10)
            assert asked
            gunicorn.signal(signal.SIGKILL, gunicorn.workers())

        reply, _ = site.together([lambda: site.get("/slow?seconds=30", timeout=20), kill_all])
        assert reply.value.status_code == 502
        return site.error_log()


def timed_out() -> str:
    """The app is slower than Nginx is patient."""
    patience = ("nginx.conf", "proxy_http_version", "proxy_read_timeout 1s; proxy_http_version")
    with site_with(LAB, patience) as site:
        assert site.get("/slow?seconds=3").status_code == 504
        return site.error_log()


def too_large() -> str:
    """An upload of 1.1 MB."""
    with site_with(LAB) as site:
        assert site.post("/upload", data=b"x" * 1_100_000).status_code == 413
        return site.error_log()


def no_live_upstreams() -> str:
    """A crash counts as a dead server; the second one leaves nobody."""
    twice = "zone board 64k; server 127.0.0.1:8000; server 127.0.0.1:8000;"
    retry = "proxy_next_upstream error timeout http_500; proxy_http_version"
    with site_with(
        LAB,
        ("nginx.conf", "server 127.0.0.1:8000;", twice),
        ("nginx.conf", "proxy_http_version", retry),
    ) as site:
        assert [site.get("/crash").status_code for _ in range(2)] == [500, 502]
        return site.error_log()


def missing_semicolon() -> str:
    """The directive before lacks its semicolon."""
    return not_started(LAB, ("nginx.conf", "proxy_http_version 1.1;", "proxy_http_version 1.1"))


def misspelt_upstream() -> str:
    """There is no such upstream."""
    return not_started(LAB, ("nginx.conf", "http://board;", "http://borad;"))


def port_taken() -> str:
    """Gunicorn has port 80 already."""
    return not_started(LAB, ("gunicorn.conf.py", "127.0.0.1:8000", "0.0.0.0:80"))


def welcome() -> str:
    """Debian's own site beside ours."""
    text = b"server { listen 80 default_server; root /usr/share/nginx/html; }"
    default = File("/etc/nginx/sites-enabled/default", text)
    with Site(LAB, [*read_solution(LAB), default]) as site:
        assert "Welcome to nginx!" in site.get("/", host="192.0.2.80").text
        assert "Welcome to nginx!" not in site.get("/").text
        return site.error_log()


MISTAKES: dict[str, Callable[[], str]] = {
    "502 Bad Gateway at once": refused,
    "502 Bad Gateway with a unix socket": no_socket,
    "502 Bad Gateway after a while": worker_died,
    "504 Gateway Time-out": timed_out,
    "413 Request Entity Too Large": too_large,
    "502 after one page has crashed": no_live_upstreams,
    "Nginx does not start, and points at an innocent line": missing_semicolon,
    "Nginx does not start: host not found": misspelt_upstream,
    "Nginx does not start: address already in use": port_taken,
    '"Welcome to nginx!"': welcome,
}


@pytest.mark.parametrize("heading", TROUBLES)
def test_mistakes_leave_the_line_that_the_page_shows(heading: str) -> None:
    log = MISTAKES[heading]()
    lines = [body.strip() for language, body in blocks(TROUBLES[heading]) if language == "text"]
    assert all(line in log for line in lines), log
    assert lines or not log


def test_all_mistakes_are_on_the_page() -> None:
    assert list(MISTAKES) == list(TROUBLES)

"""Lab 14's page: every command on it is run, every output and every line of a log is real."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from grader import services
from grader.board import whoami
from grader.errors import StartFailed
from grader.lab import LABS, SOLUTIONS, find_lab, read_solution
from grader.machine import File
from grader.site import Site, wait_for

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT
from pages import (
    Session,
    blocks,
    check_session,
    read_page,
    sessions,
    site_with,
    stripped,
    troubles,
)

PAGE = read_page("14-uwsgi")
LAB = find_lab("14")
TROUBLES = troubles(PAGE)
SOCKET = "unix:/run/board/uwsgi.sock"
RELOAD = "/run/board/reload"
LONG = "/whoami?" + "q" * 7000


def masked(text: str) -> str:
    """Leave out the numbers of processes."""
    return re.sub(r'"pid":\d+|\b\d+(?= is gone)', "<pid>", text).strip()


@pytest.mark.parametrize("session", sessions(PAGE), ids=lambda one: one[0])
def test_commands_print_what_the_page_shows(session: Session) -> None:
    check_session(session, masked)


def test_lines_in_backticks_are_the_solutions() -> None:
    text = (SOLUTIONS / "14" / "uwsgi.ini").read_text()
    steps = PAGE.partition("\n## Steps\n")[2].partition("\n## Verification\n")[0]
    shown = re.findall(r"solutions/14/uwsgi\.ini:(\d+):(\d+)", steps)
    lines = text.splitlines()
    told = [line for first, last in shown for line in lines[int(first) - 1 : int(last)]]
    assert [line for line in lines[2:] if line] == [line for line in told if line]


def test_a_visitor_cannot_fill_in_the_variables_themselves() -> None:
    with site_with(LAB) as site:
        told = whoami(site, source="203.0.113.7", headers={"Remote-Addr": "6.6.6.6"})
    assert told["client"] == "203.0.113.7"


def log_of(site: Site) -> str:
    """What uWSGI and Nginx have written."""
    return site.service("uwsgi").log() + site.error_log()


def denied() -> str:
    """Nginx may not write to the socket (in a box it is the owner)."""
    with site_with(LAB, ("uwsgi.ini", "chmod-socket = 660", "chmod-socket = 440")) as site:
        assert site.get("/whoami").status_code == 502
        return log_of(site)


def too_long() -> str:
    """The buffer is as small as it is by default."""
    with site_with(LAB, ("uwsgi.ini", "buffer-size = 65535", "")) as site:
        assert site.get(LONG).status_code == 502
        assert wait_for(lambda: "...skip" in log_of(site), 5)
        return log_of(site)


def full() -> str:
    """The queue has 100 places, and nobody takes visitors out of it."""
    with site_with(LAB, ("uwsgi.ini", "listen = 1024", "")) as site:
        uwsgi = site.service("uwsgi")
        uwsgi.freeze(uwsgi.workers())
        made = [site.connect() for _ in range(150)]
        for one in made:
            one.sendall(b"GET / HTTP/1.0\r\nHost: board.example\r\n\r\n")
        assert wait_for(lambda: "(11:" in site.error_log(), 10)
        for one in made:
            one.close()
        return log_of(site)


def hangs() -> str:
    """A page hangs."""
    with site_with(LAB, ("uwsgi.ini", "harakiri = 6", "harakiri = 2")) as site:
        assert site.get("/hang", timeout=20).status_code == 502
        return log_of(site)


def no_app() -> str:
    """The app cannot be imported, and need-app is missing."""
    broken = [
        File(one.path, b"raise RuntimeError\n") if one.path.endswith("wsgi.py") else one
        for one in read_solution(LAB, ("uwsgi.ini", "need-app = true", ""))
    ]
    with Site(LAB, broken) as site:
        assert site.get("/whoami").status_code == 500
        return log_of(site)


def misspelt() -> str:
    """A name that uWSGI does not know."""
    with pytest.raises(StartFailed) as failed:
        site_with(LAB, ("uwsgi.ini", "processes = 4", "procesess = 4"))
    return failed.value.got


def not_stopped() -> str:
    """TERM, and no word about it in the file."""
    with site_with(LAB, ("uwsgi.ini", "hook-master-start", "# hook-master-start")) as site:
        uwsgi = site.service("uwsgi")
        uwsgi.signal(signal.SIGTERM)
        assert wait_for(lambda: "killing workers" in uwsgi.log(), 5)
        assert uwsgi.wait_end(3) is None
        return log_of(site)


def whole_reload() -> str:
    """PyPI's package, which looks for itself in the wrong Python."""
    python = os.path.realpath(sys.executable)
    change = ("uwsgi.ini", "touch-chain-reload", "touch-reload")
    with Site(LAB, read_solution(LAB, change), env={"UWSGI_BINARY_PATH": python}) as site:
        site.box.write(File(RELOAD, b""))
        assert site.service("uwsgi").wait_end(15) == 1
        return log_of(site)


def chunks() -> str:
    """The app hears of chunks."""
    with site_with(LAB, ("nginx.conf", 'uwsgi_param HTTP_TRANSFER_ENCODING "";', "")) as site:
        told = site.post("/echo/c", data=iter([b"a note"])).json()
    assert told["length"] == 0
    return ""


MISTAKES: dict[str, Callable[[], str]] = {
    "502 Bad Gateway: permission denied": denied,
    "502 Bad Gateway for long links and cookies": too_long,
    "502 Bad Gateway in a busy moment": full,
    "502 Bad Gateway after some seconds": hangs,
    "500 Internal Server Error on every page": no_app,
    "uWSGI does not start: unknown config directive": misspelt,
    "A stop does not stop": not_stopped,
    "A whole reload ends uWSGI": whole_reload,
    "A body in chunks arrives empty": chunks,
}


@pytest.mark.parametrize("heading", TROUBLES)
def test_mistakes_leave_the_line_that_the_page_shows(heading: str) -> None:
    log = MISTAKES[heading]()
    lines = [body.strip() for language, body in blocks(TROUBLES[heading]) if language == "text"]
    assert all(line in log for line in lines), log
    assert lines or not log


def test_all_mistakes_are_on_the_page() -> None:
    assert list(MISTAKES) == list(TROUBLES)


def test_gunicorn_takes_the_place_behind_the_same_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    (conf,) = [body for language, body in blocks(PAGE) if language == "python" and SOCKET in body]
    program = services.PROGRAMS["gunicorn"]
    ready = replace(program, ready=services.speaks_uwsgi)
    monkeypatch.setitem(services.PROGRAMS, "gunicorn", ready)
    lab = replace(LAB, run=("gunicorn", "nginx"))
    # Gunicorn takes no visitor's address from Nginx's variables, but ProxyFix does from a header.
    kept = ROOT / "tests" / "right" / "14" / "proxyfix-kept"
    files = {one.path: one for one in read_solution(LAB)}
    for name in ("nginx.conf", "wsgi.py"):
        files[LAB.files[name]] = File(LAB.files[name], (kept / name).read_bytes())
    with Site(lab, [*files.values(), File("/srv/board/gunicorn.conf.py", conf.encode())]) as site:
        claims = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https"}
        told = whoami(site, host="board.example:8080", source="203.0.113.7", headers=claims)
        assert told["client"] == "203.0.113.7"
        assert told["url"] == "http://board.example:8080/whoami"
        assert site.post("/echo/c", data=iter([b"a note"])).json()["length"] == 6
        assert site.get(LONG).status_code == 200


def test_the_starter_on_the_page_is_the_one_that_is_given() -> None:
    assert '--8<-- "labs/14/uwsgi.ini"' in PAGE
    assert stripped((LABS / "14" / "uwsgi.ini").read_text()).startswith("[uwsgi]")

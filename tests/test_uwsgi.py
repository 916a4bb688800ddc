"""Labs with uWSGI: its protocol, and what a learner is told when it does not start."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from grader import sandbox
from grader.card import likely_place, line_of
from grader.errors import NotAllowed, StartFailed
from grader.lab import find_lab, read_solution
from grader.site import Site
from grader.uwsgi import ask, packet

LAB = find_lab("14")
SOCKET = "/run/board/uwsgi.sock"


def test_a_packet_has_the_lengths_of_all_that_is_in_it() -> None:
    made = packet("/whoami")
    kind, size, more = struct.unpack("<BHB", made[:4])
    assert (kind, size, more) == (0, len(made) - 4, 0)
    words, at = [], 4
    while at < len(made):
        (length,) = struct.unpack("<H", made[at : at + 2])
        words.append(made[at + 2 : at + 2 + length].decode())
        at += 2 + length
    told = dict(zip(words[::2], words[1::2], strict=True))
    assert told["PATH_INFO"] == told["REQUEST_URI"] == "/whoami"


def test_it_is_asked_past_nginx() -> None:
    with Site(LAB, read_solution(LAB)) as site:
        assert site.instance.encode() in ask(site, SOCKET, "/whoami")
        assert ask(site, "/run/board/nothing.sock", "/whoami") == b""


@pytest.mark.parametrize(
    ("old", "new", "says", "line"),
    [
        ("wsgi:app", "wsgi:application", "unable to load app 0", "module = wsgi:application"),
        ("wsgi:app", "wsgy:app", "No module named 'wsgy'", "module = wsgy:app"),
        (SOCKET, "/run/nowhere/uwsgi.sock", "bind(): No such file or directory", ""),
        ("660", "660\nchown-socket = www-data", "unable to find user www-data", ""),
        ("[uwsgi]", "[uswgi]", 'Can\'t find section "uwsgi"', ""),
        (
            "listen = 1024",
            "listen = 100000",
            "Listen queue size is greater than the system max",
            "",
        ),
        ("vacuum = true", "daemonize = /tmp/a", "went to the background", "daemonize = /tmp/a"),
        ("processes", "procesess", "unknown config directive: procesess", "procesess = 4"),
    ],
)
def test_what_it_complains_about_is_told(old: str, new: str, says: str, line: str) -> None:
    files = read_solution(LAB, ("uwsgi.ini", old, new))
    with pytest.raises(StartFailed) as failed:
        Site(LAB, files).close()
    assert says in failed.value.got
    assert len(failed.value.got.splitlines()) <= 3, failed.value.got
    place = failed.value.place or likely_place(failed.value.look_at, files, LAB)
    assert place is not None
    assert place.file == "uwsgi.ini"
    assert line_of(place, files, LAB) == line


def test_where_it_is_not_installed_it_says_how(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sandbox.sys, "prefix", str(tmp_path))
    with pytest.raises(NotAllowed, match=r"uwsgi is missing.*labs/14/requirements\.txt$"):
        sandbox.find_program("uwsgi")

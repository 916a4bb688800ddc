"""App hosts: several Gunicorns in one box, and what a check can do to each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from grader.errors import GraderError, Mismatch, StartFailed
from grader.hosts import (
    connections_to,
    connects,
    freeze,
    host_of,
    set_delay,
    silent,
    thaw,
)
from grader.lab import find_lab, load_lab, read_solution
from grader.site import Site

LAB = find_lab("08")
HOSTS = ("app1", "app2", "app3", "backup")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The solution of the lab that has hosts."""
    with Site(LAB, read_solution(LAB)) as made:
        yield made


def ask(site: Site, name: str, seconds: float = 5.0) -> bytes:
    """Ask a host itself for /whoami."""
    with site.connect(None, port=8000, server=LAB.hosts[name]) as made:
        made.settimeout(seconds)
        made.sendall(b"GET /whoami HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        data = b""
        while more := made.recv(65536):
            data += more
    return data


def test_each_host_has_an_address_and_a_name(site: Site) -> None:
    assert tuple(LAB.hosts) == HOSTS
    for name in HOSTS:
        (listener,) = site.service(name).http_listeners()
        assert (listener.host, listener.port) == (LAB.hosts[name], 8000)
        assert site.service(name).env["BOARD_INSTANCE"].encode() in ask(site, name)


def test_a_reply_tells_its_host(site: Site) -> None:
    names = {host_of(site, site.get("/whoami").json()) for _ in range(12)}
    assert names == {"app1", "app2", "app3"}
    with pytest.raises(Mismatch):
        host_of(site, {"instance": "app1"})


def test_all_hosts_have_one_database(site: Site) -> None:
    assert len({site.service(name).env["BOARD_DATABASE"] for name in HOSTS}) == 1
    assert len({site.service(name).env["BOARD_SECRET_KEY"] for name in HOSTS}) == 1


def test_a_host_is_slow_for_as_long_as_it_is_told(site: Site) -> None:
    for seconds, slow in ((0.4, True), (0.0, False)):
        set_delay(site, "app1", seconds)
        waits = []
        for name in ("app1", "app2"):
            started = time.monotonic()
            ask(site, name)
            waits.append(time.monotonic() - started)
        assert (waits[0] >= 0.4) is slow
        assert waits[1] < 0.4


def test_a_frozen_host_takes_connections_and_does_not_answer(site: Site) -> None:
    freeze(site, "app2")
    with pytest.raises(TimeoutError):
        ask(site, "app2", 0.3)
    assert b"200 OK" in ask(site, "app1")
    thaw(site, "app2")
    assert b"200 OK" in ask(site, "app2")


def test_a_silent_host_takes_no_connections(site: Site) -> None:
    with silent(site, "app3"):
        (made,) = site.box.sockets()
        with made:
            made.settimeout(0.3)
            with pytest.raises(TimeoutError):
                made.connect((LAB.hosts["app3"], 8000))
        assert b"200 OK" in ask(site, "app1")
    assert b"200 OK" in ask(site, "app3")


def test_a_host_that_is_never_full_is_said_to_be(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grader.hosts.MOST_WAITING", 5)
    with pytest.raises(GraderError, match="goes on to take connections"), silent(site, "app3"):
        pass
    assert b"200 OK" in ask(site, "app3")


def test_connections_are_counted_by_the_kernel(site: Site) -> None:
    before, open_before = connects(site), connections_to(site, "backup")
    with site.connect(None, port=8000, server=LAB.hosts["backup"]):
        assert connections_to(site, "backup") == open_before + 1
    assert connects(site) == before + 1


def test_a_host_that_was_killed_starts_again(site: Site) -> None:
    site.service("app1").kill()
    with pytest.raises(OSError):
        ask(site, "app1")
    assert b"200 OK" in ask(site, "app2")
    site.service("app1").start()
    assert b"200 OK" in ask(site, "app1")


def test_a_wsgi_file_that_does_not_start_is_blamed() -> None:
    broken = [
        replace(one, data=b"import nothing_of_the_kind\n") if one.path.endswith("wsgi.py") else one
        for one in read_solution(LAB)
    ]
    with pytest.raises(StartFailed) as failed:
        Site(LAB, broken)
    assert failed.value.service == "app1"
    assert "nothing_of_the_kind" in failed.value.got
    assert failed.value.place is not None
    assert (failed.value.place.file, failed.value.place.line) == ("wsgi.py", 1)


def test_other_labs_have_no_hosts(tmp_path: Path) -> None:
    assert find_lab("03").hosts == {}
    (tmp_path / "lab.toml").write_text((LAB.folder / "lab.toml").read_text())
    assert load_lab(tmp_path).hosts == LAB.hosts

"""App hosts: several Gunicorns in one box, each on an address of its own, as on so many machines.

A lab whose lab.toml has `services.hosts` runs them in the place of one Gunicorn. They share the
learner's `wsgi.py` and the database. Their `gunicorn.conf.py` is the course's own, from `etc/`: it
takes the host's address from the environment, and lets a check make the host slow while it runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grader.errors import GraderError, Mismatch
from grader.lab import Lab
from grader.machine import File
from grader.services import APP_HOME, PROGRAMS, Program

if TYPE_CHECKING:
    from grader.site import Service, Site

PORT = 8000
CONNECT_SECONDS = 0.3  # a host that takes connections does at once; the kernel needs no program
MOST_WAITING = 400  # connections that nobody accepts; `backlog` in etc/gunicorn.conf.py says 128


def host_ready(service: Service) -> bool:
    """Tell whether a host answers; its address is known, nothing has to be looked for."""
    from grader.site import Listener  # which imports this module

    address = service.site.lab.hosts[service.name]
    return service.site.answers(Listener(address, PORT, "", (), ()))


HOST = replace(PROGRAMS["gunicorn"], ready=host_ready, file="wsgi.py")


def program_of(lab: Lab, name: str) -> Program:
    """The program that a service of a lab runs."""
    return HOST if name in lab.hosts else PROGRAMS[name]


def given_files(lab: Lab) -> list[File]:
    """What the course itself places for a lab with hosts."""
    if not lab.hosts:
        return []
    conf = Path(__file__).with_name("etc") / "gunicorn.conf.py"
    return [File(f"{APP_HOME}/gunicorn.conf.py", conf.read_bytes(), root=True)]


def host_env(lab: Lab, name: str, env: Mapping[str, str]) -> dict[str, str]:
    """The environment of an app's service; a host's has its address, and a name of its own."""
    if name not in lab.hosts:
        return dict(env)
    own = {"BOARD_HOST": lab.hosts[name], "BOARD_INSTANCE": f"{env['BOARD_INSTANCE']}-{name}"}
    return {**env, **own}


# --- for checks and notebooks


def host_of(site: Site, told: Mapping[str, Any]) -> str:
    """The host that a reply of `/whoami` comes from, by its service's name.

    Raises:
        Mismatch: it comes from none.
    """
    names = {site.service(name).env["BOARD_INSTANCE"]: name for name in site.lab.hosts}
    if told.get("instance") not in names:
        raise Mismatch("the answer of one of the hosts", "something else answers")
    return names[told["instance"]]


def set_delay(site: Site, name: str, seconds: float) -> None:
    """Make a host wait before each answer, from now on; 0 for not at all.

    It has done the request's work by then: a notice is in the database.
    """
    path = f"/run/board/{site.lab.hosts[name]}.delay"
    site.box.write(File(path, str(seconds).encode()))


def freeze(site: Site, *names: str) -> None:
    """Stop hosts where they are: the kernel goes on to take connections, and nobody answers."""
    for name in names:
        site.service(name).freeze()


def thaw(site: Site, *names: str) -> None:
    """Let frozen hosts go on."""
    for name in names:
        site.service(name).thaw()


@contextlib.contextmanager
def silent(site: Site, name: str) -> Iterator[None]:
    """Make a host silent while the block runs: it is frozen, and takes no connection any more.

    The kernel drops what comes when as many connections wait as it keeps for the program. To a
    visitor that is a machine whose cable was pulled.

    Raises:
        GraderError: it goes on to take connections.
    """
    with contextlib.ExitStack() as undo:
        freeze(site, name)
        undo.callback(thaw, site, name)
        for _ in range(MOST_WAITING):
            made = undo.enter_context(site.box.sockets()[0])
            made.settimeout(CONNECT_SECONDS)
            try:
                made.connect((site.lab.hosts[name], PORT))
            except TimeoutError:
                break
        else:
            raise GraderError(f"{name} goes on to take connections")
        yield


def connections_to(site: Site, name: str) -> int:
    """How many connections to a host are open, by the kernel's own table."""
    address = (site.lab.hosts[name], PORT)
    return sum(tuple(one["remote"]) == address for one in site.connections())


def connects(site: Site) -> int:
    """How many TCP connections were opened from inside the box so far, by the kernel's own count.

    A visitor's is one of them: visitors are in the box's network too.
    """
    rows = (site.box.read("/proc/net/snmp") or b"").decode().splitlines()
    head, values = (one.split() for one in rows if one.startswith("Tcp:"))
    return int(values[head.index("ActiveOpens")])

"""Load on a site from inside its box, for notebooks and benchmarks: `wrk`, and slow visitors."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from grader.errors import GraderError
from grader.sandbox import SERVER_V4, ZONE, find_program
from grader.site import Site, wait_for

MOST_SECONDS = 30.0
MOST_CONNECTIONS = 600
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
HALF_A_REQUEST = {
    "headers": b"GET /whoami HTTP/1.1\r\nHost: board.example\r\nX-Slow: ",
    "uploads": b"POST /upload HTTP/1.1\r\nHost: board.example\r\nContent-Length: 100000\r\n\r\n"
    + b"x" * 1000,
    "readers": b"GET /big?kb=3000 HTTP/1.1\r\nHost: board.example\r\n\r\n",
}


@dataclass(frozen=True)
class Load:
    """What one run of `wrk` saw.

    Attributes:
        rate: answers a second.
        median: seconds that half of the answers took at most.
        p99: seconds that 99 of 100 answers took at most.
        requests: how many answers came.
        errors: refused, broken and timed-out requests, and answers other than 2xx and 3xx.
        cpu: seconds of CPU that each service used meanwhile, by its name.
    """

    rate: float
    median: float
    p99: float
    requests: int
    errors: int
    cpu: dict[str, float]


def seconds_of(text: str) -> float:
    """Read a time as wrk writes it: 12.34ms."""
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if not found:
        raise GraderError(f"wrk wrote a time that is none: {text}")
    return float(found[1]) * UNITS[found[2]]


def cpu_used(site: Site) -> dict[str, float]:
    """Seconds of CPU that each service has used so far; those of ended processes are lost."""
    used = dict.fromkeys(site.services, 0.0)
    for one in site.processes():
        if one["service"] in used:
            used[one["service"]] += one["cpu"]
    return used


def wrk(
    site: Site,
    path: str,
    *,
    connections: int = 50,
    seconds: float = 2.0,
    port: int | None = None,
    headers: dict[str, str] | None = None,
    scheme: str = "http",
) -> Load:
    """Ask for a path as fast as the site answers, over some connections that are kept open.

    Args:
        site: the site; `wrk` runs beside it, in its box, on the same CPUs.
        path: path and query.
        connections: how many at once, at most 600.
        seconds: how long, at most 30.
        port: None for the site's front door.
        headers: more request headers.
        scheme: http or https.

    Raises:
        GraderError: `wrk` is not installed, did not end, or wrote something unexpected.
    """
    host, door = site.front
    where = SERVER_V4 if host == ZONE else host
    number = port or (443 if scheme == "https" else door)
    given = {"Host": ZONE, **(headers or {})}
    argv = [find_program("wrk"), "--latency", "-t", "1"]
    argv += [
        "-c",
        str(min(connections, MOST_CONNECTIONS)),
        "-d",
        f"{min(seconds, MOST_SECONDS):g}s",
    ]
    for name, value in given.items():
        argv += ["-H", f"{name}: {value}"]
    before = cpu_used(site)
    start = len(site.box.log("wrk", "stdout"))
    site.box.spawn("wrk", [*argv, "--timeout", "30s", f"{scheme}://{where}:{number}{path}"], {})
    ended = wait_for(
        lambda: site.box.request("status")["services"]["wrk"]["status"] is not None, seconds + 40
    )
    after = cpu_used(site)
    said = site.box.log("wrk", "stdout")[start:]
    if not ended or "Requests/sec" not in said:
        raise GraderError(f"wrk did not do it: {said}{site.box.log('wrk', 'stderr')}")
    return read_wrk(said, {name: after[name] - before.get(name, 0.0) for name in after})


def read_wrk(said: str, cpu: dict[str, float]) -> Load:
    """Read what `wrk --latency` printed."""

    def find(pattern: str) -> str:
        found = re.search(pattern, said)
        return found[1] if found else ""

    errors = sum(int(one) for one in re.findall(r"(?:connect|read|write|timeout) (\d+)", said))
    errors += int(find(r"Non-2xx or 3xx responses: (\d+)") or 0)
    return Load(
        rate=float(find(r"Requests/sec:\s+([\d.]+)")),
        median=seconds_of(find(r"50%\s+(\S+)")),
        p99=seconds_of(find(r"99%\s+(\S+)")),
        requests=int(find(r"(\d+) requests in")),
        errors=errors,
        cpu=cpu,
    )


@contextlib.contextmanager
def slow_visitors(
    site: Site, number: int, kind: str, port: int | None = None
) -> Iterator[list[socket.socket]]:
    """Hold connections open that began something and go no further, while the block runs.

    Args:
        site: the site.
        number: how many visitors, each from an address of its own (up to 200).
        kind: "headers", "uploads" or "readers".
        port: None for the site's front door.
    """
    buffer = 4096 if kind == "readers" else None
    with contextlib.ExitStack() as opened:
        slow: list[socket.socket] = []
        for count in range(number):
            source = f"203.0.113.{count % 200 + 10}"
            one = site.connect(source, port=port, receive_buffer=buffer)
            slow.append(opened.enter_context(one))
            one.sendall(HALF_A_REQUEST[kind])
        yield slow

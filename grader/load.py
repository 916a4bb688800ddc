"""Load on a site, from inside its box: many visitors at once, and visitors who are slow.

`wrk` and `h2load` are the usual programs, run in the box with the site, so no load ever leaves it.
"""

from __future__ import annotations

import contextlib
import re
import signal
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grader.errors import GraderError
from grader.sandbox import ZONE
from grader.site import wait_for

if TYPE_CHECKING:
    from grader.site import Site

LATENCY = re.compile(r"^\s+(50|75|90|99)%\s+([\d.]+)(us|ms|s|m)$", re.MULTILINE)
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
PATIENCE = 5.0  # seconds after which a normal visitor gives up
ENOUGH = 3  # visitors who gave up: those after them would too
SLOW = {
    "headers": b"GET /whoami HTTP/1.1\r\nHost: board.example\r\nX-Slow: ",
    "uploads": b"POST /upload HTTP/1.1\r\nHost: board.example\r\n"
    b"Content-Length: 100000\r\n\r\n" + b"x" * 1000,
    "readers": b"GET /big?kb=3000 HTTP/1.1\r\nHost: board.example\r\n\r\n",
}


@dataclass(frozen=True)
class Load:
    """What a load met.

    Attributes:
        requests: answered ones.
        seconds: how long it lasted.
        failed: answers that were no 2xx or 3xx, and requests without an answer.
        latency: seconds to the answer at percentiles: 50, 75, 90, 99 (wrk alone tells them).
        cpu: CPU seconds that each service used meanwhile, by its name.
    """

    requests: int
    seconds: float
    failed: int = 0
    latency: Mapping[int, float] = field(default_factory=dict)
    cpu: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds

    @property
    def cpu_each(self) -> float:
        """CPU seconds of all services for one request."""
        return sum(self.cpu.values()) / self.requests


def wrk(
    site: Site,
    path: str = "/",
    *,
    connections: int = 50,
    seconds: float = 2.0,
    port: int | None = None,
    host: str = ZONE,
    headers: Mapping[str, str] | None = None,
    scheme: str = "http",
) -> Load:
    """Ask for one path over and over, on connections that stay open, with `wrk`.

    Args:
        site: a running site.
        path: path and query.
        connections: visitors at once; each asks again as soon as it has its answer.
        seconds: how long; wrk itself takes whole ones.
        port: None for the site's front door.
        host: the name that is asked for.
        headers: more of the request's headers; `Connection: close` makes each one a new connection.
        scheme: http or https (wrk checks no certificate, and resumes its TLS sessions).

    Raises:
        GraderError: wrk is missing, or did not end.
    """
    # Over TLS the address must be a name: it is what a site chooses its certificate by.
    server = ZONE if scheme == "https" else "127.0.0.1"
    address = f"{scheme}://{server}:{port or _port(site, scheme)}{path}"
    argv = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{max(1, round(seconds))}s"]
    argv += ["--latency", "--timeout", "60s"]
    for name, value in {"Host": host, **(headers or {})}.items():
        argv += ["-H", f"{name}: {value}"]
    before = _cpu(site)
    said = _run(site, [*argv, address], seconds + 30)
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", said)
    if not found or not int(found[1]):
        raise GraderError(f"wrk got no answer from {address}: {said.strip()}")
    failed = [int(one) for one in re.findall(r"Non-2xx or 3xx responses: (\d+)", said)]
    failed += [int(one) for one in re.findall(r"(?:connect|read|write|timeout) (\d+)", said)]
    return Load(
        int(found[1]),
        float(found[2]) * UNITS[found[3]],
        sum(failed),
        {int(at): float(number) * UNITS[unit] for at, number, unit in LATENCY.findall(said)},
        _used(site, before),
    )


def h2load(
    site: Site,
    path: str = "/",
    *,
    requests: int = 1000,
    clients: int = 1,
    streams: int = 10,
    http1: bool = False,
    port: int | None = None,
) -> Load:
    """Ask for one path over https, with `h2load`: over HTTP/2, or HTTP/1.1.

    Args:
        site: a running site.
        path: path and query.
        requests: how many in all.
        clients: connections.
        streams: requests at once on one connection; over HTTP/1.1 it is 1.
        http1: speak HTTP/1.1 instead.
        port: None for 443.

    Raises:
        GraderError: h2load is missing, or did not end.
    """
    address = f"https://{ZONE}:{port or 443}{path}"
    argv = ["h2load", "-n", str(requests), "-c", str(clients), "-m", str(1 if http1 else streams)]
    before = _cpu(site)
    said = _run(site, [*argv, *(["--h1"] if http1 else []), address], 120)
    took = re.search(r"finished in ([\d.]+)(us|ms|s|m)", said)
    counts = re.search(r"(\d+) done, (\d+) succeeded", said)
    if not took or not counts or not int(counts[1]):
        raise GraderError(f"h2load got no answer from {address}: {said.strip()}")
    good = int(counts[2])
    seconds = float(took[1]) * UNITS[took[2]]
    return Load(good, seconds, requests - good, {}, _used(site, before))


@contextlib.contextmanager
def slow_visitors(
    site: Site, count: int, kind: str = "headers", *, port: int | None = None
) -> Iterator[None]:
    """Hold the door open while the block runs: visitors who begin something and never end it.

    Args:
        site: a running site.
        count: how many.
        kind: "headers" (half a request), "uploads" (the beginning of a body) or "readers" (a large
            page is asked for and not read).
        port: None for the site's front door.
    """
    with contextlib.ExitStack() as opened:
        for number in range(count):
            buffer = 4096 if kind == "readers" else None
            source = f"203.0.113.{number % 240 + 10}"
            slow = site.connect(source, port=port, receive_buffer=buffer)
            opened.enter_context(slow)
            slow.sendall(SLOW[kind])
            time.sleep(0.002)  # one after the other, so that all of an app's workers get some
        time.sleep(0.5)  # whatever they could set off is over
        yield


@dataclass(frozen=True)
class Waits:
    """What normal visitors met: seconds of those who were served, and how many gave up."""

    served: list[float]
    gave_up: int = 0

    @property
    def median(self) -> float:
        """The median wait in seconds; infinite when nobody was served."""
        return statistics.median(self.served) if self.served else float("inf")

    @property
    def worst(self) -> float:
        """The longest wait in seconds; infinite when somebody gave up."""
        return float("inf") if self.gave_up or not self.served else max(self.served)


def normal_visitors(
    site: Site,
    count: int = 100,
    path: str = "/whoami",
    *,
    port: int | None = None,
    patience: float = PATIENCE,
) -> Waits:
    """Let visitors in, one after the other, each on a new connection; how long did they wait?

    After three who gave up nobody else comes.

    Args:
        site: a running site.
        count: how many.
        path: path and query.
        port: None for the site's front door.
        patience: seconds after which a visitor gives up.
    """
    ask = f"GET {path} HTTP/1.1\r\nHost: {ZONE}\r\nConnection: close\r\n\r\n".encode()
    served: list[float] = []
    gave_up = 0
    while len(served) + gave_up < count and gave_up < ENOUGH:
        with site.connect("203.0.113.5", port=port) as visitor:
            visitor.settimeout(patience)
            started = time.perf_counter()
            try:
                visitor.sendall(ask)
                head = visitor.recv(65536)
                while visitor.recv(65536):
                    pass
            except OSError:
                head = b""
            if head.startswith(b"HTTP/1.1 200 "):
                served.append(time.perf_counter() - started)
            else:
                gave_up += 1
    return Waits(served, gave_up)


def _port(site: Site, scheme: str) -> int:
    if scheme == "https":
        return 443
    door = site.front[1]
    if isinstance(door, str):
        raise GraderError(f"the site listens on {door}, which load programs cannot reach")
    return door


def _cpu(site: Site) -> dict[str, float]:
    return {name: service.cpu() for name, service in site.services.items()}


def _used(site: Site, before: Mapping[str, float]) -> dict[str, float]:
    return {name: max(0.0, now - before[name]) for name, now in _cpu(site).items()}


def _run(site: Site, argv: list[str], seconds: float) -> str:
    """Run a program in the site's box to its end; what it printed on both streams."""
    name, box = argv[0], site.box
    starts = {
        stream: box.request("log", name=name, stream=stream)["total"]
        for stream in ("stdout", "stderr")
    }
    box.spawn(name, argv, {})
    if not wait_for(lambda: box.request("status")["services"][name]["status"] is not None, seconds):
        box.request("signal", service=name, signal=int(signal.SIGKILL), all=True)
        raise GraderError(f"{name} did not end within {seconds:g} s")
    return "".join(box.log(name, stream, start) for stream, start in starts.items())

"""How long a normal visitor waits beside slow ones: Gunicorn alone, and Nginx in front of it.

    .venv/bin/python tests/bench/slow_clients.py

The slow clients come first: they send half a request's head, or the beginning of an upload, or ask
for a page of 1 MB and do not read it; then they do nothing. Then normal visitors ask for /whoami,
one after the other, each on a connection of its own. Measured is the time from the request to the
end of the answer. Each line has a box of its own. Client and server share the machine.

The last line is another question: does Nginx make a page faster that the app has to compute?
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version

from grader.lab import find_lab, read_solution
from grader.site import Site
from machine import nginx_version

PATIENCE = 5.0  # seconds after which a visitor gives up
VISITORS = 200
ENOUGH = 3  # visitors who gave up: the others would too
BURN_MS, BURNS, AT_ONCE = 20, 160, 8
COUNTS = (50, 100)
DOORS = {"Gunicorn alone": 8000, "Nginx + Gunicorn": 80}
WHOAMI = b"GET /whoami HTTP/1.1\r\nHost: board.example\r\nConnection: close\r\n\r\n"
SLOW = {
    "slow headers": b"GET /whoami HTTP/1.1\r\nHost: board.example\r\nX-Slow: ",
    "slow uploads": b"POST /upload HTTP/1.1\r\nHost: board.example\r\n"
    b"Content-Length: 100000\r\n\r\n" + b"x" * 1000,
    "slow readers": b"GET /big?kb=1000 HTTP/1.1\r\nHost: board.example\r\n\r\n",
}


@dataclass
class Waited:
    """What the normal visitors met: seconds of those who were served, and how many gave up."""

    served: list[float]
    gave_up: int = 0

    def median(self) -> float:
        """The median of those who were served; `inf` when nobody was."""
        return statistics.median(self.served) if self.served else float("inf")

    def cell(self) -> str:
        """Median and worst, in milliseconds, for the table."""
        if self.gave_up:
            served = len(self.served)
            return f"{served} in {PATIENCE:g} s" if served else f"nobody in {PATIENCE:g} s"
        return f"{self.median() * 1000:6.1f} / {max(self.served) * 1000:6.1f}"


def open_site() -> Site:
    """Start the solution of lab 03, its Gunicorn open to visitors, for once."""
    lab = find_lab("03")
    change = ("gunicorn.conf.py", "127.0.0.1:8000", "0.0.0.0:8000")
    return Site(lab, read_solution(lab, change))


def ask(site: Site, port: int) -> float | None:
    """Seconds that a normal visitor waits for /whoami; None when it gives up."""
    with site.connect("203.0.113.200", port=port) as visitor:
        visitor.settimeout(PATIENCE)
        started = time.perf_counter()
        visitor.sendall(WHOAMI)
        received = b""
        try:
            while more := visitor.recv(65536):
                received += more
        except TimeoutError:
            return None
        assert received.startswith(b"HTTP/1.1 200 "), received[:100]
        return time.perf_counter() - started


def measure(port: int, kind: str = "", count: int = 0, visitors: int = VISITORS) -> Waited:
    """Let slow clients in, then normal visitors; tell how long those waited."""
    waited = Waited([])
    with open_site() as site, ExitStack() as opened:
        for _ in range(20):  # the first requests import and open what later ones need not
            ask(site, port)
        for number in range(count):
            buffer = 4096 if kind == "slow readers" else None
            slow = site.connect(f"203.0.113.{number + 10}", port=port, receive_buffer=buffer)
            opened.enter_context(slow)
            slow.sendall(SLOW[kind])
            time.sleep(0.005)  # one after the other, so that all of Gunicorn's workers get some
        if kind:
            time.sleep(1)  # whatever they could set off is over
        for _ in range(visitors):
            seconds = ask(site, port)
            if seconds is None:
                waited.gave_up += 1
                if waited.gave_up >= ENOUGH:
                    break
            else:
                waited.served.append(seconds)
    return waited


def computed(port: int) -> float:
    """Pages a second, of a page that computes for BURN_MS, with AT_ONCE visitors at once."""
    page = f"/burn?ms={BURN_MS}"
    with open_site() as site:

        def some() -> None:
            for _ in range(BURNS // AT_ONCE):
                assert site.get(page, port=port, timeout=60).status_code == 200

        site.together([some] * 2)
        return BURNS / max(one.seconds for one in site.together([some] * AT_ONCE))


def versions() -> str:
    """What was measured, and on what."""
    return (
        f"nginx {nginx_version()}, Gunicorn {version('gunicorn')} "
        f"(gthread, 2 workers of 4 threads), Python {platform.python_version()}, "
        f"{os.cpu_count()} cores"
    )


def main() -> None:
    """Measure and print."""
    print(versions())
    print(f"a normal visitor waits (ms, median / worst of {VISITORS}):\n")
    print(f"{'beside':20}" + "".join(f"{name:>20}" for name in DOORS))
    for kind, count in [("", 0), *((kind, count) for kind in SLOW for count in COUNTS)]:
        cells = [measure(port, kind, count).cell() for port in DOORS.values()]
        name = f"{count} {kind}" if kind else "nobody"
        print(f"{name:20}" + "".join(f"{cell:>20}" for cell in cells), flush=True)
    rates = [statistics.median(computed(port) for _ in range(3)) for port in DOORS.values()]
    print(f"\npages a second that compute for {BURN_MS} ms, {AT_ONCE} visitors, median of 3 runs:")
    print(" " * 20 + "".join(f"{rate:>20.0f}" for rate in rates))


if __name__ == "__main__":
    main()

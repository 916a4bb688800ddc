"""What Gunicorn's workers are good for: pages that wait, and pages that compute.

    .venv/bin/python tests/bench/workers.py

A number of visitors ask for one page, over and over, each on a new connection. Counted are the
answers within a few seconds, after a warm-up. Each cell has a box of its own: a worker would still
be busy with visitors of the run before. Visitors and server share the machine.
"""

from __future__ import annotations

import os
import platform
import statistics
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version

from grader.lab import find_lab, read_solution
from grader.sandbox import File
from grader.site import Site

VISITORS = 50
WARM_UP, WINDOW = 1.0, 4.0  # seconds
PAGES = {"waits 0.1 s": "/slow?seconds=0.1", "computes 10 ms": "/burn?ms=10"}
SETTINGS = {
    "sync, 1 worker": "workers = 1",
    "sync, 2 workers": "workers = 2",
    "sync, 5 workers": "workers = 5",
    "gthread, 2 workers with 8 threads": "workers = 2\nthreads = 8",
    "gevent, 2 workers": "workers = 2\nworker_class = 'gevent'",
}


@dataclass
class Served:
    """What one cell measured: answers per second, and how long visitors waited for theirs."""

    rate: float
    waits: list[float]

    def cell(self) -> str:
        """For the table."""
        median = statistics.median(self.waits) if self.waits else float("inf")
        return f"{self.rate:7.0f} /s  {median:6.2f} s"


def open_site(settings: str) -> Site:
    """Start the board under Gunicorn with these settings."""
    lab = find_lab("02")
    text = f"bind = '127.0.0.1:8000'\ntimeout = 60\n{settings}\n"
    # What is placed last stays.
    return Site(lab, [*read_solution(lab), File(lab.files["gunicorn.conf.py"], text.encode())])


def measure(
    settings: str, path: str, *, visitors: int = VISITORS, window: float = WINDOW
) -> Served:
    """Let visitors ask for a page over and over; what they got within the window."""
    ask = f"GET {path} HTTP/1.1\r\nHost: board.example\r\nConnection: close\r\n\r\n".encode()
    done: list[tuple[float, float]] = []  # when an answer came, and how long it took
    over = threading.Event()

    def visit(site: Site) -> None:
        while not over.is_set():
            try:
                with site.connect(None) as connection:
                    started = time.perf_counter()
                    connection.sendall(ask)
                    head = connection.recv(65536)
                    while connection.recv(65536):
                        pass
                    if head.startswith(b"HTTP/1.1 200"):
                        now = time.perf_counter()
                        done.append((now, now - started))
            except OSError:
                return  # the box is closing

    with open_site(settings) as site:
        threads = [threading.Thread(target=visit, args=(site,)) for _ in range(visitors)]
        for one in threads:
            one.start()
        begin = time.perf_counter() + WARM_UP
        time.sleep(WARM_UP + window)
        over.set()
        within = [took for at, took in list(done) if begin <= at <= begin + window]
        site.service("gunicorn").kill()  # nobody waits for what is still queued
        for one in threads:
            one.join()
    return Served(len(within) / window, within)


def main() -> None:
    """Print the table."""
    load = os.getloadavg()[0]
    print(
        f"{VISITORS} visitors at once, {WINDOW:g} s a cell; {os.cpu_count()} cores, load before"
        f" {load:.1f}; Python {platform.python_version()}, Gunicorn {version('gunicorn')},"
        f" gevent {version('gevent')}, Flask {version('flask')}"
    )
    print(f"{'answers a second, median wait':<36}" + "".join(f"{name:>22}" for name in PAGES))
    for name, settings in SETTINGS.items():
        cells = [measure(settings, path).cell() for path in PAGES.values()]
        print(f"{name:<36}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()

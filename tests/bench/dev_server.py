"""How many visitors the development server serves at once: with its threads, and without them.

    .venv/bin/python tests/bench/dev_server.py

Visitors ask at the same moment for a page that waits 0.1 s, one request each. Measured is the time
until the last of them has its answer; the median of several runs, each in a box of its own. Client
and server share the machine. `--without-threads` is what made the dev server one-at-a-time before
Flask 1.0, and what makes it so today.
"""

from __future__ import annotations

import os
import platform
import statistics
import threading
from importlib.metadata import version

from grader.lab import find_lab, read_solution
from grader.site import Site

WAIT = 0.1  # seconds that the page waits
VISITORS = (1, 10, 50)
RUNS = 5


def dev_server(*, threads: bool) -> Site:
    """Start the solution of lab 01 in a box: `flask --app wsgi run`, maybe `--without-threads`."""
    lab = find_lab("01")
    # Click reads an option's value from FLASK_RUN_<OPTION> as well.
    env = {"FLASK_RUN_WITH_THREADS": "1" if threads else "0"}
    return Site(lab, read_solution(lab), env=env)


def last_answer(site: Site, visitors: int) -> float:
    """Seconds until the last of several simultaneous visitors has its answer."""
    timed = site.together([lambda: site.get(f"/slow?seconds={WAIT}", timeout=60)] * visitors)
    for one in timed:
        if one.error or one.value.status_code != 200:
            raise SystemExit(f"a request failed: {one.error or one.value.status_code}")
    return max(one.seconds for one in timed)


def most_threads(site: Site, visitors: int) -> int:
    """The most threads that the server has while so many visitors wait."""
    seen = [0]
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.append(max(one["threads"] for one in site.service("flask").processes()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    site.together([lambda: site.get("/slow?seconds=1", timeout=60)] * visitors)
    over.set()
    watcher.join()
    return max(seen)


def median(visitors: int, *, threads: bool, runs: int = RUNS) -> float:
    """The median of `last_answer` over several boxes."""
    times = []
    for _ in range(runs):
        with dev_server(threads=threads) as site:
            last_answer(site, 1)  # the first request imports and opens what later ones need not
            times.append(last_answer(site, visitors))
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    names = ("Flask", "Werkzeug")
    told = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)]
    print(f"{', '.join(told)}; {os.cpu_count()} cores; a page that waits {WAIT:g} s; "
          f"median of {RUNS} runs")  # fmt: skip
    print("visitors at once   flask run            flask run --without-threads")
    for visitors in VISITORS:
        cells = []
        for threads in (True, False):
            took = median(visitors, threads=threads)
            cells.append(f"{took:6.2f} s {visitors / took:5.0f}/s")
        print(f"{visitors:16}   {cells[0]:18}   {cells[1]}")
    with dev_server(threads=True) as site:
        print(f"threads with 1 visitor waiting: {most_threads(site, 1)}, "
              f"with 100: {most_threads(site, 100)}")  # fmt: skip


if __name__ == "__main__":
    main()

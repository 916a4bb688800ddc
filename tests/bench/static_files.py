"""What a static file costs: served by the app, by the app behind Nginx, and by Nginx from the disk.

    .venv/bin/python tests/bench/static_files.py

Eight visitors ask for the same file again and again, each on one connection. `requests/s` is what
came back in a second; `CPU µs` is the CPU time of Nginx and Gunicorn together, divided by the
requests. The load comes from `wrk` in the same box where it is installed, else from threads of this
program, which is slower than Nginx: then only the CPU time tells something. Each cell has a box of
its own, and is the median of several runs.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import statistics
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

from grader.lab import SOLUTIONS, find_lab, read_solution
from grader.sandbox import File
from grader.site import Site, wait_for
from machine import nginx_version

WRK = shutil.which("wrk", path="/usr/bin:/usr/local/bin") is not None  # what a box sees of it
VISITORS = 8
SECONDS = 2.0
RUNS = 5
MB = 1_000_000
FILES = {"style.css": "style.css", "one-mb.bin": "a file of 1 MB"}
PROXIED = Path(__file__).parent.parent / "wrong" / "04" / "static-proxied" / "nginx.conf"
WAYS = {
    "the app alone": ("proxied", 8000),
    "the app behind Nginx": ("proxied", 80),
    "Nginx from the disk": ("solution", 80),
}


@dataclass
class Cost:
    """What one run measured."""

    per_second: float
    cpu: float  # seconds a request


def open_site(kind: str) -> Site:
    """Start lab 04's solution, or the same with the files left to the app; a file of 1 MB in it."""
    lab = find_lab("04")
    files = [*read_solution(lab), File("/srv/board/static/one-mb.bin", os.urandom(MB))]
    if kind == "proxied":
        # What is placed last stays.
        files.append(File(lab.files["nginx.conf"], PROXIED.read_bytes()))
    return Site(lab, files)


def cpu(site: Site) -> float:
    """CPU seconds that Nginx and Gunicorn have used so far."""
    return sum(one.cpu() for one in site.services.values())


def load_by_wrk(site: Site, port: int, name: str, seconds: float) -> tuple[int, float]:
    """Ask for a file with wrk, inside the box; requests answered, and seconds."""
    address = f"http://127.0.0.1:{port}/static/{name}"
    command = ["wrk", "-t", "1", "-c", str(VISITORS), "-d", f"{seconds:g}s", address]
    start = len(site.box.log("wrk", "stdout"))
    site.box.spawn("wrk", command, {})

    def ended() -> bool:
        told = site.box.request("status")["services"]["wrk"]
        return told["status"] is not None

    wait_for(ended, seconds + 10)
    said = site.box.log("wrk", "stdout", start)
    found = re.search(r"(\d+) requests in ([\d.]+)s", said)
    if not found or "Non-2xx" in said:
        raise SystemExit(f"wrk said: {said}{site.box.log('wrk', 'stderr')}")
    return int(found[1]), float(found[2])


def load_by_threads(site: Site, port: int, name: str, seconds: float) -> tuple[int, float]:
    """Ask for a file from threads of this process; requests answered, and seconds."""
    ask = f"GET /static/{name} HTTP/1.1\r\nHost: board.example\r\n\r\n".encode()
    counts = [0] * VISITORS
    end = time.monotonic() + seconds

    def ask_until_closed(number: int) -> None:
        with site.connect(None, port=port, server="127.0.0.1") as visitor:
            buffer = visitor.makefile("rb")
            while time.monotonic() < end:
                visitor.sendall(ask)
                status = buffer.readline()
                if not status:
                    return  # a server may end an idle connection at any time
                if not status.startswith(b"HTTP/1.1 200 "):
                    raise SystemExit(f"the answer was {status!r}")
                headers = read_headers(buffer)
                length = int(headers[b"content-length"])
                if len(buffer.read(length)) != length:
                    raise SystemExit("an answer was cut off")
                counts[number] += 1
                if headers.get(b"connection") == b"close":
                    return  # Nginx says so after 1000 requests

    def visit(number: int) -> None:
        while time.monotonic() < end:
            with contextlib.suppress(ConnectionError):
                ask_until_closed(number)

    started = time.monotonic()
    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(VISITORS)]
    for one in visitors:
        one.start()
    for one in visitors:
        one.join()
    return sum(counts), time.monotonic() - started


def read_headers(buffer: BinaryIO) -> dict[bytes, bytes]:
    """Read the headers of an answer, names in small letters."""
    headers = {}
    while (line := buffer.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    return headers


def measure(kind: str, port: int, name: str, *, seconds: float = SECONDS) -> Cost:
    """One run in a box of its own."""
    load = load_by_wrk if WRK else load_by_threads
    with open_site(kind) as site:
        load(site, port, name, min(0.5, seconds) if load is load_by_threads else 1)  # warms up
        before = cpu(site)
        requests, took = load(site, port, name, seconds)
        return Cost(requests / took, (cpu(site) - before) / requests)


def versions() -> str:
    """What was measured, and on what."""
    names = " ".join(f"{name} {version(name)}," for name in ("Gunicorn", "Flask"))
    return (
        f"nginx {nginx_version()}, {names} Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, load by {'wrk' if WRK else 'Python threads'}"
    )


def main() -> None:
    """Measure and print."""
    print(f"{versions()}; {VISITORS} visitors, {SECONDS:g} s, median of {RUNS}")
    size = (SOLUTIONS.parent / "labs" / "board" / "static" / "style.css").stat().st_size
    print(f"{'':22}{f'style.css ({size} bytes)':>28}{FILES['one-mb.bin']:>28}")
    print(f"{'':22}" + f"{'requests/s':>16}{'CPU µs':>12}" * 2)
    for way, (kind, port) in WAYS.items():
        line = f"{way:22}"
        for name in FILES:
            runs = [measure(kind, port, name) for _ in range(RUNS)]
            rate = statistics.median(one.per_second for one in runs)
            cost = statistics.median(one.cpu for one in runs) * 1e6
            line += f"{rate:16.0f}{cost:12.0f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()

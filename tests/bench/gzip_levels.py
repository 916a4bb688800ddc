"""What compression saves and costs, level by level; and what it tells about a secret (BREACH).

    .venv/bin/python tests/bench/gzip_levels.py

The CPU is that of all Nginx processes, as the kernel counts it, for files of 100 KB: the page
`/big?kb=100` of the board, whose text is random, and prose, from Python's own manual. The lengths
are those of `/account`, served by the solution without its `gzip off`.
"""

from __future__ import annotations

import gzip
import os
import platform
import random
import re
import statistics
import zlib
from pydoc_data.topics import topics

from grader.board import LOGIN
from grader.lab import find_lab, read_solution
from grader.sandbox import File
from grader.site import Site
from machine import nginx_version

LEVELS = (1, 4, 5, 6, 9)
REQUESTS = 400
SIZE = 100 * 1024
FIRST_PORT = 8080  # + the level; 8080 itself does not compress, and has the packed neighbour
DIGITS = 8  # of the token that are guessed at once
GUESSES = 200

SERVER = """server {{
    listen {port};
    root /srv/board/static;
    gzip {on};
    gzip_types text/plain;
    gzip_comp_level {level};
    gzip_static {static};
}}
"""
LAB = find_lab("05")


def prose() -> bytes:
    """100 KB of Python's manual."""
    return "\n".join(topics[name] for name in sorted(topics)).encode()[:SIZE]


def make_site() -> Site:
    """The solution, and beside it a port for each level."""
    servers = [SERVER.format(port=FIRST_PORT, on="off", level=1, static="on")]
    servers += [
        SERVER.format(port=FIRST_PORT + level, on="on", level=level, static="off")
        for level in LEVELS
    ]
    made = Site(LAB, read_solution(LAB), start=False)
    made.box.write(File("/etc/nginx/conf.d/levels.conf", "".join(servers).encode()))
    made.start()
    for name, data in (("page", made.get("/big?kb=100").content), ("prose", prose())):
        made.box.write(
            File(f"/srv/board/static/{name}.txt", data),
            File(f"/srv/board/static/{name}.txt.gz", gzip.compress(data, 9, mtime=0)),
        )
    return made


def cost(site: Site, path: str, port: int, accept: str, requests: int) -> tuple[int, float]:
    """Bytes on the wire, and seconds of Nginx's CPU for one request."""
    nginx = site.service("nginx")
    before = nginx.cpu()
    for _ in range(requests):
        reply = site.get(path, port=port, headers={"Accept-Encoding": accept}, stream=True)
        size = len(reply.raw.read(decode_content=False))
    return size, (nginx.cpu() - before) / requests


def table(site: Site, path: str, requests: int = REQUESTS) -> dict[str, tuple[int, float]]:
    """Bytes and CPU of each way to send a file."""
    made = {"plain": cost(site, path, FIRST_PORT, "identity", requests)}
    for level in LEVELS:
        made[f"level {level}"] = cost(site, path, FIRST_PORT + level, "gzip", requests)
    made["gzip_static"] = cost(site, path, FIRST_PORT, "gzip", requests)
    return made


def guesses(count: int = GUESSES) -> tuple[int, list[int]]:
    """Lengths of the packed account page: with the token's first digits, and with other ones."""
    with Site(LAB, read_solution(LAB, ("nginx.conf", "gzip off;", "gzip on;"))) as site:
        ada = site.visitor()
        ada.post("/login", data=LOGIN)

        def length(guess: str) -> int:
            reply = ada.get(
                f"/account?note=token={guess}", headers={"Accept-Encoding": "gzip"}, stream=True
            )
            assert reply.headers["Content-Encoding"] == "gzip"
            return len(reply.raw.read(decode_content=False))

        found = re.search("token=([0-9a-f]+)", ada.get("/account").text)
        assert found
        right = found[1][:DIGITS]
        draw = random.Random(0)
        wrong = [f"{draw.randrange(16**DIGITS):0{DIGITS}x}" for _ in range(count)]
        return length(right), [length(one) for one in wrong if one != right]


def main() -> None:
    """Measure and print."""
    print(
        f"nginx {nginx_version()}, zlib {zlib.ZLIB_RUNTIME_VERSION}, {platform.machine()}, "
        f"{os.cpu_count()} cores; {REQUESTS} requests each"
    )
    with make_site() as site:
        for path, what in (("/page.txt", "/big?kb=100"), ("/prose.txt", "prose, 100 KB")):
            told = table(site, path)
            whole, unit = told["plain"][0], told["level 1"][1]
            print(
                f"\n{what:<14} {'bytes':>8} {'share':>6} {'CPU a request':>14} {'to level 1':>11}"
            )
            for name, (size, seconds) in told.items():
                print(
                    f"{name:<14} {size:8} {size / whole:6.0%} {seconds * 1000:11.2f} ms "
                    f"{seconds / unit:11.2f}"
                )
    right, wrong = guesses()
    print(f"\nthe packed /account, with {DIGITS} digits of the token guessed")
    print(f"the right ones   {right} bytes")
    print(
        f"{len(wrong)} wrong ones   {min(wrong)} to {max(wrong)} bytes, "
        f"median {statistics.median(wrong):g}"
    )


if __name__ == "__main__":
    main()

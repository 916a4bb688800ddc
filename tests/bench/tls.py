"""What TLS costs: Nginx's CPU per handshake, by key and version, and per request afterwards.

    .venv/bin/python tests/bench/tls.py

Each visitor connects, shakes hands and leaves; the next one comes then. Resumed: they show the
ticket of the first. Measured is the CPU time of Nginx's processes, as the kernel counts it. The
client's own, on the same machine, is not in it. Medians of three rounds.
"""

from __future__ import annotations

import os
import platform
import ssl
import statistics
import subprocess
import time
from collections.abc import Callable

from grader.lab import find_lab, read_solution
from grader.sandbox import find_program
from grader.site import Site

VISITS = 1000
ROUNDS = 3
MOST_REQUESTS = 900  # over one connection: Nginx closes it after 1000
KEYS = {"ECDSA": "ECDSA P-256", "RSA": "RSA 2048"}
VERSIONS = {"TLS 1.2": ssl.TLSVersion.TLSv1_2, "TLS 1.3": ssl.TLSVersion.TLSv1_3}
REQUEST = b"GET /robots.txt HTTP/1.1\r\nHost: board.example\r\n\r\n"


def open_site(key_type: str) -> Site:
    """Start the solution of lab 06, with keys of a type."""
    lab = find_lab("06")
    return Site(lab, read_solution(lab), key_type=key_type)


def client(version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client of one version that takes any certificate: verifying would be its own work."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = made.maximum_version = version
    return made


def shake(
    site: Site, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """Connect to port 443 and shake hands."""
    plain = site.connect(port=443)
    return context.wrap_socket(plain, server_hostname="board.example", session=session)


def ask(connection: ssl.SSLSocket) -> None:
    """Ask for a small file, and read the answer; in TLS 1.3 a ticket comes before it."""
    connection.sendall(REQUEST)
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head[:100]
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(body) < length:
        body += connection.recv(65536)


def used(site: Site) -> float:
    """Nginx's CPU seconds so far, once it has nothing more to do."""
    now = -1.0
    while True:
        before, now = now, site.service("nginx").cpu()
        if now == before:
            return now
        time.sleep(0.1)


def each(site: Site, visit: Callable[[], object], visits: int = VISITS) -> float:
    """Nginx's CPU microseconds per visit."""
    visit()
    before = used(site)
    for _ in range(visits):
        visit()
    return (used(site) - before) / visits * 1e6


def handshakes(
    site: Site, version: ssl.TLSVersion, *, resumed: bool, visits: int = VISITS
) -> float:
    """Nginx's CPU microseconds per connection with a handshake, full or resumed."""
    context, session = client(version), None
    if resumed:
        with shake(site, context) as first:
            ask(first)
            session = first.session

    def visit() -> None:
        with shake(site, context, session) as made:
            assert made.session_reused == resumed

    return each(site, visit, visits)


def requests(site: Site, connections: int = 5) -> float:
    """Nginx's CPU microseconds per request over a connection that is open already."""
    version, used_up = client(ssl.TLSVersion.TLSv1_3), 0.0
    for _ in range(connections):
        with shake(site, version) as kept:
            used_up += each(site, lambda one=kept: ask(one), MOST_REQUESTS)
    return used_up / connections


def median(measure: Callable[[], float]) -> float:
    """The median of some rounds."""
    return statistics.median(measure() for _ in range(ROUNDS))


def versions() -> str:
    """What was measured, and on what."""
    said = subprocess.run([find_program("nginx"), "-V"], capture_output=True, text=True).stderr
    lines = said.splitlines()
    built = next(" ".join(one.split()[2:4]) for one in lines if one.startswith("built with"))
    nginx = lines[0].rpartition("/")[2]
    return f"nginx {nginx}, {built}, Python {platform.python_version()}, {os.cpu_count()} cores"


def main() -> None:
    """Measure and print."""
    print(versions())
    print("Nginx's CPU for a connection and its handshake, in microseconds:\n")
    print(f"{'':24}{'full':>8}{'resumed':>10}{'ratio':>8}")
    for key, key_name in KEYS.items():
        with open_site(key) as site:
            for name, version in VERSIONS.items():
                full = median(lambda one=site, v=version: handshakes(one, v, resumed=False))
                again = median(lambda one=site, v=version: handshakes(one, v, resumed=True))
                label = f"{key_name}, {name}"
                print(f"{label:24}{full:8.0f}{again:10.0f}{full / again:8.1f}", flush=True)
            kept = median(lambda one=site: requests(one))
    print(f"\na small file, over a connection that is open already: {kept:.0f}")


if __name__ == "__main__":
    main()

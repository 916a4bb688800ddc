"""`course up`: a lab's site in its box, behind a port of this machine, with its logs followed."""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import click

from grader.errors import GraderError, StartFailed, UsageError
from grader.lab import STATE, Lab, read_submission
from grader.sandbox import ZONE
from grader.site import Site
from grader.text import clean

PLAIN, SECURE = 8080, 8443  # the ports of this machine, if they are free
AUTHORITY = STATE / f"ca-{os.getpid()}.pem"  # removed when the site ends
PIECE = 65536
LOOK_EVERY = 0.3  # seconds between two looks at the logs
FILES = {"nginx error": "/var/log/nginx/error.log", "nginx access": "/var/log/nginx/access.log"}


def keep_up(lab: Lab, folder: Path, port: int | None = None) -> None:
    """Run a site until the user ends it (Ctrl-C, or SIGTERM).

    A site that does not start says so, and the logs are followed all the same.

    Args:
        lab: the lab.
        folder: where the files are.
        port: of this machine, for http; None for 8080 or else a free one.

    Raises:
        UsageError: the port is taken.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        suppress(KeyboardInterrupt),
        Site(lab, read_submission(lab, folder), start=False, wall=0) as site,
        ExitStack() as opened,
    ):
        try:
            site.start()
            click.echo(f"The site of lab {lab.number} runs, with your files as they are now.")
        except StartFailed as failed:
            click.echo(f"{failed.service} did not start:\n{clean(failed.got)}", err=True)
        plain = opened.enter_context(forwarded(site, None, port or PLAIN, fixed=port is not None))
        host = f"{ZONE}:{plain}"
        if lab.certificates:
            secure = opened.enter_context(forwarded(site, 443, SECURE))
            opened.callback(AUTHORITY.unlink, missing_ok=True)
            show_tls(site, secure)
        else:
            click.echo(f"In a browser: http://localhost:{plain}/")
        click.echo(f"By its own name:  curl --resolve {host}:127.0.0.1 http://{host}/")
        click.echo("Ctrl-C ends it. What its programs write:\n")
        for line in lines_of(site):
            click.echo(line)


def show_tls(site: Site, port: int) -> None:
    """Say how to get in over TLS: the certificate is of an authority that only this site has."""
    AUTHORITY.parent.mkdir(parents=True, exist_ok=True)
    AUTHORITY.write_text(site.root)
    host = f"{ZONE}:{port}"
    rule = f"MAP {ZONE} 127.0.0.1"
    click.echo(
        f"Over TLS:  curl --cacert {AUTHORITY} --resolve {host}:127.0.0.1 https://{host}/\n"
        f'In a browser: https://{host}/, with "127.0.0.1 {ZONE}" as a line of /etc/hosts, or\n'
        f"  chromium --host-resolver-rules='{rule}' https://{host}/\n"
        "The certificate is signed by an authority made for this run, which no browser knows.\n"
        "It warns, and rightly; let it through for this once, do not trust the authority."
    )


@contextmanager
def forwarded(site: Site, door: int | None, port: int, *, fixed: bool = False) -> Iterator[int]:
    """Forward a loopback port of this machine to the site; gives the port.

    Args:
        site: the running site.
        door: the site's port; None for where visitors knock.
        port: of this machine; another one is taken when it is not free, unless `fixed`.
        fixed: fail instead.

    Raises:
        UsageError: the port is taken, and fixed.
    """

    class Visit(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                suppress(OSError, GraderError),
                site.connect(site.usual_source(), port=door) as inner,
            ):
                inner.settimeout(None)
                carry(self.request, inner)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    try:
        server = Server(("127.0.0.1", port), Visit)
    except OSError as error:
        if fixed:
            raise UsageError(f"port {port} of this machine: {error.strerror}") from None
        server = Server(("127.0.0.1", 0), Visit)
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()


def carry(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until both sides have ended."""
    back = threading.Thread(target=pour, args=(other, one), daemon=True)
    back.start()
    pour(one, other)
    back.join()


def pour(source: socket.socket, target: socket.socket) -> None:
    """Carry bytes one way to their end, and pass the end on."""
    with suppress(OSError):
        while data := source.recv(PIECE):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def lines_of(site: Site) -> Iterator[str]:
    """The lines that the site's programs write, as they come, each with its source's name."""
    sources: dict[str, Callable[[int], tuple[bytes, int]]] = {
        f"{name} {stream}": partial(site.box.printed, name, stream)
        for name in site.services
        for stream in ("stdout", "stderr")
    }
    if "nginx" in site.services:
        sources |= {name: partial(site.box.grown, path) for name, path in FILES.items()}
    seen = dict.fromkeys(sources, 0)
    rest = dict.fromkeys(sources, b"")
    while True:
        time.sleep(LOOK_EVERY)
        for name, read in sources.items():
            data, seen[name] = read(seen[name])
            *lines, rest[name] = (rest[name] + data).split(b"\n")
            for line in lines:
                yield f"{name}: {clean(line.decode('utf-8', 'replace'))}"

"""The site, built and served for the tests: gzip like any server, and nobody else's address."""

from __future__ import annotations

import fcntl
import gzip
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from answers import ROOT

PACKED = {".html", ".css", ".js", ".json", ".svg", ".xml", ".txt"}


@dataclass(frozen=True)
class Built:
    """A finished build: where it is, and the seconds that it took."""

    folder: Path
    seconds: float


def build(target: Path, **environment: str) -> Built:
    """Build the site strictly."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(target)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Built(target, time.monotonic() - started)


def build_once(factory: pytest.TempPathFactory) -> Built:
    """Build the site as it is, once for all tests of a run and all their processes."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    took = base / "site.seconds"
    with (base / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not took.exists():
            took.write_text(str(build(base / "site").seconds))
    return Built(base / "site", float(took.read_text()))


def pages() -> list[str]:
    """The addresses of all pages, from their sources: "" is the home page's."""
    docs = ROOT / "docs"
    found = [one.relative_to(docs) for one in docs.rglob("*.md")]
    found += [one.relative_to(ROOT) for one in (ROOT / "notebooks").glob("*.ipynb")]
    names = {
        str(one.parent if one.name == "index.md" else one.with_suffix("")) + "/" for one in found
    }
    return sorted(name.removeprefix("./") for name in names)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, with gzip for text."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Send a file, packed if it is text."""
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        if path.suffix in PACKED:
            data = gzip.compress(data, 5)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on a loopback port while the block runs; gives the address."""
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *told: Handler(*told, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()

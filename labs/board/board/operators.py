"""For whoever runs the board: is it well, and what has it done?

Requests are counted in a file beside the database, ``<database>.requests``, one line each, so that
all workers of all servers count together. A line costs about 5 µs: open, lock, append, close; no
byte waits for the disk. A file of more than LIMIT bytes is summed up in place, so it stays small
for ever. The numbers are exact; only the SIGKILL of a worker that is just summing up can bend them.
"""

import fcntl
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote, unquote

from flask import Blueprint, current_app, jsonify, request
from flask.typing import ResponseReturnValue

from .db import get_db

bp = Blueprint("operators", __name__)

LIMIT = 2_000_000
MOST_PATHS = 1000
LONGEST_PATH = 200
OTHERS = "others"


@contextmanager
def requests_file(lock: int) -> Iterator[int]:
    """Open the file of counts, locked; closing it lets go of the lock."""
    path = f"{current_app.config['DATABASE']}.requests"
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(file, lock)
        yield file
    finally:
        os.close(file)


def count_request() -> None:
    """Count this request; a disk that is full or gone is no reason to refuse it."""
    # Quoted, a path has no blank and no line break, and is one line.
    line = f"1 {quote(request.path[:LONGEST_PATH])[:LONGEST_PATH]}\n".encode()
    with suppress(OSError):
        # Appending needs no exclusive lock: O_APPEND writes do not mix. The shared one keeps us
        # out while somebody sums up.
        with requests_file(fcntl.LOCK_SH) as file:
            os.write(file, line)
            full = os.lseek(file, 0, os.SEEK_CUR) > LIMIT
        if full:
            sum_up()


def sum_up() -> None:
    """Replace the lines of a full file by one for each path, and the rarest paths by one."""
    with requests_file(fcntl.LOCK_EX) as file:
        if os.fstat(file).st_size <= LIMIT:
            return  # another worker was faster
        counts = read_counts(file)
        kept = Counter(dict(counts.most_common(MOST_PATHS)))
        kept[OTHERS] += counts.total() - kept.total()
        os.ftruncate(file, 0)
        os.write(file, "".join(f"{n} {path}\n" for path, n in kept.items()).encode())


def read_counts(file: int) -> Counter[str]:
    """Add up the lines of the file, by the path as it stands there, quoted."""
    counts: Counter[str] = Counter()
    for line in os.pread(file, os.fstat(file).st_size, 0).split(b"\n"):
        number, _, path = line.partition(b" ")
        if number.isdigit() and path:
            counts[path.decode("ascii", "replace")] += int(number)
    return counts


@bp.get("/stats")
def stats() -> ResponseReturnValue:
    """Tell how many requests reached the app, by path; this one is among them."""
    no_store = {"Cache-Control": "no-store"}
    try:
        with requests_file(fcntl.LOCK_EX) as file:
            quoted = read_counts(file)
    except OSError:
        return jsonify(error="The file of counts cannot be opened."), 503, no_store
    paths = {unquote(path): count for path, count in quoted.items()}
    return jsonify(total=quoted.total(), paths=paths), 200, no_store


@bp.get("/healthz")
def healthz() -> ResponseReturnValue:
    """Say 200 when the database opens, else 503: a load balancer asks here."""
    no_store = {"Cache-Control": "no-store"}
    try:
        get_db().execute("SELECT id FROM notices LIMIT 1").fetchone()
    except (sqlite3.Error, OSError) as error:
        current_app.logger.warning("The database cannot be opened: %s", error)
        return jsonify(status="the database cannot be opened"), 503, no_store
    return jsonify(status="ok"), 200, no_store

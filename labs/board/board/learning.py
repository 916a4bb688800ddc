"""Pages that a deployment is tried out with: what did the app see, what if it is slow, or crashes?

Nothing here depends on who is logged in.
"""

import math
import os
import random
import re
import secrets
import socket
import time
from collections.abc import Iterator
from functools import lru_cache
from itertools import cycle
from urllib.parse import quote

from flask import Blueprint, Response, abort, jsonify, redirect, request, url_for
from flask.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue
from werkzeug.routing import BaseConverter, Rule

from .auth import is_local
from .digest import read_body

bp = Blueprint("learning", __name__)

MOST_SECONDS = 60
MOST_MILLISECONDS = 10_000
MOST_KILOBYTES = 10_000
DIFFERENT_ROWS = 1500  # of a big page: more than 100 KB, so gzip does not see that they repeat
# What /stamp can say about who may keep its reply.
KEEPING = {
    "public": "public, max-age=60",
    "private": "private, max-age=60",
    "no-cache": "no-cache",
    "no-store": "no-store",
    "nothing": "",
}
EVENTS = 5
EVENT_SECONDS = 0.2


class RawConverter(BaseConverter):
    """Whatever follows, empty, with slashes at both ends or line breaks within."""

    regex = r"[\s\S]*?"
    part_isolating = False
    weight = 200


def number(name: str, default: float, most: float) -> float:
    """Give a number from the query, or answer 400."""
    try:
        value = float(request.args.get(name, default))
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:  # False for nan as well
        abort(400, f"The parameter {name} must be a number from 0 to {most}.")
    return value


@bp.get("/whoami")
def whoami() -> Response:
    """Tell what the app knows about the visitor and about itself."""
    response = jsonify(
        client=request.remote_addr or "",  # behind a unix socket there is no address
        scheme=request.scheme,
        host=request.host,
        url=url_for("learning.whoami", _external=True),
        pid=os.getpid(),
        instance=os.environ.get("BOARD_INSTANCE") or socket.gethostname(),
        headers=dict(request.headers),
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def raw_target() -> tuple[str, str]:
    """Give the path and the query of the request line, untouched."""
    environ = request.environ
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if raw is None:
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        raw = f"{quote(path, encoding='latin-1')}?{environ.get('QUERY_STRING', '')}"
    octets = raw.encode("latin-1", "replace")
    if environ.get("SERVER_SOFTWARE", "").startswith("Werkzeug"):
        octets = octets.decode().encode("latin-1")  # the dev server encodes it once too often
    target = octets.decode("utf-8", "backslashreplace")
    target = re.sub(r"(?i)\Ahttps?://[^/?]*", "", target)  # as a forward proxy would be asked
    path, _, query = target.partition("?")
    return path, query


def echo(rest: str) -> Response:
    """Tell what arrived: the method, the path and query as they were sent, the body's digest."""
    path, query = raw_target()
    method = request.environ["REQUEST_METHOD"]
    response = jsonify(method=method, path=path, query=query, **read_body().as_dict())
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.record
def add_echo(state: BlueprintSetupState) -> None:
    """Route /echo for every method there is; Flask's own decorator wants them listed."""
    state.app.url_map.add(Rule("/echo/<raw:rest>", endpoint="learning.echo"))
    state.app.view_functions["learning.echo"] = echo


@bp.get("/stamp")
def stamp() -> Response:
    """Send a number that never comes twice, and say to caches about it what is asked for.

    So whoever sees a number twice was given a kept copy.
    """
    says = request.args.get("says", "nothing")
    if says not in KEEPING:
        abort(400, f"The parameter says must be one of {', '.join(KEEPING)}.")
    number_used_once = secrets.token_hex(8)
    response = jsonify(
        stamp=number_used_once,
        url=url_for("learning.stamp", _external=True),
        padding="." * int(number("kb", 0, MOST_KILOBYTES) * 1024),
    )
    if KEEPING[says]:
        response.headers["Cache-Control"] = KEEPING[says]
    if "cookie" in request.args:
        response.set_cookie("stamp", number_used_once, httponly=True, samesite="Lax")
    return response


@bp.get("/slow")
def slow() -> Response:
    """Wait, as for a slow database."""
    seconds = number("seconds", 0.3, MOST_SECONDS)
    time.sleep(seconds)
    return jsonify(seconds=seconds, pid=os.getpid())


@bp.get("/burn")
def burn() -> Response:
    """Use the CPU; only this thread's own time counts, whatever else runs in the process."""
    milliseconds = number("ms", 50, MOST_MILLISECONDS)
    end = time.thread_time() + milliseconds / 1000
    while time.thread_time() < end:
        math.factorial(200)
    return jsonify(ms=milliseconds, pid=os.getpid())


@bp.get("/hang")
def hang() -> str:
    """Answer in a day: for a visitor that is never."""
    end = time.monotonic() + 86_400
    while time.monotonic() < end:
        time.sleep(0.5)  # short ones, so that a server that wants to stop us is heard
    return "Good morning.\n"


@bp.get("/crash")
def crash() -> str:
    """Raise, as a mistake in a view does."""
    raise RuntimeError("/crash was asked for, and did what it says.")


@bp.get("/stream")
def stream() -> Response:
    """Send five events, one after the other; a comment before the first one says for whom."""
    client = request.remote_addr or ""

    def events() -> Iterator[str]:
        head = f": for {client}\n"
        for count in range(1, EVENTS + 1):
            yield f"{head}id: {count}\ndata: event {count} of {EVENTS}\n\n"
            head = ""
            if count < EVENTS:
                time.sleep(EVENT_SECONDS)

    return Response(events(), mimetype="text/event-stream", headers={"Cache-Control": "no-cache"})


@lru_cache(maxsize=4)
def big_page(kilobytes: int) -> str:
    """Make a page of ``kilobytes`` times 1024 bytes (at least a few hundred), always the same."""
    words = ("board", "cork", "gate", "glove", "house", "key", "ladder", "notice", "pin", "rain")
    choose = random.Random(kilobytes)  # seeded: every worker makes the same page
    head = "<!doctype html>\n<html lang=en><title>A big page</title>\n<table>\n"
    foot = "</table>\n</html>\n"
    room = kilobytes * 1024 - len(head) - len(foot)
    rows = []
    for _ in range(DIFFERENT_ROWS):
        text = " ".join(choose.choices(words, k=8))
        rows.append(f'<tr class="row"><td>{choose.randrange(10**6)}</td><td>{text}</td></tr>\n')
    page = [head]
    for row in cycle(rows):
        if len(row) > room:
            break
        page.append(row)
        room -= len(row)
    return "".join([*page, "\n" * room, foot])


@bp.get("/big")
def big() -> str:
    """Send a page of about that size, which compresses as such pages do."""
    return big_page(int(number("kb", 100, MOST_KILOBYTES)))


@bp.get("/go")
def go() -> ResponseReturnValue:
    """Redirect to another path of this site, by the full address that the app believes it has."""
    target = request.args.get("to", "/")
    if not is_local(target):
        abort(400, "The parameter to must be a path of this site, such as /login.")
    return redirect(url_for("pages.home", _external=True).removesuffix("/") + target)

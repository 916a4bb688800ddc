"""The failure card: what was sent, expected and got, why it matters, and where to look."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shlex
import textwrap
import traceback
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from grader.blocks import other_blocks
from grader.checks import Check
from grader.errors import GraderError, Mismatch, NotLive, Place, StartFailed
from grader.lab import Lab
from grader.machine import File
from grader.sandbox import ZONE
from grader.text import COURSE, clean

if TYPE_CHECKING:
    from grader.client import Exchange  # slow to import: not before the site is being started

WIDTH = 80
LABEL = 11  # columns of a card's labels
USUAL = {"connection", "host", "content-length"}
NOT_YOURS = (
    "This is not your fault and does not count. Run it again; if it stays, "
    "report it with this text."
)
# What an expression ends with: ["client"], .get("client"), .status_code, method(), name.
LAST_NAME = re.compile(
    r"""(?:\[["']([\w-]+)["']\]|\.get\(["']([\w-]+)["'](?:, .*)?\)|\.?(\w+)(?:\(\))?)$"""
)
MOST_SHOWN = 200  # bytes of a body that a command line may hold
# What pages make of quotes, hyphens and spaces, and what a program wants there.
FOREIGN = {
    **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),
    **dict.fromkeys("\u2018\u2019\u201a\u201b", "'"),
    **dict.fromkeys("\u2010\u2011\u2013\u2014\u2212", "-"),
    **dict.fromkeys("\u00a0\u2007\u202f", "a space"),
}
NGINX = "nginx.conf"  # the learner's name of Nginx's file
SIGNS = {"passed": "✓", "failed": "✗", "blocked": "-", "inconclusive": "?"}


@dataclass
class Seen:
    """What a failed check saw, ready for the card."""

    expected: str = ""
    got: str = ""
    note: str = ""
    place: Place | None = None
    look_at: Sequence[tuple[str, str]] = ()


def seen_in(error: BaseException) -> Seen:
    """Read what was expected and got out of the exception that ended a check."""
    if isinstance(error, StartFailed):
        return Seen(error.expected, error.got, error.note, error.place, error.look_at)
    if isinstance(error, Mismatch):
        return Seen(error.expected, error.got, error.note, look_at=error.look_at)
    if isinstance(error, AssertionError):
        return seen_in_assert(error)
    if isinstance(error, json.JSONDecodeError):
        return Seen("JSON from the app", "a body that is not JSON")
    if isinstance(error, OSError):
        return Seen("an answer", str(error) or type(error).__name__)
    return Seen("", f"{type(error).__name__}: {error}")


def seen_in_assert(error: AssertionError) -> Seen:
    """Take a plain `assert actual == expected` apart: pytest's message has both values."""
    said = str(error)
    at = 0 if said.startswith("assert ") else said.find("\nassert ") + 1
    words, plain = said[:at].strip(), said[at:]
    label = what_was_asserted(error.__traceback__)
    key = plain.removeprefix("assert ")[:KEY]
    operator, left, right = compared.get(key) or read_comparison(plain)
    if not operator:
        return Seen(words or "what the title says", "it is not so")
    if operator == "in":
        return Seen(words or f"{shown(left)} in it", shown(right))
    wanted = {"==": "", "!=": "anything but "}.get(operator, f"{operator} ")
    return Seen(f"{label}{wanted}{shown(right)}", f"{label}{shown(left)}", words)


# What was compared lately, by the beginning of pytest's own message, which cuts long values.
compared: dict[str, tuple[str, object, object]] = {}
KEY = 160  # characters of that beginning


def remember(operator: str, left: object, right: object) -> str:
    """Keep the two sides of a failed comparison for the card; returns pytest's line for it."""
    text = f"{left!r} {operator} {right!r}"
    compared[text[:KEY]] = (operator, left, right)
    return text


def read_comparison(plain: str) -> tuple[str, object, object]:
    """Read operator and values out of pytest's message; the operator is "" when there is none."""
    with contextlib.suppress(SyntaxError, ValueError, IndexError, AttributeError):
        test = ast.parse(plain.splitlines()[0]).body[0].test  # type: ignore[attr-defined]
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            left, right = ast.unparse(test.left), ast.unparse(test.comparators[0])
            operator = ast.unparse(test)[len(left) : -len(right)].strip()
            return operator, ast.literal_eval(left), ast.literal_eval(right)
    return "", None, None


def shown(value: object) -> str:
    """Show a value as a person would write it; an empty text is named."""
    if isinstance(value, str):
        return clean(value) if value else "(empty)"
    return "nothing" if value is None else str(value)


def what_was_asserted(trace: TracebackType | None) -> str:
    """Name the left side of a failed assert: `reply.json()["client"]` is `client`."""
    for frame in reversed(traceback.extract_tb(trace)):
        line = frame.line or ""
        found = re.match(r"assert (.*?) (==|!=|in|not in|<=|>=|<|>) ", line)
        if found:
            name = LAST_NAME.search(found[1])
            word = next(filter(None, name.groups()), "") if name else ""
            return f"{word.replace('_code', '').replace('_', ' ')} " if word else ""
    return ""


def likely_place(
    look_at: Sequence[tuple[str, str]],
    files: list[File],
    lab: Lab,
    exchange: Exchange | None = None,
) -> Place | None:
    """Find the likely line in the learner's files; a guess, only for the card.

    Of Nginx's `server` blocks it is the one that the request met, if there is such a line in it.
    """
    paths = {path: name for name, path in lab.files.items()}
    texts = {
        paths[one.path]: one.data.decode("utf-8", "replace") for one in files if one.path in paths
    }
    elsewhere = not_met(texts.get(NGINX, ""), exchange) if exchange else set()
    found = []
    for file, wanted in look_at:
        # "timeout" is not in graceful_timeout; "proxy_buffer" is in proxy_buffers.
        pattern = re.compile((r"(?<!\w)" if wanted[:1].isalnum() else "") + re.escape(wanted))
        for number, line in enumerate(texts.get(file, "").splitlines(), 1):
            if wanted and pattern.search(line.split("#")[0]):
                found.append(Place(file, number))
    likely = [one for one in found if one.file != NGINX or one.line not in elsewhere]
    return next(iter([*likely, *found, *(Place(file) for file, _ in look_at)]), None)


def not_met(text: str, exchange: Exchange) -> set[int]:
    """The lines of the `server` blocks that a request did not meet."""
    host = exchange.headers.get("Host", ZONE).partition(":")[0]
    port = 443 if exchange.url.startswith("https:") else 80
    with contextlib.suppress(Exception):  # what it cannot read, Nginx reads in a way of its own
        return other_blocks(text, host, port, 6 if ":" in exchange.source else 4)
    return set()


def line_of(place: Place, files: list[File], lab: Lab) -> str:
    """The text of a place."""
    path = lab.files.get(place.file)
    data = next((one.data for one in files if one.path == path), b"")
    lines = data.decode("utf-8", "replace").splitlines()
    return lines[place.line - 1].strip(" \t") if 0 < place.line <= len(lines) else ""


def foreign_character(line: str) -> str:
    """A note about what a page, or a word processor, puts in the place of a quote or a hyphen.

    To a program it is a letter like any other. In a comment it does no harm.
    """
    found = next((one for one in line.split("#")[0] if one in FOREIGN), "")
    if not found:
        return ""
    name = f"{unicodedata.name(found).lower()} (U+{ord(found):04X})"
    return f"The {name} in this line is for pages; a program wants {FOREIGN[found]} there."


def unusual(exchange: Exchange) -> dict[str, str]:
    """The request's headers less those that every request has."""
    from requests.utils import default_headers

    from grader.client import AGENT

    usual = {**default_headers(), "User-Agent": AGENT}
    return {
        name: value
        for name, value in exchange.headers.items()
        if name.lower() not in USUAL and usual.get(name) != value
    }


def request_line(exchange: Exchange) -> str:
    """Say what was sent: method, target, from whom, and any unusual header."""
    over = " over https" if exchange.url.startswith("https:") else ""
    text = f"{exchange.method} {clean(exchange.target, 300)}{over}, from {exchange.source}"
    for name, value in unusual(exchange).items():
        text += f"\n{clean(f'{name}: {value}', 300)}"
    host = exchange.headers.get("Host", ZONE)
    if host not in (ZONE, ""):
        text += f"\nHost: {clean(host, 300)}"
    return text


def curl(exchange: Exchange, front: tuple[str, int | str]) -> str:
    """Write the curl command that sends the same from inside the box."""
    scheme = exchange.url.partition("://")[0]
    words = ["curl", "-i", *(["-k"] if scheme == "https" else [])]
    if exchange.method == "HEAD":
        words.append("-I")
    elif exchange.method != "GET":
        words += ["-X", exchange.method]
    host, port = front
    authority = ZONE
    if isinstance(port, str):
        words += ["--unix-socket", port]
    elif host != ZONE:
        authority = f"{host}:{port}"
    else:
        words += ["--interface", exchange.source]
        asked = exchange.headers.get("Host", ZONE)
        if asked == f"www.{ZONE}":
            authority = asked
        elif asked != ZONE:  # a name that nobody knows, or a port that nobody listens on
            words += ["-H", f"Host: {asked}"]
    for name, value in unusual(exchange).items():
        words += ["-H", f"{name}: {value}"]
    before, more = curl_body(exchange)
    words += more
    if any(mark in exchange.target for mark in ("/./", "/../", "//")):
        words.append("--path-as-is")
    target = exchange.target
    if not target.startswith("/"):
        words += ["--request-target", target]
        target = "/"
    return before + shlex.join([*words, f"{scheme}://{authority}{target}"])


def curl_body(exchange: Exchange) -> tuple[str, list[str]]:
    """What stands before curl, and its options, to send a body: the same one, or one as long."""
    size = int(exchange.headers.get("Content-Length", "0"))
    if not size:
        return "", []
    body = bytes(exchange.sent).partition(b"\r\n\r\n")[2]
    if len(body) == size <= MOST_SHOWN and body.isascii() and body.decode().isprintable():
        return "", ["--data-raw", body.decode()]
    return f"head -c {size} /dev/zero | ", ["--data-binary", "@-"]


def head_line(verdict: str, check: Check, earned: int) -> str:
    """One line for a check: sign, title, points."""
    left = f"{SIGNS[verdict]} {check.title}"
    word = "point" if check.points == 1 else "points"
    right = f"{earned} of {check.points} {word}"
    if verdict in ("blocked", "inconclusive"):
        right = f"{verdict}, {right}"
    gap = max(2, WIDTH - len(left) - len(right))
    return f"{left}{' ' * gap}{right}"


def row(label: str, text: str) -> list[str]:
    """One labelled row of a card, wrapped; lines that it has already are kept."""
    made: list[str] = []
    for line in text.splitlines() or [""]:
        pad = f"  {label:<{LABEL}}" if not made else " " * (LABEL + 2)
        if len(pad) + len(line) <= WIDTH or label in ("by hand", "look at", "log", "grader"):
            made.append(pad + line)
            continue
        made += textwrap.wrap(
            line,
            WIDTH,
            initial_indent=pad,
            subsequent_indent=" " * (LABEL + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return made


def render(
    verdict: str,
    check: Check,
    lab: Lab,
    *,
    error: BaseException | None = None,
    exchange: Exchange | None = None,
    files: list[File] | None = None,
    front: tuple[str, int | str] | None = None,
    log: str = "",
    blocked_by: str = "",
) -> str:
    """Write the card of a check that did not pass."""
    lines = [head_line(verdict, check, 0)]
    if verdict == "blocked":
        return "\n".join([*lines, *row("needs", blocked_by)])
    if verdict == "inconclusive":
        text = str(error) if isinstance(error, GraderError) else f"{type(error).__name__}: {error}"
        lines += row("grader", clean(text))
        if isinstance(error, NotLive):
            lines += row(
                "by hand", f"{COURSE} check {lab.number} -k {check.name.replace('-', '_')}"
            )
        else:
            lines += row("note", NOT_YOURS)
        return "\n".join(lines)
    assert error is not None
    seen = seen_in(error)
    started = not isinstance(error, StartFailed)
    if exchange and started:
        lines += row("sent", request_line(exchange))
    lines += row("expected", clean(seen.expected))
    lines += row("got", clean(seen.got))
    if exchange and started and not isinstance(error, Mismatch):
        answer = exchange.status_line()
        if answer and answer not in seen.got:
            lines += row("answer", clean(answer, 300))
    place = seen.place or likely_place(seen.look_at or check.look_at, files or [], lab, exchange)
    text = line_of(place, files or [], lab) if place else ""
    note = " ".join(one for one in (seen.note, foreign_character(text)) if one)
    if note:
        lines += row("note", clean(note))
    if check.why and started:
        lines += row("why", check.why)
    if log:
        lines += row("log", log)
    if place:
        where = f"{place.file}:{place.line}" if place.line else place.file
        lines += row("look at", f"{where}   {clean(text, 200)}".rstrip())
    lines += row("hint", f"{COURSE} hint {lab.number} {check.name}")
    if started:
        command = check.by_hand or (curl(exchange, front) if exchange and front else "")
        if command:
            where = "as root on the server" if lab.systemd else f"{COURSE} shell {lab.number}, then"
            lines += row("by hand", f"{where}: {command}")
    return "\n".join(lines)

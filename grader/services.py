"""The programs that a site is made of: how each is started, and when it is ready."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grader.errors import Place, StartFailed
from grader.lab import odd_encoding
from grader.text import clean
from grader.uwsgi import packet

if TYPE_CHECKING:
    from grader.site import Service

APP_HOME = "/srv/board"
START_SECONDS = 15.0  # for a program that is ready in 0.2 s; an endless import takes for ever
MOST_START_SECONDS = 40.0


@dataclass(frozen=True)
class Program:
    """How to run one kind of service.

    Attributes:
        argv: the command, as the course tells the learner to run it.
        cwd: where.
        app: whether it runs the learner's Flask app.
        ready: tells whether a started service serves.
        file: the learner's file that is blamed when nothing tells better.
        env: environment that it needs besides the app's.
    """

    argv: tuple[str, ...]
    cwd: str
    app: bool
    ready: Callable[[Service], bool]
    file: str
    env: Mapping[str, str] = field(default_factory=dict)


def start_seconds() -> float:
    """How long a program may take to start: longer on a machine that has too much to do."""
    crowd = os.getloadavg()[0] / (os.cpu_count() or 1)
    return min(START_SECONDS * max(1.0, crowd), MOST_START_SECONDS)


def listens_and_answers(service: Service) -> bool:
    """An app server is ready when it answers: it listens long before the app is imported."""
    return any(service.site.answers(one) for one in service.http_listeners())


def speaks_uwsgi(service: Service) -> bool:
    """The app answers, by the uwsgi protocol or, where uWSGI was told so, by HTTP."""
    return any(
        service.site.answers(one, packet("/healthz")) or service.site.answers(one)
        for one in service.listeners()
    )


def has_workers(service: Service) -> bool:
    """Nginx has read its files and opened its ports when its master has made workers."""
    return any(one["parent"] == service.pid for one in service.processes())


# For a reload uWSGI starts its own program anew. PyPI's is a module of Python, and it would start
# the Python behind the virtual environment, which has no uWSGI.
UWSGI_ENV = {"UWSGI_BINARY_PATH": sys.executable}

PROGRAMS = {
    "flask": Program(
        ("flask", "--app", "wsgi", "run"), APP_HOME, True, listens_and_answers, "wsgi.py"
    ),
    "gunicorn": Program(
        ("gunicorn", "--config", "gunicorn.conf.py", "wsgi:app"),
        APP_HOME,
        True,
        listens_and_answers,
        "gunicorn.conf.py",
    ),
    "uwsgi": Program(
        ("uwsgi", "--ini", "uwsgi.ini"), APP_HOME, True, speaks_uwsgi, "uwsgi.ini", UWSGI_ENV
    ),
    "nginx": Program(("nginx", "-g", "daemon off;"), "/", False, has_workers, "nginx.conf"),
}

NGINX_MESSAGE = re.compile(r"\[(?:emerg|alert|crit)\] (?:\d+#\d+: )?(.*)")
NGINX_PLACE = re.compile(r" in (\S+?):(\d+)$")
PYTHON_PLACE = re.compile(r'File "([^"]+)", line (\d+)')
SEMICOLON = "Nginx reads on to the next semicolon: one may be missing on the line before."
INSIDE = "This file is read inside the `http { }` of /etc/nginx/nginx.conf: begin with `server`."
# What nginx complains about, and what is behind it; the first that fits.
NGINX_NOTES = (
    (r'"(http|events)" directive is not allowed here', INSIDE),
    (r'expecting "}"', "A `{` further up has no `}` of its own."),
    (r'unexpected "}"', "There is a `}` too many, or the line before it has no semicolon."),
    (r'unexpected "{"', "A `{` begins a block. A regular expression with one needs quotes."),
    (
        r'unexpected "[^;]"',
        "It stands right behind a closing quote. A text with quotes of one kind in it needs the "
        "other kind around it.",
    ),
    (r"unexpected|invalid number of arguments", SEMICOLON),
    (r"invalid parameter", f"This nginx does not know it. Or: {SEMICOLON}"),
    (
        r"directive is duplicate",
        "It stands twice in one block. What your file says outside of `server { }` is in one block "
        "with the lines of /etc/nginx/nginx.conf, where it may stand already.",
    ),
    (r"unknown directive", "It is misspelt, or this version of nginx does not have it."),
    (r"zero size shared memory zone|zone .* is unknown", "No line makes a zone of this name."),
)
NAMED = re.compile(
    r""""(/[^"]+)"|zone "([^"]+)"|'([\w./-]{3,})'|(?:directive:|value for) ([^\s:]+)"""
    r"""|(?:^|\s)(/[\w./-]{3,})"""
)
LONGEST_LINE = 400  # characters of one line of a message
MANY_BOOTS = 10  # in START_SECONDS; a site has a few workers
# What programs read without complaint: Python, then nginx.
ACCEPTED = (("CRLF", "(CR)", "byte-order"), ("CRLF",))
# What uWSGI says when it gives up; most of what else it says at the start is about the machine.
UWSGI_COMPLAINT = re.compile(
    r"^(?:\[strict-mode\]|[a-z]+\(\): |unable to (?!stat)|invalid|error|The -s/--socket)"
    r"|Can't find section|unrecognized option|requires an argument|not found"
    r"|greater than the system|Error: |No such file|Permission denied"
)
KILLED = re.compile(r"\(pid:\d+\) was sent SIG(?!TERM)")
# What Gunicorn's master says of a worker's end, which the worker has explained already.
AFTERMATH = (
    *("exited with code", "Shutting down: Master", "Reason: "),
    *("Exception in worker", "Unhandled exception in main loop"),
)
# What no learner needs: flask's banner, the inner lines of a traceback that is not theirs.
IDLE_TALK = (
    *(" ", "]", "[Traceback", "Traceback", "During handling", "gunicorn.errors.HaltServer"),
    "WARNING: This is a development",
)
LOG_LINE = re.compile(r"^\[\d{4}-\d\d-\d\d [^\]]*\] \[\d+\] \[(\w+)\] ?")


def start_failure(service: Service) -> StartFailed:
    """Explain a service that did not start, from what it printed and how it ended."""
    site, name = service.site, service.name
    said = site.lab.learner_names(service.log("stdout") + service.log("stderr"))
    explain = {"nginx": nginx_message, "uwsgi": uwsgi_message}.get(name, python_message)
    message, place = explain(said, set(site.lab.files))
    status, killed_for = service.end()
    note = ""
    boots = said.count("Booting worker")
    if killed_for == "memory":
        message = f"{name} was stopped: it used more memory than a box may (1.5 GiB)"
    elif killed_for == "processes":
        message = f"{name} was stopped: it made more processes than a box may have (256)"
    elif status == 0 and any(one["service"] in (name, None) for one in site.processes()):
        message = f"{name} went to the background and its command ended"
        note = (
            "systemd, and this course, look after programs that stay in the foreground: "
            "leave out `daemon`."
        )
    elif status is None and boots >= MANY_BOOTS:
        last = f"\n{message}" if message else ""
        message = f"Gunicorn started {boots} workers, and each ended at once{last}"
        note = "Look for something that ends the program, such as `exit()`, when it is imported."
    elif status is None and name == "gunicorn" and not boots and service.http_listeners():
        message = "Gunicorn listens, and has no worker that could answer"
        note = "`workers` in its configuration says how many it starts; 0 are none."
    elif status is None:
        last = f"\n{message}" if message else ""
        message = f"still starting after {START_SECONDS:g} s or more, and no answer{last}"
        note = "Something that runs at import, or in the configuration, does not come to an end."
    elif not message:
        message = f"{name} ended with {ending(status)} and said nothing"
        note = "Look for something that ends the program, such as `exit()`, when it is imported."
    if name == "nginx" and "0.0.0.0:8000 failed" in message:
        note = (
            "If no `listen` of yours says 8000: a server block without `listen` takes 8000 where "
            "nginx is not started by root, as here. Write `listen 80;`."
        )
    if name == "nginx":
        if "in use" in message and b"ipv6only=off" in (site.submitted("nginx.conf") or b""):
            note = "With `ipv6only=off` a line for [::] takes IPv4's port as well as IPv6's."
        note = next((one for pattern, one in NGINX_NOTES if re.search(pattern, message)), note)
    if name == "uwsgi" and "callable not found" in message:
        note = "uWSGI looks for `application`, unless `module` says another: `module = wsgi:app`."
    # Gunicorn has read its own file when it boots workers, which then import the app.
    file = "wsgi.py" if boots and "wsgi.py" in site.lab.files else service.program.file
    look_at = [(file, "")]
    look_at += [(one, word) for word in named(message) for one in site.lab.files]
    look_at += [(file, word) for word in re.findall(r"`(\w+)", note) if name != "nginx"]
    blamed = place.file if place else file
    data = site.submitted(blamed)
    odd = odd_encoding(data) if data is not None else ""
    if odd and not any(one in odd for one in ACCEPTED[name == "nginx"]):
        note = f"{blamed} {odd}."
    command = shlex.join(service.program.argv)
    return StartFailed(name, f"`{command}` starts and serves", message, place, note, look_at)


def named(message: str) -> list[str]:
    """What a message names that may stand in the learner's file: paths, modules, a zone."""
    return ["".join(one) for one in NAMED.findall(message)]


def ending(status: int) -> str:
    """Say how a process ended: a negative status is a signal's number."""
    if status >= 0:
        return f"status {status}"
    with contextlib.suppress(ValueError):
        return f"signal {-status} ({signal.Signals(-status).name})"
    return f"signal {-status}"


def nginx_message(said: str, files: set[str]) -> tuple[str, Place | None]:
    """Find nginx's first complaint, and the line that it names."""
    for line in said.splitlines():
        found = NGINX_MESSAGE.search(line)
        if found:
            message = clean(found[1])
            place = NGINX_PLACE.search(message)
            if place and place[1] in files:
                return message, Place(place[1], int(place[2]))
            return message, None
    return last_lines(said), None


def python_message(said: str, files: set[str]) -> tuple[str, Place | None]:
    """Find the traceback that leads to one of the learner's files: its last words, its last line.

    Gunicorn's own master adds a traceback of its own when a worker does not boot.
    """
    lines = [LOG_LINE.sub("", line) for line in said.splitlines()]
    starts = [at for at, line in enumerate(lines) if line.startswith("Traceback (most recent")]
    read = [read_traceback(lines[at + 1 :], files) for at in starts]
    found = [one for one in read if "HaltServer" not in one[0]]  # the master's own way to end
    best = next((one for one in found if one[1]), None)
    if best:
        return best
    complaints = [line for line in said.splitlines() if is_complaint(line)]
    logged = [line for line in complaints if LOG_LINE.match(line)]
    if found and not logged:
        return found[0]
    wanted = [LOG_LINE.sub("", line) for line in logged or complaints]
    wanted = [re.sub(r"^Worker \(pid:\d+\)", "A worker", line) for line in wanted]
    return last_lines("\n".join(dict.fromkeys(wanted))), None


def uwsgi_message(said: str, files: set[str]) -> tuple[str, Place | None]:
    """Find the traceback of the app, or what uWSGI complains about among all that it tells."""
    message, place = python_message(said, files)
    if "Traceback (most recent" in said and place:
        return message, place
    complaints = [line for line in said.splitlines() if UWSGI_COMPLAINT.search(line)]
    return last_lines("\n".join(dict.fromkeys(complaints)) or said), place


def read_traceback(lines: list[str], files: set[str]) -> tuple[str, Place | None]:
    """Read one traceback's final words, and the last of its lines in one of the files."""
    place = None
    for at, line in enumerate(lines):
        found = PYTHON_PLACE.search(line)
        if found and found[1] in files:
            place = Place(found[1], int(found[2]))
        if line and not line.startswith(" "):
            # A syntax error's code and mark stand above its name.
            shown = [one for one in lines[max(0, at - 2) : at] if not PYTHON_PLACE.search(one)]
            text = [*shown, line] if "SyntaxError" in line or "IndentationError" in line else [line]
            # Each capped by itself: the last one, which says what is wrong, is always there.
            return "\n".join(clean(one, LONGEST_LINE) for one in text), place
    return "", place


def is_complaint(line: str) -> bool:
    """Tell whether a line is worth a learner's attention."""
    found = LOG_LINE.match(line)
    if found:
        loud = found[1] in ("ERROR", "CRITICAL") or KILLED.search(line)
        return bool(loud) and not any(one in line for one in AFTERMATH)
    return bool(line.strip()) and not line.startswith(IDLE_TALK)


def last_lines(said: str, count: int = 6) -> str:
    """The end of what a program printed."""
    return clean("\n".join([line for line in said.splitlines() if line.strip()][-count:]))

"""Lab 02, Gunicorn: the checks. README.md says what each one asks for."""

import contextlib
import json
import re
import select
import signal
import socket
import time
from collections import Counter
from itertools import product

import requests

from grader.board import whoami
from grader.checks import alone, by_hand, look_at, needs, points
from grader.errors import Mismatch
from grader.sandbox import PRIVATE, SERVER_V4
from grader.services import last_lines, python_message
from grader.site import VISITOR, wait_for

WANTED = ("127.0.0.1:8000", "unix:/run/board/gunicorn.sock")
MOST_REQUESTS = 3000  # that one worker may answer
# Lives of workers, to see that they differ: by a good deal, not at all, or by little. A range of
# 100 is taken for one of the others once in a hundred thousand times.
LIVES_APART, LIVES_ALIKE, LIVES_CLOSE = 3, 4, 10
APART = 20  # requests

# For the "by hand" lines: bash, curl and grep are on every machine, ps and pgrep are not.
URL = "http://127.0.0.1:8000"
A_WORKER = f"pid=$(curl -s {URL}/whoami | grep -o '\"pid\":[0-9]*' | cut -d: -f2)"
MASTER = "$(cut -d' ' -f4 /proc/$pid/stat)"


def addresses(site):
    """What Gunicorn listens on; one address may have a socket for each worker (`reuse_port`).

    A unix socket that answers no HTTP is its control socket, whatever its name.
    """
    found = site.service("gunicorn").http_listeners()
    return sorted({str(one) for one in found if not one.path or site.answers(one)})


@points(2)
@look_at("gunicorn.conf.py", "bind")
@by_hand("ss -ltnx")
def test_site_answers(site):
    """Gunicorn answers where Nginx will look for it

    The two have to agree on one address; the next lab's Nginx asks on this one.
    """
    found = addresses(site)
    if not {*WANTED, "0.0.0.0:8000"} & set(found):
        raise Mismatch(" or ".join(WANTED), " and ".join(found))
    try:
        told = whoami(site)
    except Mismatch as error:
        said = last_lines(site.lab.learner_names(site.service("gunicorn").log("stderr")), 1)
        look_at = [("gunicorn.conf.py", "worker_class"), ("wsgi.py", "app")]
        raise Mismatch(error.expected, error.got, f"Gunicorn says: {said}", look_at) from None
    if told["instance"] != site.instance:
        raise Mismatch("an answer of this run's app", "one of another program")


@points(3)
@look_at("gunicorn.conf.py", "bind")
@by_hand("ss -ltnx")
def test_listens_nowhere_else(site):
    """It listens on no other address

    Whoever reaches Gunicorn from outside comes past Nginx, its limits and its TLS.
    """
    found = addresses(site)
    if len(found) > 1 or found[0] not in WANTED:
        raise Mismatch(f"{WANTED[0]} (or {WANTED[1]}) alone", " and ".join(found))


@points(3)
@look_at("gunicorn.conf.py", "reuse_port", "workers", "threads", "worker_class")
@by_hand(f"time (for i in $(seq 8); do curl -s '{URL}/slow?seconds=1' & done; wait)")
def test_eight_at_once(site):
    """Eight one-second requests at once are done within 3 s

    One worker without threads serves one visitor at a time: the eighth waits eight seconds.
    """
    check_eight(site)


def check_eight(site):
    """Eight one-second requests at once are done within 3 s; else it is a mismatch."""
    took = eight(site)
    if 3 < took < 3.9:
        # Two rounds, and a machine with more to do. Three rounds take three seconds each time.
        took = min(eight(site), eight(site))
    if took > 3:
        raise Mismatch(
            "the last of 8 answers within 3 s",
            f"it came after {took:.1f} s",
            "They came one after the other, or in rounds: there are too few places.",
        )


def eight(site):
    """Eight one-second requests at once; the seconds from the first one to the last answer.

    On a busy machine the last one is asked later than the first one, and waits less.
    """
    started = time.monotonic()
    done = site.together([lambda: site.get("/slow?seconds=1", timeout=20)] * 8)
    for one in done:
        if one.error:
            raise one.error
        if one.value.status_code != 200:
            raise Mismatch("8 answers with status 200", f"status {one.value.status_code}")
    return time.monotonic() - started


TRUSTED = [("gunicorn.conf.py", "forwarded_allow_ips")]


@points(2)
@look_at("gunicorn.conf.py", "forwarded_allow_ips")
@by_hand(
    "for who in 127.0.0.1 203.0.113.7; do curl -s --interface $who -H 'X-Forwarded-Proto: https'"
    f' {URL}/whoami | grep -o \'"scheme":"[a-z]*"\'; done'
)
def test_forwarded_headers(site):
    """Forwarded headers are believed from this machine alone

    Nginx, on 127.0.0.1, will say that a visitor came over https. Nobody else may.
    """
    claim = {"X-Forwarded-Proto": "https"}
    scheme = whoami(site, headers=claim)["scheme"]
    if scheme != "https":
        raise Mismatch(
            "scheme https: from 127.0.0.1 it is believed",
            f"scheme {scheme}",
            look_at=[("gunicorn.conf.py", "secure_scheme_headers"), *TRUSTED],
        )
    if site.front[0] == "127.0.0.1":  # a unix socket has no other visitors
        more = () if site.box.real else (SERVER_V4, "127.0.0.2", *PRIVATE)
        for source in (VISITOR, *more):
            scheme = whoami(site, headers=claim, source=source)["scheme"]
            if scheme != "http":
                raise Mismatch(
                    f"scheme http: from {source} it is not believed",
                    f"scheme {scheme}",
                    look_at=[("wsgi.py", "ProxyFix"), *TRUSTED],
                )


SLOW = ((0.2, "seconds=2e-1"), (0.7, "seconds=7e-1"))  # written so that a log of it shows no time
UNITS = (1, 1000, 1_000_000)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@points(2)
@look_at("gunicorn.conf.py", "access_log_format", "accesslog", "logconfig")
@by_hand(
    "BOARD_SECRET_KEY=x gunicorn -c gunicorn.conf.py -b 127.0.0.1:8001 wsgi:app & sleep 2;"
    " curl 'http://127.0.0.1:8001/slow?seconds=0.7'; kill %1"
)
def test_access_log(site):
    """One line per request on standard output, with the time taken

    The first question about a slow site is which pages are slow. Standard output, because
    systemd collects it; better than a second, because most pages take less than one.
    """
    gunicorn = site.service("gunicorn")
    found, took = [], []
    for _, query in SLOW:
        before = {stream: gunicorn.log(stream) for stream in ("stdout", "stderr")}
        started = time.monotonic()
        site.get(f"/slow?{query}")
        took.append(time.monotonic() - started)
        found.append(line_for(site, before))
    numbers = []
    for line, (_, query) in zip(found, SLOW, strict=True):
        # An id in front may have some, and another number of them each time.
        numbers.append([float(one) for one in NUMBER.findall(line.replace(query, ""))])
    from_the_end = [one[::-1] for one in numbers]
    pairs = [*zip(*numbers, strict=False), *zip(*from_the_end, strict=False)]
    for values, unit in product(pairs, UNITS):
        spans = zip(values, SLOW, took, strict=True)
        if all(s[0] * 0.98 <= v / unit <= t + 0.002 for v, s, t in spans):
            return
    raise Mismatch(
        f"the time taken, {SLOW[1][0]} s, in the line, better than to a second", found[1]
    )


def line_for(site, before):
    """The one new line on standard output that names /slow; any other number is a mismatch."""
    gunicorn = site.service("gunicorn")

    def lines(stream="stdout", path="/slow"):
        new = gunicorn.log(stream)[len(before[stream]) :]
        return [line for line in new.splitlines() if path in line]

    if not wait_for(lines, 3):
        errors = gunicorn.log("stderr")[len(before["stderr"]) :]
        if "--- Logging error ---" in errors:
            raise Mismatch(
                "a line that names /slow on standard output",
                f"none: Python's logging cannot write it\n{python_message(errors, set())[0]}",
                "A format such as %(M)s ends with its letter: another one there, or none, fits no "
                "value.",
                (("gunicorn.conf.py", "access_log_format"), ("gunicorn.conf.py", "logconfig")),
            )
        where = ", but on standard error" if lines("stderr") else ""
        raise Mismatch(
            "a line that names /slow on standard output",
            f"none within 3 s{where}",
            '`accesslog` says where it goes; "-" is standard output.',
            (("gunicorn.conf.py", "accesslog"), ("gunicorn.conf.py", "access_log_format")),
        )
    # A second line for the same request would be there before one for the next request.
    ask_pid(site)
    if not wait_for(lambda: lines(path="/whoami"), 3):
        raise Mismatch("a line for each request", "a line for /slow, and none for /whoami")
    if len(lines()) != 1:
        raise Mismatch("one line for one request", "\n".join([f"{len(lines())} lines:", *lines()]))
    others = [one for one in lines(path="") if not re.search(r"/slow|/whoami|^\s*$", one)]
    if len(others) > 1:
        raise Mismatch("one line for one request", f"others beside it:\n{others[0]}")
    return lines()[0]


@points(2)
@look_at("gunicorn.conf.py", "workers")
@by_hand(f"{A_WORKER}; kill -9 $pid; sleep 3; ls -d /proc/$pid; curl {URL}/whoami")
def test_killed_worker(site):
    """A killed worker is replaced

    The kernel kills a process when memory runs out. The master makes a new one.
    """
    gunicorn = site.service("gunicorn")
    before = workers(gunicorn)
    killed = int(whoami(site)["pid"])
    gunicorn.signal(signal.SIGKILL, [killed])
    if not wait_for(lambda: len(set(gunicorn.workers()) - {killed}) >= len(before), 10):
        raise Mismatch("a new worker within 10 s", "none")
    serves(site, "after a worker was killed")


def workers(gunicorn):
    """The workers' process ids; a Gunicorn without any is a mismatch."""
    found = wait_for(gunicorn.workers, 5)
    if not found:
        raise Mismatch("worker processes", "none")
    return found


def serves(site, when, seconds=6):
    """Ask for a page; name the circumstances when it does not come."""
    try:
        return whoami(site, timeout=seconds)
    except requests.RequestException as error:
        raise Mismatch(f"an answer {when}", str(error)) from None


@points(3)
@look_at("gunicorn.conf.py", "reuse_port", "workers", "threads", "worker_class")
@by_hand(f"curl -m 60 {URL}/hang & sleep 1; curl -m 5 {URL}/whoami")
def test_one_hangs(site):
    """While one request hangs, others are served

    A view that waits for a dead service must not take the whole site with it.
    """
    with site.connect(None) as hanging:
        hanging.sendall(b"GET /hang HTTP/1.1\r\nHost: board.example\r\n\r\n")
        wait_taken(site, hanging, "/hang")
        for number in range(10):
            serves(site, "while one request hangs", 15)
            if number == 0 and select.select([hanging], [], [], 0)[0]:
                raise Mismatch(
                    "an answer while one request hangs",
                    "an answer only after Gunicorn had given up the hanging one",
                )


def wait_taken(site, connection, path):
    """Wait until a worker has the request that a connection sent."""
    if connection.family != socket.AF_UNIX:
        site.wait_read([connection])
        return

    # The kernel does not tell who has read from a unix socket; the app counts its requests.
    def counted():
        try:
            return site.get("/stats", timeout=6).json()["paths"].get(path)
        except (requests.RequestException, ValueError, KeyError, TypeError):
            raise Mismatch(f"an answer while one visitor waits for {path}", "none") from None

    if not wait_for(counted, 6):
        raise Mismatch(f"the app is asked for {path}", "it was not, within 6 s")


@points(3)
@alone
@look_at("gunicorn.conf.py", "reuse_port", "timeout", "workers")
@by_hand(f"{A_WORKER}; kill -STOP $pid; curl -m 5 {URL}/whoami; sleep 15; ls -d /proc/$pid")
def test_frozen_worker(site):
    """A frozen worker is replaced within 15 s; others serve

    A process can get stuck for good: in a lock, in a broken driver, in swap. Gunicorn notices
    that it no longer beats, after `timeout` seconds.
    """
    gunicorn = site.service("gunicorn")
    before = workers(gunicorn)
    # One that has answered: Gunicorn watches a worker from its first heartbeat on.
    frozen = int(whoami(site)["pid"])
    gunicorn.freeze([frozen])
    end = time.monotonic() + 15
    served = replaced = False
    with site.connect(None) as slow:
        slow.settimeout(15)
        slow.sendall(b"GET /slow?seconds=3 HTTP/1.0\r\nHost: board.example\r\n\r\n")
        visitors = site.together([lambda: site.get("/whoami", timeout=15)] * 8)
        errors = [str(one.error) for one in visitors if one.error]
        site.exchanges.clear()
        if errors:
            raise Mismatch(
                "an answer for each of 8 visitors while one worker is frozen",
                f"{errors[0]}, for some of them",
                "Do the workers share one queue of visitors? With `reuse_port` each has its own."
                if len(before) > 1
                else "With one worker process nobody is left to serve.",
            )
        while not replaced and time.monotonic() < end:
            with contextlib.suppress(requests.RequestException):
                whoami(site, timeout=15)
                served = served or frozen in gunicorn.workers()
            if not served:
                raise Mismatch(
                    "an answer while one worker is frozen",
                    "none",
                    "With one worker process nobody is left to serve.",
                )
            now = gunicorn.workers()
            replaced = frozen not in now and len(now) >= len(before)
        answer = first_line(slow)
    if "200" not in answer:
        raise Mismatch(
            "a 3-second page is answered: it is slow, not frozen",
            "its worker was killed for it",
            "A sync worker cannot show that it lives while it works on a page.",
        )
    if not replaced:
        raise Mismatch(
            "a new worker in the place of the frozen one within 15 s",
            "the frozen one is still there",
            "Gunicorn gives a worker `timeout` seconds to show that it lives, 30 if you do not"
            " say, for ever if you say 0. It sees it up to two seconds later, and the new one has "
            "to start.",
        )


@points(3)
@alone
@look_at("gunicorn.conf.py", "graceful_timeout", "timeout")
@look_at("wsgi.py", "signal.signal")
@look_at("gunicorn.conf.py", "reuse_port", "on_reload", "post_worker_init")
@by_hand(f"{A_WORKER}; curl -i '{URL}/slow?seconds=2' & sleep 1; kill -HUP {MASTER}; wait")
def test_reload(site):
    """A reload under load loses no request

    `kill -HUP` is how a new version goes online. New workers start, the old ones finish what
    they have begun, for up to `graceful_timeout` seconds.
    """
    gunicorn = site.service("gunicorn")
    before = workers(gunicorn)
    with site.connect(None) as slow:
        slow.settimeout(20)
        slow.sendall(b"GET /slow?seconds=2 HTTP/1.0\r\nHost: board.example\r\n\r\n")
        wait_taken(site, slow, "/slow")
        with site.load(lambda: site.get("/whoami", timeout=10).status_code, threads=2) as results:
            wait_for(lambda: len(results) > 10, 10)
            gunicorn.reload()
            gone = wait_for(lambda: not set(before) & set(gunicorn.workers()), 15)
            many = len(results)
            wait_for(lambda: len(results) > many + 10, 10)
        answer = first_line(slow)
    site.exchanges.clear()  # of so many requests none is the one that failed
    status = gunicorn.end()[0]
    if status is not None:
        said = [line for line in gunicorn.log().splitlines() if "error" in line.lower()]
        got = "\n".join([f"it ended with status {status}", *said[-1:]])
        raise Mismatch("Gunicorn goes on", got)
    if "200" not in answer:
        raise Mismatch("the 2-second request in flight gets its answer", answer)
    if not gone:
        raise Mismatch("new workers in the place of all old ones", "old ones are still there")
    lost = [one for one in results if one.error or one.value != 200]
    if lost:
        what = str(lost[0].error or f"status {lost[0].value}")
        raise Mismatch("an answer to every request", f"{what}, for {len(lost)} of {len(results)}")


def first_line(connection):
    """The status line of an answer, or what happened instead."""
    try:
        data = connection.recv(4096)
    except OSError as error:
        return error.strerror or "no answer"
    return data.split(b"\r\n")[0].decode("latin-1") or "the connection closed without an answer"


@points(3)
@alone
@look_at("gunicorn.conf.py", "graceful_timeout", "timeout")
@look_at("wsgi.py", "signal.signal")
@look_at("gunicorn.conf.py", "post_worker_init")
@by_hand(f"{A_WORKER}; curl -i '{URL}/slow?seconds=3' & sleep 1; kill -TERM {MASTER}; wait")
def test_stop(site):
    """A stop lets a request in flight finish

    systemd stops the service with TERM at each restart. A visitor who waits for a three-second
    page then still gets it.
    """
    gunicorn = site.service("gunicorn")
    with site.connect(None) as slow:
        slow.settimeout(20)
        slow.sendall(b"GET /slow?seconds=3 HTTP/1.0\r\nHost: board.example\r\n\r\n")
        wait_taken(site, slow, "/slow")
        gunicorn.signal(signal.SIGTERM)
        answer = first_line(slow)
    if "200" not in answer:
        raise Mismatch("the 3-second request in flight gets its answer", answer)
    if gunicorn.wait_end(20) is None:
        raise Mismatch("then Gunicorn ends", "it is still there after 20 s")


@points(4)
@alone
@needs(test_killed_worker)
@look_at("gunicorn.conf.py", "reuse_port", "max_requests_jitter", "max_requests")
@by_hand(f"curl -s '{URL}/whoami?[1-9000]' | grep -o '\"pid\":[0-9]*' | sort | uniq -c")
def test_workers_are_renewed(site):
    """Workers are replaced within 3000 requests, not all at once

    A view that leaks a little memory kills the site after a week, unless workers are renewed.
    If all are renewed at the same request, nobody serves meanwhile.
    """
    gunicorn = site.service("gunicorn")
    first = set(workers(gunicorn))
    lives = Counter()
    frozen = set()
    while True:
        pid = ask_pid(site)
        lives[pid] += 1
        if lives[pid] > MOST_REQUESTS:
            raise Mismatch(
                f"a new worker after at most {MOST_REQUESTS} requests",
                f"one worker has answered {lives[pid]}, and goes on",
                "Workers live for ever if you do not say `max_requests`. The jitter comes on top.",
            )
        if lives.total() % 50 and lives[pid] > 1:
            continue
        alive = set(gunicorn.workers())
        # Frozen ones take no requests: one worker at a time lives its life, and quickly.
        others = alive - {pid} - frozen
        if pid in alive:
            gunicorn.freeze(others)
            frozen |= others
        # Whole lives: of those that were born before our eyes, never frozen, and are gone.
        whole = [lives[one] for one in lives if one not in first | frozen | alive]
        apart = max(whole, default=0) - min(whole, default=0) >= APART
        alike = len(set(whole)) == 1
        if len(whole) >= (LIVES_APART if apart else LIVES_ALIKE if alike else LIVES_CLOSE):
            break
    if not apart:
        each = f"exactly {whole[0]}" if alike else f"{min(whole)} to {max(whole)}"
        raise Mismatch(
            "workers that end after different numbers of requests",
            f"each ended after {each}",
            "All workers start together, so they would end together too.",
        )


ASK = b"GET /whoami HTTP/1.1\r\nHost: board.example\r\nConnection: close\r\n\r\n"


def ask_pid(site):
    """Ask the app for its process id, as quickly as Python can."""
    with site.connect(None) as connection:
        connection.sendall(ASK)
        data = b""
        while True:
            more = connection.recv(65536)
            if not more:
                break
            data += more
    try:
        return int(json.loads(data.partition(b"\r\n\r\n")[2])["pid"])
    except (ValueError, KeyError, TypeError):
        line = data.split(b"\r\n")[0].decode("latin-1")
        raise Mismatch("the app's JSON", line or "an empty answer") from None

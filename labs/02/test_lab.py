"""Lab 02, Gunicorn: the checks. README.md says what each one asks for."""

import json
import re
import signal
import socket
import time
from collections import Counter

import requests

from grader.checks import alone, by_hand, look_at, needs, points
from grader.errors import Mismatch
from grader.site import wait_for

WANTED = ("127.0.0.1:8000", "unix:/run/board/gunicorn.sock")
MOST_REQUESTS = 3000  # that one worker may answer
LIVES = 3  # of workers, to see that they differ


def whoami(site, **options):
    """Ask the app what it knows about a visitor; any other answer is a mismatch."""
    reply = site.get("/whoami", **options)
    if reply.status_code != 200:
        raise Mismatch("the app's own answer, with status 200", f"status {reply.status_code}")
    try:
        told = dict(reply.json())
    except (TypeError, ValueError):
        raise Mismatch("the app's JSON", f"something else: {reply.text[:60]!r}") from None
    return {"instance": "", "pid": 0, "scheme": "", **told}


@points(2)
@look_at("gunicorn.conf.py", "bind")
def test_site_answers(site):
    """Gunicorn answers where Nginx will look for it

    The two have to agree on one address; the next lab's Nginx asks on this one.
    """
    found = [str(one) for one in site.service("gunicorn").http_listeners()]
    reachable = [*found, *("127.0.0.1:8000" for one in found if one == "0.0.0.0:8000")]
    if not set(WANTED) & set(reachable):
        raise Mismatch(" or ".join(WANTED), " and ".join(found))
    assert whoami(site)["instance"] == site.instance, "the app itself must answer"


@points(3)
@look_at("gunicorn.conf.py", "bind")
def test_listens_nowhere_else(site):
    """It listens on no other address

    Who reaches Gunicorn from outside comes past Nginx, its limits and its TLS.
    """
    found = [str(one) for one in site.service("gunicorn").http_listeners()]
    for one in found:
        if one not in WANTED:
            raise Mismatch(f"{WANTED[0]} (or {WANTED[1]}) alone", " and ".join(found))
    assert len(found) == 1, "one address is enough"


@points(3)
@look_at("gunicorn.conf.py", "workers", "threads", "worker_class", "bind")
@by_hand(
    "time (for i in $(seq 8); do curl -s 'http://127.0.0.1:8000/slow?seconds=1' & done; wait)"
)
def test_eight_at_once(site):
    """Eight one-second requests at once are done within 3 s

    One worker without threads serves one visitor at a time: the eighth waits eight seconds.
    """
    calls = [lambda: site.get("/slow?seconds=1", timeout=20)] * 8
    done = site.together(calls)
    for one in done:
        if one.error:
            raise one.error
        assert one.value.status_code == 200
    slowest = max(one.seconds for one in done)
    if slowest > 3:
        raise Mismatch("the last of 8 answers within 3 s", f"it came after {slowest:.0f} s")


@points(2)
@look_at("gunicorn.conf.py", "forwarded_allow_ips", "bind")
def test_forwarded_headers(site):
    """Forwarded headers are believed from this machine alone

    Nginx, on 127.0.0.1, will say that a visitor came over https. Nobody else may.
    """
    claim = {"X-Forwarded-Proto": "https"}
    assert whoami(site, headers=claim)["scheme"] == "https", "from 127.0.0.1 it is believed"
    if site.front[0] == "127.0.0.1":
        told = whoami(site, headers=claim, source="203.0.113.7")
        assert told["scheme"] == "http", "from another address it is not believed"


SLOW = ((0.2, "seconds=2e-1"), (0.7, "seconds=7e-1"))  # written so that a log of it shows no time
UNITS = (1, 1000, 1_000_000)


@points(2)
@look_at("gunicorn.conf.py", "access_log_format", "accesslog", "bind")
@by_hand("curl -s 'http://127.0.0.1:8000/slow?seconds=0.7' (course up shows the log)")
def test_access_log(site):
    """One line per request on standard output, with the time taken

    The first question about a slow site is which pages are slow. Standard output, because
    systemd collects it; better than a second, because most pages take less than one.
    """
    gunicorn = site.service("gunicorn")
    before = gunicorn.log("stdout")
    took = []

    def lines():
        return [line for line in gunicorn.log("stdout")[len(before) :].splitlines() if "/slow" in line]

    for number, (_, query) in enumerate(SLOW, 1):
        started = time.monotonic()
        site.get(f"/slow?{query}")
        took.append(time.monotonic() - started)
        if not wait_for(lambda count=number: len(lines()) >= count, 3):
            raise Mismatch("a line that names /slow on standard output", "none within 3 s")
    found = lines()
    if len(found) != len(SLOW):
        raise Mismatch(f"{len(SLOW)} lines for {len(SLOW)} requests", f"{len(found)} lines")
    numbers = []
    for line, (_, query) in zip(found, SLOW, strict=True):
        numbers.append([float(one) for one in re.findall(r"\d+(?:\.\d+)?", line.replace(query, ""))])
    for values in zip(*numbers, strict=False):
        for unit in UNITS:
            spans = zip(values, SLOW, took, strict=True)
            if all(s[0] * 0.98 <= v / unit <= t + 0.002 for v, s, t in spans):
                return
    raise Mismatch(
        f"the time taken, {SLOW[1][0]} s, in the line, better than to a second", found[1]
    )


@points(3)
@alone
@look_at("gunicorn.conf.py", "workers", "threads", "worker_class", "bind")
@by_hand("curl -m 60 http://127.0.0.1:8000/hang & sleep 1; curl -m 5 http://127.0.0.1:8000/whoami")
def test_one_hangs(site):
    """While one request hangs, others are served

    A view that waits for a dead service must not take the whole site with it.
    """
    with site.connect(None) as hanging:
        hanging.sendall(b"GET /hang HTTP/1.1\r\nHost: board.example\r\n\r\n")
        wait_taken(site, hanging)
        for _ in range(10):
            serves(site, "while one request hangs")


def wait_taken(site, connection):
    """Wait until the server has read a request; unix sockets are read in order, and at once."""
    if connection.family != socket.AF_UNIX:
        site.wait_read([connection])


def serves(site, when):
    """Ask for a page; name the circumstances when it does not come."""
    try:
        return whoami(site, timeout=6)
    except requests.RequestException as error:
        raise Mismatch(f"an answer {when}", str(error)) from None


@points(3)
@alone
@look_at("gunicorn.conf.py", "timeout", "workers", "bind")
@by_hand("kill -STOP $(pgrep -n gunicorn); sleep 15; pgrep -l gunicorn")
def test_frozen_worker(site):
    """A frozen worker is replaced within 15 s, and others serve meanwhile

    A process can get stuck for good: in a lock, in a broken driver, in swap. Gunicorn notices
    that it no longer beats, after `timeout` seconds.
    """
    gunicorn = site.service("gunicorn")
    before = workers(gunicorn)
    # One that has answered: Gunicorn watches a worker from its first heartbeat on.
    frozen = int(whoami(site)["pid"])
    gunicorn.freeze([frozen])
    end = time.monotonic() + 15
    while time.monotonic() < end:
        serves(site, "while one worker is frozen")
        now = gunicorn.workers()
        if frozen not in now and len(now) >= len(before):
            return
    raise Mismatch(
        "a new worker in the place of the frozen one within 15 s", "the frozen one is still there"
    )


def workers(gunicorn):
    """The workers' process ids; a Gunicorn without any is a mismatch."""
    found = wait_for(gunicorn.workers, 5)
    if not found:
        raise Mismatch("worker processes", "none")
    return found


@points(2)
@alone
@look_at("gunicorn.conf.py", "workers", "bind")
@by_hand("kill -9 $(pgrep -n gunicorn); sleep 3; pgrep -l gunicorn; curl http://127.0.0.1:8000/whoami")
def test_killed_worker(site):
    """A killed worker is replaced

    The kernel kills a process when memory runs out. The master makes a new one.
    """
    gunicorn = site.service("gunicorn")
    before = workers(gunicorn)
    killed = int(whoami(site)["pid"])
    gunicorn.signal(signal.SIGKILL, [killed])
    replaced = wait_for(lambda: len(set(gunicorn.workers()) - {killed}) >= len(before), 10)
    assert replaced, "a new worker within 10 s"
    serves(site, "after a worker was killed")


@points(3)
@alone
@look_at("gunicorn.conf.py", "graceful_timeout", "timeout", "workers", "bind")
@by_hand("curl -i 'http://127.0.0.1:8000/slow?seconds=2' & sleep 1; kill -HUP $(pgrep -o gunicorn); wait")
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
        wait_taken(site, slow)
        with site.load(lambda: site.get("/whoami", timeout=10).status_code, threads=2) as results:
            wait_for(lambda: len(results) > 10, 10)
            gunicorn.reload()
            gone = wait_for(lambda: not set(before) & set(gunicorn.workers()), 15)
            many = len(results)
            wait_for(lambda: len(results) > many + 10, 10)
        answer = first_line(slow)
    assert gone, "all workers are new ones"
    if "200" not in answer:
        raise Mismatch("the 2-second request in flight gets its answer", answer)
    lost = [one for one in results if one.error or one.value != 200]
    if lost:
        what = str(lost[0].error or f"status {lost[0].value}")
        raise Mismatch("every request answered", f"some lost, the first one: {what}")


def first_line(connection):
    """The status line of an answer, or what happened instead."""
    try:
        data = connection.recv(4096)
    except OSError as error:
        return error.strerror or "no answer"
    return data.split(b"\r\n")[0].decode("latin-1") or "the connection closed without an answer"


@points(3)
@alone
@look_at("gunicorn.conf.py", "graceful_timeout", "timeout", "bind")
@by_hand("curl -i 'http://127.0.0.1:8000/slow?seconds=3' & sleep 1; kill -TERM $(pgrep -o gunicorn); wait")
def test_stop(site):
    """A stop lets a request in flight finish

    systemd stops the service with TERM at each restart. A visitor who waits for a three-second
    page then still gets it.
    """
    gunicorn = site.service("gunicorn")
    with site.connect(None) as slow:
        slow.settimeout(20)
        slow.sendall(b"GET /slow?seconds=3 HTTP/1.0\r\nHost: board.example\r\n\r\n")
        wait_taken(site, slow)
        gunicorn.signal(signal.SIGTERM)
        answer = first_line(slow)
    if "200" not in answer:
        raise Mismatch("the 3-second request in flight gets its answer", answer)
    ended = gunicorn.wait_end(20)
    assert ended is not None, "then Gunicorn ends"


@points(4)
@alone
@needs(test_killed_worker)
@look_at("gunicorn.conf.py", "max_requests_jitter", "max_requests", "workers", "bind")
@by_hand(
    "for i in $(seq 9000); do curl -s http://127.0.0.1:8000/whoami | grep -o '\"pid\":[0-9]*'; done"
    " | sort | uniq -c"
)
def test_workers_are_renewed(site):
    """Each worker is replaced within 3000 requests, not all at once

    A view that leaks a little memory kills the site after a week, unless workers are renewed.
    If all are renewed at the same request, nobody serves meanwhile.
    """
    gunicorn = site.service("gunicorn")
    first = workers(gunicorn)
    # The frozen ones take no requests: one worker at a time lives its life, and quickly.
    gunicorn.freeze(first[1:])
    lives = Counter()
    order = []
    ask = f"GET /whoami HTTP/1.1\r\nHost: board.example\r\nConnection: close\r\n\r\n".encode()
    while True:
        pid = ask_pid(site, ask)
        if pid not in lives:
            order.append(pid)
        lives[pid] += 1
        if lives[pid] > MOST_REQUESTS:
            raise Mismatch(
                f"a new worker after at most {MOST_REQUESTS} requests",
                f"one worker has answered {lives[pid]}, and goes on",
            )
        # Whole lives: of those that were born before our eyes and are gone.
        new = [one for one in order if one not in first]
        if len(new) > LIVES:
            alive = gunicorn.workers()
            whole = [lives[one] for one in new if one not in alive]
            if len(whole) >= LIVES:
                break
    if len(set(whole)) == 1:
        raise Mismatch(
            "workers that end after different numbers of requests",
            f"each ended after exactly {whole[0]}",
            "All workers start together, so they would end together too.",
        )


def ask_pid(site, ask):
    """Ask the app for its process id, as quickly as Python can."""
    with site.connect(None) as connection:
        connection.sendall(ask)
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

"""Lab 08, load balancing: the checks. README.md says what each one asks for."""

import json
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache, partial
from itertools import count, cycle, product
from threading import Lock

import requests

from grader.board import LOGIN, check_visitor_is_known, told_by, whoami
from grader.borrow import ask_again
from grader.checks import alone, by_hand, look_at, needs, points
from grader.errors import GraderError, Mismatch
from grader.hosts import (
    PORT,
    connections_to,
    connects,
    freeze,
    host_of,
    set_delay,
    silent,
    thaw,
)
from grader.site import wait_for

HOSTS = ("app1", "app2", "app3")
NAMES = ("board.example", "www.board.example")
PATHS = ("/whoami", "/", "/api/notices")
APART = ("/whoami", "/api/notices")  # pages and the API: each may have an upstream of its own
AT_ONCE = 12  # visitors
LEARNERS, LATER = 48, 18  # visitors of a site with a host that hangs
VISITS, LEAST = 120, 18  # one after the other; of them for each host
IN_A_ROW, MOST_CONNECTS = 200, 10
CROWD, MOST_IDLE = 100, 32
DELAY = 0.6  # seconds that a slow host takes longer; less than the slowest normal page
PAGE_SECONDS = 1  # the slowest normal page
ANSWER_SECONDS = 3
BACK_SECONDS = 12
NONE_LEFT_SECONDS = 5
GRACE, MOST_GRACE = 0.5, 1.5  # seconds more than the README gives: alone, on a crowded machine
NUMBERS = count()  # of visitors, each of whom has another address
KILL = "kill -9 -$(cat /run/board/{}.pid)"
ASK = (
    'for i in $(seq 12); do curl -m 4 -so /dev/null -w "%{http_code} after %{time_total} s\\n" '
    "http://board.example/whoami; done"
)


def address(site, name):
    """A host as the learner's file names it."""
    return f"{site.lab.hosts[name]}:{PORT}"


def named(site, names):
    """Hosts, for a card."""
    return ", ".join(address(site, one) for one in names) or "none"


def grace():
    """What a page may take longer because the machine has too much to do."""
    crowd = os.getloadavg()[0] / (os.cpu_count() or 1)
    return min(GRACE * max(1.0, crowd), MOST_GRACE)


def visit(site, path="/whoami", name="board.example", family=4):
    """One visitor; gives the status (0: none in time, or it broke off), the host, the seconds.

    There are a thousand of them in this lab, so they do without `requests`.
    """
    source = ("203.0.113." if family == 4 else "2001:db8::") + str(10 + next(NUMBERS) % 200)
    ask = f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
    data, started = b"", time.monotonic()
    try:
        with site.connect(source, family) as made:
            made.settimeout(ANSWER_SECONDS + MOST_GRACE)
            made.sendall(ask.encode())
            while more := made.recv(65536):
                data += more
    except OSError:
        data = b""
    seconds = time.monotonic() - started
    words = data[:15].split()
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    host = next((name for name, told in instances(site).items() if told in data), "")
    return status, host, seconds


def instances(site):
    """What `/whoami` says at each host, and nobody else knows."""
    return {name: site.service(name).env["BOARD_INSTANCE"].encode() for name in site.lab.hosts}


def rush(site, visits, path="/whoami"):
    """So many visits, by visitors who come as soon as one before them has left; what each gave.

    They come by both names and both versions of IP, three times in a row by each, so that each host
    gets some of each.
    """
    ways = [(name, family) for family in (4, 6) for name in NAMES]
    tickets = iter(range(visits))
    gate = Lock()

    def visitors():
        seen = []
        while True:
            with gate:
                ticket = next(tickets, None)
            if ticket is None:
                return seen
            name, family = ways[ticket // len(HOSTS) % len(ways)]
            seen.append(visit(site, path, name, family))

    found = site.together([visitors] * AT_ONCE)
    return [one for timed in found for one in timed.value]


def lines(*texts):
    """Likely lines for a card, where what was seen tells more than the check could know before."""
    return tuple(("nginx.conf", text) for text in texts)


def apart(path):
    """Likely texts where a page may have a location, and by it an upstream, of its own."""
    return ("location /api",) if path.startswith("/api") else ()


ASKS_AGAIN = (
    "proxy_pass http://127", "proxy_next_upstream_tries", "proxy_next_upstream", "proxy_pass",
)  # fmt: skip


def all_served(seen, note, times=("proxy_read_timeout", "proxy_pass"), errors=ASKS_AGAIN):
    """No visitor of some saw an error (`errors`: likely lines), or waited too long (`times`)."""
    wanted = f"a page for each of {len(seen)} visitors, within {ANSWER_SECONDS} s"
    wrong = sorted(status for status, _, _ in seen if status != 200)
    if wrong and wrong[-1]:
        # Which of the two it is depends on who is first, the host or Nginx.
        status = "502 or 504" if wrong[-1] in (502, 504) else wrong[-1]
        raise Mismatch(wanted, f"status {status} for some of them", note, lines(*errors))
    if wrong or max(seconds for _, _, seconds in seen) > ANSWER_SECONDS + grace():
        raise Mismatch(wanted, "none in time for some of them", note, lines(*times))


def used_again(site, name, what):
    """Visitors come until a host that works again has been asked again."""
    if not wait_for(lambda: visit(site)[1] == name, BACK_SECONDS + grace()):
        raise Mismatch(
            f"{address(site, name)} is used again within {BACK_SECONDS} s",
            "it is not",
            what,
            lines("fail_timeout", "server 127", "upstream"),
        )


def forgets(site):
    """Start Nginx anew: what it learned about the hosts in checks before is over."""
    site.service("nginx").kill()
    site.service("nginx").start()


def reached(site, path):
    """How often the app was asked for a path, by its own count."""
    rows = (site.box.read("/var/lib/board/board.db.requests") or b"").splitlines()
    return rows.count(f"1 {path}".encode())


def ran(site, path, times):
    """Tell whether the app was asked for a path so often."""
    return reached(site, path) >= times


def directly(site, name, path):
    """Ask a host itself, past Nginx; gives the body."""
    ask = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with site.connect(None, port=PORT, server=site.lab.hosts[name]) as made:
        made.sendall(ask.encode())
        data = b""
        while more := made.recv(65536):
            data += more
    return data.partition(b"\r\n\r\n")[2]


def pin(site, title, visitor=None, host="board.example"):
    """POST a notice by the API, or by a visitor's form; gives the status, 0 when no answer came."""
    notice = {"title": title, "body": "Pinned by a visitor."}
    try:
        if visitor:
            return visitor.post("/notices/new", data=notice, timeout=6).status_code
        user = (LOGIN["name"], LOGIN["password"])
        return site.post("/api/notices", json=notice, auth=user, timeout=6, host=host).status_code
    except requests.RequestException:
        return 0


def pinned(site, title):
    """How often a notice is in the database."""
    told = json.loads(directly(site, "backup", "/api/notices"))["notices"]
    return sum(one["title"] == title for one in told)


@contextmanager
def background(call):
    """Make a call while the block runs; gives what tells its result."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call).result


def wait_until(look, what):
    """Wait for something that a site does by itself."""
    if not wait_for(look, 10):
        raise GraderError(f"{what} in 10 s")


@points(1)
@look_at("nginx.conf", "return 200", "proxy_pass", "server 127", "upstream", "listen")
def test_site_answers(site):
    """Nginx answers on port 80, and pages come from the hosts

    The three hosts run the same app on the same database. To a visitor they are one site.
    """
    assert (site.port_owner(80) or "nobody") == "nginx", "Nginx listens on port 80"
    for options in ({}, {"host": "www.board.example"}):
        host_of(site, whoami(site, **options))
    try:
        host_of(site, whoami(site, family=6))
    except requests.ConnectionError as error:
        wanted = "an answer on port 80 of [2001:db8::80]"
        raise Mismatch(wanted, str(error), "", lines("listen")) from None
    for path in ("/", "/api/notices", "/big?kb=500"):
        assert site.get(path).status_code == 200, f"the app's {path}"


@points(3)
@look_at("nginx.conf", "upstream", "proxy_pass")
@by_hand(
    "for i in $(seq 12); do curl -s http://board.example/whoami | grep -oe -app. -e -backup; done"
)
def test_load_is_spread(site):
    """All three hosts get their share, and the backup none

    What is not asked does not help. And nobody notices that it does not work, until it is needed.
    """
    for name, family in ((NAMES[0], 4), (NAMES[1], 6)):
        seen = Counter(visit(site, name=name, family=family)[1] for _ in range(VISITS))
        www = ["www."] if name.startswith("www.") else []
        note = f"Visitors who ask for {name} over IPv{family}." if www or family == 6 else ""
        if seen["backup"]:
            raise Mismatch(
                "nothing for the backup while the others work",
                f"visits for {address(site, 'backup')}",
                note,
                lines(*www, "127.0.1.19"),
            )
        least = min(HOSTS, key=lambda host: seen[host])
        if seen[least] < LEAST:
            ways = ("ip_hash", "hash", "weight", " down", site.lab.hosts[least], "upstream")
            raise Mismatch(
                f"at least {LEAST} of {VISITS} visits for each of {named(site, HOSTS)}",
                "none for " + address(site, least)
                if not seen[least]
                else f"only a few for {address(site, least)}",
                note,
                lines(*www, *ways),
            )


@points(2)
@look_at("nginx.conf", "proxy_set_header", "proxy_pass")
@by_hand("curl -s --interface 203.0.113.7 http://board.example/whoami")
def test_visitor_is_known(site):
    """Whichever host answers, it knows who visits, and for what

    What lab 03 built holds on: the visitor's address, the host and the path as they were asked for.
    """
    lies = ({}, {"X-Forwarded-For": "6.6.6.6"})
    hosts = (*NAMES, "board.example:8080")
    for host, family, headers in product(hosts, (4, 6), lies):
        reply = site.get("/whoami", headers=headers, host=host, family=family)
        if headers and reply.status_code == 400:
            continue  # to refuse a request that lies is right too
        told = told_by(reply)
        assert told["client"] == site.usual_source(family)
        assert told["url"] == f"http://{host}/whoami"
    with site.visitor() as visitor:
        visitor.post("/login", data=LOGIN)
        if "session" in visitor.cookies:  # else it is another check's matter
            check_visitor_is_known(visitor, "http://board.example")
    ask_again(site, "03", "paths", "spoofed-host", secure=False, patience=False)


@points(1)
@needs(test_load_is_spread)
@look_at("wsgi.py", "SECRET_KEY", "secret_key", "create_app()")
@look_at("nginx.conf", "proxy_cookie", "Cookie")
def test_session_survives(site):
    """Whoever logged in at one host is logged in at all of them

    The session is in a cookie that any host can check, as long as all have the same key. So no
    visitor has to stay with a host.
    """
    with site.visitor() as visitor:
        reply = visitor.post("/login", data=LOGIN)
        if "session" not in visitor.cookies:
            raise Mismatch("a session after the log-in", f"status {reply.status_code}, none")
        for _ in range(12):
            reply = visitor.get("/account")
            if reply.status_code != 200:
                raise Mismatch(
                    "12 times the account page, with status 200",
                    f"status {reply.status_code}, to the log-in",
                    "One host does not know what another one has signed.",
                )


@points(3)
@look_at("nginx.conf", "keepalive", "upstream")
@by_hand(
    "count() { awk '/^Tcp/ {print $6}' /proc/net/snmp | tail -n 1; }; a=$(count); "
    "for i in $(seq 200); do curl -so /dev/null http://board.example/whoami; done; "
    "echo $(($(count) - a - 200)) connections to hosts"
)
def test_connections_are_reused(site):
    """Connections to the hosts stay open and are used again

    A new one for each request costs both sides time and a port, and between two machines a round
    trip more.
    """
    for name, path in zip(NAMES, APART, strict=True):
        before = connects(site)
        for _ in range(IN_A_ROW):
            visit(site, path, name)
        opened = connects(site) - before - IN_A_ROW
        if opened > MOST_CONNECTS:
            note, texts = who_closes(site)
            wanted = f"at most {MOST_CONNECTS} new connections to hosts for {IN_A_ROW} requests"
            apart = f"By {name}, for {path}: by {NAMES[0]} it is right." if name != NAMES[0] else ""
            raise Mismatch(wanted, "many more", apart or note, lines(*texts))


def who_closes(site):
    """Why connections do not stay open: a note for the card, and likely lines."""
    told = whoami(site)["headers"].get("Connection", "")
    if told:
        texts = ("Connection", "proxy_set_header", "proxy_pass")
        return f"This reached the host: Connection: {told}", texts
    logs = [site.service(name).log("stdout").splitlines()[-1] for name in HOSTS]
    if all("HTTP/1.0" in one for one in logs):
        return "Nginx speaks HTTP/1.0 to the hosts.", ("proxy_http_version", "proxy_pass")
    return "", ("keepalive", "upstream")


@points(2)
@needs(test_load_is_spread)
@look_at("nginx.conf", "keepalive")
@by_hand(
    "for i in $(seq 120); do curl -so /dev/null 'http://board.example/slow?seconds=0.3' & done; "
    "wait; for a in 1 2 3; do ss -Htn state established dst 127.0.1.1$a | wc -l; done"
)
def test_idle_connections(site):
    """After a rush few idle connections are left

    Each one is a place that a host keeps for Nginx alone. `keepalive` counts for each worker of
    Nginx, and there are two.
    """
    nginx = site.service("nginx")
    listening = {pid for one in nginx.listeners() for pid in one.pids}
    workers = [one for one in nginx.workers() if one in listening]
    for worker in workers:
        others = [one for one in workers if one != worker]
        nginx.freeze(others)  # so that this one gets all visitors
        try:
            crowd(site)
        finally:
            nginx.signal(signal.SIGCONT, others)

    def left():
        return sum(connections_to(site, one) for one in HOSTS)

    wait_for(lambda: left() <= MOST_IDLE * len(HOSTS), 1)
    if left() > MOST_IDLE * len(HOSTS):
        raise Mismatch(
            f"at most {MOST_IDLE} idle connections to each host, after {CROWD} visitors at once",
            f"more than {MOST_IDLE}",
            "Each worker of Nginx was given such a crowd, half of it by each name.",
        )


def crowd(site):
    """Visitors who are all under way at once: no host answers before all are there."""
    asks = [f"GET /whoami HTTP/1.1\r\nHost: {one}\r\nConnection: close\r\n\r\n" for one in NAMES]
    with ExitStack() as opened:
        begun = time.monotonic()
        freeze(site, *HOSTS)
        try:
            visitors = [opened.enter_context(site.connect()) for _ in range(CROWD)]
            for one, ask in zip(visitors, cycle(asks)):
                one.sendall(ask.encode())
            with suppress(GraderError):  # some wait for a worker that is frozen: `reuseport`
                site.wait_read(visitors, 0.5)
        finally:
            thaw(site, *HOSTS)
        still = time.monotonic() - begun
        end = time.monotonic() + ANSWER_SECONDS
        data = b""
        for one in visitors:
            one.settimeout(max(0.01, end - time.monotonic()))
            with suppress(OSError):
                while more := one.recv(65536):
                    data += more
    # Hosts that stood still for longer than a page takes may be given up; else they were busy.
    if still < PAGE_SECONDS and instances(site)["backup"] in data:
        raise Mismatch(
            "nothing for the backup while the others work",
            f"visits for {address(site, 'backup')}",
            f"{CROWD} visitors at once: the hosts are busy, and not down.",
            lines("max_conns", "127.0.1.19"),
        )


@lru_cache(maxsize=len(APART))
def rush_with_a_slow_host(site, path):
    """What visitors meet while one of the hosts takes longer; how often it and all were asked."""
    forgets(site)
    slow, runs = asked(site, "app2", path), reached(site, path)
    set_delay(site, "app2", DELAY)
    try:
        seen = rush(site, 8 * AT_ONCE, path)
    finally:
        set_delay(site, "app2", 0)
    return seen, asked(site, "app2", path) - slow, reached(site, path) - runs


def asked(site, name, path):
    """How often a host was asked for a path, by its own log."""
    return site.service(name).log("stdout").count(f'"GET {path} ')


@points(3)
@needs(test_load_is_spread)
@look_at("nginx.conf", "hash", "random", "weight", "upstream")
@by_hand(
    "echo 0.6 >/run/board/127.0.1.12.delay; for v in $(seq 12); do for i in $(seq 8); do "
    "curl -s http://board.example/whoami | grep -oe -app.; done & done | sort | uniq -c"
)
def test_slow_host_gets_less(site):
    """A slow host gets less than its share

    Machines are never equally fast: one makes a backup, one has a busy neighbour. Whoever counts
    what is under way sees it; whoever only takes turns does not.
    """
    for path in APART:
        seen, slow, _ = rush_with_a_slow_host(site, path)
        if slow > len(seen) / 5:
            raise Mismatch(
                f"at most a fifth of the visits for {address(site, 'app2')}, which is slow",
                "more, as if it were as fast as the others",
                f"Visits to {path}." if apart(path) else "",
                lines(*apart(path), "hash", "random", "weight", "upstream"),
            )


@points(2)
@needs(test_load_is_spread)
@look_at("nginx.conf", "hash", "random", "weight", "upstream")
def test_others_stay_fast(site):
    """One slow host does not make everybody slow

    Visitors pile up where it is slow: if each third one is sent there, soon nearly all wait there.
    The fast hosts have nothing to do meanwhile.
    """
    for path in APART:
        seen, _, runs = rush_with_a_slow_host(site, path)
        note = f"{path}, while {address(site, 'app2')} answered slowly, but in time."
        texts = (*apart(path), "max_conns", "proxy_read_timeout", "proxy_pass")
        all_served(seen, note, errors=texts)
        # Who waited for longer than a page takes may have been asked for again: a busy machine.
        again = sum(int(seconds / PAGE_SECONDS) for _, _, seconds in seen)
        if runs > len(seen) + again:
            raise Mismatch(
                f"{path} is run once for each of {len(seen)} visitors",
                "it is run more often",
                f"{address(site, 'app2')} took {DELAY} s longer, and was given up.",
                lines(*apart(path), "proxy_read_timeout", "proxy_pass"),
            )
    seen = rush_with_a_slow_host(site, APART[0])[0]
    if any(host == "backup" for _, host, _ in seen):
        raise Mismatch(
            "nothing for the backup while the others work",
            f"visits for {address(site, 'backup')}",
            f"{AT_ONCE} visitors at once, and one of the hosts is slow.",
            lines("max_conns", "127.0.1.19"),
        )
    slow = sum(seconds >= DELAY for _, _, seconds in seen)
    if slow > len(seen) / 5:
        raise Mismatch(
            f"at most a fifth of {len(seen)} visits are slow", "more than a fifth of them waited"
        )


@points(2)
@needs(test_load_is_spread)
@look_at("nginx.conf", "http_500", "http_404", "proxy_next_upstream", "error_page", "upstream")
@by_hand(
    "curl -si http://board.example/crash | head -n 1; "
    "curl -s http://board.example/stats | grep -o '\"/crash\":[0-9]*'"
)
def test_crash_is_an_answer(site):
    """A page that crashes takes no host out

    The host is well, the page is broken, and it is broken on every host. If each is asked and each
    then set aside, one bad link takes the whole site down.
    """
    forgets(site)
    for name, (path, status) in product(NAMES, (("/crash", 500), ("/notices/999", 404))):
        page = directly(site, "app1", path)
        visits, before = 6, reached(site, path)
        for _ in range(visits):
            reply = site.get(path, host=name)
            if (reply.status_code, reply.content) != (status, page):
                raise Mismatch(
                    f"the app's own page for {path}, with status {status}",
                    f"another one, with status {reply.status_code}",
                    "",
                    lines("http_500", "proxy_intercept_errors", "error_page"),
                )
        runs = reached(site, path) - before
        if runs != visits:
            raise Mismatch(
                f"{path} is run {visits} times for {visits} visitors", f"it is run {runs} times"
            )
    seen = [visit(site) for _ in range(30)]
    all_served(seen, "/crash was asked for before.")
    lost = set(HOSTS) - {host for _, host, _ in seen}
    if lost:
        raise Mismatch("all hosts are still in use", f"{named(site, sorted(lost))} is not")


@points(3)
@alone
@needs(test_load_is_spread)
@look_at("nginx.conf", *ASKS_AGAIN)
@by_hand(f"{KILL.format('127.0.1.11')}; {ASK}")
def test_host_dies(site):
    """A host that dies costs no visitor an error

    The pages that it was making never come, and it refuses new ones. Any other host can answer
    those. When it is back, it has to be used again.
    """
    with background(lambda: rush(site, AT_ONCE, "/slow?seconds=0.5")) as result:
        wait_until(lambda: reached(site, "/slow") >= AT_ONCE, "the app did not get the visits")
        site.service("app1").kill()
        all_served(result(), f"{address(site, 'app1')} died while it was answering some of them.")
    for path in PATHS:
        seen = rush(site, AT_ONCE, path)
        all_served(seen, f"{path}, while {address(site, 'app1')} refuses connections.")
    site.service("app1").start()
    used_again(site, "app1", "It had died, and was started again.")


@points(3)
@alone
@needs(test_load_is_spread)
@look_at("nginx.conf", "proxy_read_timeout", "proxy_pass")
@by_hand(f"{KILL.format('127.0.1.12').replace('-9', '-STOP')}; {ASK}")
def test_host_hangs(site):
    """A host that hangs is noticed, and set aside

    It takes connections and never answers. Nobody should wait for it longer than for a slow page;
    and after the first ones nobody at all.
    """
    freeze(site, "app2")
    for path in (*PATHS, "/whoami"):
        seen = rush(site, LEARNERS // 4, path)
        all_served(seen, f"{path}, while {address(site, 'app2')} hangs.")
    seen, waited = [], 0
    while len(seen) < LATER and waited <= LATER / 6:  # one after the other: each third is its turn
        seen.append(visit(site))
        waited += seen[-1][2] > PAGE_SECONDS
    if waited > LATER / 6:
        raise Mismatch(
            f"after the first {LEARNERS} visitors, at most one in six waits",
            "more of them wait",
            f"{address(site, 'app2')} hangs, and is asked again and again.",
            lines("max_fails", "server 127", "upstream"),
        )
    all_served(seen, f"{address(site, 'app2')} hangs.")
    thaw(site, "app2")
    used_again(site, "app2", "It had hung, and goes on now.")


@points(2)
@alone
@needs(test_load_is_spread)
@look_at("nginx.conf", "proxy_connect_timeout", "proxy_pass")
@by_hand(
    f"{KILL.format('127.0.1.13').replace('-9', '-STOP')}; "
    f"for i in $(seq 129); do exec {{c}}<>/dev/tcp/127.0.1.13/8000; done; {ASK}"
)
def test_host_is_silent(site):
    """A host that is gone without a word costs no visitor an error

    Its machine is off, or its cable is out: it does not even refuse. Whoever connects waits.
    """
    with silent(site, "app3"):
        note = f"{address(site, 'app3')} takes no connection, and refuses none."
        all_served(rush(site, 2 * AT_ONCE), note, ("proxy_connect_timeout", "proxy_pass"))


@points(3)
@alone
@needs(test_load_is_spread, test_session_survives)
@look_at("nginx.conf", "non_idempotent", "error_page", "proxy_next_upstream")
@by_hand(
    "all() { for a in 1 2 3; do kill $1 -$(cat /run/board/127.0.1.1$a.pid); done; }; all -STOP; "
    """curl -si -u ada:pin-the-notice -H 'Content-Type: application/json' """
    """-d '{"title": "Once", "body": "it"}' http://board.example/api/notices | head -n 1; """
    "all -CONT; sleep 1; curl -s http://127.0.1.19:8000/api/notices | grep -o Once"
)
def test_post_runs_once(site):
    """A POST is never run twice

    Nobody knows whether a host that fell silent has done it. To ask another one would pin the
    notice twice, or pay twice. The visitor gets an error, and can look.
    """
    visitor = site.visitor()
    visitor.post("/login", data=LOGIN)
    before = {path: reached(site, path) for path in ("/login", "/upload")}
    freeze(site, *HOSTS)
    site.together(
        [
            partial(pin, site, "hung"),
            partial(pin, site, "hung by www", host="www.board.example"),
            partial(tried, site, "/login", data=LOGIN),
            partial(tried, site, "/upload", data=b"a file"),
        ]
    )
    thaw(site, *HOSTS)
    for title in ("hung", "hung by www"):
        wait_until(partial(pinned, site, title), "no host ran the POST")
    # Each host runs what had waited before this.
    site.together([partial(directly, site, name, "/slow?seconds=0.3") for name in HOSTS])
    for title, host in (("hung", NAMES[0]), ("hung by www", NAMES[1])):
        site.show_on_card("/api/notices", host)
        check_once(site, title, "The hosts hung, got the POST, and went on later.")
    for path, others in before.items():
        site.show_on_card(path, NAMES[0])
        wait_until(partial(ran, site, path, others + 1), f"no host ran the POST to {path}")
        times = reached(site, path) - others
        if times != 1:
            raise Mismatch(f"one POST to {path}: it is run once", f"{times} times")
    for name in HOSTS:
        set_delay(site, name, 0.9)
    with background(lambda: pin(site, "dead", visitor)) as result:
        wait_until(lambda: pinned(site, "dead"), "no host ran the POST")
        for name in HOSTS:
            site.service(name).kill()
        result()
    check_once(site, "dead", "The hosts died when the notice was pinned, before they answered.")


def tried(site, path, **options):
    """POST; whether an answer comes is not asked."""
    with suppress(requests.RequestException):
        site.post(path, timeout=6, **options)


def check_once(site, title, note):
    """A notice is in the database once."""
    times = pinned(site, title)
    if times != 1:
        raise Mismatch("after one POST: the notice once in the database", f"{times} times", note)


@points(2)
@alone
@needs(test_load_is_spread)
@look_at("nginx.conf", "proxy_read_timeout", "proxy_next_upstream", "upstream")
@by_hand(
    f"for i in 1 2 3; do curl -si 'http://board.example/slow?seconds=1' | head -n 1 & done; "
    f"sleep 0.5; kill $(cat /run/board/127.0.1.11.pid); wait; {ASK}"
)
def test_draining_host(site):
    """A host that is told to end finishes its pages

    Gunicorn that gets TERM takes no new connection, and answers what it has begun. A deploy, host
    by host, is nothing else. The slowest pages take 1 s.
    """
    service = site.service("app1")
    with background(lambda: rush(site, AT_ONCE, f"/slow?seconds={PAGE_SECONDS}")) as result:
        wait_until(lambda: reached(site, "/slow") >= AT_ONCE, "the app did not get the visits")
        service.signal(signal.SIGTERM)
        note = "They were being answered when one of the hosts was told to end."
        all_served(result(), note, errors=("proxy_read_timeout", "proxy_pass"))
    all_served(rush(site, 2 * AT_ONCE), f"{address(site, 'app1')} was told to end.")
    runs = reached(site, "/slow")
    if runs != AT_ONCE:
        raise Mismatch(
            f"{AT_ONCE} visitors to /slow?seconds={PAGE_SECONDS}: it is run {AT_ONCE} times",
            f"it is run {runs} times",
            "A page that takes 1 s was given up, and begun again at another host.",
        )


@points(2)
@needs(test_load_is_spread)
@look_at("nginx.conf", *ASKS_AGAIN)
@by_hand(
    f"{KILL.format('127.0.1.11')}; for i in 1 2 3 4; do curl -si -u ada:pin-the-notice "
    """-H 'Content-Type: application/json' -d '{"title": "Try", "body": "it"}' """
    "http://board.example/api/notices | head -n 1; done"
)
def test_refused_post(site):
    """A POST that was refused goes to the next host

    A host that refuses the connection has not seen the request, so nothing can happen twice. The
    visitor need not notice.
    """
    forgets(site)
    site.service("app1").kill()
    note = f"{address(site, 'app1')} refuses connections, the others work."
    try:
        for number in range(AT_ONCE):
            title = f"refused {number}"
            status = pin(site, title)
            if status == 504:
                continue  # a host that works had too little time, on a busy machine: not refused
            if status != 201:
                raise Mismatch("status 201", f"status {status}", note)
            check_once(site, title, note)
        forgets(site)  # that the host refuses is to be learned once more
        for _ in range(len(HOSTS)):
            status = site.post("/login", data=LOGIN).status_code
            if status not in (303, 504):
                raise Mismatch("status 303", f"status {status}", note, lines("login", *ASKS_AGAIN))
    finally:
        site.service("app1").start()


@points(2)
@needs(test_load_is_spread)
@look_at("nginx.conf", "backup", "127.0.1.19", "upstream")
@by_hand(f"for a in 1 2 3; do {KILL.format('127.0.1.1$a')}; done; {ASK}")
def test_backup(site):
    """When all three are down, the backup takes over

    It may be a small machine, or one in another building. It is better than an error page.
    """
    forgets(site)
    for name in HOSTS:
        site.service(name).kill()

    def taken_over(path):
        status, host, _ = visit(site, path)
        return status == 200 and (host == "backup" or path != "/whoami")

    for path in APART:
        if not wait_for(partial(taken_over, path), ANSWER_SECONDS):
            forgets(site)  # so that the card's line of the log is about the hosts, each time
            raise Mismatch(
                f"pages from {address(site, 'backup')}, within {ANSWER_SECONDS} s",
                f"status {site.get(path).status_code}",
                f"{named(site, HOSTS)} refuse connections.",
                lines(*apart(path), "backup", "127.0.1.19", "upstream"),
            )
        all_served(rush(site, AT_ONCE, path), f"{path}, with the backup alone left.")
    told, client = whoami(site), site.usual_source()
    if (told["client"], told["url"]) != (client, "http://board.example/whoami"):
        raise Mismatch(
            f"at the backup: client {client}, url http://board.example/whoami",
            f"client {told['client']}, url {told['url']}",
            "A location with a proxy_set_header of its own inherits none; one outside of which no"
            " proxy_set_header stands has none.",
            lines("location @", "proxy_set_header"),
        )


@points(2)
@look_at("nginx.conf", "error_page", "proxy_next_upstream", "proxy_connect_timeout", "upstream")
@by_hand(
    f"for a in 1 2 3 9; do {KILL.format('127.0.1.1$a')}; done; "
    "curl -si http://board.example/whoami | head -n 1"
)
def test_none_left(site):
    """When no host is left, visitors are told at once

    502 and 504 say what is so. Whoever waits in vain asks again, and makes it worse.
    """
    forgets(site)
    for name in site.lab.hosts:
        site.service(name).kill()
    for name in NAMES * 2:
        reply = site.get("/whoami", host=name, timeout=NONE_LEFT_SECONDS + grace())
        if reply.status_code not in (502, 504):
            raise Mismatch(
                f"status 502 or 504, within {NONE_LEFT_SECONDS} s",
                f"status {reply.status_code}",
                "All hosts, and the backup, refuse connections.",
            )

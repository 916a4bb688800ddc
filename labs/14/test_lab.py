"""Lab 14, uWSGI instead of Gunicorn: the checks. README.md says what each one asks for.

What Nginx has to do is what lab 03 asks. Those checks are taken from there where nothing that they
say is about `proxy_pass`.
"""

import hashlib
import re
import secrets
import signal
import time
from collections import Counter
from contextlib import ExitStack
from functools import cache
from itertools import product

import requests

from grader.board import ELSEWHERE, LOGIN, V6, WWW, doors, plain, told_by, whoami
from grader.borrow import checks_of
from grader.checks import alone, by_hand, look_at, needs, points
from grader.commands import run
from grader.errors import GraderError, Mismatch, StartFailed
from grader.machine import File
from grader.site import wait_for
from grader.uwsgi import ask

SOCKET = "/run/board/uwsgi.sock"
RELOAD = "/run/board/reload"
WSGI = "/srv/board/wsgi.py"
NEW = "\nimport os\nos.environ['BOARD_INSTANCE'] = 'the new version'\n"
BROKEN = b"raise RuntimeError('this version cannot be imported')\n"

PLACES = 8  # visitors at once
MANY = 200  # visitors who come while nobody serves; 100 may wait where nothing is said
LONG = 7000  # characters of a cookie, and of a link; Nginx takes lines of 8 KB
HANG_SECONDS = 12  # that a page which never ends may keep its visitor
WAIT_SECONDS = 2.5  # that others may wait during a reload, while one visitor has a slow page
SLOW_PAGE = 4  # seconds that this page takes
BEGIN_SECONDS = 10  # for the first worker to be gone: the slow page may be its own
MOST_REQUESTS = 3000  # that one worker may answer
DIFFERENCE = 20  # between the lives of two workers, at least

second, third = checks_of("02"), checks_of("03")
ask_pid, first_line, serves = second.ask_pid, second.first_line, second.serves

# For the "by hand" lines: bash, curl and grep are on every machine, ps and pgrep are not.
URL = "http://board.example"
A_WORKER = f"pid=$(curl -s {URL}/whoami | grep -o '\"pid\":[0-9]*' | cut -d: -f2)"
MASTER = "$(cut -d' ' -f4 /proc/$pid/stat)"
INHERITS_NONE = "A location that says any `uwsgi_param` of its own inherits none of the others."


# --- visitors and workers


def workers(site):
    """The workers' process ids; a uWSGI without any is a mismatch."""
    found = wait_for(site.service("uwsgi").workers, 5)
    if not found:
        raise Mismatch(
            "a master, and workers that it watches",
            "uWSGI's first process has no children",
            "Without `master` nobody looks after the processes that serve.",
        )
    return found


def all_answer(site):
    """Wait until each worker has answered: before it has its app, signals do not reach one.

    Returns:
        How many requests each one has answered, by its process id.
    """
    wanted = set(workers(site))
    seen = Counter()

    def ask():
        seen.update(one.value for one in site.together([lambda: ask_pid(site)] * 4))
        return wanted <= set(seen)

    wait_for(ask, 6)
    return seen


def begin(site, path):
    """Begin a request and leave it open; returns when the app has it."""
    before = asked_for(site, path)
    connection = site.connect()
    connection.settimeout(20)
    target = path if "?" in path else f"{path}?"
    connection.sendall(f"GET {target} HTTP/1.0\r\nHost: board.example\r\n\r\n".encode())
    if not wait_for(lambda: asked_for(site, path) > before, 6):
        connection.close()
        raise Mismatch(f"the app is asked for {path}", "it was not, within 6 s")
    site.exchanges.clear()  # those that counted; the card is about the one that is open
    return connection


def asked_for(site, path):
    """How often the app was asked for a page."""
    try:
        paths = site.get("/stats", timeout=6).json()["paths"]
    except (requests.RequestException, ValueError, KeyError, TypeError):
        raise Mismatch("an answer while one visitor waits for another page", "none") from None
    return paths.get(path.partition("?")[0], 0)


# --- the way in


@points(2)
@look_at("nginx.conf", "uwsgi_pass", "listen", "server")
def test_site_answers(site):
    """Nginx answers on port 80, with the app behind it

    Visitors knock on port 80. Nginx opens, and asks the app for what it cannot answer itself.
    """
    owner = site.port_owner(80)
    if owner != "nginx":
        lines = (("nginx.conf", "listen"), ("nginx.conf", "server"))
        got = f"{owner or 'nobody'} listens there"
        raise Mismatch("nginx listens on port 80", got, look_at=lines)
    try:
        told = whoami(site)
    except Mismatch as error:
        if b"proxy_pass" not in (site.submitted("nginx.conf") or b""):
            raise
        note = "uWSGI's socket speaks uwsgi, for which there is `uwsgi_pass`; this is HTTP."
        raise Mismatch(error.expected, error.got, note, [("nginx.conf", "proxy_pass")]) from None
    if told["instance"] != site.instance:
        raise Mismatch(
            "an answer that only the app can give",
            "another answer, made before the app was asked",
            look_at=(("nginx.conf", "return"), ("nginx.conf", "location")),
        )


@points(3)
@look_at("uwsgi.ini", "socket", "http", "[uwsgi]")
@by_hand("ss -ltnx")
def test_socket(site):
    """The unix socket speaks uwsgi, and no port is open

    A port is one more door, and whoever comes through it comes past Nginx. A socket is a file:
    there are no strangers on the other side of it.
    """
    listeners = site.service("uwsgi").listeners()
    ports = [str(one) for one in listeners if not one.path]
    if ports:
        note = "`http` and `http-socket` are for a uWSGI without Nginx." if http_set(site) else ""
        raise Mismatch(
            f"unix:{SOCKET}, and no port",
            " and ".join(ports),
            note,
            (("uwsgi.ini", ports[0].rpartition(":")[2]),),
        )
    paths = [one.path for one in listeners]
    if SOCKET not in paths:
        raise Mismatch(f"uWSGI listens on unix:{SOCKET}", " and ".join(map(str, listeners)))
    answer = ask(site, SOCKET, "/whoami")
    if site.instance.encode() not in answer:
        raise Mismatch(
            f"the app's answer to a request by the uwsgi protocol on {SOCKET}",
            answer.split(b"\r\n")[0].decode("latin-1") or "no answer",
            "`socket` speaks it; `http-socket` speaks HTTP.",
        )


def http_set(site):
    """Whether the learner's file has one of the options that open a port for HTTP."""
    return b"http" in (site.submitted("uwsgi.ini") or b"")


@points(2)
@needs(test_socket)
@look_at("uwsgi.ini", "chmod-socket", "chmod", "socket")
@by_hand(f"stat -c '%A %n' {SOCKET}")
def test_socket_rights(site):
    """Nginx's group may use the socket, and nobody else may

    Nginx and the app run as different users on a server. They share a group. A socket that all may
    write to lets any program of the machine say that it is Nginx.
    """
    mode = int(run(site, ["stat", "-c", "%a", SOCKET]).stdout, 8)
    if mode & 0o020 and mode & 0o200 and not mode & 0o002:
        return
    note = "To connect to a unix socket takes the right to write to it."
    if not mode & 0o020:
        note += " On a server Nginx would answer 502, and log (13: Permission denied)."
    raise Mismatch("mode 660: owner and group may write, others not", f"mode {mode:o}", note)


@points(1)
@look_at("nginx.conf", "listen")
def test_ipv6(site):
    """It answers on IPv6 too

    `listen 80` means IPv4 alone. Visitors whose network prefers IPv6 see a refused connection.
    """
    third.test_ipv6(site)


# --- what the app knows


def check_client(site, address, **options):
    """The app knows a visitor's address."""
    client = plain(whoami(site, source=address, **options)["client"])
    if client != address:
        raise Mismatch(
            f"client {address}",
            f"client {client or '(empty)'}",
            "The app takes it from REMOTE_ADDR, unless something in wsgi.py replaces that.",
            (
                ("wsgi.py", "ProxyFix("),
                ("wsgi.py", "REMOTE_ADDR"),
                ("nginx.conf", "REMOTE_ADDR"),
                ("nginx.conf", "uwsgi_pass"),
            ),
        )


@cache
def members(site):
    """Visitors who have logged in, one at each of the site's doors."""
    made = [site.visitor(**door) for door in doors(site)]
    for one in made:
        one.post("/login", data=LOGIN)
    return made


ON_ACCOUNT = {"client": r'id="from">([^<]*)<', "link": r'id="here">([^<]*)<'}


def check_account(site, what, port="", headers=None):
    """/account knows what other pages know, even where it has a location of its own.

    Args:
        site: the site.
        what: one of ON_ACCOUNT.
        port: what the visitor types behind the name.
        headers: what the visitor sends besides.
    """
    for visitor in members(site):
        host = f"{visitor.host}{port}"
        wanted = {"client": visitor.source, "link": f"http://{host}/account"}[what]
        page = visitor.get("/account", headers={"Host": host, **(headers or {})})
        shown = re.search(ON_ACCOUNT[what], page.text)
        # Another page is another check's matter; and to refuse a request that lies is right.
        if shown and plain(shown[1]) != wanted:
            raise Mismatch(
                f"on /account: {what} {wanted}",
                f"{what} {shown[1] or '(none)'}",
                INHERITS_NONE,
                (("nginx.conf", "/account"), ("nginx.conf", "uwsgi_pass")),
            )


@points(3)
@needs(test_ipv6)
def test_visitor_address(site):
    """The app sees the visitor's address, IPv4 or IPv6

    Without it every log line, rate limit and ban hits Nginx itself.
    """
    for host, family in product(third.NAMES, (4, 6)):
        check_client(site, site.usual_source(family), host=host, family=family)
    check_client(site, "203.0.113.99")
    check_account(site, "client")


@points(3)
@look_at("nginx.conf", "HTTP_HOST", "uwsgi_pass")
def test_host(site):
    """The app sees the host and port that were asked for

    Its links and redirects are made of them. The VM forwards port 8080 to 80: links without the
    port lead nowhere, and `$host` leaves it out.
    """
    for host in (
        "board.example",
        "www.board.example",
        "board.example:8080",
        "www.board.example:8080",
    ):
        for family in (4, 6):
            url = whoami(site, host=host, family=family)["url"]
            if url != f"http://{host}/whoami":
                places = ELSEWHERE if family == 6 or host.startswith("www") else ()
                raise Mismatch(f"url http://{host}/whoami", f"url {url}", look_at=places)
    third.test_redirects(site)
    check_account(site, "link", ":8080")


@points(2)
@needs(test_visitor_address)
@look_at("wsgi.py", "ProxyFix(", "HTTP_", "app.wsgi_app", "app =")
def test_spoofed_address(site):
    """A visitor cannot claim another address

    Anyone can send X-Forwarded-For. Here Nginx says the address in REMOTE_ADDR, so an app that
    still looks into the header looks at what the visitor wrote.
    """
    for door, headers in product(doors(site), third.SPOOFED_ADDRESSES):
        visitor = site.usual_source(door["family"])
        told = third.whoami_unless_refused(site, headers, **door)
        client = plain(told.get("client")) if told else visitor
        if client != visitor:
            raise Mismatch(f"client {visitor}", f"client {client}")


@points(2)
@look_at("nginx.conf", "HTTP_X_FORWARDED", "UWSGI_SCHEME", "uwsgi_pass")
def test_spoofed_scheme(site):
    """A visitor cannot claim to have come over https

    uWSGI believes X-Forwarded-Proto and X-Forwarded-Ssl, whoever sent them. Nginx passes on all
    that it is not told to replace, and links and secure cookies go wrong.
    """
    for options, headers in product(({}, WWW, V6), third.SPOOFED_SCHEMES):
        told = third.whoami_unless_refused(site, headers, **options)
        if told and told.get("scheme") != "http":
            name = next(iter(headers))
            got = f"scheme {told.get('scheme')}, as {name} says"
            raise Mismatch("scheme http", got, look_at=ELSEWHERE if options else ())
    check_account(site, "link", headers={"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "on"})


@points(1)
@needs(test_host)
@look_at("wsgi.py", "ProxyFix(", "app.wsgi_app", "app =")
def test_spoofed_host(site):
    """A visitor cannot change the links that the app makes

    A page, a cached page or a password mail with links to evil.test is how accounts are stolen.
    """
    for door, headers in product(doors(site), third.SPOOFED_HOSTS):
        told = third.whoami_unless_refused(site, headers, **door)
        wanted = f"http://{door['host']}/whoami"
        url = told.get("url") if told else wanted
        if url != wanted:
            raise Mismatch(
                f"url {wanted}",
                f"url {url}",
                f"The app believes {next(iter(headers))}, and Nginx does not replace it.",
            )


# --- what passes


# What locations by regular expression are written for.
ENDINGS = ("/echo/.well-known/x", "/echo/photo.png", "/echo/style.css", "/echo/index.php")


@points(1)
@look_at("nginx.conf", "REQUEST_URI", "rewrite", "uwsgi_pass")
def test_paths(site):
    """Paths and queries arrive byte for byte

    REQUEST_URI is what the visitor wrote. PATH_INFO is what Nginx made of it: decoded, and with
    double slashes merged.
    """
    third.test_paths(site)
    for target in ENDINGS:
        reply = site.get(target)
        told = told_by(reply) if reply.status_code == 200 else {}
        if told.get("path", "") != target:
            raise Mismatch(
                f"the app is asked for {target}",
                f"status {reply.status_code}, and the app was not asked",
                "The path arrives whatever it looks like: all of them are the app's.",
                [("nginx.conf", "location ~")],
            )


@points(2)
@look_at("nginx.conf", "uwsgi_pass_request", "limit_except", "client_max_body_size", "uwsgi_pass")
def test_methods_and_bodies(site):
    """Methods, headers and bodies up to 1 MB pass

    The app decides what it accepts. A proxy in front of it is no reason to lose an upload.
    """
    third.test_methods_and_bodies(site)
    own = {"Accept-Encoding": "gzip", "Referer": "http://board.example/", "Range": "bytes=0-9",
           "User-Agent": "a telephone", "X-Requested-With": "a script"}  # fmt: skip
    arrived = third.reached_the_app(whoami(site, headers=own))
    for name, value in own.items():
        if arrived.get(name) != value:
            lines = [("nginx.conf", f"HTTP_{name.upper().replace('-', '_')}")]
            got = f"{name}: {arrived.get(name, '(none)')}"
            raise Mismatch(f"the visitor's own {name}: {value}", got, look_at=lines)
    status = site.post("/login", data=LOGIN).status_code
    if status not in (302, 303):
        raise Mismatch(
            "a redirect, after a log-in with the right name and password",
            f"status {status}",
            "What type a form has, Content-Type says, which is a variable of its own.",
            [("nginx.conf", "CONTENT_TYPE"), ("nginx.conf", "uwsgi_param")],
        )


@points(2)
@look_at("nginx.conf", "HTTP_TRANSFER_ENCODING", "uwsgi_request_buffering", "uwsgi_pass")
def test_chunked_body(site):
    """A body in chunks passes

    Nginx puts the chunks together and says the length. But it passes `Transfer-Encoding: chunked`
    on, too, and Flask then takes the length for unknown and the body for empty.
    """
    third.test_chunked_body(site)
    # So few that they reach an app that does not read them; else Nginx may fail first.
    body = b"all the notices of the board " * 300
    for options in ({}, WWW, V6):
        parts = (body[at : at + 1000] for at in range(0, len(body), 1000))
        told = told_by(site.post("/upload", data=parts, **options))
        if told.get("sha256") != hashlib.sha256(body).hexdigest():
            raise Mismatch(
                f"the {len(body)} bytes of a body in chunks",
                f"{told.get('length')} bytes",
                INHERITS_NONE,
                ELSEWHERE if options else [("nginx.conf", "/upload"), ("nginx.conf", "uwsgi_pass")],
            )
    notice = (one for one in (b'{"title": "In chunks", ', b'"body": "It came in two."}'))
    reply = site.post("/api/notices", data=notice, auth=(LOGIN["name"], LOGIN["password"]),
                      headers={"Content-Type": "application/json"})  # fmt: skip
    if reply.status_code != 201:
        lines = [("nginx.conf", "/api"), ("nginx.conf", "uwsgi_pass")]
        raise Mismatch(
            "status 201 for a notice in chunks", f"status {reply.status_code}", "", lines
        )


@points(3)
@look_at("uwsgi.ini", "buffer-size", "[uwsgi]")
@by_hand(
    f"long=$(head -c {LONG} /dev/zero | tr '\\0' c);"
    f' curl -s -o /dev/null -w "%{{http_code}}\\n" -b "note=$long" "{URL}/whoami?$long"'
)
def test_long_headers(site):
    """A long link with a long cookie passes

    uWSGI reads all variables of a request into one buffer. What does not fit is thrown away, and
    the visitor gets 502. It has 4096 bytes unless you say otherwise.
    """
    cookie = "note=" + "c" * LONG
    query = "q" * LONG
    reply = site.get(f"/whoami?{query}", headers={"Cookie": cookie})
    site.exchanges.clear()  # 14 KB would fill the card
    if reply.status_code != 200:
        raise Mismatch(
            f"an answer to a link of {LONG} characters, sent with a cookie of {LONG}",
            f"status {reply.status_code}",
            f"The link goes twice, in REQUEST_URI and in QUERY_STRING: {3 * LONG} bytes and more.",
        )
    if third.reached_the_app(told_by(reply)).get("Cookie") != cookie:
        raise Mismatch("the cookie as it was sent", "another one, or none")


@points(2)
@look_at("nginx.conf", "uwsgi_request_buffering", "uwsgi_pass")
@by_hand(
    third.BY_HAND % r"POST /upload HTTP/1.1\r\nHost: board.example\r\nContent-Length: 99\r\n\r\n"
)
def test_slow_senders(site):
    """50 visitors who send slowly keep nobody waiting

    One phone in a tunnel sends a line a minute. Nginx takes the whole request in before it troubles
    the app, unless it is told not to.
    """
    third.test_slow_headers(site)
    third.test_slow_bodies(site)


@points(1)
@look_at("nginx.conf", "uwsgi_buffering", "uwsgi_max_temp_file_size", "uwsgi_buffer", "uwsgi_pass")
@by_hand(third.BY_HAND % rf"GET /big?kb={third.BIG_KB} HTTP/1.1\r\nHost: board.example\r\n\r\n")
def test_slow_readers(site):
    """50 visitors who read slowly keep nobody waiting

    Nginx takes the app's page at full speed and hands it out as slowly as each visitor reads. So
    the app is free after milliseconds.
    """
    third.test_slow_readers(site)


@points(1)
@look_at("nginx.conf", "error_page", "uwsgi_intercept_errors", "uwsgi_next_upstream")
@by_hand("curl -i http://board.example/crash; curl -s http://board.example/stats")
def test_error_pages(site):
    """The app's own pages for 404 and 500 show

    The app knows what it was doing and whose language to speak. One mistake in one view must not
    take the site down, nor run twice.
    """
    third.test_error_pages(site)
    third.test_after_a_crash(site)


# --- places


@points(2)
@look_at("uwsgi.ini", "processes", "workers", "threads", "[uwsgi]")
@by_hand(f"time (for i in $(seq {PLACES}); do curl -s '{URL}/slow?seconds=1' & done; wait)")
def test_eight_at_once(site):
    """Eight one-second requests at once are done within 3 s

    A process without threads serves one visitor at a time. Eight need eight places, or half as
    many and two rounds.
    """
    second.check_eight(site)


@points(3)
@look_at("uwsgi.ini", "listen", "socket")
@by_hand("grep listen /srv/board/uwsgi.ini; cat /proc/sys/net/core/somaxconn")
def test_many_wait(site):
    """200 visitors who come in the same moment are all served

    The kernel keeps a queue for the socket. When it is full, Nginx cannot connect and answers 502.
    uWSGI asks for a queue of 100.
    """
    uwsgi = site.service("uwsgi")
    request = b"GET /whoami HTTP/1.0\r\nHost: board.example\r\n\r\n"
    with ExitStack() as opened:
        uwsgi.freeze()  # so that nobody is served before all have come
        opened.callback(uwsgi.thaw)
        came = []
        for number in range(MANY):
            visitor = opened.enter_context(site.connect(f"203.0.113.{number % 200 + 10}"))
            visitor.settimeout(20)
            visitor.sendall(request)
            came.append(visitor)
        site.wait_read(came, or_closed=True)
        uwsgi.thaw()
        lines = [first_line(one) for one in came]
    lost = [one for one in lines if "200" not in one]
    if lost:
        raise Mismatch(f"an answer to each of {MANY} visitors", f"{lost[0]}, for some of them")


# --- what it writes


SLOW = ((0.2, "seconds=2e-1"), (0.7, "seconds=7e-1"))  # written so that a log of it shows no time
UNITS = (1, 1000, 1_000_000)


@points(2)
@look_at("uwsgi.ini", "disable-logging", "log-format", "logformat", "logto", "log", "[uwsgi]")
@by_hand(f"curl -s '{URL}/slow?seconds=0.7'")
def test_access_log(site):
    """One line per request is logged, with the time taken

    The first question about a slow site is which pages are slow: Nginx's time has the way to the
    visitor in it, this one has the app's alone.
    """
    lines, took = [], []
    for _, query in SLOW:
        before = printed(site)
        started = time.monotonic()
        site.get(f"/slow?{query}")
        took.append(time.monotonic() - started)
        lines.append(line_for(site, before))
    numbers = []
    for line, (_, query) in zip(lines, SLOW, strict=True):
        numbers.append(
            [float(one) for one in re.findall(r"\d+(?:\.\d+)?", line.replace(query, ""))]
        )
    for values in zip(*numbers, strict=False):
        for unit in UNITS:
            spans = zip(values, SLOW, took, strict=True)
            # It looks at the clock once more when the visitor has the answer already.
            if all(s[0] * 0.98 <= v / unit <= t * 1.25 + 0.05 for v, s, t in spans):
                return
    raise Mismatch(
        f"the time taken, {SLOW[1][0]} s, in the line, better than to a second", lines[1]
    )


def printed(site):
    """How much uWSGI has written so far, on each stream."""
    return {stream: len(site.service("uwsgi").log(stream)) for stream in ("stdout", "stderr")}


def line_for(site, before):
    """The one new line that names /slow; any other number is a mismatch."""
    uwsgi = site.service("uwsgi")

    def lines(path="/slow"):
        new = [uwsgi.log(stream)[size:] for stream, size in before.items()]
        return [line for text in new for line in text.splitlines() if path in line]

    if not wait_for(lines, 3):
        raise Mismatch(
            "a line that names /slow on standard output or standard error",
            "none within 3 s",
            "uWSGI writes one for each request, unless it is told not to, or to write elsewhere.",
        )
    # A second line for the same request would be there before one for the next request.
    for path in ("/healthz", "/no/such/page", "/whoami"):
        site.get(path)
        if not wait_for(lambda path=path: lines(path), 3):
            raise Mismatch(
                f"a line that names {path} on standard output or standard error",
                "none within 3 s",
                "Each request has a line, and not the slow ones alone, or those that failed.",
                [("uwsgi.ini", one) for one in ("donotlog", "log-slow", "log-4xx", "log-5xx")],
            )
    if len(lines()) != 1:
        raise Mismatch("one line for one request", "\n".join([f"{len(lines())} lines:", *lines()]))
    return lines()[0]


# --- processes that fail


@points(2)
@look_at("uwsgi.ini", "master", "[uwsgi]")
@by_hand(f"{A_WORKER}; kill -9 $pid; sleep 3; ls -d /proc/$pid; curl {URL}/whoami")
def test_killed_worker(site):
    """A killed worker is replaced

    The kernel kills a process when memory runs out. The master makes a new one.
    """
    uwsgi = site.service("uwsgi")
    killed = int(whoami(site)["pid"])
    before = {*workers(site), killed}  # without a master, it may be the first process of all
    uwsgi.signal(signal.SIGKILL, [killed])
    if not wait_for(lambda: len(set(uwsgi.workers()) - {killed}) >= len(before), 10):
        raise Mismatch("a new worker within 10 s", "none")
    serves(site, "after a worker was killed")


@points(3)
@alone
@look_at("uwsgi.ini", "harakiri", "master", "[uwsgi]")
@by_hand(f"curl -i -m 20 {URL}/hang & sleep 1; curl -m 5 {URL}/whoami; wait")
def test_hang(site):
    """A page that hangs is ended; others are served meanwhile

    uWSGI's master does not listen for heartbeats. It looks at the clock of each request, and kills
    a worker whose request takes longer than `harakiri`.
    """
    uwsgi = site.service("uwsgi")
    before = set(workers(site))
    # The slow one first: when the other is ended, it ends all that runs in the same process.
    with begin(site, f"/slow?seconds={SLOW_PAGE}") as slow, begin(site, "/hang") as hanging:
        started = time.monotonic()
        # So many that a process which has threads gets some, too.
        for _ in range(40):
            serves(site, "while one request hangs")
        site.exchanges.clear()
        answer = first_line(slow)
        if " 200" not in answer:
            raise Mismatch(
                f"a {SLOW_PAGE}-second page is answered: it is slow, and does not hang",
                answer,
                "`harakiri` counts whole seconds: 5 can be little more than 4.",
            )
        hanging.settimeout(max(0.1, HANG_SECONDS - (time.monotonic() - started)))
        answer = first_line(hanging)
    if " 50" not in answer:
        threads = re.search(rb"(?m)^\s*threads.*", site.submitted("uwsgi.ini") or b"")
        wanted = f"status 502 for the page that hangs, within {HANG_SECONDS} s"
        if not threads:
            raise Mismatch(wanted, answer)
        note = "`harakiri` does not see what hangs in a process with threads."
        raise Mismatch(wanted, answer, note, [("uwsgi.ini", threads[0].decode().strip())])
    if not wait_for(
        lambda: not before <= set(uwsgi.workers()) and len(uwsgi.workers()) >= len(before), 5
    ):
        raise Mismatch(
            "a new worker in the place of the one that hangs",
            "the old one is still there",
            "Nginx has given up, but the request still has its place in the app.",
            (("nginx.conf", "uwsgi_read_timeout"), ("uwsgi.ini", "harakiri")),
        )
    serves(site, "afterwards")


@points(2)
@alone
@look_at("uwsgi.ini", "need-app", "module", "[uwsgi]")
@by_hand("cd /srv/board; echo 'import nothing_like_this' > wsgi.py; uwsgi --ini uwsgi.ini; echo $?")
def test_need_app(site):
    """Without an app uWSGI does not start

    An app that cannot be imported is no reason to stop, unless you say so: uWSGI then answers each
    visitor with status 500, and systemd believes that all is well.
    """
    uwsgi = site.service("uwsgi")
    uwsgi.kill()
    site.box.write(File(WSGI, BROKEN))
    try:
        uwsgi.start()
    except StartFailed:
        if uwsgi.end()[0] is None:
            raise Mismatch("uWSGI ends when wsgi.py cannot be imported", "it goes on") from None
        return
    raise Mismatch(
        "uWSGI ends when wsgi.py cannot be imported",
        f"it goes on, and answers with status {site.get('/whoami').status_code}",
    )


# --- reload, stop, renewal


@points(5)
@alone
@look_at("uwsgi.ini", "touch-", "lazy-apps", "lazy", "master", "[uwsgi]")
@by_hand(
    f'echo "{NEW.strip().replace(chr(10), "; ")}" >> wsgi.py; touch {RELOAD}; sleep 8;'
    f" curl -s {URL}/whoami"
)
def test_reload(site):
    """A touch brings the new version online; nobody waits

    New code comes online by `touch`. One worker after the other ends when its requests are done,
    and is started anew; the others serve. Nobody is lost, and nobody waits for a slow page of
    somebody else's.
    """
    all_answer(site)
    wait, lost = reload_once(site, 1)
    # A machine that has much to do can be late for once. And uWSGI itself has a moment between a
    # visitor's connection and his request in which HUP ends a worker, and a busy machine makes it
    # longer. Who is lost because of a setting is lost each time.
    if wait > WAIT_SECONDS or lost:
        again, lost_again = reload_once(site, 2)
        wait, lost = min(wait, again), lost and lost_again
    if lost:
        raise Mismatch("an answer to every request", lost)
    if wait > WAIT_SECONDS:
        raise Mismatch(
            f"nobody waits longer than {WAIT_SECONDS} s",
            f"a page that takes a few milliseconds took {wait:.1f} s",
            f"All workers waited until the last of them had finished a page of {SLOW_PAGE} s."
            if len(workers(site)) > 1
            else "With a single process nobody is left to serve while it is replaced.",
            () if len(workers(site)) > 1 else (("uwsgi.ini", "processes"), ("uwsgi.ini", "master")),
        )


def new_instance(site, before):
    """What a worker calls itself that was not there before; "" when one of the old ones answers."""
    told = whoami(site)
    return "" if told["pid"] in before else told["instance"]


def reload_once(site, number):
    """Bring a new version online under load.

    Returns:
        The longest time that a visitor waited, in seconds; and what those heard who got no answer,
        "" when all did.
    """
    uwsgi = site.service("uwsgi")
    before = set(workers(site))
    old = (site.submitted("wsgi.py") or b"").decode("utf-8", "replace")
    version = f"the new version {number}"
    site.box.write(File(WSGI, (old + NEW.replace("the new version", version)).encode()))

    def visit():
        return site.get("/whoami", timeout=20).status_code

    with begin(site, f"/slow?seconds={SLOW_PAGE}") as slow, site.load(visit, 2) as results:
        site.box.write(File(RELOAD, version.encode()))
        begun = wait_for(lambda: not before <= set(uwsgi.workers()), BEGIN_SECONDS)
        if not begun and number > 1:
            # It passes over a touch that comes before the last reload has ended.
            site.box.write(File(RELOAD, version.encode()))
        # One after the other takes time. When half of them are gone, it goes on.
        gone = wait_for(
            lambda: 2 * len(before & set(uwsgi.workers())) <= len(before),
            25 if begun or number > 1 else 0,
        )
        answer = first_line(slow)
        ended = uwsgi.end()[0]
        new = wait_for(lambda: new_instance(site, before), 10) if ended is None else None
    site.exchanges.clear()  # of so many requests none is the one that failed
    if ended is not None:
        raise Mismatch("uWSGI goes on", f"it ended with status {ended}")
    if not gone:
        left = len(before & set(uwsgi.workers()))
        raise Mismatch(
            f"new workers in the place of the old ones, after a touch of {RELOAD}",
            f"{left} of {len(before)} old ones are still there",
        )
    if " 200" not in answer:
        raise Mismatch(f"the {SLOW_PAGE}-second request in flight gets its answer", answer)
    if new != version:
        raise Mismatch(
            "the new workers run the new version",
            "they run the old one" if new else "none of them answers",
            "The master has imported the app, and its workers are copies of it.",
            (("uwsgi.ini", "lazy-apps"), ("uwsgi.ini", "touch-")),
        )
    lost = [one for one in results if one.error or one.value != 200]
    heard = str(lost[0].error or f"status {lost[0].value}") if lost else ""
    told = f"{heard}, for {len(lost)} of {len(results)}" if lost else ""
    return max(one.seconds for one in results), told


@points(3)
@alone
@look_at(
    "uwsgi.ini", "unix_signal", "die-on-term", "worker-reload-mercy", "reload-mercy", "[uwsgi]"
)
@by_hand(f"{A_WORKER}; curl -i '{URL}/slow?seconds=3' & sleep 1; kill -TERM {MASTER}; wait")
def test_stop(site):
    """TERM lets a request in flight finish, and then ends uWSGI

    systemd stops a service with TERM. For uWSGI that means: start again, at once. With
    `die-on-term` it means: end, at once. Neither waits for a visitor.
    """
    uwsgi = site.service("uwsgi")
    all_answer(site)
    with begin(site, "/slow?seconds=3") as slow:
        uwsgi.signal(signal.SIGTERM)
        answer = first_line(slow)
    if " 200" not in answer:
        raise Mismatch("the 3-second request in flight gets its answer", answer)
    if uwsgi.wait_end(15) is None:
        raise Mismatch("then uWSGI ends", "it is still there after 15 s")


@points(3)
@alone
@needs(test_killed_worker)
@look_at("uwsgi.ini", "max-requests", "min-worker-lifetime", "[uwsgi]")
@by_hand(f"curl -s '{URL}/whoami?[1-4000]' | grep -o '\"pid\":[0-9]*' | sort | uniq -c")
def test_workers_are_renewed(site):
    """Workers are replaced within 3000 requests, not all at once

    A view that leaks a little memory kills the site after a week, unless workers are renewed.
    If all are renewed at the same request, nobody serves meanwhile.
    """
    uwsgi = site.service("uwsgi")
    answered = all_answer(site)
    # A mule of uWSGI's is a child of the master, too, and answers nobody.
    first, *others = [one for one in workers(site) if answered[one]]
    lives = [life(site, first, others, answered)]
    # The one that has taken its place, and all others but the last, wait. Limits rise from worker
    # to worker: the last one's is the highest, and tells how far apart all of them are.
    wait_for(lambda: set(uwsgi.workers()) - {first, *others}, 10)
    left = [one for one in others if one in uwsgi.workers()]
    if not left:
        return
    last = left[-1]
    uwsgi.signal(signal.SIGCONT, [last])
    lives.append(life(site, last, set(uwsgi.workers()) - {last}, answered))
    steps = others.index(last) + 1
    if abs(lives[1] - lives[0]) < DIFFERENCE * steps - not_counted(site):
        raise Mismatch(
            f"a limit for each worker, {DIFFERENCE} requests or more from the next one's",
            f"the first and the last of {steps + 1} workers"
            f" ended after {min(lives)} to {max(lives)} requests",
            "All workers start together, so they would end together too.",
            (("uwsgi.ini", "max-requests-delta"), ("uwsgi.ini", "max-requests")),
        )


def not_counted(site):
    """How many requests came before the count: nobody knows which worker answered those.

    While uWSGI starts it is asked whether it is ready; on a busy machine more than once.
    """
    site.service("uwsgi").thaw()
    count = asked_for(site, "/healthz")
    site.exchanges.clear()  # that one shows nothing of what the card is about
    return count


def too_long(text):
    """A note for the card of a worker that goes on."""
    if b"max-requests" not in text:
        return "Workers live for ever if you do not say `max-requests`."
    if b"min-worker-lifetime" not in text:
        return "No worker ends before it is 10 s old, unless `min-worker-lifetime` says so."
    return ""


def leave_alone(site, worker, others, answered):
    """Freeze all workers but one; count who answers until that one is alone.

    With `thunder-lock` one worker of all waits for the next visitor, and holds a lock meanwhile.
    When it is a frozen one, nobody serves: they go on for some requests, and it is another one.
    Not always for the same number: they may take turns.

    Raises:
        GraderError: it was always another one.
    """
    uwsgi = site.service("uwsgi")
    for _ in range(60):
        uwsgi.freeze(others)
        with site.connect(None) as visitor:
            visitor.sendall(second.ASK)
            visitor.settimeout(0.5)
            try:
                begin = visitor.recv(65536)
            except TimeoutError:
                begin = b""
                uwsgi.signal(signal.SIGCONT, others)
                visitor.settimeout(20)
            answer = begin
            while more := visitor.recv(65536):
                answer += more
        found = re.search(rb'"pid": *(\d+)', answer)
        answered[found and int(found[1])] += 1
        if begin:
            return
        answered.update(ask_pid(site) for _ in range(secrets.randbelow(4)))
    raise GraderError("among its workers frozen ones hold the door, one after the other")


def life(site, worker, others, answered):
    """Let one worker alone serve until it ends; how many requests it answered.

    A worker that was frozen just before it was done with a request is ended by `harakiri`. Who
    takes its place is frozen, too.
    """
    uwsgi = site.service("uwsgi")
    leave_alone(site, worker, others, answered)
    while worker in uwsgi.workers():
        for _ in range(20):
            who = ask_pid(site)
            answered[who] += 1
            if who != worker:
                uwsgi.freeze(set(uwsgi.workers()) - {worker})
                break
        if answered[worker] > MOST_REQUESTS:
            raise Mismatch(
                f"a new worker after at most {MOST_REQUESTS} requests",
                f"one worker has answered {answered[worker]}, and goes on",
                too_long(site.submitted("uwsgi.ini") or b""),
            )
    return answered[worker]

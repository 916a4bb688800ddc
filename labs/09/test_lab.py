"""Lab 09, failing gracefully: the checks. README.md says what each one asks for."""

import contextlib
import hashlib
import http.client
import json
import re
import secrets
import select
import time
from collections import Counter
from email.utils import parsedate
from functools import cache

from grader.board import ELSEWHERE, LOGIN, V6, WWW, claims_of, told_by, whoami
from grader.checks import alone, by_hand, look_at, needs, points
from grader.client import Exchange
from grader.commands import run
from grader.errors import GraderError, Mismatch
from grader.machine import File
from grader.sandbox import APP, ZONE
from grader.site import wait_for

PAGES = {code: (APP / "errors" / f"{code}.html").read_bytes() for code in (404, 413, 502, 503, 504)}
SWITCH = "/srv/board/maintenance.on"
OPERATOR = "127.0.0.1"
PROBLEM = "application/problem+json"
MB = 1_000_000
LATE = 5.9  # seconds; the README says 5, and a busy machine may be a little late
PATIENCE = 2.5  # seconds; the README says 2
TRIES = 3
AT_ONCE = 4.0  # seconds in which a crowd is connected: TLS takes its time
LONG = 20  # seconds; of a visitor who wants his answer whatever it takes
CROWD, FEW = 70, 12  # visitors at once: too many, and not too many
SERVED = 4  # of a crowd, at the least: there is room for the few
PROGRAMS, WRITERS = 8, 4  # that come right behind a crowd
HALF_SECOND = "/slow?seconds=0.5"
PAUSE = 5.1  # seconds
LINE = 1 << 20  # bytes a second: 1 MB/s, as lines are sold

# For the "by hand" lines: the box has neither ps nor pkill.
GUNICORNS = "$(grep -l gunicorn /proc/[0-9]*/comm | cut -d/ -f3)"
HOME = "http://board.example"
AS_VISITOR = "--interface 203.0.113.7"

KEEPS_METHOD = "A named location (@…) keeps the method, and nobody can POST to a file."


def described(reply):
    """What a body is, in a few words, for the card."""
    for code, page in PAGES.items():
        if reply.content == page:
            return f"the page errors/{code}.html"
    if not reply.content:
        return "an empty body"
    if b"<center>nginx" in reply.content:
        return "Nginx's own page"
    if reply.headers.get("X-Powered-By") == "Flask":
        return "an answer of the app's"
    return f"the text {reply.text[:60]!r}"


def check_page(reply, status, note="", places=()):
    """The reply is the given page of a status, with that status; anything else is a mismatch."""
    kind = reply.headers.get("Content-Type", "none").partition(";")[0]
    wanted = f"status {status}, with the page errors/{status}.html"
    got = f"status {reply.status_code}, with {described(reply)}"
    if reply.status_code == 500 and b"<center>nginx" in reply.content:
        note = "Nginx failed to get the error page, and then the one for that error: see the log."
        raise Mismatch(wanted, got, note, places)
    if reply.status_code != status:
        raise Mismatch(wanted, got, note, places)
    if reply.request.method != "HEAD" and reply.content != PAGES[status]:
        raise Mismatch(wanted, got, note, places)
    if kind != "text/html":
        raise Mismatch(f"{wanted}, as text/html", f"Content-Type: {kind}", note, places)


def check_problem(reply, status, places=()):
    """The reply is problem details (RFC 9457) of a status; anything else is a mismatch.

    `places` are likely lines when the status is another one.
    """
    wanted = f"status {status}, with problem details"
    if reply.status_code != status:
        got = f"status {reply.status_code}, with {described(reply)}"
        raise Mismatch(wanted, got, look_at=places)
    told = None
    with contextlib.suppress(ValueError):
        told = json.loads(reply.content)
    kind = reply.headers.get("Content-Type", "none").partition(";")[0].strip()
    if kind != PROBLEM:
        got = f"{kind}: {described(reply)}"
        if told:
            type_of = [("nginx.conf", "default_type"), ("nginx.conf", "return 200 '")]
            raise Mismatch(f"{wanted}, as {PROBLEM}", got, "The body is JSON already.", type_of)
        apart = [one for one in places if one in ELSEWHERE]
        raise Mismatch(f"{wanted}, as {PROBLEM}", got, look_at=apart)
    if reply.request.method == "HEAD":
        return
    title = told.get("title") if isinstance(told, dict) else None
    if not title or not isinstance(title, str) or told.get("status") != status:
        raise Mismatch(f'JSON with a title, and "status": {status}', described(reply))


def check_retry_after(reply):
    """The reply says when to come back: seconds, or a date."""
    told = reply.headers.get("Retry-After", "")
    if not (told.isdecimal() and int(told)) and not parsedate(told):
        raise Mismatch(
            "Retry-After, in seconds or as a date",
            told or "none",
            "`add_header` leaves errors alone, unless it says `always`; and it has to stand where "
            "`error_page` leads, not where the error arose.",
            [("nginx.conf", "Retry-After"), ("nginx.conf", "error_page 503")],
        )


@contextlib.contextmanager
def maintenance(site):
    """Maintenance is on while the block runs; if it is not at once, that is a mismatch."""
    site.box.write(File(SWITCH, b""))
    try:
        status = site.get("/").status_code
        if status != 503:
            raise Mismatch(f"status 503 from now on: {SWITCH} is there", f"status {status}")
        yield
    finally:
        site.box.remove(SWITCH)


@cache
def outage(site):
    """Kill the app, ask for this and that, start it again.

    Returns:
        An exchange, and the reply or the error that came of it, by label.
    """
    seen = {}

    def ask(label, method, path, **options):
        try:
            came = site.request(method, path, **options)
        except OSError as error:
            came = error
        seen[label] = site.exchanges[-1], came

    gunicorn = site.service("gunicorn")
    gunicorn.kill()
    try:
        ask("page", "GET", "/")
        ask("another page", "GET", "/notices/1?a=1")
        # Each path once: the card shows the log's line for it.
        ask("www", "GET", "/notices/2", host="www.board.example")
        ask("IPv6", "GET", "/notices/3", family=6)
        ask("HEAD", "HEAD", "/notices/4")
        ask("POST", "POST", "/login", data={"name": "ada"})
        ask("API", "GET", "/api/notices")
        ask("API, www", "GET", "/api/notices/2", **WWW)
        ask("API, IPv6", "GET", "/api/notices/3", **V6)
        ask("missing file", "GET", "/static/none.css")
        site.box.write(File(SWITCH, b""))
        ask("maintenance", "GET", "/")
        ask("API, maintenance", "GET", "/api/notices/4")
    finally:
        site.box.remove(SWITCH)
        gunicorn.start()
    wait_for(lambda: site.get("/").status_code == 200, PATIENCE)
    ask("back", "GET", "/")
    return seen


def during_outage(site, label):
    """A reply of the outage, which the card then shows."""
    exchange, came = outage(site)[label]
    site.record(exchange)
    if isinstance(came, OSError):
        raise came
    return came


def show_crowd(site, path, count, method="GET", **headers):
    """Let the card show that many came at once; each has a line in the log, so none is shown."""
    target = f"{path}, {count} times"
    site.record(Exchange(method, target, f"{count} visitors at once", HOME + path, headers))


class Answer:
    """What came back on a connection of one's own; made to be checked like a reply.

    Raises:
        Mismatch: the connection ended before a whole answer had come.
    """

    def __init__(self, connection, method="GET"):
        connection.settimeout(LONG)
        try:
            told = http.client.HTTPResponse(connection, method=method)
            told.begin()
            self.content = told.read()
        except TimeoutError:
            raise Mismatch("a whole answer", f"nothing more within {LONG} s") from None
        except (OSError, http.client.HTTPException) as error:
            said = getattr(error, "strerror", None) or "the connection ended"
            raise Mismatch("a whole answer", said) from None
        self.status_code = told.status
        self.headers = told.headers
        self.text = self.content.decode("utf-8", "replace")
        self.request = Exchange(method, "", "", "")


def request(target, method="GET", host=ZONE, **headers):
    """The head of a request, as bytes."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def chunk(data):
    """A piece of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@points(2)
@look_at("nginx.conf", "proxy_pass", "listen", "server")
def test_site_answers(site):
    """Nginx answers on port 80, and pages come from the app

    All that follows is about the day on which it does not.
    """
    assert (site.port_owner(80) or "nobody") == "nginx", "Nginx listens on port 80"
    assert whoami(site)["instance"] == site.instance, "the app itself must answer"
    for path in ("/", "/api/notices"):
        assert site.get(path).status_code == 200, f"the app's {path}"


@points(3)
@look_at(
    "nginx.conf", "proxy_intercept_errors", "error_page 404 500", "error_page 500", "error_page",
    "proxy_pass",
)  # fmt: skip
@by_hand(
    f"chmod 0 /var/lib/board/*.requests; for p in no/such/page crash api/notices/99 stats; do "
    f"curl -si {HOME}/$p | sed -n '1p;/sentence/p;/<h1>/,/<p>/p;/^{{/p'; done"
)
def test_own_errors(site):
    """What the app says about its own errors stays as it is

    The app knows more: which notice is missing, what to do next. Only where it has said nothing
    is there something to add.
    """
    counts = site.service("gunicorn").env["BOARD_DATABASE"] + ".requests"
    cases = {
        "/no/such/page": (404, b"This notice board has no such page."),
        "/api/notices/999999": (404, b'"There is no such notice."'),
        "/crash": (500, b"Something broke on our side."),
        "/slow?seconds=no": (400, b"The parameter seconds must be a number"),
        "/stats": (503, b"The file of counts cannot be opened."),
    }
    site.box.write(File(counts, b"", 0o000))
    try:
        for options, places in (({}, ()), (WWW, ELSEWHERE)):
            for path, (status, sentence) in cases.items():
                check_words(site.get(path, **options), status, sentence, places)
    finally:
        site.box.remove(counts)
    if site.box.real:  # where nothing can be run beside the services
        return
    database = site.service("gunicorn").env["BOARD_DATABASE"]
    run(site, ["chmod", "0", database])
    try:
        # A query that nobody had: where there is a cache, it has no old answer.
        check_words(
            site.get(f"/api/notices?{secrets.token_hex(8)}"), 500, b'"Internal Server Error"'
        )
    finally:
        run(site, ["chmod", "640", database])


def check_words(reply, status, sentence, places=()):
    """The reply is an error of the app's, in its words; anything else is a mismatch."""
    if reply.status_code != status or sentence not in reply.content:
        raise Mismatch(
            f"status {status}, and the app's words: {sentence.decode()}",
            f"status {reply.status_code}, with {described(reply)}",
            look_at=places,
        )


@cache
def lateness(site):
    """Ask for a page that hangs, and for one that takes 3 s, at once.

    Returns:
        An exchange, and what came of it, by path.
    """
    calls = {
        "/hang": lambda: site.get("/hang", timeout=LATE),
        "/slow?seconds=3": lambda: site.get("/slow?seconds=3", timeout=20),
    }
    seen = {}
    for path, one in zip(calls, site.together([*calls.values()]), strict=True):
        site.show_on_card(path)
        seen[path] = site.exchanges[-1], one
    return seen


@points(3)
@look_at(
    "nginx.conf", "proxy_read_timeout", "error_page 504", "504", "proxy_next_upstream",
    "server localhost", "proxy_pass",
)  # fmt: skip
@by_hand(f"for p in hang 'slow?seconds=3'; do curl -si -w '%{{time_total}} s\\n' {HOME}/$p; done")
def test_hang(site):
    """A page that hangs gives 504 within 5 s, a slow one is served

    A visitor waits some seconds. Nginx by itself waits for a minute, and keeps the visitor and a
    place in the app for as long.
    """
    exchange, slow = lateness(site)["/slow?seconds=3"]
    site.record(exchange)
    if slow.error:
        raise Mismatch("the page that takes 3 s", str(slow.error))
    if slow.value.status_code != 200:
        status = slow.value.status_code
        by_nginx = [("nginx.conf", "proxy_read_timeout"), ("nginx.conf", "proxy_pass")]
        raise Mismatch(
            "the page that takes 3 s, with status 200",
            f"status {status}",
            "Nginx has given up too early."
            if status == 504
            else "Gunicorn has given up too early.",
            by_nginx if status == 504 else [("gunicorn.conf.py", "timeout")],
        )
    exchange, hanging = lateness(site)["/hang"]
    site.record(exchange)
    if hanging.error or hanging.seconds > LATE:
        note = (
            "Nginx waits for 60 s, unless it is told otherwise, and waits as long again for each "
            "further server of the upstream."
        )
        raise Mismatch("status 504 within 5 s", "no answer in that time", note)
    note = ""
    if hanging.value.status_code == 502:
        note = (
            "Nginx went on to another server of the upstream, and that one refused. A name such as "
            "localhost stands for two: 127.0.0.1 and ::1."
        )
    check_page(hanging.value, 504, note)
    reply = site.get("/")
    if reply.status_code != 200:
        raise Mismatch(
            "status 200 for the next visitor: one page hangs, not the site",
            f"status {reply.status_code}, with {described(reply)}",
        )


@points(4)
@look_at("nginx.conf", "502 =200", "error_page 502", "502", "error_page", "proxy_pass")
@by_hand(f"kill -9 {GUNICORNS}; curl -i {HOME}/; curl -i -d name=ada {HOME}/login")
def test_app_down(site):
    """While the app is down, visitors see our 502 page

    Nginx's own is a line of English with a version under it. Ours says whose fault it is, and
    what to do; it comes from the disk, because the app cannot send it.
    """
    notes = {
        "HEAD": "HEAD asks for the head of what GET would get.",
        "POST": KEEPS_METHOD,
    }
    for label in ("page", "another page", "www", "IPv6", "HEAD", "POST"):
        places = [("nginx.conf", "www.board.example")] if label == "www" else []
        check_page(during_outage(site, label), 502, notes.get(label, ""), places)
    reply = during_outage(site, "back")
    if reply.status_code != 200:
        got = f"status {reply.status_code}, with {described(reply)}"
        raise Mismatch("the page, within 2 s of the app's return", got)


@points(2)
@look_at("nginx.conf", "limit_conn ", "max_conns", "limit_req ", "limit_conn_zone")
@by_hand(
    f"for p in slow api/notices; do for i in $(seq {FEW}); do "
    f"curl -so /dev/null -w '%{{http_code}}\\n' {HOME}/$p & done; wait; done"
)
def test_twelve_at_once(site):
    """Twelve visitors at once are all served

    Eight are worked on, four wait for a moment. A limit is for a crowd, not for an ordinary
    Monday.
    """
    for path in ("/slow?seconds=0.4", "/api/notices"):
        statuses = few(site, path)
        if set(statuses) != {200}:
            # Short answers take no places; it is their rate that may be limited.
            limits = ("limit_req ", "limit_conn ", "max_conns") if path == "/api/notices" else ()
            lines = [("nginx.conf", text) for text in limits]
            raise Mismatch(f"status 200 for all {FEW}", told(statuses), look_at=lines)


def few(site, path):
    """Some visitors at once, each from an address of his own: how many had which status."""
    calls = [
        lambda source=f"203.0.113.{number + 10}": site.get(path, source=source, timeout=20)
        for number in range(FEW)
    ]
    done = site.together(calls)
    show_crowd(site, path, FEW)
    return Counter("no answer" if one.error else one.value.status_code for one in done)


def told(statuses):
    """Which statuses there were, in words; how many of each would vary from run to run."""
    names = [f"status {one}" if isinstance(one, int) else one for one in statuses]
    if len(names) == 1:
        return f"{names[0]} for all"
    return " and ".join(f"{name} for some" for name in sorted(names))


@points(4)
@look_at(
    "nginx.conf", "open_file_cache", "return 30", "maintenance", "error_page 503", "503",
    "location / ",
)  # fmt: skip
@by_hand(f"touch maintenance.on; curl -i {AS_VISITOR} {HOME}/; rm maintenance.on")
def test_maintenance(site):
    """A file turns maintenance on, and off again

    No reload, no editing at two in the morning: touch the file, do the work, remove it. 503 with
    Retry-After tells search engines that the pages are not gone.
    """
    cases = [("GET", "/", {}), ("GET", "/notices/1", {}), ("GET", "/whoami", {})]
    cases += [("GET", "/", {"host": "www.board.example"}), ("GET", "/", {"family": 6})]
    cases += [("HEAD", "/", {}), ("POST", "/login", {"data": {"name": "ada"}})]
    # Locations that people give a block of their own, and visitors who are logged in.
    cases += [("POST", "/upload", {"data": b"a photo"}), ("GET", "/healthz", {})]
    cases += [("GET", "/stream", {})]
    cases += [("GET", "/account", {"headers": {"Cookie": "session=ada"}})]
    with maintenance(site):
        for method, path, options in cases:
            reply = site.request(method, path, **options)
            check_page(reply, 503)
            check_retry_after(reply)
    reply = during_outage(site, "maintenance")
    check_page(reply, 503, "The app is down, as it often is during maintenance.")
    status = site.get("/").status_code
    if status != 200:
        raise Mismatch("status 200 again: the file is gone", f"status {status}")


@points(2)
@needs(test_maintenance)
@look_at("nginx.conf", "real_ip", OPERATOR, "geo", "http_x_", "maintenance.on")
@by_hand(
    f"touch maintenance.on; for who in 127.0.0.1 203.0.113.7; do curl -si --interface $who -H "
    f"'X-Forwarded-For: 127.0.0.1' {HOME}/whoami | head -1; done; rm maintenance.on"
)
def test_operator(site):
    """During maintenance the operator sees the site, nobody else

    Somebody has to try it before the doors open again. That somebody comes from the server itself
    is no matter of a header: a visitor writes what he likes into those.
    """
    with maintenance(site):
        for options in ({}, WWW):
            reply = site.get("/whoami", source=OPERATOR, **options)
            if reply.status_code != 200 or told_by(reply).get("instance") != site.instance:
                got = f"status {reply.status_code}, with {described(reply)}"
                raise Mismatch(f"the app's page, for {OPERATOR}", got)
        # Here, too, locations that people give a block of their own.
        for method, path in (("GET", "/api/notices"), ("GET", "/login"), ("POST", "/upload")):
            reply = site.request(method, path, source=OPERATOR)
            if reply.status_code != 200:
                got = f"status {reply.status_code}, with {described(reply)}"
                start = path.removesuffix("/notices")
                lines = [("nginx.conf", f"location {how}{start}") for how in ("", "^~ ", "= ")]
                raise Mismatch(f"the app's answer, for {OPERATOR}", got, look_at=lines)
        for host in ("localhost", OPERATOR):
            with contextlib.suppress(OSError):  # to hang up on strangers is fine
                if site.instance in site.get("/whoami", host=host).text:
                    raise Mismatch(
                        "status 503: it is a visitor, whatever the header Host says",
                        "the app's page",
                        look_at=[("nginx.conf", "localhost")],
                    )
        for headers in claims_of(OPERATOR):
            reply = site.get("/whoami", headers=headers)
            if reply.status_code < 400:
                raise Mismatch(
                    "status 503: it is a visitor, whatever the header says",
                    f"status {reply.status_code}",
                )


@points(3)
@look_at("nginx.conf", "client_max_body_size", "error_page 413", "413", "error_page", "proxy_pass")
@by_hand(
    f"head -c 11000000 /dev/zero > /tmp/x; for h in Expect: 'Transfer-Encoding: chunked'; do "
    f"curl -si -H \"$h\" --data-binary @/tmp/x {HOME}/upload | sed -n '1p;/<h1>/p'; done"
)
def test_too_large(site):
    """What is too large gets our 413 page

    A visitor who sent a film wants to know why it did not work, and how much would. A limit that
    only believes Content-Length is none: a chunked body does not say how long it will be.
    """
    in_chunks = (bytes(MB) for _ in range(11))
    form = {"file": ("film.mp4", bytes(11 * MB))}
    for body, note in (
        ({"data": bytes(11 * MB)}, ""),
        ({"data": in_chunks}, "This body came in chunks."),
        ({"files": form}, ""),
        ({"data": bytes(11 * MB), **WWW}, ""),
        ({"data": bytes(11 * MB), **V6}, ""),
    ):
        try:
            reply = site.post("/upload", **body)
        except OSError:
            raise Mismatch(
                "status 413, with the page errors/413.html",
                "the connection ended before the answer could be read",
                look_at=[("nginx.conf", "lingering"), ("nginx.conf", "client_max_body_size")],
            ) from None
        check_page(reply, 413, note, ELSEWHERE if "host" in body or "family" in body else ())


@points(2)
@look_at("nginx.conf", "lingering", "client_max_body_size")
@by_hand(
    f"head -c 11000000 /dev/zero | curl -i -H Expect: --data-binary @- {HOME}/upload | head -1"
)
def test_closed_properly(site):
    """The refusal arrives at visitors who are still sending

    A browser sends all of its file before it reads. If Nginx hangs up meanwhile, the browser
    shows "connection reset", and our page is lost.
    """
    url = f"{HOME}/upload"
    for how in ({"Content_Length": 11 * MB}, {"Transfer_Encoding": "chunked"}):
        chunked = "Transfer_Encoding" in how
        sent_as = "11 MB in chunks" if chunked else "11 MB"
        site.record(Exchange("POST", "/upload", f"203.0.113.7, {sent_as}", url))
        with site.connect() as visitor:
            try:
                visitor.sendall(request("/upload", "POST", **how))
                for _ in range(110):
                    piece = bytes(MB // 10)
                    visitor.sendall(chunk(piece) if chunked else piece)
                if chunked:
                    visitor.sendall(chunk(b""))
            except OSError:
                raise Mismatch(
                    "Nginx reads on to the end, and then closes",
                    "the connection was gone before all was sent",
                ) from None
            Answer(visitor, "POST")  # what it says is another check's matter


@points(2)
@look_at("nginx.conf", "client_max_body_size", "proxy_pass")
@by_hand(f"head -c 10000000 /dev/zero | curl -i --data-binary @- {HOME}/upload")
def test_ten_megabytes(site):
    """Uploads of up to 10 MB arrive whole

    Nginx by itself refuses anything above 1 MB, and the photo of any telephone is larger.
    """
    data = bytes(range(250)) * (10 * MB // 250)
    check_arrived(site.post("/upload", data=data), data)
    pieces = (data[at : at + MB] for at in range(0, len(data), MB))
    check_arrived(site.post("/upload", data=pieces), data)
    for options in (WWW, V6):
        check_arrived(site.post("/upload", data=data, **options), data, ELSEWHERE)


def check_arrived(reply, data, places=()):
    """The app has got these bytes; anything else is a mismatch, with likely lines for a refusal."""
    size = f"{len(data) / MB:g} MB"
    if reply.status_code != 200:
        got = f"status {reply.status_code}, with {described(reply)}"
        raise Mismatch(f"status 200, and the app has the {size}", got, look_at=places)
    arrived = json.loads(reply.content)
    wanted = {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if {key: arrived.get(key) for key in wanted} != wanted:
        raise Mismatch(f"all {len(data)} bytes", f"{arrived.get('length')} bytes, or other ones")


def wait_until(due, connections, what):
    """Wait for a moment of the clock; an answer before it is a mismatch: not all was sent."""
    while (left := due - time.monotonic()) > 0:
        early, _, _ = select.select(connections, [], [], left)
        if early:
            line = early[0].recv(4096).split(b"\r\n")[0].decode("latin-1")
            raise Mismatch(
                f"uploads that go on: {what}",
                line or "the connection was closed in the middle of one",
                look_at=[("nginx.conf", "client_max_body_size")] if " 413 " in line else (),
            )


def send(connection, data):
    """Send a piece of a body; what the other side has closed is a mismatch."""
    try:
        connection.sendall(data)
    except OSError as error:
        raise Mismatch("an upload that goes on", error.strerror or str(error)) from None


@points(1)
@look_at("nginx.conf", "try_files", "error_page 404", "location /static")
@by_hand(f"curl -i {HOME}/static/none.css")
def test_missing_file(site):
    """A file that is not there gives our 404 page

    Nginx answers for files, so the app's page about missing pages does not help here.
    """
    # With an ending that a pattern may have, and without.
    for path in ("/static/none.css", "/static/img/none.png", "/static/none.pdf", "/static/none"):
        check_page(site.get(path), 404)
    for options in (WWW, V6):
        check_page(site.get("/static/none.css", **options), 404, places=ELSEWHERE)
    check_page(site.head("/static/none.css"), 404)
    check_page(during_outage(site, "missing file"), 404, "The app is down. Files are not its own.")


@points(1)
@look_at("nginx.conf", "location /errors", "location = /errors", "errors")
@by_hand(f"for n in 404 502 503; do curl -si {HOME}/errors/$n.html | head -1; done")
def test_hidden_pages(site):
    """The error pages have no address of their own

    Asked for directly, a page that says 502 would come with status 200: search engines would
    list it, and a monitor would call it well.
    """
    paths = [f"/errors/{code}.html" for code in PAGES] + ["/errors/", "//errors/502.html"]
    paths += ["/%65rrors/502.html", "/static/../errors/502.html", "/errors/none.html"]
    # What the lesson calls the others, and what they may be called.
    paths += ["/errors/problem", "/errors/no-answer", "/errors/problem.json", "/errors/502.json"]
    cases = [(path, {}) for path in paths] + [(paths[0], WWW), (paths[0], V6)]
    for path, options in cases:
        reply = site.get(path, **options)
        if reply.status_code != 404:
            got = f"status {reply.status_code}, with {described(reply)}"
            texts = (f"location = {path}", "location /errors", "location = /errors", "errors")
            lines = [("nginx.conf", text) for text in texts]
            raise Mismatch("status 404", got, look_at=ELSEWHERE if options else lines)


# What tells a stranger where to go on, and the lines that it may come from.
LEAKS = {
    "a version": (
        rb"(?i)(?:nginx|gunicorn|werkzeug|python|flask)/\d[\d.]*",
        ("server_tokens", "$nginx_version", "server {"),
    ),
    "a path of the server": (
        rb"/(?:srv|etc|var|usr|run)/[\w./-]*",
        ("$request_filename", "$document_root", "return", "server {"),
    ),
    "an address within": (
        rb"127\.0\.0\.1|\[::1\]|localhost|[\w/.-]+\.sock\b",
        ("add_header X-", "$upstream_addr", "$proxy_host", "proxy_pass"),
    ),
    "the name of what stands behind": (
        # In a body, the words around it, as they stand in the file.
        rb"(?im)^server:.*(?:python|flask).*$|^[\w-]+:.*(?:gunicorn|werkzeug).*$"
        rb"|[\w -]*(?:gunicorn|werkzeug)[\w -]*",
        ("proxy_pass_header", "proxy_pass"),
    ),
    "a header about the upstream": (
        rb"(?im)^[\w-]*(?:upstream|backend)[\w-]*:.*$",
        ("add_header X-", "add_header", "proxy_pass"),
    ),
}
BROKEN = {
    "GET /none\x00 HTTP/1.1": b"GET /none\x00 HTTP/1.1\r\nHost: board.example\r\n\r\n",
    "GET /static/ HTTP/9.9": b"GET /static/ HTTP/9.9\r\nHost: board.example\r\n\r\n",
    "a line of 10 KB": request("/" + "x" * 10_000, Connection="close"),
    "a header of 40 KB": request("/", X_Large="x" * 40_000, Connection="close"),
}


@points(2)
@look_at("nginx.conf", "server_tokens", "server {")
@by_hand(f"kill -9 {GUNICORNS}; for p in '' static/none api/notices; do curl -i {HOME}/$p; done")
def test_leaks(site):
    """No error tells what the server is made of

    A version says which holes to try, a path or an address where. To an honest visitor they say
    nothing.
    """
    labels = ("page", "API", "missing file", "maintenance", "API, maintenance")
    for exchange, _ in (*map(outage(site).get, labels), lateness(site)["/hang"]):
        site.record(exchange)
        check_leaks(bytes(exchange.received))
    for method, path in (
        *(("GET", "/no/such/page"), ("GET", "/static/none.css"), ("GET", "/static/")),
        *(("POST", "/static/style.css"), ("GET", "/errors/502.html"), ("GET", "/crash")),
        ("GET", "/api/notices/999999"),
    ):
        site.request(method, path)
        check_leaks(bytes(site.exchanges[-1].received))
    for path, options in (("/static/none.css", WWW), ("/static/none.css", V6)):
        site.get(path, **options)
        check_leaks(bytes(site.exchanges[-1].received))
    for path in ("/upload", "/api/notices"):
        site.post(path, data=bytes(11 * MB))
        check_leaks(bytes(site.exchanges[-1].received))
    for name, sent in BROKEN.items():
        site.record(Exchange("GET", "/", f"203.0.113.7: {name}", f"{HOME}/"))
        received = bytearray()
        with site.connect() as visitor, contextlib.suppress(OSError):
            visitor.sendall(sent)
            while data := visitor.recv(65536):
                received += data
        check_leaks(bytes(received))


def check_leaks(received):
    """Nothing in a reply, head or body, is of use to an attacker alone."""
    for what, (pattern, texts) in LEAKS.items():
        found = re.search(pattern, received)
        if found:
            body = b"\r\n\r\n" in received[: found.start()]
            leak = found[0].decode("latin-1").strip()
            line = received[: found.end()].rpartition(b"\n")[2].decode("latin-1")
            # Words of the learner's own stand in the file; an address comes from a variable.
            source = leak if body and " " in leak else f"add_header {line.partition(':')[0]}"
            raise Mismatch(
                "an answer without versions, paths, and names of what stands behind",
                f"{what}, {'in the body' if body else 'in the head'}: {leak}",
                look_at=[("nginx.conf", text) for text in (source, *texts)],
            )


@points(2)
@needs(test_twelve_at_once)
@look_at("nginx.conf", "proxy_ignore_client_abort", "limit_conn ", "max_conns", "proxy_pass")
@by_hand(
    f"for i in $(seq {FEW}); do curl -m 1 -so /dev/null '{HOME}/slow?seconds=3' & done; wait; "
    f"for i in $(seq {FEW}); do curl -so /dev/null -w '%{{http_code}}\\n' {HOME}/whoami & done; "
    "wait"
)
def test_gone_visitors(site):
    """Visitors who go away leave their places to others

    People close the tab, trains enter tunnels. What they had asked for is no longer of use to
    anybody, and must not count as if they were still there.
    """
    begun = {
        request("/slow?seconds=0.8"): FEW,
        request("/upload", "POST", Content_Length=8 * MB) + bytes(MB // 10): 6,
        request("/upload", "POST", Transfer_Encoding="chunked") + chunk(bytes(1000)): 6,
        b"GET /whoami HTTP/1.1\r\nHost: board": 6,
        request("/big?kb=3000"): 3,
    }
    with contextlib.ExitStack() as opened:
        gone = []
        for sent, count in begun.items():
            for number in range(count):
                visitor = site.connect(f"203.0.113.{number + 10}", receive_buffer=4096)
                gone.append(opened.enter_context(visitor))
                visitor.sendall(sent)
        site.wait_read(gone, or_closed=True)
    for _ in range(4):  # by now Nginx has seen them go
        site.get("/static/style.css")
    # The app may be late, 504: it does not notice who has gone. That is no matter of places.
    others = set(few(site, "/whoami")) - {200, 504}
    if others:
        note = "Nginx lets the app finish what nobody waits for, and counts it meanwhile."
        got = told(dict.fromkeys([*others, 200]))
        raise Mismatch(f"status 200 for {FEW} others", got, note if 503 in others else "")


@points(4)
@alone
@look_at(
    "nginx.conf", "client_body_timeout", "proxy_request_buffering", "send_timeout",
    "client_max_body_size", "limit_rate", "proxy_pass",
)  # fmt: skip
@by_hand(
    f"(head -c 500000 /dev/zero; sleep 5; head -c 500000 /dev/zero) | curl -iT - -X POST "
    f"{HOME}/upload & sleep 2; curl -s {HOME}/stats | grep -o '\"/upload[^,}}]*'; wait"
)
def test_slow_uploads(site):
    """Uploads on a slow line arrive, and hold no worker

    8 MB from a train take seconds, and in a tunnel nothing comes at all. Nginx can wait for
    hundreds of such visitors. The app has eight places.
    """
    line = [bytes([number]) * MB for number in range(8)]
    half = bytes(range(200)) * 1000
    with contextlib.ExitStack() as opened:
        slow, paused, chunked = (opened.enter_context(site.connect()) for _ in range(3))
        begun = Exchange("POST", "/upload", "203.0.113.7, 8 MB at 1 MB/s", f"{HOME}/upload")
        site.record(begun)
        slow.sendall(request("/upload", "POST", Content_Length=8 * MB))
        paused.sendall(request("/upload", "POST", Content_Length=2 * len(half), **WWW) + half)
        chunked.sendall(request("/upload", "POST", Transfer_Encoding="chunked") + chunk(half))

        def heard():
            counts = told_by(site.get("/stats"))["paths"]
            if counts.get("/upload"):
                raise Mismatch(
                    "the app is asked when all of an upload has come",
                    "it was asked before, and a worker waits for the rest",
                    look_at=[("nginx.conf", "proxy_request_buffering")],
                )

        plan = [(number * MB / LINE, slow, piece) for number, piece in enumerate(line)]
        plan += [(PAUSE - 0.1, None, b"")]
        plan += [(PAUSE, paused, half), (PAUSE, chunked, chunk(half) + chunk(b""))]
        started = time.monotonic()
        waiting = [slow, paused, chunked]
        for due, who, piece in sorted(plan, key=lambda one: one[0]):
            wait_until(started + due, waiting, "8 MB at 1 MB/s, and two that pause for 5 s")
            if who is None:
                heard()
                continue
            send(who, piece)
            if due == PAUSE:
                waiting.remove(who)
        for who in (paused, chunked):
            check_arrived(Answer(who, "POST"), half * 2)
        site.record(begun)
        check_arrived(Answer(slow, "POST"), b"".join(line))


@points(4)
@alone
@look_at(
    "nginx.conf", "limit_conn ", "max_conns", "limit_req ", "limit_conn_zone", "server 127",
    "proxy_pass",
)  # fmt: skip
@by_hand(
    f"for i in $(seq {CROWD}); do curl -so /dev/null --interface 203.0.113.$i "
    f"-w '%{{http_code}}\\n' '{HOME}{HALF_SECOND}' & done | sort | uniq -c"
)
def test_overload(site):
    """Of a crowd, those for whom there is no room hear so at once

    Without a limit all of them wait, most of them for longer than they have patience for. 503
    with Retry-After costs next to nothing, and says when to come back.
    """
    for _ in range(TRIES):
        late = []
        try:
            check_overload(site, late)
        except Mismatch:
            if not late:
                raise
        else:
            return
    raise GraderError("this machine is too busy to let a crowd come at once")


def check_overload(site, late):
    """A crowd comes, and behind it others; whoever finds no room hears so.

    Whether they really came at once, `late` tells: of those who are connected and say nothing Nginx
    may have enough after seconds, which pass before a busy machine has connected all of them.
    """
    show_crowd(site, HALF_SECOND, CROWD)
    with contextlib.ExitStack() as opened:
        numbers = iter(range(10, 250))

        def connected(*counts):
            begun = time.monotonic()
            sources = [[f"203.0.113.{next(numbers)}" for _ in range(count)] for count in counts]
            made = [[opened.enter_context(site.connect(one)) for one in some] for some in sources]
            if time.monotonic() - begun > AT_ONCE:
                late.append(True)
            return made

        crowd, programs, writers = connected(CROWD, PROGRAMS, WRITERS)
        # All are connected already: the requests come within a moment.
        for one in crowd:
            one.sendall(request(HALF_SECOND, Connection="close"))
        # Somebody was refused, so all places are taken, for half a second.
        select.select(crowd, [], [], 20)
        for one in programs:
            # A query that nobody had: where there is a cache, it has no answer to it.
            one.sendall(request(f"/api/notices?{time.monotonic_ns()}", Connection="close"))
        for one in writers:
            one.sendall(request("/upload", "POST", Content_Length=1, Connection="close") + b"x")
        (by_www,) = connected(CROWD)
        for one in by_www:
            with contextlib.suppress(OSError):  # one refusal is enough
                one.sendall(request(HALF_SECOND, Connection="close", **WWW))
        refused_by_www = first_refusal(by_www)
        pages = [Answer(one) for one in crowd]
        data = [Answer(one) for one in programs]
        written = [Answer(one, "POST") for one in writers]
    statuses = Counter(one.status_code for one in pages)
    # One who was let in may yet have waited too long.
    others = set(statuses) - {200, 503, 504}
    if others:
        note = "502 is for an app that is down. To `max_conns`, no room is the same as no server."
        got = told(dict.fromkeys([*others, 200]))
        wanted = f"status 200 or 503 for each of {CROWD}"
        lines = [("nginx.conf", f"limit_{one}_status") for one in ("conn", "req")]
        raise Mismatch(wanted, got, note if 502 in others else "", lines if 429 in others else ())
    if not statuses[503]:
        raise Mismatch(
            f"status 503 for some of {CROWD} who come at once",
            "nobody is refused",
            "All of them wait in the app's queue, the last ones for more than 4 s.",
        )
    if statuses[200] < SERVED:
        raise Mismatch(f"status 200 for {SERVED} of {CROWD} at the least", told(statuses))
    for one in pages:
        if one.status_code == 503:
            check_page(one, 503)
            check_retry_after(one)
    for one in data:
        if one.status_code == 503:
            show_crowd(site, "/api/notices", PROGRAMS)
            check_problem(one, 503)
            check_retry_after(one)
    for one in written:
        if one.status_code not in (200, 504):
            show_crowd(site, "/upload", WRITERS, "POST")
            check_page(one, 503, KEEPS_METHOD)
            check_retry_after(one)
    show_crowd(site, HALF_SECOND, CROWD, Host=WWW["host"])
    if not refused_by_www:
        wanted = f"status 503 for some of {CROWD} who come at once"
        raise Mismatch(wanted, "nobody is refused", look_at=ELSEWHERE)
    check_page(refused_by_www, 503, places=ELSEWHERE)
    check_retry_after(refused_by_www)
    # The app may still work for those who were told 504.
    if not wait_for(lambda: site.get("/").status_code == 200, 10):
        raise Mismatch("a page, when the crowd has gone", f"status {site.get('/').status_code}")


def first_refusal(crowd):
    """The first 503 that comes to one of a crowd; None when all were told otherwise.

    The others need not wait for their answers.
    """
    waiting = list(crowd)
    while waiting:
        ready, _, _ = select.select(waiting, [], [], LONG)
        for one in ready or waiting[:1]:
            waiting.remove(one)
            with contextlib.suppress(Mismatch):  # who was slow to ask may have no answer
                answer = Answer(one)
                if answer.status_code == 503:
                    return answer
    return None


@points(4)
@alone
@needs(test_maintenance)
@look_at("nginx.conf", "$http_accept", "map $uri", "/api", PROBLEM, "error_page", "proxy_pass")
@by_hand(
    f"touch maintenance.on; curl -i {AS_VISITOR} {HOME}/api/notices; rm maintenance.on; "
    f"kill -9 {GUNICORNS}; curl -i {HOME}/api/notices"
)
def test_problems(site):
    """Below /api/, errors are problem details in JSON

    A program cannot read a page. It looks for JSON, finds a `<` and reports that, and nobody
    learns that the server was down. What is asked for decides; a program's Accept says `*/*`.
    """
    size = [("nginx.conf", "client_max_body_size"), ("nginx.conf", "error_page 413")]
    # What the app would take, were it smaller: one that refuses at once leaves the rest unread.
    who = {"auth": tuple(LOGIN.values()), "headers": {"Content-Type": "application/json"}}
    for options, places in (({}, size), (WWW, (*ELSEWHERE, *size))):
        reply = site.post("/api/notices", data=bytes(11 * MB), **who, **options)
        check_problem(reply, 413, places)
    with maintenance(site):
        for method in ("GET", "POST", "HEAD"):
            reply = site.request(method, "/api/notices")
            check_problem(reply, 503, [("nginx.conf", "location /api"), ("nginx.conf", "maint")])
            check_retry_after(reply)
        for options in (WWW, V6):
            check_problem(site.get("/api/notices", **options), 503, ELSEWHERE)
    gunicorn = site.service("gunicorn")
    gunicorn.freeze()
    try:
        late = site.together(
            [
                lambda: site.get("/api/notices", timeout=LATE, headers={"Accept": "text/html"}),
                lambda: site.get("/", timeout=LATE, headers={"Accept": "application/json"}),
                lambda: site.post("/login", timeout=LATE, data={"name": "ada"}),
                lambda: site.post("/api/notices/1", timeout=LATE, json={}),
                lambda: site.get("/notices/2", timeout=LATE, **WWW),
                lambda: site.get("/notices/3", timeout=LATE, **V6),
            ]
        )
    finally:
        gunicorn.thaw()
    patience = [("nginx.conf", "proxy_read_timeout"), ("nginx.conf", "error_page 504")]
    targets = ("/api/notices", "/", "/login", "/api/notices/1", "/notices/2", "/notices/3")
    for one, target in zip(late, targets, strict=True):
        site.show_on_card(target)
        if one.error:
            wanted = "status 504 within 5 s, while the whole app hangs"
            raise Mismatch(wanted, "no answer in that time", look_at=patience)
    for one, target in zip(late, targets, strict=True):
        site.show_on_card(target)
        if target.startswith("/api/"):
            check_problem(one.value, 504, patience)
            continue
        note = KEEPS_METHOD if target == "/login" else ""
        check_page(one.value, 504, note, patience)
    for label in ("API, www", "API, IPv6"):
        check_problem(during_outage(site, label), 502, ELSEWHERE)
    gunicorn.kill()
    for method in ("GET", "POST", "HEAD"):
        down = [("nginx.conf", "502 =200"), ("nginx.conf", "error_page 502")]
        check_problem(site.request(method, "/api/notices"), 502, down)
    check_problem(site.get("/api/no/such/thing?x=/notices"), 502)
    for path in ("/apis", "/notices?next=/api/notices"):
        check_page(site.get(path), 502, "This is not below /api/.")

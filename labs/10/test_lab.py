"""Lab 10, hardening: the checks. README.md says what each one asks for."""

import contextlib
import gzip
import http.client
import re
import ssl
import time
from collections import Counter
from contextlib import ExitStack
from functools import cache
from itertools import product

import requests

from grader.board import LOGIN, check_visitor_is_known, told_by
from grader.checks import alone, by_hand, look_at, needs, points
from grader.client import Exchange, RecordedTLSSocket
from grader.errors import GraderError, Mismatch
from grader.machine import File
from grader.sandbox import APP
from grader.site import VISITOR, VISITOR_V6, wait_for

NAMES = ("board.example", "www.board.example")
HOME = "https://board.example"
OPERATOR = "127.0.0.1"
STATIC = "/srv/board/static"
BEN = {"name": "ben", "password": "read-the-board"}
CLOSE = b"Host: board.example\r\nConnection: close\r\n"
GET_WHOAMI = b"GET /whoami HTTP/1.1\r\n" + CLOSE + b"\r\n"

HEADERS = (
    "Strict-Transport-Security",
    "Content-Security-Policy",
    "X-Content-Type-Options",
    "Referrer-Policy",
    "Permissions-Policy",
)
VERSION = re.compile(rb"(?i)\b(nginx|gunicorn|werkzeug|flask|python|openssl)/\d[\w.]*")

GUESSES = 30  # log-ins at once, of which most are refused
MOST_ANSWERED = 14  # of them
BURST = 5  # log-ins at once that are fine
PACE = 1.2  # seconds between log-ins that go on being fine: a little less than one a second

AT_ONCE = 20  # connections of one visitor
PAUSE = 3.0  # seconds that a visitor may be silent
SILENCE = 15.0  # seconds after which a silent visitor must be gone
SLACK = 3.0  # more than Nginx's timers and a busy machine take
CROWD = 25  # slow visitors of each kind: the app has 8 threads
PATIENCE = 2.5  # seconds of a normal visitor's: less than a slow one may be silent

MEGABYTE = 1_000_000


# --- visitors


def https(site, path, method="GET", **options):
    """A request over https, as a new visitor."""
    return site.request(method, path, scheme="https", **options)


def whoami(site, **options):
    """Ask the app over https what it knows; any other answer is a mismatch."""
    return told_by(https(site, "/whoami", **options))


@cache
def names_served(site):
    """Our names under which there is a board: www may also redirect to the other one.

    A server block of its own, as www may have one, can lack any line.
    """
    moved = https(site, "/whoami", host=NAMES[1]).status_code in (301, 308)
    return NAMES[:1] if moved else NAMES


def signed_in(site, who=LOGIN, source=VISITOR):
    """A visitor over https who has logged in; waits where log-ins are limited."""
    visitor = site.visitor(source, scheme="https")

    def logged_in():
        return visitor.post("/login", data=who).status_code == 303

    if not wait_for(logged_in, 5):
        raise Mismatch("a log-in: status 303", "another answer, for 5 s")
    return visitor


def connect(
    site, source=VISITOR, port=443, family=4, name="board.example", encrypted=None, **options
):
    """Open a connection; to port 443 it shakes hands, for a name or (None) without one.

    Raises:
        OSError: the server refused (ssl.SSLError included).
    """
    for last in (False, False, True):
        made = site.connect(source, family, port, **options)
        if not ((port == 443) if encrypted is None else encrypted):
            return made
        made = begin_handshake(made, name)
        made.settimeout(10)
        try:
            made.do_handshake()
        except DROPPED:
            if last:
                raise
        else:
            return made


# What comes of a handshake that took so long, on a busy machine, that Nginx gave it up.
DROPPED = (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError, TimeoutError)


def begin_handshake(made, name="board.example"):
    """Put TLS on a connection and say hello; `do_handshake` then waits for the answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = RecordedTLSSocket
    context.check_hostname = False  # lab 06 looks at certificates
    context.verify_mode = ssl.CERT_NONE
    made = context.wrap_socket(made, server_hostname=name, do_handshake_on_connect=False)
    made.settimeout(0)
    with contextlib.suppress(ssl.SSLWantReadError):
        made.do_handshake()
    return made


def connect_all(site, opened, sources, name=NAMES[0], **options):
    """Open connections to port 443, one for each address. They shake hands at the same time.

    One after the other they would take so long on a busy machine that the first ones are dropped
    while the last ones come.
    """
    made = []
    for source in sources:
        family = 6 if ":" in source else 4
        plain = site.connect(source, family, 443, **options)
        made.append(opened.enter_context(begin_handshake(plain, name)))
    for number, one in enumerate(made):
        one.settimeout(15)
        try:
            one.do_handshake()
        except DROPPED:
            family = 6 if ":" in sources[number] else 4
            made[number] = connect(site, sources[number], 443, family, name, **options)
            opened.enter_context(made[number])
    return made


def ask(site, data, **where):
    """Send bytes as they are: the reply's bytes; b"" where none comes.

    Args:
        site: the site.
        data: what is sent.
        where: as for `connect`.
    """
    words = data.split(b"\r\n")[0].decode("latin-1").split(" ")
    scheme = "https" if where.get("port", 443) == 443 and where.get("encrypted", True) else "http"
    source = VISITOR_V6 if where.get("family") == 6 else VISITOR
    exchange = Exchange(words[0], " ".join(words[1:2]), source, f"{scheme}://board.example")
    host = re.search(rb"(?i)\nHost: *([^\r\n]*)", data)
    exchange.headers["Host"] = host[1].decode("latin-1") if host else ""
    site.record(exchange)
    received = b""
    with contextlib.suppress(OSError), connect(site, source, **where) as made:
        made.settimeout(5)
        made.sendall(data)
        while not is_whole(received) and (more := made.recv(65536)):
            received += more
    return received


def is_whole(reply):
    """Whether these bytes are a whole reply, the last on its connection.

    After a refusal Nginx may wait for seconds until the visitor closes, too.
    """
    head, end, body = reply.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
    closes = re.search(rb"(?i)\nconnection: *close", head)
    return bool(end and closes and length and len(body) >= int(length[1]))


def status_of(reply):
    """The status in the bytes of a reply; 0 when there is none."""
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", reply)
    return int(found[1]) if found else 0


def shown(reply):
    """The bytes of a reply, for a card."""
    return reply.split(b"\r\n")[0].decode("latin-1") if reply else "nothing, and the end"


def read_reply(made):
    """Read one reply from a connection; None when none comes."""
    reply = http.client.HTTPResponse(made)
    try:
        reply.begin()
        reply.read()
    except (OSError, http.client.HTTPException):
        return None
    return reply


def at_once(site, requests_, source=VISITOR, name=NAMES[0]):
    """Send requests at the same moment, each over a connection of its own, to one of our names.

    Returns the replies, in order; None for one that got none.
    """
    method, target = requests_[0].split(b" ")[:2]
    sent = f"{target.decode()}, {len(requests_)} at once"
    site.record(Exchange(method.decode(), sent, source, HOME, {"Host": name}))
    with ExitStack() as opened:
        visitors = connect_all(site, opened, [source] * len(requests_), name)
        for visitor, data in zip(visitors, requests_, strict=True):
            visitor.sendall(data)
        return [read_reply(visitor) for visitor in visitors]


def guess(number=0, headers=b"", target=b"/login", host=b"board.example"):
    """A log-in with a wrong password, as bytes."""
    body = b"name=ada&password=guess-%03d" % number
    return (
        b"POST " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: %d\r\n%s\r\n%s" % (len(body), headers, body)
    )


def fits(value):
    """Whether a Retry-After is a number of seconds above 0, or a date."""
    return bool(re.fullmatch(r"[1-9]\d*|\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", value or ""))


def held(site, opened, count, source):
    """Open connections with a request under way: an upload whose second half does not come yet.

    Nginx has read what they sent when this returns, and may have refused some of them.
    """
    head = b"POST /upload HTTP/1.1\r\n" + CLOSE + b"Content-Length: 8\r\n\r\nhalf"
    made = connect_all(site, opened, [source] * count)
    for one in made:
        one.sendall(head)
    ours = {one.getsockname()[:2] for one in made}

    def all_read():
        return not any(
            one["unread"] and (one["remote"][0].removeprefix("::ffff:"), one["remote"][1]) in ours
            for one in site.connections()
        )

    if not wait_for(all_read, 10):
        raise GraderError("the site has not read from its visitors in 10 s")
    return made


def visit(site, path, source, host=NAMES[0]):
    """The status that a visitor from an address gets."""
    family = 6 if ":" in source else 4
    # As a stream: the status is all that is asked for, and /stream takes a second to its end.
    return https(site, path, source=source, family=family, host=host, stream=True).status_code


def refused(site, path, source, host):
    """Tell whether a page is refused, now that the visitor has so many requests under way."""
    # Nginx has read what the others sent, and counts them a moment later.
    return wait_for(lambda: visit(site, path, source, host) in (429, 503), 2)


# --- the site, and who may ask


@points(1)
@look_at("nginx.conf", "listen 443", "proxy_pass")
@by_hand("curl -ik https://board.example/whoami")
def test_site_answers(site):
    """The app answers over https

    All that follows is about this site: hardened, it still has to work.
    """
    for port in (80, 443):
        owner = site.port_owner(port)
        if owner != "nginx":
            raise Mismatch(f"Nginx listens on port {port}", f"{owner or 'nobody'} does")
    assert whoami(site).get("instance") == site.instance, "the app itself must answer"


STRANGERS = (
    "evil.test",
    "192.0.2.80",
    "localhost",
    "board.example.evil.test",
    "test.board.example",
    "boardxexample",  # in a pattern, a dot is any character
)
# What a default server may have for a load balancer, for robots, or for pages of its own.
ELSEWHERE_SERVED = ("/", "/healthz", "/robots.txt", "/static/style.css")


def give_nothing(site, data, asked, **where):
    """Fail when a request gets anything of ours."""
    reply = ask(site, data, **where)
    if not reply or (400 <= status_of(reply) < 500 and site.instance.encode() not in reply):
        return
    found = re.search(rb"(?i)\nlocation: ([^\r]*)", reply)
    got = shown(reply) + (f", to {found[1].decode('latin-1')}" if found else "")
    family = where.get("family", 4)
    note = ""
    if family == 6:
        note = "Over IPv4 it gets nothing: each address has a default server of its own."
    if where.get("name") == "board.example":
        note = "The name in the handshake was ours. What counts for HTTP is the Host header."
    port = where.get("port", 443)
    raise Mismatch(
        f"no answer, or a status from 400 to 499: port {port}, IPv{family}, {asked}",
        got,
        note,
        [("nginx.conf", f"listen [::]:{port}")] if family == 6 else (),
    )


@points(3)
@look_at("nginx.conf", "Host $http_host", "default_server", "server_name")
@by_hand(
    "for p in http https; do for h in evil.test 192.0.2.80; do "
    "curl -sik -H Host:$h $p://board.example/whoami | head -1; done; "
    "curl -sik0 -H Host: $p://board.example/whoami | head -1; done"
)
def test_strangers(site):
    """Whoever asks for another host, or for none, gets nothing

    Robots try addresses, not names. And what the app writes into links, mails and caches should
    not be a name that a visitor made up.
    """
    for family in (4, 6):
        for port, name in ((80, None), (443, None), (443, "evil.test"), (443, "board.example")):
            where = {"port": port, "family": family, "name": name}
            for host in STRANGERS:
                data = f"GET /whoami HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                give_nothing(site, data.encode(), f"Host: {host}", **where)
            for version in ("1.0", "1.1"):
                data = f"GET /whoami HTTP/{version}\r\nConnection: close\r\n\r\n"
                give_nothing(site, data.encode(), f"HTTP/{version} without a Host", **where)
        for port, path in product((80, 443), ELSEWHERE_SERVED):
            data = f"GET {path} HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n"
            give_nothing(site, data.encode(), "Host: evil.test", port=port, family=family)
    data = b"GET https://evil.test/whoami HTTP/1.1\r\n" + CLOSE + b"\r\n"
    give_nothing(site, data, "https://evil.test/whoami in the request line", name="board.example")
    data = b"GET https://board.example/whoami HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n"
    reply = ask(site, data + b"\r\n")
    found = re.search(rb'"url":"([^"]*)"', reply)
    if found and b"evil.test" in found[1]:
        raise Mismatch(
            "a refusal, or links to board.example",
            f"the link {found[1].decode()}",
            "The request line names board.example, and the Host header evil.test. Nginx goes by the"
            " first, and $http_host is the second.",
        )
    for name in NAMES:
        reply = https(site, "/whoami", host=name)
        to_main = reply.status_code in (301, 308) and reply.headers["Location"] == f"{HOME}/whoami"
        if not to_main and told_by(reply).get("instance") != site.instance:
            raise Mismatch(f"the app, for {name}", "something else")


@points(2)
@look_at("nginx.conf", "server_tokens", "proxy_hide_header", "server {")
@by_hand(
    "curl -sik https://board.example/ | grep -i -e ^server -e ^x-powered; "
    "curl -si http://board.example/ | grep -i nginx; "
    "curl -si http://board.example:443/ | grep -i nginx; "
    "curl -si --request-target 'a b' http://192.0.2.80/ | grep -i nginx"
)
def test_versions(site):
    """No reply tells a version

    Whoever looks for servers with a known hole searches lists of versions. It hides no hole, and it
    takes you off the list.
    """
    pages = ("/", "/none", "/crash", "/api/none", "/static/none.css", "/static/style.css", "/login")
    asked = [(f"GET {path} HTTP/1.1\r\n".encode() + CLOSE + b"\r\n", {}) for path in pages]
    asked += [
        (b"DELETE / HTTP/1.1\r\n" + CLOSE + b"\r\n", {}),
        (b"POST /static/style.css HTTP/1.1\r\n" + CLOSE + b"Content-Length: 0\r\n\r\n", {}),
        (b"POST /upload HTTP/1.1\r\n" + CLOSE + b"Content-Length: 99000000\r\n\r\n", {}),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + CLOSE + b"\r\n", {}),
        (b"nonsense\r\n\r\n", {}),
        (b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n", {"encrypted": False}),
        (b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n", {"port": 80}),
        (b"GET / HTTP/1.1\r\n" + CLOSE.replace(b" b", b" www.b") + b"\r\n", {"name": NAMES[1]}),
        (b"GET /.well-known/acme-challenge/none HTTP/1.1\r\n" + CLOSE + b"\r\n", {"port": 80}),
        (b"nonsense\r\n\r\n", {"port": 80}),
        (b"GET / HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n", {"port": 80}),
    ]
    for data, where in asked:
        reply = ask(site, data, **where)
        tell_version(reply)


def tell_version(reply):
    """Fail when the bytes of a reply have a version in them."""
    found = VERSION.search(reply)
    if found:
        note = ""
        if status_of(reply) in (400, 414) or b"301" in reply[:20]:
            note = (
                "What goes wrong before Nginx knows which host is meant is answered by the default"
                " server, and port 80 has a server of its own."
            )
        raise Mismatch(
            "a reply without a version", f"{shown(reply)}, with {found[0].decode()}", note
        )
    head = reply.partition(b"\r\n\r\n")[0]
    found = re.search(rb"(?i)\nx-powered-by:[^\r]*", head)
    if found:
        raise Mismatch(
            "no header X-Powered-By",
            found[0].decode("latin-1").strip(),
            "The app sends it. Nginx can leave it out; but a location with a proxy_hide_header of"
            " its own inherits none.",
            [("nginx.conf", one) for one in ("proxy_hide_header", "proxy_pass")],
        )


# --- the security headers


@points(4)
@look_at("nginx.conf", "add_header", "443")
@by_hand(
    "for p in / /none /crash /static/style.css /static/none.css /go?to=/; do echo $p; "
    "curl -sik https://board.example$p | grep -i -e ^strict -e ^content-sec -e ^x-content "
    "-e ^referrer -e ^permissions | cut -c-60; done"
)
def test_headers(site):
    """Every reply has the security headers, each once

    A browser goes by the reply that it has. An error page without a policy is the door that the
    other pages closed.
    """
    for path in ("/", "/login"):
        told = site.get(path).headers.get("Strict-Transport-Security")
        if told:
            raise Mismatch(
                "no Strict-Transport-Security over http", f"Strict-Transport-Security: {told}"
            )
    etag = https(site, "/static/style.css").headers.get("ETag", "")
    member = signed_in(site)
    for method, path, options in (
        *(("GET", path, {}) for path in ("/", "/login", "/whoami", "/api/notices", "/stream")),
        *(("GET", path, {}) for path in ("/account", "/go?to=/", "/static/img")),
        *(("GET", path, {}) for path in ("/static/style.css", "/favicon.ico", "/robots.txt")),
        *(("GET", f"/static/{name}", {}) for name in ("app.js", "img/board.png", FONT)),
        *(("GET", path, {}) for path in ("/none", "/crash", "/api/none", "/static/none.css")),
        *(("GET", path, {}) for path in ("/static/.env", "/private/keys.txt", "/nginx_status")),
        ("GET", "/nginx_status", {"source": OPERATOR}),
        ("GET", "/", {"host": "www.board.example"}),
        ("GET", "/static/style.css", {"headers": {"If-None-Match": etag}}),
        ("GET", "/static/style.css", {"headers": {"Range": "bytes=0-9"}}),
        ("GET", "/static/style.css", {"headers": {"Range": "bytes=99999-"}}),
        ("HEAD", "/", {}),
        ("POST", "/login", {"data": {"name": "ada", "password": "wrong"}, "source": "203.0.113.8"}),
        ("POST", "/static/style.css", {}),
        ("DELETE", "/", {}),
    ):
        check_headers(https(site, path, method, **options))
    for path in ("/account", "/files/keys.txt"):
        check_headers(member.get(path))
    with contextlib.suppress(requests.RequestException):  # how much is too much, others ask
        announced = {"Content-Length": "99000000"}
        check_headers(https(site, "/upload", "POST", data=b"x", headers=announced))
    with ExitStack() as opened:
        held(site, opened, AT_ONCE + 2, "203.0.113.9")
        reply = https(site, "/", source="203.0.113.9")  # whether it is refused or not
        check_headers(reply)
    for number in range(BURST + 3):
        data = {"name": "ada", "password": f"wrong-{number}"}
        check_headers(https(site, "/login", "POST", data=data, source="203.0.113.10"))


def check_headers(reply):
    """Fail when one of the five headers is missing, or there twice."""
    for name in HEADERS:
        values = reply.raw.headers.getlist(name)
        if len(values) == 1:
            continue
        note = ""
        if not values and reply.status_code >= 400:
            note = "Without `always`, add_header leaves errors out."
        if not values:
            note += " A location with an add_header of its own inherits none from above."
        got = f"status {reply.status_code}, and " + (f"{len(values)} of them" if values else "none")
        if len(values) > 1:
            note = "Nginx adds its header to what the app sent: one of the two has to go."
        raise Mismatch(f"one header {name}", got, note.strip(), [("nginx.conf", name)])


FONT = "fonts/board.woff2"
OWN = {"'self'", *NAMES, *(f"https://{one}" for one in NAMES)}
PICTURES = {*OWN, "data:"}
FETCHES = {
    **{f"{name}-src": OWN for name in ("default", "connect", "manifest", "object", "worker")},
    **{f"{name}-src": OWN for name in ("child", "frame", "prefetch", "fenced-frame")},
    **{f"{kind}-src{part}": OWN for kind in ("script", "style") for part in ("", "-elem", "-attr")},
    **{f"{name}-src": PICTURES for name in ("img", "font")},
    "media-src": OWN,
}
SOURCES = {**FETCHES, "base-uri": OWN, "form-action": OWN, "frame-ancestors": OWN}
NEEDED = {
    "the style sheet": ("style-src-elem", "style-src", "default-src"),
    "the script": ("script-src-elem", "script-src", "default-src"),
    "pictures": ("img-src", "default-src"),
    "the font": ("font-src", "default-src"),
    "forms": ("form-action",),
}
# A sandbox forbids all that it does not name. Without an origin of its own, a page gets no font.
IN_A_SANDBOX = {
    "the script": "allow-scripts",
    "the font": "allow-same-origin",
    "forms": "allow-forms",
}
SAFE_REFERRERS = ("no-referrer", "same-origin", "strict-origin", "strict-origin-when-cross-origin")


def read_policy(text):
    """A Content-Security-Policy: each directive's sources, in small letters."""
    made = {}
    for part in text.lower().split(";"):
        name, *sources = part.split() or [""]
        made.setdefault(name, sources)  # of two, a browser takes the first
    return made


def check_policy(text, needed=tuple(NEEDED), host=""):
    """Fail when a policy forbids what a site needs, or allows more.

    Args:
        text: the policy.
        needed: what it has to allow.
        host: a name of ours that is not the board's, and may stand in it too.
    """
    policy = read_policy(text)
    more = {host, f"https://{host}"} if host else set()
    place = [("nginx.conf", one) for one in (text, "Content-Security-Policy")]
    for name in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        if name not in policy:
            note = ""
            if name != "default-src":
                note = f"default-src does not stand in for {name}."
            raise Mismatch(f"a Content-Security-Policy with {name}", "none in it", note, place)
    for what in needed:
        name = next(one for one in NEEDED[what] if one in policy)
        if not (OWN | more) & set(policy[name]) and not {"*", "https:"} & set(policy[name]):
            note = "`self` has quotes of its own: 'self'." if "self" in policy[name] else ""
            raise Mismatch(
                f"a policy that allows {what} of {host or 'the board'}",
                f"{name} {' '.join(policy[name]) or '(nothing)'}",
                note,
                place,
            )
        allowed = policy.get("sandbox")
        if allowed is not None and IN_A_SANDBOX.get(what) not in (None, *allowed):
            raise Mismatch(
                f"a policy that allows {what} of {host or 'the board'}",
                f"sandbox {' '.join(allowed)}".strip(),
                f"A sandbox forbids all that it does not name: {IN_A_SANDBOX[what]} is missing.",
                place,
            )
    for name, sources in policy.items():
        known = SOURCES.get(name)
        if known is None:
            continue  # no list of sources
        if not sources and name not in FETCHES:
            raise Mismatch(f"{name} with 'none' or a source", "nothing behind it", "", place)
        excess = sorted(set(sources) - known - more - {"'none'", "'report-sample'"})
        if excess:
            raise Mismatch(
                f"a policy that allows no more than {host or 'the board'} needs",
                f"{name} {' '.join(sources)}",
                f"{'It' if host else 'The board'} has no use for {excess[0]}.",
                place,
            )


@points(4)
@needs(test_headers)
@look_at("nginx.conf", "Content-Security-Policy", "add_header")
@by_hand("curl -sik https://board.example/ | grep -i -e policy -e ^strict -e ^x-content")
def test_policies(site):
    """The headers allow what the board needs, and no more

    A policy that breaks the pages is switched off on the first day. One that allows inline scripts
    stops nobody.
    """
    for path in (
        *("/", "/login", "/none", "/whoami", "/api/notices", "/go?to=/"),
        *("/static/style.css", "/static/app.js", "/static/img/board.png", "/favicon.ico"),
    ):
        check_values(https(site, path))
    check_values(https(site, "/", host=NAMES[1]))
    member = signed_in(site, source="203.0.113.11")
    for path in ("/account", "/files/keys.txt"):
        check_values(member.get(path))


def check_values(reply, needed=tuple(NEEDED), host=""):
    """Fail when one of the five headers does not say what it should; see `check_policy`."""
    told = {name: reply.headers.get(name, "") for name in HEADERS}
    check_policy(told["Content-Security-Policy"], needed, host)
    if told["X-Content-Type-Options"].lower() != "nosniff":
        raise Mismatch(
            "X-Content-Type-Options: nosniff",
            f"X-Content-Type-Options: {told['X-Content-Type-Options']}",
        )
    # A browser takes the last value that it knows.
    if told["Referrer-Policy"].lower().split(",")[-1].strip() not in SAFE_REFERRERS:
        raise Mismatch(
            f"Referrer-Policy: {', '.join(SAFE_REFERRERS[:-1])} or {SAFE_REFERRERS[-1]}",
            f"Referrer-Policy: {told['Referrer-Policy']}",
            "",
            [("nginx.conf", one) for one in (told["Referrer-Policy"], "Referrer-Policy")],
        )
    for feature in ("camera", "geolocation", "microphone"):
        if not re.search(rf"(?:^|,)\s*{feature}\s*=\s*\(\s*\)", told["Permissions-Policy"]):
            raise Mismatch(
                f"Permissions-Policy with {feature}=()",
                f"Permissions-Policy: {told['Permissions-Policy']}",
                "",
                [("nginx.conf", one) for one in (told["Permissions-Policy"], "Permissions-Policy")],
            )
    if told["Permissions-Policy"].strip().endswith(","):
        raise Mismatch(
            "Permissions-Policy that ends with its last feature",
            f"Permissions-Policy: {told['Permissions-Policy']}",
            "After a comma comes one more feature. Browsers ignore the whole header otherwise.",
            [("nginx.conf", "Permissions-Policy")],
        )
    security = told["Strict-Transport-Security"]
    age = re.search(r"(?i)(?:^|;)\s*max-age\s*=\s*(\"?)(\d+)\1\s*(?:;|$)", security)
    if not age or int(age[2]) < 15552000:
        raise Mismatch(
            "Strict-Transport-Security with a max-age of 15552000 or more",
            f"Strict-Transport-Security: {security}",
            "A semicolon ends it. Browsers ignore the whole header otherwise."
            if "," in security
            else "",
            [("nginx.conf", "Strict-Transport-Security")],
        )


# --- too many, too large, malformed


@points(3)
@look_at("nginx.conf", "limit_conn ", "limit_conn_zone", "limit_conn")
@by_hand(
    "for i in $(seq 25); do curl -sk -o /dev/null -w '%{http_code}\\n' "
    "'https://board.example/slow?seconds=2' & done | sort | uniq -c; wait"
)
def test_connections(site):
    """One visitor has at most 20 connections at once

    Nginx has 768 for all, and each one that is proxied takes two. One visitor with a script could
    have them all.
    """
    for network in ("203.0.113.", "2001:db8::"):
        for check, first in ((check_crowd, 60), (check_files_at_once, 66)):
            for attempt in range(3):
                started = time.monotonic()
                try:
                    check(site, f"{network}{first + attempt}")
                    break
                except Mismatch:
                    # On a busy machine it may take so long that Nginx drops the first ones.
                    if time.monotonic() - started < PAUSE or attempt == 2:
                        raise


def check_crowd(site, source):
    """Fail unless 20 connections of one visitor are served, and none beside them."""
    with ExitStack() as opened:
        visitors = held(site, opened, AT_ONCE, source)
        for path, host in (
            *((path, NAMES[0]) for path in ("/", "/static/style.css", "/account", "/stream")),
            *((path, name) for name in names_served(site) for path in ("/login", "/none")),
        ):
            if not refused(site, path, source, host):
                raise Mismatch(
                    f"status 429 or 503, while {AT_ONCE} requests of this visitor are under way",
                    "status 200",
                )
        for other in ("203.0.113.65", "2001:db8::65"):
            status = visit(site, "/static/style.css", other)
            if status != 200:
                raise Mismatch(
                    "status 200 for another visitor meanwhile",
                    f"status {status}",
                    "",
                    [("nginx.conf", "limit_conn_zone")],
                )
        for one in visitors:
            # Where it was refused, Nginx may have closed already.
            with contextlib.suppress(OSError):
                one.sendall(b"rest")
        statuses = {reply.status if reply else 0 for reply in map(read_reply, visitors)}
        if statuses != {200}:
            worst = max(statuses - {200})
            raise Mismatch(
                f"status 200 for all of {AT_ONCE} requests at once",
                f"status {worst} for some" if worst else "no answer for some",
                "",
                [("nginx.conf", "limit_conn "), ("nginx.conf", "limit_conn")],
            )
    if not wait_for(lambda: visit(site, "/", source) == 200, 3):
        raise Mismatch("status 200 when the others are over", "it goes on being refused")


def check_files_at_once(site, source):
    """Fail unless 20 files at once are sent: this counts how many, not how often."""
    ask_for = b"GET /static/style.css HTTP/1.1\r\n" + CLOSE + b"\r\n"
    statuses = {one.status if one else 0 for one in at_once(site, [ask_for] * AT_ONCE, source)}
    if statuses != {200}:
        worst = max(statuses - {200})
        raise Mismatch(
            f"status 200 for all of {AT_ONCE} files at once",
            f"status {worst} for some" if worst else "no answer for some",
            "",
            [("nginx.conf", one) for one in ("location /static/", "limit_conn ", "limit_conn")],
        )


def filler(kilobytes):
    """Headers of about so many KB, none longer than 1 KB."""
    lines = [b"X-Filler-%d: " % number for number in range(kilobytes)]
    return b"".join(one.ljust(998, b"a") + b"\r\n" for one in lines)


# Nginx takes headers as long as the larger of the two.
HEADER_BUFFERS = ("client_header_buffer_size", "large_client_header_buffers")


@points(3)
@look_at("nginx.conf", "client_max_body_size", *HEADER_BUFFERS)
@by_hand(
    "for n in 14 40; do curl -sk -o /dev/null -w '%{http_code}\\n' $(for i in $(seq $n); do printf "
    "' -H X-%d:%0990d' $i 0; done) https://board.example/whoami; done; for n in 10 11; do "
    "head -c ${n}000000 /dev/zero | curl -sk -o /dev/null -w '%{http_code}\\n' --data-binary @- "
    "https://board.example/upload; done"
)
def test_size_limits(site):
    """What is too large is refused, what is not is served

    Headers are held in memory, and bodies on the disk, for each visitor. Limits that are too tight
    turn visitors away whose only fault is many cookies.
    """
    place = [("nginx.conf", one) for one in HEADER_BUFFERS]
    reply = ask(site, b"GET /whoami HTTP/1.1\r\n" + CLOSE + filler(14) + b"\r\n")
    if status_of(reply) != 200:
        raise Mismatch("status 200, with 14 KB of headers", shown(reply), "", place)
    reply = ask(site, b"GET /whoami HTTP/1.1\r\n" + CLOSE + filler(40) + b"\r\n")
    if reply and not 400 <= status_of(reply) < 500:
        raise Mismatch("a refusal, with 40 KB of headers", shown(reply), "", place)
    reply = ask(site, b"GET /whoami?" + b"a" * 2_000 + b" HTTP/1.1\r\n" + CLOSE + b"\r\n")
    if status_of(reply) != 200:
        raise Mismatch("status 200, with an address of 2 KB", shown(reply), "", place)
    reply = ask(site, b"GET /whoami?" + b"a" * 20_000 + b" HTTP/1.1\r\n" + CLOSE + b"\r\n")
    if reply and not 400 <= status_of(reply) < 500:
        raise Mismatch("a refusal, with an address of 20 KB", shown(reply), "", place)
    for path, host, megabytes, chunked, wanted in (
        ("/upload", NAMES[0], 10, False, 200),
        *(("/upload", name, 11, False, 413) for name in names_served(site)),
        ("/upload", NAMES[0], 11, True, 413),
        ("/api/notices", NAMES[0], 11, False, 413),
    ):
        body = b"x" * (megabytes * MEGABYTE)
        parts = (body[at : at + 65536] for at in range(0, len(body), 65536))
        # With a name, so that an app that is asked reads all of it.
        who = (LOGIN["name"], LOGIN["password"])
        reply = https(site, path, "POST", host=host, data=parts if chunked else body, auth=who)
        if reply.status_code != wanted:
            raise Mismatch(
                f"status {wanted}, for a body of {megabytes} MB"
                + (" in chunks" if chunked else ""),
                f"status {reply.status_code}",
                "",
                [("nginx.conf", "client_max_body_size")],
            )
    assert whoami(site).get("instance") == site.instance, "the site goes on"


SMUGGLED = b"GET /echo/smuggled HTTP/1.1\r\nHost: board.example\r\n\r\n"
POST = b"POST /echo/outer HTTP/1.1\r\nHost: board.example\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
AS_BODY = b"Content-Length: %d\r\n" % (len(SMUGGLED) + 5)
AS_CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
ANY = b"GET /whoami HTTP/1.1\r\n" + CLOSE
MALFORMED = {
    "a length and chunks (CL.TE)": POST + AS_BODY + CHUNKED + b"\r\n0\r\n\r\n" + SMUGGLED,
    "chunks and a length (TE.CL)": POST + CHUNKED + b"Content-Length: 4\r\n\r\n" + AS_CHUNK,
    "a Transfer-Encoding that nobody knows": POST
    + AS_BODY
    + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "a blank before the colon": POST
    + AS_BODY
    + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "two lengths": POST
    + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
    + SMUGGLED,
    "a length with a sign": POST + b"Content-Length: +3\r\n\r\nabc",
    "a length below zero": POST + b"Content-Length: -1\r\n\r\nabc",
    "a chunk without a size": POST + CHUNKED + b"\r\nzz\r\nabc\r\n0\r\n\r\n",
    "a chunk of 2^80 bytes": POST + CHUNKED + b"\r\n1" + b"0" * 20 + b"\r\nabc\r\n0\r\n\r\n",
    "a folded header (obs-fold)": ANY + b"X-One: 1\r\n X-Forwarded-For: 6.6.6.6\r\n\r\n",
    "a folded Transfer-Encoding": POST
    + AS_BODY
    + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "a blank in a header's name": ANY + b"X One: 1\r\n\r\n",
    "a zero byte": ANY + b"X-One: 1\x002\r\n\r\n",
    "a bare CR": ANY + b"X-One: 1\rX-Two: 2\r\n\r\n",
    "two hosts": ANY + b"Host: evil.test\r\n\r\n",
    "a control character in the address": b"GET /whoami\x01 HTTP/1.1\r\n" + CLOSE + b"\r\n",
    "a method in small letters": b"get /whoami HTTP/1.1\r\n" + CLOSE + b"\r\n",
    "HTTP/9.9": b"GET /whoami HTTP/9.9\r\n" + CLOSE + b"\r\n",
}
IN_CHUNKS = POST + CHUNKED + b"Connection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
# Nginx takes a line feed for the end of a line, and hands on a request with both characters.
UNDERSTOOD = {
    "bare line feeds": b"GET /whoami HTTP/1.1\nHost: board.example\nConnection: close\n\n",
    "a chunk with bare line feeds": POST + CHUNKED + b"Connection: close\r\n\r\n3\nabc\n0\n\n",
    "a chunk with words": POST + CHUNKED + b"Connection: close\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
}
# Whole and harmless for Nginx; what it sends on must be read in the same way behind it.
HIDDEN = {
    "a request in a body": POST
    + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % (len(SMUGGLED) + 5)
    + b"0\r\n\r\n"
    + SMUGGLED,
    "a request in a chunk": POST
    + CHUNKED
    + b"Connection: close\r\n\r\n%x\r\n0\r\n\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED) + 5, SMUGGLED),
}


@points(2)
@look_at(
    "nginx.conf", "Transfer-Encoding", "Content-Length", "ignore_invalid_headers", "proxy_pass"
)
@by_hand(
    r"printf 'POST /echo/x HTTP/1.1\r\nHost: board.example\r\nContent-Length: 4\r\n"
    r"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n' | "
    "timeout 2 openssl s_client -quiet -connect board.example:443 2>/dev/null | head -1"
)
def test_malformed(site):
    """A malformed request is refused, and none is smuggled in

    Where two servers disagree on where a request ends, the second one reads part of a body as the
    next visitor's request.
    """
    for what, data in {**MALFORMED, **UNDERSTOOD, **HIDDEN}.items():
        reply = ask(site, data)
        status = status_of(reply)
        if status == 200 and what not in MALFORMED:
            continue
        if reply and not 400 <= status < 600:
            raise Mismatch(f"a refusal of {what}", shown(reply))
        if status in (500, 502, 504):
            note = "That is an answer of Nginx to the app's trouble: the app has to refuse it."
            raise Mismatch(f"a clean refusal of {what}", shown(reply), note)
    paths = https(site, "/stats").json().get("paths", {})
    if "/echo/smuggled" in paths:
        sent = "/echo/outer, with GET /echo/smuggled in its body"
        site.record(Exchange("POST", sent, VISITOR, HOME))
        raise Mismatch(
            "/echo/smuggled never reaches the app: it stands in a body",
            "the app has served it",
            "Nginx and the app do not agree on where a body ends. Nginx says so itself, unless it"
            " is told what to say.",
        )
    reply = ask(site, IN_CHUNKS)
    if status_of(reply) != 200 or b'"length":3' not in reply:
        raise Mismatch("3 bytes at the app, for a body in chunks, as it should be", shown(reply))
    assert whoami(site).get("instance") == site.instance, "the site goes on"


@points(3)
@look_at("nginx.conf", "proxy_set_header")
@look_at("wsgi.py", "x_host", "x_prefix", "x_for=2")
@look_at("nginx.conf", "underscores_in_headers", "ignore_invalid_headers", "set_real_ip_from")
@by_hand(
    "curl -sk -H X_Forwarded_For:6.6.6.6 -H 'Connection: close, X-Forwarded-For' -H Upgrade:h2c "
    "https://board.example/whoami"
)
def test_spoofed_headers(site):
    """What a visitor claims about himself changes nothing

    To an app X_Forwarded_For and X-Forwarded-For are the same name. A server that lets the first
    one through has let the second one through.
    """
    claims = [
        {name: "6.6.6.6"}
        for name in ("X-Forwarded-For", "X_Forwarded_For", "X-Forwarded_For", "X_FORWARDED_FOR")
    ]
    claims += [
        *({name: "evil.test"} for name in ("X-Forwarded-Host", "X_Forwarded_Host", "X-Host")),
        *({name: "http"} for name in ("X-Forwarded-Proto", "X_Forwarded_Proto")),
        *({name: "/evil"} for name in ("X-Forwarded-Prefix", "X-Script-Name", "Script_Name")),
        {"X-Forwarded-Port": "444"},
        {"Forwarded": "for=6.6.6.6;host=evil.test;proto=http"},
        {"Remote-Addr": "6.6.6.6", "X-Real-IP": "6.6.6.6", "Client_IP": "6.6.6.6"},
        {"Connection": "close, X-Forwarded-For, X-Forwarded-Proto, Host"},
        {"X-Original-URL": "/private/keys.txt", "X-Rewrite-URL": "/private/keys.txt"},
        {"X-Accel-Redirect": "/private/keys.txt", "X-Accel-Charset": "utf-16"},
        {"X-Sendfile-Type": "X-Accel-Redirect", "X-Accel-Mapping": "/srv/=/private/"},
        {"X-HTTP-Method-Override": "DELETE"},
    ]
    asked = [*product(claims, NAMES[:1]), *product(claims[:2], names_served(site)[1:])]
    for headers, host in asked:
        reply = https(site, "/whoami", host=host, headers=headers)
        if 400 <= reply.status_code < 500:
            continue
        told = told_by(reply)
        name = next(iter(headers))
        note = ""
        if "_" in name:
            note = f"The app cannot tell {name} from {name.replace('_', '-')}."
        # A site may have one name in all its links.
        known = host if told.get("host") == host else NAMES[0]
        for key, wanted in (
            *(("client", VISITOR), ("scheme", "https"), ("host", known)),
            ("url", f"https://{known}/whoami"),
        ):
            if told.get(key) != wanted:
                raise Mismatch(f"{key} {wanted}", f"{key} {told.get(key)}", note)
    hop = {"Connection": "close, Upgrade, TE", "Upgrade": "h2c", "TE": "trailers"}
    reached = whoami(site, headers=hop).get("headers", {})
    for name in ("Upgrade", "Te"):
        if name in reached:
            raise Mismatch(
                f"{name} stays between the visitor and Nginx",
                f"the app was sent {name}: {reached[name]}",
                "",
                [("nginx.conf", name)],
            )


# --- what is not for everybody


PRIVATE = (
    *("/private/keys.txt", "/private/letter%20to%20ada.txt", "/private/none.txt", "/private/"),
    "/private/plan.png",  # a location for pictures comes before one for a folder
    *("//private/keys.txt", "/%70rivate/keys.txt", "/static/../private/keys.txt"),
)
# A note and the likely lines, where a location for pictures takes what lies in no public folder.
BY_PATTERN = (
    "A pattern comes before a prefix: which location takes this name?",
    [("nginx.conf", one) for one in ("location ~* \\.(", "location ~ \\.(", "location ~*")],
)


@points(4)
@look_at("nginx.conf", "X-Accel", "/files", "alias /srv/board/private;", "/private", "proxy_pass")
@by_hand(
    "curl -sk -c /tmp/c -d 'name=ben&password=read-the-board' https://board.example/login; "
    "for p in files/keys.txt files/letter%20to%20ada.txt private/keys.txt; do "
    "curl -sik -b /tmp/c https://board.example/$p | sed -n '1p;$p'; done"
)
def test_private_files(site):
    """A private file is sent only when the app says so

    The app knows who may have a file. Nginx sends it, so that the app need not.
    """
    keys = (APP / "private" / "keys.txt").read_bytes()
    letter = (APP / "private" / "letter to ada.txt").read_bytes()
    plan = f"plan of {site.instance}".encode()
    site.box.write(File("/srv/board/private/plan.png", plan))
    to_ada = "/files/letter%20to%20ada.txt"
    ada, ben = signed_in(site), signed_in(site, BEN, "203.0.113.64")
    for who, path, content in ((ada, "/files/keys.txt", keys), (ada, to_ada, letter)):
        reply = who.get(path)
        if reply.status_code != 200 or reply.content != content:
            note = "The app's answer has no body, and the header X-Accel-Redirect."
            if reply.status_code == 404:
                note += " Nginx then looks for a location of that path."
            raise Mismatch(
                "status 200 and the file", f"status {reply.status_code}, and another body", note
            )
        if "X-Accel-Redirect" in reply.headers:
            raise Mismatch("no X-Accel-Redirect for the visitor", "the header is there")
    assert ben.get("/files/keys.txt").content == keys, "Ben may have it too"
    strangers = [site.visitor(scheme="https", host=name) for name in names_served(site)]
    nobody = strangers[0]
    operator = site.visitor(OPERATOR, scheme="https")
    forged = {"Cookie": "session=forged", "X-Accel-Redirect": "/private/keys.txt"}
    gone, hidden = (404,), (400, 403, 404)
    for who, path, headers, wanted in (
        *((nobody, path, {}, (303,)) for path in ("/files/keys.txt", to_ada)),
        *((nobody, path, forged, (303,)) for path in ("/files/keys.txt", to_ada)),
        (ben, to_ada, {}, (403,)),
        (ada, "/files/none.txt", {}, gone),
        *((one, path, {}, gone) for one in (*strangers, ada, operator) for path in PRIVATE),
        *((ada, path, {}, hidden) for path in ("/files/..%2fwsgi.py", "/private../wsgi.py")),
    ):
        reply = who.get(path, headers=headers)
        if any(secret in reply.content for secret in (keys, letter, plan, b"create_app")):
            note, place = BY_PATTERN if path.endswith(".png") else ("", ())
            got = f"status {reply.status_code}, and a file"
            raise Mismatch(f"status {wanted[0]}", got, note, place)
        if reply.status_code not in wanted:
            raise Mismatch(f"status {wanted[0]}", f"status {reply.status_code}")


@points(2)
@look_at("nginx.conf", "set_real_ip_from", "stub_status", "nginx_status", "location / ")
@by_hand(
    "for who in 127.0.0.1 203.0.113.7; do "
    "curl -sik --interface $who https://board.example/nginx_status | sed -n '1p;$p'; done"
)
def test_status_page(site):
    """The status page answers the operator alone

    It tells how much there is to do on the server, so it also tells an attacker how well he does.
    """

    def requests_so_far():
        reply = https(site, "/nginx_status", source=OPERATOR)
        found = re.search(r"Active connections: \d+\s+server .*\n \d+ \d+ (\d+)", reply.text)
        if reply.status_code != 200 or not found:
            raise Mismatch(
                "for 127.0.0.1: status 200 and the counts of stub_status",
                f"status {reply.status_code}, and something else",
            )
        return int(found[1])

    before = requests_so_far()
    if requests_so_far() <= before:
        raise Mismatch("Nginx's own counts, which grow", "the same numbers again")
    for options in (
        *({"host": name} for name in names_served(site)),
        {"source": VISITOR_V6, "family": 6},
        {"headers": {"X-Forwarded-For": OPERATOR, "X-Real-IP": OPERATOR}},
        {"headers": {"Forwarded": f"for={OPERATOR}", "Client-IP": OPERATOR}},
    ):
        for path in ("/nginx_status", "/nginx_status/", "//nginx_status", "/%6eginx_status"):
            reply = https(site, path, **options)
            if reply.status_code not in (403, 404) or "Active connections" in reply.text:
                raise Mismatch("status 403 or 404 for a visitor", f"status {reply.status_code}")


METHODS = ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "POSTS", "XGET")
PATHS = (
    "/echo/method",
    "/",
    "/login",
    "/account",
    "/api/notices/1",
    "/static/style.css",
    "/stream",
    "/upload",
    "/files/keys.txt",
)


@points(2)
@look_at("nginx.conf", "if ($request_method", "limit_except", "proxy_pass")
@by_hand(
    "for m in GET PUT DELETE POSTS; do curl -sk -o /dev/null -w '%{http_code}\\n' -X $m "
    "https://board.example/echo/x; done"
)
def test_methods(site):
    """GET, HEAD and POST are allowed, and no other method

    The pages use these three. What nobody uses, nobody notices when it goes wrong.
    """

    def asked():
        paths = https(site, "/stats").json().get("paths", {})
        return {path: paths.get(path, 0) for path in PATHS}

    before = asked()
    ways = [*product(METHODS, NAMES[:1]), *product(METHODS[1:2], names_served(site)[1:])]
    for (method, host), path in product(ways, PATHS):
        who = (LOGIN["name"], LOGIN["password"])
        reply = https(site, path, method, host=host, auth=who)
        if reply.status_code not in (403, 405):
            raise Mismatch("status 403 or 405", f"status {reply.status_code}")
    for path, count in asked().items():
        if count != before[path]:
            raise Mismatch(
                f"{', '.join(METHODS[:3])} … {path}: refused by Nginx",
                "it was the app that refused them",
                "",
                [("nginx.conf", f"location = {path}"), ("nginx.conf", "location / ")],
            )
    for method, path, wanted in (
        *((method, "/echo/method", 200) for method in ("GET", "HEAD", "POST")),
        ("POST", "/api/notices", 401),  # the app's own word, to whoever has no name
    ):
        reply = https(site, path, method)
        if reply.status_code != wanted:
            raise Mismatch(f"status {wanted}", f"status {reply.status_code}")


HIDDEN_FILES = (
    *(".git/config", ".style.css.swp", "img/.htaccess", "style.css.bak", "style.css~"),
    *("app.js.old", "data.json.orig", "img/board.png.BAK", "notes.swp", "made.py", "made.pyc"),
    *("made.db", "made.sqlite", "made.sqlite3"),
)
ENDINGS = ("bak", "old", "orig", "swp", "py", "pyc", "db", "sqlite", "sqlite3")
CAPITALS = tuple(f"MADE.{one.upper()}" for one in ENDINGS)
LINKS = ("img/keys.png", "keys.js")  # that lead out of the folder, to members' files
ENCODED = ("%2egit/config", ".git%2fconfig", "./.git/config", "style.css%2ebak", "style.css%7e")
PUBLIC_FILES = ("bakery.css", "older.txt", "origin.html", "dbase.css", "a.bakery.txt")


@points(2)
@look_at("nginx.conf", "location ^~", "$request_uri ~", "bak", "/\\.", "/static/")
@by_hand(
    "touch static/style.css.bak; for f in .env %2eenv style.css.bak old.py style.css; do "
    'curl -sk -o /dev/null -w "%{http_code} $f\\n" https://board.example/static/$f; done'
)
def test_hidden_files(site):
    """Dotfiles, backups and sources are not served

    An editor leaves style.css~, a hurry leaves a .git. Both have told passwords.
    """
    secret = f"secret of {site.instance}".encode()
    public = f"public, of {site.instance}".encode()
    hidden = (*HIDDEN_FILES, *CAPITALS)
    site.box.write(*(File(f"{STATIC}/{name}", secret) for name in hidden))
    for name in LINKS:
        site.box.link(f"{STATIC}/{name}", "/srv/board/private/keys.txt")
    site.box.write(*(File(f"{STATIC}/{name}", public) for name in PUBLIC_FILES))
    site.box.write(File("/srv/board/static-private/key.png", secret))
    given = (".env", "old.py", "backup.sqlite3", "users.txt")
    for host, path in (
        *((NAMES[0], f"/static/{name}") for name in (*hidden, *LINKS, *ENCODED, *given)),
        *((NAMES[0], f"//static//{name}") for name in (*HIDDEN_FILES, *ENCODED, *given)),
        *product(names_served(site)[1:], (f"/static/{name}" for name in (*given, *LINKS))),
    ):
        reply = https(site, path, host=host)
        if reply.status_code not in (403, 404) or secret in reply.content:
            note = ""
            if "%" in path:
                note = "A location sees the path decoded; $request_uri is as it was sent."
            raise Mismatch("status 403 or 404", f"status {reply.status_code}", note)
    for path in (
        *("/.git/config", "/.env", "/wsgi.py", "/static_secret.txt", "/static../wsgi.py"),
        "/static-private/key.png",
    ):
        reply = https(site, path)
        if reply.status_code not in (403, 404):
            note, place = BY_PATTERN if path.endswith(".png") else ("", ())
            raise Mismatch("status 403 or 404", f"status {reply.status_code}", note, place)
    for name in PUBLIC_FILES:
        reply = https(site, f"/static/{name}")
        if reply.content != public:
            raise Mismatch(
                "the file: its name only looks a little like those that are hidden",
                f"status {reply.status_code}",
                r"An ending has a dot before it, \., and nothing behind it, $.",
            )


@points(2)
@look_at("gunicorn.conf.py", "bind")
@by_hand("ss -tlnp; curl -i --interface 203.0.113.7 http://board.example:8000/whoami")
def test_doors(site):
    """Visitors reach ports 80 and 443, and nothing else

    Whoever finds another door needs none of what stands above: no limit, no header, no refusal.
    """
    for one in site.listeners():
        own = any(name in site.services for name in one.services)
        if one.path or not own or (one.port in (80, 443) and "nginx" in one.services):
            continue
        for family, server in ((4, "192.0.2.80"), (6, "2001:db8::80")):
            source = VISITOR if family == 4 else VISITOR_V6
            try:
                site.connect(source, family, one.port, server=server).close()
            except OSError:
                continue
            raise Mismatch(
                f"a visitor's connection to port {one.port} is refused",
                f"it is accepted: {one.services[0]} listens on {one}",
                "",
                [("nginx.conf", f"listen {one.port}")] if "nginx" in one.services else (),
            )


@points(2)
@look_at("nginx.conf", "return 30", "gzip", "proxy_set_header", "location ")
@by_hand(
    "curl -si http://board.example/notices/1 | head -8; d=/var/www/letsencrypt/.well-known/"
    "acme-challenge; mkdir -p $d; echo yes >$d/try; "
    "curl http://board.example/.well-known/acme-challenge/try; "
    "curl -sk --interface 203.0.113.7 https://board.example/whoami"
)
def test_earlier_labs(site):
    """What labs 03 to 06 built still holds

    A site that is safe because it does not work is no achievement.
    """
    token = f"proof-{site.instance}"
    folder = "/.well-known/acme-challenge"
    site.box.write(File(f"/var/www/letsencrypt{folder}/{token}", token.encode()))
    for name, family in product(NAMES, (4, 6)):
        door = {"host": name, "family": family}
        reply = site.get("/notices/1?a=1&b=%2F", **door)
        ways = [f"https://{one}/notices/1?a=1&b=%2F" for one in (name, "board.example")]
        if reply.status_code not in (301, 308) or reply.headers.get("Location") not in ways:
            raise Mismatch(
                f"over http: status 301 or 308, to {ways[0]}",
                f"status {reply.status_code}, to {reply.headers.get('Location', 'nowhere')}",
            )
        reply = site.get(f"{folder}/{token}", **door)
        if reply.text != token:
            place = [("nginx.conf", "location ~ /\\."), ("nginx.conf", "acme-challenge")]
            raise Mismatch("the file of the challenge", f"status {reply.status_code}", "", place)
    member = signed_in(site)
    check_visitor_is_known(member, HOME)
    packed = {"Accept-Encoding": "gzip"}
    for name in ("style.css", "app.js", "data.json", "img/pin.svg"):
        reply = https(site, f"/static/{name}", headers=packed, stream=True)
        encoding = reply.headers.get("Content-Encoding", "none")
        wire, content = reply.raw.read(decode_content=False), (APP / "static" / name).read_bytes()
        if encoding != "gzip" or gzip.decompress(wire) != content:
            raise Mismatch(f"{name} with Content-Encoding: gzip", f"Content-Encoding: {encoding}")
    encoding = member.get("/account?note=x", headers=packed).headers.get("Content-Encoding", "none")
    if encoding != "none":
        raise Mismatch("/account without an encoding", f"Content-Encoding: {encoding}")
    pinned = member.post("/notices/new", data={"title": "Hard", "body": "as nails"})
    if pinned.status_code != 303:
        raise Mismatch("a new notice: status 303", f"status {pinned.status_code}")
    for path in ("/favicon.ico", "/robots.txt", "/static/app.js"):
        name = path.removeprefix("/static")
        if https(site, path).content != (APP / "static" / name[1:]).read_bytes():
            raise Mismatch(f"the bytes of static{name}", "others")


# --- what takes time: these come last, because the others run meanwhile


def check_flood(replies, who):
    """Fail unless most of the log-ins at once were refused, with 429 and when to come again."""
    statuses = Counter(one.status if one else 0 for one in replies)
    if GUESSES - statuses[429] > MOST_ANSWERED:
        note = ""
        if statuses[503]:
            note = "503 means that the server has a problem. Here it is the visitor (RFC 6585)."
        other = max((one for one in statuses if one != 429), key=statuses.__getitem__)
        raise Mismatch(
            f"status 429 for most of {GUESSES} log-ins at once, {who}",
            f"status {other} for many" if other else "no answer for many",
            note,
        )
    for one in replies:
        if one and one.status == 429 and not fits(one.getheader("Retry-After")):
            raise Mismatch(
                "429 with Retry-After, seconds or a date",
                f"Retry-After: {one.getheader('Retry-After') or '(none)'}",
                "Without `always`, add_header leaves errors out."
                if one.getheader("Retry-After") is None
                else "",
                [("nginx.conf", one) for one in ("Retry-After", "limit_req_status", "limit_req ")],
            )


@points(4)
@alone
@look_at("nginx.conf", "limit_req ", "limit_req_zone", "limit_req")
@by_hand(
    "for i in $(seq 30); do curl -sk -o /dev/null -w '%{http_code}\\n' -d name=ada -d password=$i "
    "https://board.example/login & done | sort | uniq -c; wait"
)
def test_login_limit(site):
    """Whoever tries 30 passwords in a second is held up

    With a thousand tries a second, a list of common passwords is through in minutes. A person
    tries five.
    """
    check_flood(at_once(site, [guess(number) for number in range(GUESSES)]), "from one visitor")
    # The other name, too: a server block of its own has one limit or another in it, or none.
    name = names_served(site)[-1]
    guesses = [guess(number, host=name.encode()) for number in range(GUESSES)]
    check_flood(at_once(site, guesses, VISITOR_V6, name), "from one IPv6 address")
    for _ in range(3):
        time.sleep(PACE)  # the pace is what is asked about
        reply = https(site, "/login", "POST", data=LOGIN)
        if reply.status_code == 429:
            raise Mismatch(
                "an answer: one log-in a second is fine, also after many",
                "status 429",
                "The limit lets through fewer than one in a second.",
                [("nginx.conf", "limit_req_zone")],
            )


@points(2)
@needs(test_login_limit)
@look_at("nginx.conf", "limit_req_zone", "limit_req ")
@by_hand(
    "for i in 1 2 3 4 5; do curl -sk -o /dev/null -w '%{http_code} %{time_total}\\n' -d name=ada "
    "-d password=$i https://board.example/login; done"
)
def test_login_others(site):
    """Five log-ins are fine, and nobody pays for others

    Somebody who mistypes is no attacker. And if one visitor's tries could lock out all the others,
    the limit itself were the attack.
    """
    usual = seconds_together(site, [f"203.0.113.{number + 30}" for number in range(BURST)])
    if seconds_together(site, ["203.0.113.40"] * BURST) > 1 + 2 * usual:
        raise Mismatch(
            "five log-ins, answered within 1 s",
            "they take longer",
            "Without `nodelay` the ones of a burst wait, each for its turn.",
            [("nginx.conf", one) for one in ("limit_req ", "limit_req")],
        )
    burst = at_once(site, [guess(number) for number in range(BURST)], "203.0.113.41")
    if any(one and one.status == 429 for one in burst):
        raise Mismatch("an answer for all of five log-ins at once", "status 429 for some")
    at_once(site, [guess(number) for number in range(GUESSES)], "203.0.113.42")
    for source, family in (("203.0.113.43", 4), ("2001:db8::43", 6)):
        reply = https(site, "/login", "POST", data=LOGIN, source=source, family=family)
        check_not_limited(reply, "another visitor's")
    for path in ("/", "/static/style.css", "/api/notices"):
        for _ in range(BURST + 5):
            reply = https(site, path, source="203.0.113.42")
            if reply.status_code != 200:
                raise Mismatch(
                    "status 200: the limit is for log-ins alone",
                    f"status {reply.status_code}",
                    "",
                    [("nginx.conf", one) for one in ("limit_req ", "limit_req_zone")],
                )


def seconds_together(site, sources):
    """How long log-ins take that are sent at the same moment, one from each of these addresses.

    The app refuses them before it looks at a password, which would take longer than all the rest.
    """
    foreign = guess(headers=b"Sec-Fetch-Site: cross-site\r\n")
    site.record(Exchange("POST", f"/login, {len(sources)} at once", sources[0], HOME))
    with ExitStack() as opened:
        visitors = connect_all(site, opened, sources)
        started = time.monotonic()
        for visitor in visitors:
            visitor.sendall(foreign)
        for visitor in visitors:
            reply = read_reply(visitor)
            if reply is None or reply.status != 403:
                got = f"status {reply.status}" if reply else "no answer"
                place = [("nginx.conf", "limit_req "), ("nginx.conf", "limit_req_zone")]
                raise Mismatch(
                    f"the app's answer to {len(sources)} log-ins at once", got, "", place
                )
        return time.monotonic() - started


def check_not_limited(reply, which):
    """Fail when a log-in was refused as too many."""
    if reply.status_code in (429, 503):
        raise Mismatch(f"an answer to {which} log-in", f"status {reply.status_code}")


@points(2)
@needs(test_login_limit)
@look_at("nginx.conf", "set_real_ip_from", "limit_req_zone", "limit_req ")
@by_hand(
    "for i in $(seq 30); do curl -sk -o /dev/null -w '%{http_code}\\n' -H X-Forwarded-For:6.6.6.$i "
    "-H X-Real-IP:6.6.6.$i -d name=ada -d password=$i https://board.example/login?n=$i & done "
    "| sort | uniq -c; wait"
)
def test_login_spoofed(site):
    """A made-up address is no way around the limit

    A header can say anything. Whoever counts by one counts what the visitor wants to be counted.
    """
    ways = {
        "each with another X-Forwarded-For": lambda n: guess(
            n, b"X-Forwarded-For: 6.6.6.%d\r\nX-Real-IP: 6.6.6.%d\r\n" % (n, n)
        ),
        "each with another cookie, browser and Forwarded": lambda n: guess(
            n,
            b"Cookie: session=%d\r\nUser-Agent: b%d\r\nForwarded: for=6.6.6.%d\r\n"
            b"CF-Connecting-IP: 6.6.6.%d\r\nTrue-Client-IP: 6.6.6.%d\r\n" % (n, n, n, n, n),
        ),
        "each with another query": lambda n: guess(n, target=b"/login?n=%d" % n),
        "for /%6Cogin": lambda n: guess(n, target=b"/%6Cogin"),
    }
    for number, (who, make) in enumerate(ways.items()):
        replies = at_once(site, [make(n) for n in range(GUESSES)], f"203.0.113.{50 + number}")
        check_flood(replies, who)


@points(2)
@alone
@look_at("nginx.conf", "add_header", "error_page", "server_tokens")
@by_hand(
    "kill -9 $(grep -l gunicorn /proc/[0-9]*/comm | cut -d/ -f3); curl -ik https://board.example/"
)
def test_app_down(site):
    """All of it holds while the app is down

    That is when nobody looks, and when Nginx's own pages are seen.
    """
    member = signed_in(site)
    site.service("gunicorn").kill()
    down, hidden = (502, 503, 504), (404, 403)
    for path, wanted in (
        *((path, down) for path in ("/", "/login", "/api/notices")),
        ("/static/style.css", (200,)),
        *((path, hidden) for path in ("/private/keys.txt", "/static/.env")),
    ):
        reply = https(site, path)
        if reply.status_code not in wanted:
            place = [("nginx.conf", f"location {path.rpartition('/')[0]}/")]
            raise Mismatch(f"status {wanted[0]}", f"status {reply.status_code}", "", place)
        check_headers(reply)
        tell_version(bytes(site.exchanges[-1].received))
    reply = member.get("/files/keys.txt")
    if reply.status_code == 200:
        raise Mismatch("no file, when the app cannot be asked", "status 200")
    site.service("gunicorn").start()

    def back():
        return https(site, "/").status_code == 200

    if not wait_for(back, 12):
        raise Mismatch("the site, when the app is back", "no page for 12 s")


def still_open(site, made):
    """Those of some connections that the server has not closed, by the kernel's own table."""
    alive = {
        (one["remote"][0].removeprefix("::ffff:"), one["remote"][1]) for one in site.connections()
    }
    return [name for name, one in made.items() if one.getsockname()[:2] in alive]


def idle_after(site, source, port):
    """A connection with a whole request and its reply behind it, kept open."""
    made = connect(site, source, port)
    made.sendall(b"GET /static/robots.txt HTTP/1.1\r\nHost: board.example\r\n\r\n")
    read_reply(made)
    return made


HALF_A_HEAD = b"GET /whoami HTTP/1.1\r\nHost: board.example\r\nX-Slow: "
HALF_A_BODY = b"POST /upload HTTP/1.1\r\nHost: board.example\r\nContent-Length: 8\r\n\r\nhalf"
LARGE = b"GET /static/large.bin HTTP/1.1\r\n" + CLOSE + b"\r\n"
BIG = b"GET /big?kb=1000 HTTP/1.1\r\n" + CLOSE + b"\r\n"
TIMEOUTS = {
    "says nothing": "client_header_timeout",
    "does not shake hands": "client_header_timeout",
    "half a head": "client_header_timeout",
    "half a body": "client_body_timeout",
    "reads nothing": "send_timeout",
    "idle": "keepalive_timeout",
}


def as_member(site):
    """A request for a large file that is for members, as the bytes that a member sends."""
    site.box.write(File("/srv/board/private/large.bin", bytes(4 * MEGABYTE)))
    recorded = len(site.exchanges)
    cookies = signed_in(site, source="203.0.113.79").cookies.items()
    del site.exchanges[recorded:]  # a card is about those who are silent
    words = "; ".join(f"{name}={value}" for name, value in cookies)
    return f"GET /files/large.bin HTTP/1.1\r\nCookie: {words}\r\n".encode() + CLOSE + b"\r\n"


def silent_visitors(site, opened):
    """Visitors who stop in all the places where one can stop, by what they do."""

    def enter(number, words=b"", **options):
        network = "2001:db8::" if options.get("family") == 6 else "203.0.113."
        made = opened.enter_context(connect(site, f"{network}{number}", **options))
        if words:
            made.sendall(words)
        return made

    return {
        "connects to port 80 and says nothing": enter(70, port=80),
        "connects to port 443 and does not shake hands": enter(71, encrypted=False),
        "connects to port 80 by IPv6 and says nothing": enter(70, port=80, family=6),
        "connects to port 443 by IPv6 and does not shake hands": enter(
            71, family=6, encrypted=False
        ),
        "shakes hands and says nothing": enter(72),
        "sends half a head on port 80": enter(73, HALF_A_HEAD, port=80),
        "sends half a head": enter(74, HALF_A_HEAD),
        "sends half a body": enter(75, HALF_A_BODY),
        "asks for a large file and reads nothing": enter(76, LARGE, receive_buffer=4096),
        "asks for a member's large file and reads nothing": enter(
            79, as_member(site), receive_buffer=4096
        ),
        "is idle after a reply, on port 80": opened.enter_context(
            idle_after(site, "203.0.113.77", 80)
        ),
        "is idle after a reply": opened.enter_context(idle_after(site, "203.0.113.78", 443)),
    }


def served_beside(site, opened, words, **options):
    """Let many slow visitors in, and a few normal ones: the statuses that these soon get (0: none).

    They come mixed, because one of the app's workers may get all that come at once. Normal visitors
    who came afterwards could then find the other one free, by luck.
    """
    slow = connect_all(
        site, opened, [f"203.0.113.{number + 100}" for number in range(CROWD)], **options
    )
    normal = connect_all(site, opened, ["203.0.113.200"] * (CROWD // 5))
    end = time.monotonic() + PATIENCE
    for number, one in enumerate(slow):
        one.sendall(words)
        if number % 5 == 4:
            normal[number // 5].sendall(GET_WHOAMI)
    statuses = set()
    for one in normal:
        one.settimeout(max(0.01, end - time.monotonic()))
        reply = read_reply(one)
        statuses.add(reply.status if reply else 0)
    return statuses


def check_nobody_waits(site, opened):
    """Fail when normal visitors are not served beside slow ones.

    A busy machine may take long once; visitors who hold the app's threads hold them each time.
    """
    for what, words, options, setting in (
        ("who send half a body", HALF_A_BODY, {}, "proxy_request_buffering"),
        ("who read nothing", BIG, {"receive_buffer": 4096}, "proxy_buffering"),
    ):
        for _ in range(3):
            statuses = served_beside(site, opened, words, **options)
            if statuses == {200}:
                break
        else:
            expected = f"normal visitors are served, beside {CROWD} others {what}"
            if statuses & {429, 503}:
                place = [("nginx.conf", "limit_conn_zone")]
                raise Mismatch(expected, f"status {max(statuses)} for some", "", place)
            raise Mismatch(
                expected,
                "some of them wait until the slow ones are dropped",
                "Each slow visitor holds a thread of the app; Nginx should hold them instead.",
                [("nginx.conf", setting)],
            )


PAUSES = {
    "in the head of a request": (HALF_A_HEAD, b"on\r\nConnection: close\r\n\r\n"),
    "in the body of a request": (HALF_A_BODY, b"rest"),
    "before reading the answer": (BIG, b""),
}


def dropped_too_soon(site):
    """Pause for 3 s in several places at once: those where the visitor was dropped.

    Raises:
        GraderError: this machine is so busy that the pause was a longer one, time after time.
    """
    for _ in range(5):
        with ExitStack() as opened:
            started = time.monotonic()
            sources = [f"203.0.113.{number + 90}" for number in range(len(PAUSES))]
            made = dict(zip(PAUSES, connect_all(site, opened, sources), strict=True))
            for where, (words, _) in PAUSES.items():
                made[where].sendall(words)
            time.sleep(PAUSE)  # what is asked about
            dropped = []
            for where, (_, rest) in PAUSES.items():
                with contextlib.suppress(OSError):
                    made[where].sendall(rest)
                late = time.monotonic() - started > PAUSE + 1
                reply = read_reply(made[where])
                if late:
                    break
                if reply is None or reply.status != 200:
                    dropped.append(where)
            else:
                return dropped
    raise GraderError("this machine is too busy to pause for 3 s")


@points(5)
@alone
@look_at("nginx.conf", "client_header_timeout", "client_body_timeout")
@by_hand(
    'for p in 80 443; do time timeout 20 bash -c "cat </dev/tcp/192.0.2.80/$p"; done 2>&1 '
    "| grep real"
)
def test_slow_clients(site):
    """A slow visitor holds up nobody, and a silent one is dropped

    A connection that waits costs an attacker nothing. Nginx waits for a minute, in five places,
    unless it is told otherwise.
    """
    with ExitStack() as opened:
        silent = silent_visitors(site, opened)
        started = time.monotonic()
        check_nobody_waits(site, opened)
        for where in dropped_too_soon(site):
            setting = TIMEOUTS["half a head" if "head" in where else "half a body"]
            if "reading" in where:
                setting = TIMEOUTS["reads nothing"]
            raise Mismatch(
                f"an answer for a visitor who pauses for {PAUSE:g} s {where}",
                "the visitor is dropped",
                "",
                [("nginx.conf", setting)],
            )
        wait_for(lambda: not still_open(site, silent), started + SILENCE + SLACK - time.monotonic())
        for what in still_open(site, silent):
            method, _, target = what.partition(" ")
            source = silent[what].getsockname()[0]
            site.record(Exchange(method, target, source, "http://board.example"))
            note = ""
            if "port" in what and "idle" not in what:
                note = "Which host is meant is not known yet: the default server's word counts."
            raise Mismatch(
                f"the visitor is dropped within {SILENCE:g} s",
                "the connection is still open",
                note,
                [("nginx.conf", one) for word, one in TIMEOUTS.items() if word in what],
            )

"""Lab 03, Nginx in front: the checks. README.md says what each one asks for."""

import hashlib
import re
import time
from contextlib import ExitStack
from itertools import product
from urllib.parse import urljoin

import requests

from grader.board import LOGIN, check_visitor_is_known, doors, plain, told_by, whoami
from grader.checks import alone, by_hand, look_at, needs, points
from grader.errors import Mismatch, NotLive

SLOW_CLIENTS = 50
NORMAL_VISITORS = 25
BIG_KB = 1000  # more than the kernel swallows between the app and a stuck reader
NAMES = ("board.example", "www.board.example")
HOME, BROKE = (
    "What the house should know",
    "Something broke on our side",
)  # words of the app's pages
PATIENCE = 10  # seconds that a visitor waits at most
BY_HAND = (
    "for i in $(seq 50); do exec {slow}<>/dev/tcp/board.example/80; "
    "printf '%s' >&$slow; done; curl -m 10 -i http://board.example/whoami"
)


def ways(site, cases):
    """Each case at two doors that have nothing in common; at the other two the cases by turns."""
    (host, family), (other_host, other_family) = (door.values() for door in doors(site))
    crossed = ({"host": host, "family": other_family}, {"host": other_host, "family": family})
    return [
        *product(doors(site), cases),
        *((crossed[number % 2], case) for number, case in enumerate(cases)),
    ]


def whoami_unless_refused(site, headers, **door):
    """The same with headers that lie; None when the site refuses the request, which is right."""
    reply = site.get("/whoami", headers=headers, **door)
    return None if reply.status_code == 400 else told_by(reply)


def echo(site, method, target, **options):
    """Ask the app to repeat what arrived."""
    return told_by(site.request(method, target, **options))


def reached_the_app(told):
    """The headers of the request as the app got it."""
    return {name: str(value) for name, value in dict(told.get("headers") or {}).items()}


def inherits_nothing(site, value):
    """A note for the card of a header that is set in nginx.conf and yet does not arrive."""
    text = site.submitted("nginx.conf") or b""
    if not re.search(rb"proxy_set_header[^;#]*" + re.escape(value), text):
        return ""
    return "A location that sets any header itself inherits none of the lines outside of it."


def check_client(site, address, **options):
    """The app knows a visitor's address; if not, the headers that reached it tell whose fault."""
    told = whoami(site, source=address, **options)
    client = plain(told["client"])
    if client == address:
        return
    headers = reached_the_app(told)
    named = [f"{name}: {value}" for name, value in headers.items() if address in value]
    forwarded = [one for one in named if one.lower().startswith("x-forwarded-for:")]
    if forwarded:
        lines = [("wsgi.py", text) for text in ("x_for", "app.wsgi_app", "app =")]
        note = f"This reached the app: {forwarded[0]}. The app does not take the address from it."
    elif named:
        lines = [("nginx.conf", text) for text in ("X-Real-IP", "Forwarded", "proxy_pass")]
        note = f"This reached the app: {named[0]}. ProxyFix reads X-Forwarded-For alone."
    else:
        texts = ("X-Forwarded-For", "X-Real-IP", "proxy_pass")
        lines = [("nginx.conf", text) for text in texts]
        note = "No header that reached the app has the visitor's address. "
        if b"add_header X-Forwarded-For" in (site.submitted("nginx.conf") or b""):
            note += "`add_header` speaks to the visitor; the app hears `proxy_set_header`."
        note += inherits_nothing(site, b"$remote_addr")
    raise Mismatch(f"client {address}", f"client {client or '(empty)'}", note.strip(), lines)


@points(2)
@look_at("nginx.conf", "return", "    server ", "proxy_pass", "listen", "server")
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
    except requests.ConnectionError as error:
        lines = (("nginx.conf", "listen"), ("nginx.conf", "server"))
        raise Mismatch("an answer on port 80, over IPv4", str(error), look_at=lines) from None
    if told["instance"] != site.instance:
        raise Mismatch(
            "an answer that only the app can give",
            "another answer, made before the app was asked",
            look_at=(("nginx.conf", "return"), ("nginx.conf", "location")),
        )
    for door in doors(site):
        page = site.get("/", **door).text
        if HOME not in page:
            lines = [("nginx.conf", text) for text in ("try_files", "root", "index", "proxy_pass")]
            raise Mismatch(
                f'the app\'s page: "{HOME} …"', f"another page: {page[:60]!r}", "", lines
            )


@points(1)
@look_at("nginx.conf", "listen")
def test_ipv6(site):
    """It answers on IPv6 too

    `listen 80` means IPv4 alone. Visitors whose network prefers IPv6 see a refused connection.
    """
    try:
        told = whoami(site, family=6)
    except requests.ConnectionError as error:
        raise Mismatch("an answer on port 80 of [2001:db8::80]", str(error)) from None
    assert told["instance"] == site.instance, "the app itself must answer"


@points(3)
def test_visitor_address(site):
    """The app sees the visitor's address

    Without it every log line, rate limit and ban hits Nginx itself.
    """
    for address in ("203.0.113.7", "203.0.113.99"):
        for host in NAMES:
            check_client(site, address, host=host)


@points(1)
@needs(test_ipv6, test_visitor_address)
def test_visitor_address_v6(site):
    """The app sees the visitor's IPv6 address

    Half of the visitors may come this way; they too want their own log lines and limits.
    """
    for host in NAMES:
        check_client(site, "2001:db8::7", family=6, host=host)


@points(2)
@look_at("nginx.conf", "proxy_set_header Host", "proxy_pass")
def test_host(site):
    """The app sees the host that the visitor asked for

    `proxy_pass` alone sends the upstream's name instead, and every link the app makes is wrong.
    """
    for door, _ in ways(site, ("", "")):
        host, url = door["host"], whoami(site, **door)["url"]
        if url != f"http://{host}/whoami":
            note, lines = inherits_nothing(site, b"Host $") if host not in url else "", ()
            if url == f"https://{host}/whoami":
                lines = (("nginx.conf", "X-Forwarded-Proto"), ("wsgi.py", "x_proto"))
                note = "The host is right; the scheme is not. This visitor came over http."
            raise Mismatch(f"url http://{host}/whoami", f"url {url}", note, lines)


@points(1)
@needs(test_host)
@look_at("nginx.conf", "proxy_set_header Host", "proxy_pass")
def test_port(site):
    """The app sees the port that the visitor asked for

    The VM forwards port 8080 to 80: links without the port lead nowhere. `$host` leaves it out.
    """
    for door, port in ways(site, (8080, 8181)):
        wanted = f"http://{door['host']}:{port}/whoami"
        told = whoami(site, **{**door, "host": f"{door['host']}:{port}"})
        if told["url"] == wanted:
            continue
        note, lines = "", ()
        for name, option in (("X-Forwarded-Port", "x_port"), ("X-Forwarded-Host", "x_host")):
            if name in reached_the_app(told):
                lines = (("wsgi.py", option), ("nginx.conf", name), ("nginx.conf", "Host"))
                note = f"This reached the app too: {name}: {reached_the_app(told)[name]}"
                break
        raise Mismatch(f"url {wanted}", f"url {told['url']}", note, lines)


SPOOFED_ADDRESSES = (
    {"X-Forwarded-For": "6.6.6.6"},
    {"X-Forwarded-For": "203.0.113.7, 6.6.6.6"},
    {"X-Forwarded-For": "6.6.6.6, 127.0.0.1, 127.0.0.1"},
    {"X-Real-IP": "6.6.6.6"},
    {"Forwarded": "for=6.6.6.6"},
    {"X-Client-IP": "6.6.6.6", "True-Client-IP": "6.6.6.6", "CF-Connecting-IP": "6.6.6.6"},
)


@points(3)
@alone
@needs(test_visitor_address)
def test_spoofed_address(site):
    """A visitor cannot claim another address

    Anyone can send X-Forwarded-For. An app that believes it lets anyone pass a ban, or get
    somebody else banned.
    """
    for door, headers in ways(site, SPOOFED_ADDRESSES):
        visitor = site.usual_source(door["family"])
        told = whoami_unless_refused(site, headers, **door)
        client = plain(told.get("client")) if told else visitor
        if client != visitor:
            arrived = [one.split(",")[-1].strip() for one in reached_the_app(told).values()]
            if visitor in arrived:
                note = "Nginx told the app the right address too; the app took the other one."
                lines = [("wsgi.py", text) for text in ("x_for", "environ[", "app.wsgi_app")]
            else:
                note = "No header that reached the app ends with the right address."
                texts = ("set_real_ip_from", "real_ip_header", "X-Forwarded-For", "proxy_pass")
                lines = [("nginx.conf", text) for text in texts]
            raise Mismatch(f"client {visitor}", f"client {client}", note, lines)
    # Pages that often have a location of their own.
    with site.visitor() as visitor:
        visitor.post("/login", data=LOGIN)
        # Whether the link is right on other pages, and a cookie arrives, are other checks' matters.
        known = whoami(site)["url"] == "http://board.example/whoami"
        if known and visitor.get("/account").status_code == 200:
            check_visitor_is_known(visitor, "http://board.example")


SPOOFED_SCHEMES = (
    {"X-Forwarded-Proto": "https"},
    {"X-Forwarded-Proto": "https, http"},
    {"X-Forwarded-Proto": "http, https"},
    {"X-Forwarded-Protocol": "ssl"},
    {"X-Forwarded-Ssl": "on"},
    {"X-Forwarded-Scheme": "https", "X-Scheme": "https", "Front-End-Https": "on"},
    {"Forwarded": "proto=https"},
)


@points(3)
@look_at("nginx.conf", "X-Forwarded-Proto", "proxy_pass")
def test_spoofed_scheme(site):
    """A visitor cannot claim to have come over https

    Gunicorn believes X-Forwarded-Proto from 127.0.0.1, and that is where Nginx knocks from. If
    Nginx passes a visitor's own header on, links and secure cookies go wrong.
    """
    for door, headers in ways(site, SPOOFED_SCHEMES):
        told = whoami_unless_refused(site, headers, **door)
        if told:
            assert told.get("scheme") == "http"


SPOOFED_HOSTS = (
    {"X-Forwarded-Host": "evil.test"},
    {"X-Forwarded-Host": "evil.test, board.example"},
    {"X-Forwarded-Host": "board.example, evil.test"},
    {"X-Forwarded-Port": "444"},
    {"X-Forwarded-Prefix": "/evil"},
    {"X-Script-Name": "/evil"},
    {"X-Forwarded-Server": "evil.test", "X-Host": "evil.test", "X-Original-Host": "evil.test"},
    {"Forwarded": "host=evil.test"},
)


@points(2)
@needs(test_host)
def test_spoofed_host(site):
    """A visitor cannot change the links that the app makes

    A page, a cached page or a password mail with links to evil.test is how accounts are stolen.
    """
    for door, headers in ways(site, SPOOFED_HOSTS):
        told = whoami_unless_refused(site, headers, **door)
        wanted = f"http://{door['host']}/whoami"
        url = told.get("url") if told else wanted
        if url != wanted:
            name = next(iter(headers))
            option = name.lower().replace("x-forwarded-", "x_")  # as ProxyFix calls it
            raise Mismatch(
                f"url {wanted}",
                f"url {url}",
                f"The app believes {name}, and Nginx does not replace it.",
                (("wsgi.py", option), ("nginx.conf", name), ("wsgi.py", "app")),
            )


@points(2)
@needs(test_host)
@look_at("nginx.conf", "proxy_redirect", "Host", "proxy_pass")
def test_redirects(site):
    """Redirects lead to the address that the visitor asked for

    A Location with the upstream's address sends the visitor to a place that only the server sees.
    """
    pages = (("/go?to=/notices/1", "/notices/1"), ("/account", "/login"))
    # An app that does not know the port cannot lead there: another check's matter.
    knows_ports = ":8080/" in whoami(site, host="board.example:8080")["url"]
    ports = ("", ":8080") if knows_ports else ("",)
    for (door, (page, target)), port in product(ways(site, pages), ports):
        host = door["host"] + port
        here = f"http://{host}"
        location = site.get(page, **{**door, "host": host}).headers.get("Location", "")
        if urljoin(here + page, location).partition("?")[0] != here + target:
            raise Mismatch(f"Location: {here}{target}", f"Location: {location or '(none)'}")


TARGETS = (
    "/echo/a%2Fb?x=1&x=2",
    "/echo/a%2fb",
    "/echo//two///slashes//",
    "/echo/gr%C3%BC%C3%9Fe/%E2%9C%93?q=%E2%9C%93",
    "/echo/a%20b;c=1,d?q=a+b%20c&empty=&=",
    "/echo/100%25?next=http://board.example/%3Fa=b%26c",
    "/echo/a%252Fb%2e%2e",
    "/echo/%5Bx%5D@:$!'()*~",
    "/echo/style.css",
    "/echo/img/board.png?v=2",
)


@points(2)
@look_at("nginx.conf", "rewrite", "merge_slashes", "proxy_pass")
def test_paths(site):
    """Paths and queries arrive byte for byte

    With a path behind its address `proxy_pass` sends what Nginx made of the path: decoded, and
    with double slashes merged. The app then sees another path than the visitor sent.
    """
    for door, target in ways(site, TARGETS):
        told = echo(site, "GET", target, **door)
        arrived = told.get("path", "") + (f"?{told['query']}" if told.get("query") else "")
        if arrived != target:
            raise Mismatch(f"the app is asked for {target}", f"it is asked for {arrived}")


@points(2)
@look_at("nginx.conf", "limit_except", "client_max_body_size", "proxy_method", "proxy_pass")
def test_methods_and_bodies(site):
    """Methods, headers and bodies up to 1 MB pass

    The app decides what it accepts. A proxy in front of it is no reason to lose an upload.
    """
    for door in doors(site):
        methods_and_bodies(site, **door)


def methods_and_bodies(site, **door):
    """They pass at one of the site's doors."""
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert echo(site, method, "/echo/m", **door)["method"] == method
    assert site.head("/echo/m", **door).status_code == 200
    reply = site.request("OPTIONS", "/api/notices", **door)
    if "POST" not in reply.headers.get("Allow", ""):
        raise Mismatch(
            "the app's answer to OPTIONS /api/notices, with Allow",
            f"status {reply.status_code}, and no such header",
            look_at=[("nginx.conf", "OPTIONS"), ("nginx.conf", "location /api")],
        )
    own = {"Cookie": "session=mine", "Authorization": "Basic bWU6bWU=", "Accept-Language": "de"}
    arrived = reached_the_app(whoami(site, headers=own, **door))
    for name, value in own.items():
        if arrived.get(name) != value:
            raise Mismatch(
                f"the visitor's own {name}: {value}",
                f"{name}: {arrived.get(name, '(none)')}",
                "Without them nobody stays logged in.",
                (("nginx.conf", "proxy_pass_request_headers"), ("nginx.conf", "proxy_set_header")),
            )
    body = bytes(range(250)) * 4000  # 10^6 bytes
    told = echo(site, "POST", "/echo/b", data=body, **door)
    assert told["length"] == 10**6
    assert told["sha256"] == hashlib.sha256(body).hexdigest()


@points(1)
@look_at("nginx.conf", "chunked_transfer_encoding", "proxy_request_buffering", "proxy_pass")
def test_chunked_body(site):
    """A body in chunks passes

    A client that makes its body while it sends cannot know the length, and sends it in chunks.
    """
    body = b"all the notices of the board " * 2000
    parts = (body[at : at + 7000] for at in range(0, len(body), 7000))
    told = echo(site, "POST", "/echo/c", data=parts)
    assert told["sha256"] == hashlib.sha256(body).hexdigest()


@points(2)
@look_at("gunicorn.conf.py", "bind")
@by_hand("curl -i --interface 203.0.113.7 http://board.example:8000/whoami")
def test_gunicorn_is_private(site):
    """Visitors cannot reach Gunicorn past Nginx

    Whoever reaches Gunicorn itself writes his own X-Forwarded-For, and holds its workers with one
    slow line each.
    """
    for one in site.service("gunicorn").http_listeners():
        if one.path:
            continue
        for family, server in ((4, "192.0.2.80"), (6, "2001:db8::80")):
            source = "203.0.113.7" if family == 4 else "2001:db8::7"
            try:
                site.connect(source, family, one.port, server=server).close()
            except OSError:
                continue
            raise Mismatch(
                f"a visitor's connection to port {one.port} is refused",
                f"it is accepted: Gunicorn listens on {one}",
            )


def nobody_waits(site, slow_words, kind, receive_buffer=None):
    """Let slow clients and normal visitors in, two to one: all the normal ones are served.

    They come mixed, because one of the app's workers may get all that come at once. Normal
    visitors who came afterwards could then find the other one free, by luck.
    """
    request = b"GET /whoami HTTP/1.1\r\nHost: board.example\r\nConnection: close\r\n\r\n"
    every = SLOW_CLIENTS // NORMAL_VISITORS
    families = [door["family"] for door in doors(site)]
    normal = []
    with ExitStack() as opened:
        for n in range(SLOW_CLIENTS):
            # By both names and versions of IP, in turn: each may have a server block of its own.
            turn = n // every
            name = NAMES[turn % len(NAMES)].encode()
            family = families[turn // len(NAMES) % len(families)]
            source = f"203.0.113.{n + 10}" if family == 4 else f"2001:db8::{n + 10}"
            slow = site.connect(source, family, receive_buffer=receive_buffer)
            opened.enter_context(slow).sendall(slow_words.replace(b"board.example", name))
            if n % every == every - 1:
                visitor = opened.enter_context(site.connect(f"203.0.113.{n + 100}"))
                visitor.sendall(request)
                normal.append(visitor)
        end = time.monotonic() + PATIENCE
        if not all(answered(one, end, site.instance) for one in normal):
            raise Mismatch(
                f"all normal visitors are served, beside {SLOW_CLIENTS} {kind}",
                f"some of them still wait after {PATIENCE} seconds",
                "Each slow visitor holds a thread of the app; Nginx should hold them instead.",
            )


def answered(visitor, end, instance):
    """Wait for the app's whole answer on a connection; False when the time is over before."""
    received = b""
    try:
        while True:
            visitor.settimeout(max(0.01, end - time.monotonic()))
            more = visitor.recv(65536)
            if not more:
                break
            received += more
    except OSError:
        return False
    return received.startswith(b"HTTP/1.1 200 ") and instance.encode() in received


@points(2)
@look_at("nginx.conf", "proxy_pass")
@by_hand(BY_HAND % r"GET / HTTP/1.1\r\nHost: board.example\r\nX-Slow: ")
def test_slow_headers(site):
    """50 visitors with slow headers keep nobody waiting

    One phone in a tunnel sends a line a minute. Nginx waits for the whole request before it
    troubles the app; Gunicorn alone gives each of them a thread.
    """
    head = b"GET /whoami HTTP/1.1\r\nHost: board.example\r\nX-Slow: "
    nobody_waits(site, head, "visitors who are still sending their headers")


@points(2)
@look_at("nginx.conf", "proxy_request_buffering", "proxy_pass")
@by_hand(BY_HAND % r"POST /upload HTTP/1.1\r\nHost: board.example\r\nContent-Length: 99\r\n\r\n")
def test_slow_bodies(site):
    """50 visitors with slow uploads keep nobody waiting

    Nginx takes the whole body in before it troubles the app, unless it is told not to.
    """
    head = b"POST /upload HTTP/1.1\r\nHost: board.example\r\nContent-Length: 100000\r\n\r\n"
    nobody_waits(site, head + b"x" * 1000, "visitors who are still sending their uploads")


@points(2)
@look_at("nginx.conf", "proxy_buffering", "proxy_max_temp_file_size", "proxy_buffer", "proxy_pass")
@by_hand(BY_HAND % rf"GET /big?kb={BIG_KB} HTTP/1.1\r\nHost: board.example\r\n\r\n")
def test_slow_readers(site):
    """50 visitors who read slowly keep nobody waiting

    Nginx takes the app's page at full speed and hands it out as slowly as each visitor reads. So
    the app is free after milliseconds.
    """
    if not site.small_buffers:
        raise NotLive("this machine's kernel swallows a whole page for a slow reader")
    ask = f"GET /big?kb={BIG_KB} HTTP/1.1\r\nHost: board.example\r\n\r\n".encode()
    nobody_waits(site, ask, "visitors who have not read their page yet", receive_buffer=4096)


@points(1)
@look_at("nginx.conf", "error_page", "proxy_intercept_errors")
def test_error_pages(site):
    """The app's own 404 and 500 pages show

    The app knows what it was doing and whose language to speak; Nginx's page says nothing.
    """
    pages = (
        ("/there/is/no/such/page", 404, "This notice board has no such page"),
        ("/crash", 500, BROKE),
    )
    missing, crash = pages
    ways = [(door, missing) for door in doors(site)]
    for door, (path, status, words) in (*ways, ({}, crash)):  # crashes by each: another check's
        reply = site.get(path, **door)
        if reply.status_code != status:
            raise Mismatch(f"status {status}", f"status {reply.status_code}")
        if words not in reply.text:
            raise Mismatch(
                f'the app\'s own page: "{words} …"', f"another page: {reply.text[:60]!r}"
            )


@points(1)
@look_at("nginx.conf", "proxy_next_upstream", "max_fails", "upstream")
@by_hand("curl -i http://board.example/crash; curl -s http://board.example/stats")
def test_after_a_crash(site):
    """After a crash the next request is served as before

    One mistake in one view must not take the site down, nor run twice.
    """
    own = BROKE in site.get("/crash").text  # else it is another check's matter
    for door in doors(site):
        before = crashes(site)
        for _ in range(3):
            reply = site.get("/crash", **door)
            if reply.status_code != 500 or (own and BROKE not in reply.text):
                got = f"status {reply.status_code}: {reply.text[:60]!r}"
                raise Mismatch(f'status 500 and the app\'s own page: "{BROKE} …"', got)
            whoami(site, **door)
        ran = crashes(site) - before
        if ran != 3:
            wanted = "3 visits to /crash reach the app 3 times"
            raise Mismatch(wanted, f"they reached it {ran} times")


def crashes(site):
    """How often the app was asked for /crash."""
    return told_by(site.get("/stats")).get("paths", {}).get("/crash", 0)

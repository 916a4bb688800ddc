"""Lab 07, caching: the checks. README.md says what each one asks for."""

import gzip
import itertools
import re
import secrets
import time
from contextlib import ExitStack, suppress
from functools import cache, partial
from itertools import product

import requests

from grader import board
from grader.board import LOGIN, check_visitor_is_known, told_by, whoami
from grader.checks import alone, by_hand, look_at, needs, points
from grader.client import Exchange, tls_context
from grader.clock import put_forward, restart_with_clock
from grader.errors import GraderError, Mismatch
from grader.machine import File
from grader.sandbox import APP
from grader.site import VISITOR, VISITOR_V6, wait_for

STATIC = APP / "static"
FOLDER = "/var/cache/nginx/board"
MOST_BYTES = 50 * 1024 * 1024
CREDENTIALS = tuple(LOGIN.values())
OPERATOR = "127.0.0.1"
ROUNDS = 4  # a grader that is held up for seconds finds a page too old: then once more
TOO_OLD = 5.0  # seconds after which all is anew; the app says 2, and Nginx counts whole ones
PATIENCE = 8.0  # seconds that a busy machine gets for it
AT_ONCE = 50  # visitors
FEW = 5  # of them, where fewer tell as much
LATER = 4.5  # seconds after which a page is old for more than a moment
UNVISITED = 45  # seconds without a visit; a page is kept for 60
YEAR = {"public", "max-age=31536000", "immutable"}
FEW_MINUTES = 300  # seconds
STALE = ("STALE", "UPDATING")
TOO_LONG = (("nginx.conf", "proxy_ignore_headers"), ("nginx.conf", "proxy_cache_valid"))
NAMES = ("board.example", "www.board.example")
PUBLIC = ("notice", "/", "/api/notices")  # what comes from the cache
URL = "http://board.example"
HEAD = "curl -s -D- -o /dev/null"
LOOK = f"for i in 1 2; do {HEAD} {URL}/ | grep -i ^x-cache; done"


def forget(site):
    """Leave the last request out: the card shows the one that is judged."""
    site.exchanges.pop()


def asked(site, path):
    """How many requests for a path, whatever the query, have reached the app by its own count."""
    paths = told_by(site.get(f"/stats?{secrets.token_hex(8)}"))["paths"]
    forget(site)
    return paths.get(path, 0)


def pin(site, title="A notice"):
    """Pin a notice of more than 1 KB; its number."""
    notice = {"title": title, "body": "It is pinned to the board. " * 50}
    # A query of its own: that a POST reaches the app is one check's matter.
    address = f"/api/notices?{secrets.token_hex(8)}"
    reply = site.post(address, json=notice, auth=CREDENTIALS)
    if reply.status_code != 201:
        raise Mismatch("a new notice, with status 201", f"status {reply.status_code}")
    forget(site)
    return reply.json()["id"]


def cold(site, base="notice", title="A notice"):
    """The address of a page that nobody has asked for yet, and its path; a notice is new on it."""
    number = pin(site, title)
    path = f"/notices/{number}" if base == "notice" else base
    return f"{path}?{secrets.token_hex(8)}", path


def status_of(reply):
    """What X-Cache says, in words for the card."""
    told = reply.headers.get("X-Cache")
    return f"X-Cache: {told}" if told else "no X-Cache"


def is_hit(reply):
    """Whether X-Cache says that the cache had it."""
    return reply.headers.get("X-Cache") == "HIT"


def page(site, address, **options):
    """GET an address; any other status than 200 is a mismatch."""
    reply = site.get(address, **options)
    if reply.status_code != 200:
        raise Mismatch("status 200", f"status {reply.status_code}")
    return reply


def stored(site, address, **options):
    """Ask for a page until it comes from the cache; it is fresh for a second at least."""
    for _ in range(ROUNDS):
        page(site, address, **options)
        reply = page(site, address, **options)
        if is_hit(reply):
            return reply
        if reply.headers.get("X-Cache") not in STALE:
            continue

        # It is stored, and being refreshed just now, for an earlier check maybe.
        def fresh():
            return page(site, address, **options).headers.get("X-Cache") not in STALE

        if not wait_for(fresh, PATIENCE):
            break
    raise Mismatch("X-Cache: HIT, the second time", status_of(reply))


def said(reply):
    """The directives of all Cache-Control headers of a reply."""
    told = reply.headers.get("Cache-Control", "").lower()
    return {one.strip() for one in told.split(",")} - {""}


def control(reply):
    """Cache-Control, in words for the card."""
    told = reply.headers.get("Cache-Control")
    return f"Cache-Control: {told}" if told else "no Cache-Control"


def stamp(site, query, **options):
    """Ask /stamp, whose number never comes twice: its JSON, and the reply."""
    reply = site.get(f"/stamp?{query}", **options)
    return told_by(reply), reply


def schemes(site):
    """The schemes that the site is asked by: https where it serves it."""
    return ("http", "https") if site.port_owner(443) == "nginx" else ("http",)


@cache
def doors(site):
    """The two ways in of `grader.board.doors`: one by http, the other by https if there is that."""
    scheme = schemes(site)[-1]
    near, far = board.doors(site, 443 if scheme == "https" else 80)
    return {**near, "scheme": "http"}, {**far, "scheme": scheme}


def in_turns(site):
    """Each of the public pages with one of the two ways in, by turns: by both it takes long."""
    return list(zip(itertools.cycle(doors(site)), PUBLIC, strict=False))


def third_door(site):
    """The way in that the other two leave out: plain http over IPv6."""
    return {**board.doors(site)[1], "scheme": "http"}


def visitor_at(number, family=4):
    """The address of one of many visitors."""
    return f"{'2001:db8::' if family == 6 else '203.0.113.'}{number + 20}"


def home(door):
    """The address of the site, as a visitor types it."""
    return f"{door['scheme']}://{door['host']}"


def signed_in(site, name, **options):
    """A visitor who has logged in: ada or ben."""
    who = {"ada": LOGIN, "ben": {"name": "ben", "password": "read-the-board"}}[name]
    visitor = site.visitor(**options)
    reply = visitor.post("/login", data=who)
    if reply.status_code != 303 or not visitor.cookies.get("session"):
        cookie = "a" if "Set-Cookie" in reply.headers else "no"
        raise Mismatch(
            "a session after the log-in: status 303, and a Set-Cookie",
            f"status {reply.status_code}, {cookie} Set-Cookie",
            look_at=(("nginx.conf", "Set-Cookie"), ("nginx.conf", "proxy_pass")),
        )
    forget(site)
    return visitor


def whose(reply):
    """Who a page takes its visitor for: ada, ben or nobody."""
    found = re.search(r'href="/account">(\w+)<', reply.text)
    return found[1] if found else "nobody"


def not_kept(site, address, how, count=3, **door):
    """Ask /stamp several times, from different addresses; the same number twice is a mismatch."""
    seen = {}
    for number in range(count):
        told, reply = stamp(site, address, source=visitor_at(number, door.get("family")), **door)
        if told["stamp"] in seen:
            raise Mismatch(
                f"for each visitor a new number: {how}",
                f"visitor {number + 1} got that of visitor {seen[told['stamp']]}",
                f"The second reply says {status_of(reply)}.",
            )
        seen[told["stamp"]] = number + 1
    return reply


@points(2)
@look_at("nginx.conf", "proxy_pass", "listen", "server")
def test_site_answers(site):
    """The site answers, with pages and with files

    A cache in between changes when the app is asked, not what visitors get.
    """
    assert (site.port_owner(80) or "nobody") == "nginx", "Nginx listens on port 80"
    for scheme in schemes(site):
        told = whoami(site, scheme=scheme)
        assert told["instance"] == site.instance, "the app itself must answer"
        assert page(site, "/", scheme=scheme).headers["Content-Type"].startswith("text/html")
    reply = page(site, "/static/style.css", headers={"Accept-Encoding": "identity"})
    assert reply.content == (STATIC / "style.css").read_bytes(), "style.css, byte for byte"


@points(1)
@look_at("nginx.conf", "proxy_set_header", "proxy_pass")
@by_hand(f"curl -s --interface {VISITOR} {URL}/whoami")
def test_visitor(site):
    """The app still knows its visitor

    What lab 03 built holds. A location with a proxy_set_header of its own inherits none.
    """
    lies = (
        *({}, {"X-Forwarded-For": "6.6.6.6"}, {"X-Forwarded-Host": "evil.test"}),
        {"X-Forwarded-Port": "444", "X-Forwarded-Prefix": "/evil"},
    )
    for door, headers in product(doors(site), lies):
        reply = site.get("/whoami", headers=headers, **door)
        if reply.status_code == 400:
            continue
        assert told_by(reply)["client"] == site.usual_source(door["family"])
        assert told_by(reply)["url"] == f"{home(door)}/whoami"

    def known(door):
        ada = signed_in(site, "ada", **{**door, "family": 4})  # from the address that is looked for
        check_visitor_is_known(ada, home(door))

    # At once, because /stream takes its time; then in turn, so that the card shows what failed.
    if any(one.error for one in site.together([partial(known, door) for door in doors(site)])):
        for door in doors(site):
            known(door)


NOT_KEPT = tuple(
    ("nginx.conf", one)
    for one in (
        *("proxy_cache_min_uses", "$request_uri$", 'X-Cache "', "proxy_buffering off;"),
        *("proxy_cache_key", "location / "),
    )
)


@points(3)
@look_at("nginx.conf", "proxy_cache ", "location / ")
@by_hand(LOOK)
def test_public_pages(site):
    """Public pages come from the cache

    The home page is the same for everybody who is not logged in. Made once in two seconds, it
    costs the app next to nothing, however many come.
    """
    for base in PUBLIC:
        for last in range(ROUNDS):
            address, path = cold(site)
            if base != "notice":
                address, path = f"{base}?{secrets.token_hex(8)}", base
            before = asked(site, path)
            replies = [page(site, address, source=f"203.0.113.{one}") for one in (7, 8, 9)]
            cost = asked(site, path) - before
            # Whether an unknown query makes another page is one check's matter.
            begins = base != "notice" or replies[0].headers.get("X-Cache") == "MISS"
            kept = begins and all(map(is_hit, replies[1:])) and cost <= 1
            if kept and len({one.content for one in replies}) == 1:
                break
            if last == ROUNDS - 1:
                if kept:
                    raise Mismatch(f"{path}: the same page each time", "different pages")
                told = [one.headers.get("X-Cache", "none") for one in replies]
                shown = any("X-Cache" in one.headers for one in replies)
                raise Mismatch(
                    "of three visits: X-Cache MISS, HIT, HIT, and one request to the app",
                    f"X-Cache {', '.join(told)}, and {cost} requests to the app",
                    "Nothing is kept where proxy_buffering is off, or where the key is another one "
                    "each time."
                    if shown
                    else "Is there a proxy_cache, and an add_header for X-Cache? Beside any other "
                    "add_header, an outer one does not hold.",
                    look_at=NOT_KEPT if shown else (("nginx.conf", "location / "),),
                )


@points(1)
@needs(test_public_pages)
@look_at("nginx.conf", "443", "[::]:80", "listen")
@by_hand(f"for n in -4 -6; do for p in http https; do {HEAD} -k $n $p://board.example/; done; done")
def test_everywhere(site):
    """The same for both names, over IPv4 and IPv6, http and https

    A second server block or a second `listen` line has its own rules. A cache for some is a load
    by the others.
    """
    for scheme in schemes(site):
        for host in NAMES:
            address, _ = cold(site)
            stored(site, address, host=host, scheme=scheme)
            for last in range(ROUNDS):
                reply = page(site, address, host=host, scheme=scheme, family=6, source=VISITOR_V6)
                if is_hit(reply):
                    break
                if last == ROUNDS - 1:
                    raise Mismatch(
                        f"over IPv6 the page that is stored: {scheme}://{host}", status_of(reply)
                    )


@points(3)
@needs(test_public_pages)
@look_at("nginx.conf", "proxy_cache_lock", "proxy_cache ")
@by_hand(
    f"for i in $(seq 50); do curl -s -o /dev/null '{URL}/api/notices?cold' & done; wait; "
    f"""curl -s {URL}/stats | grep -o '"/api/notices":[0-9]*'"""
)
def test_one_request(site):
    """50 visitors at once on a cold page cost the app one request

    When a page is linked from somewhere large, all come within a second, and all before it is
    stored. Then the cache lets every one of them through, unless it is told to wait.
    """
    near, far = doors(site)
    crowds = [
        (*cold(site, base), door, count)
        for base, door, count in (
            ("notice", near, AT_ONCE),
            ("/api/notices", {**near, "host": NAMES[1]}, FEW),
            ("/", far, FEW),
        )
    ]
    before = [asked(site, path) for _, path, _, _ in crowds]
    heads = come_at_once(site, [(address, door, count) for address, _, door, count in crowds])
    for (address, path, door, count), known in zip(crowds, before, strict=True):
        url = f"{home(door)}{address}"
        site.record(Exchange("GET", address, f"{count} visitors at once", url))
        if heads[address] != {b"HTTP/1.1 200"}:
            wrong = str(sorted(heads[address] - {b"HTTP/1.1 200"})[0], "latin-1")
            raise Mismatch("status 200 for all", wrong)
        cost = asked(site, path) - known
        # Whether an unknown query makes another page is one check's matter.
        if cost > 1 or (door is near and cost != 1):
            raise Mismatch("one request to the app", f"{cost} requests to the app")


def come_at_once(site, crowds):
    """Many ask before the app can answer the first: how the replies begin, by the address.

    A crowd is an address, a door and a number of visitors.
    """
    app = site.service("gunicorn")
    with ExitStack() as opened:
        visitors = []
        app.freeze()
        try:
            for address, door, count in crowds:
                for number in range(count):
                    one = opened.enter_context(
                        connect(site, visitor_at(number, door["family"]), door)
                    )
                    lines = f"GET {address} HTTP/1.1", f"Host: {door['host']}", "Connection: close"
                    one.sendall("\r\n".join((*lines, "", "")).encode())
                    visitors.append((address, one))
            site.wait_read([one for _, one in visitors])
        finally:
            app.thaw()
        heads = {}
        for address, one in visitors:
            reply = b"".join(iter(partial(one.recv, 65536), b""))
            heads.setdefault(address, set()).add(reply[:12])
        return heads


def connect(site, source, door):
    """Open a connection by one of the ways in; encrypted if that is by https."""
    if door["scheme"] == "http":
        return site.connect(source, door["family"])
    context = tls_context(site.root or None)
    plain = site.connect(source, door["family"], 443)
    return context.wrap_socket(plain, server_hostname=door["host"])


@points(3)
@needs(test_public_pages, test_everywhere)
@look_at(
    "nginx.conf", "map $cookie_session", "map $http_cookie", "proxy_cache_bypass",
    "proxy_no_cache", "proxy_ignore_headers", "proxy_cache ",
)  # fmt: skip
@by_hand(
    f"curl -s -c /tmp/c -d 'name=ada&password=pin-the-notice' {URL}/login; "
    f"{HEAD} {URL}/; curl -s -b /tmp/c {URL}/ | grep account; curl -s {URL}/ | grep account"
)
def test_session(site):
    """A logged-in visitor sees his own page, and nobody else does

    The page of a logged-in visitor has his name on it. Stored, it goes to strangers; and the
    strangers' page tells him that he is logged out.
    """
    for door in doors(site):
        ada, ben = (signed_in(site, name, **door) for name in ("ada", "ben"))
        session = ada.cookies.get("session")
        for base in PUBLIC:
            check_past_the_cache(site, base, session, **door)
        address, _ = cold(site)
        for who, name in ((ada, "ada"), (site.visitor(**door), "nobody"), (ben, "ben")):
            reply = who.get(address)
            own_page(reply, name, "right after somebody else")
        own_page(ada.get("/"), "ada", "on the home page")
        own_page(page(site, "/", **door), "nobody", "on the home page, right after ada")
    check_past_the_cache(site, "/", session, **third_door(site))


def check_past_the_cache(site, base, session, **door):
    """With ada's session a page that is stored comes from the app all the same, and is hers."""
    address, path = cold(site, base)
    stored(site, address, **door)
    for cookies in (f"session={session}", f"theme=dark; session={session}; lang=en"):
        before = asked(site, path)
        reply = page(site, address, headers={"Cookie": cookies}, **door)
        if base != "/api/notices":
            own_page(reply, "ada", "right after somebody who is not logged in")
        if asked(site, path) == before:
            raise Mismatch("ada's own page, from the app", "the app was not asked")


def own_page(reply, name, when):
    """The reply is the page of this visitor; another's is a mismatch."""
    names = {"nobody": "of somebody who is not logged in"}
    if whose(reply) != name:
        raise Mismatch(
            f"the page {names.get(name, f'of {name}')}, {when}",
            f"the page {names.get(whose(reply), f'of {whose(reply)}')}, {status_of(reply)}",
        )


# Two names end like that of the session; the last value is another one each time.
HARMLESS = "theme=dark; nocache=1; my-session=1; my_session=GA1.2."


@points(1)
@needs(test_public_pages)
@look_at("nginx.conf", "$http_cookie", "proxy_cache_key", "proxy_cache_bypass")
@by_hand(f"for i in 1 2; do {HEAD} -b theme=dark {URL}/ | grep -i ^x-cache; done")
def test_harmless_cookies(site):
    """A cookie that the app does not read changes nothing

    Nearly every visitor has some, from a counter or a banner. A cache that steps aside for any
    cookie is a cache for robots.
    """
    for door, base in in_turns(site):
        for last in range(ROUNDS):
            address, _ = cold(site, base)
            stored(site, address, **door)
            replies = [
                page(site, address, headers={"Cookie": f"{HARMLESS}{number}"}, **door)
                for number in range(2)
            ]
            if all(map(is_hit, replies)):
                break
            if last == ROUNDS - 1:
                raise Mismatch("X-Cache: HIT, with such a cookie too", status_of(replies[-1]))


@points(2)
@needs(test_public_pages)
@look_at("nginx.conf", "http_authorization", "proxy_cache_bypass", "proxy_no_cache", "proxy_cache ")
@by_hand(
    f"for i in 1 2; do {HEAD} -u ada:pin-the-notice {URL}/api/notices | grep -i ^x-cache; done; "
    f"{HEAD} {URL}/api/notices | grep -i ^x-cache"
)
def test_authorization(site):
    """A request with Authorization always reaches the app

    It says who is asking, as a session does. What the app answers may be meant for him alone, so it
    is neither taken from the cache nor put there.
    """
    basic = requests.auth._basic_auth_str(*CREDENTIALS)
    everywhere = [(basic, base, door) for door in doors(site) for base in PUBLIC]
    everywhere.append((basic, "/", third_door(site)))
    for credentials, base, door in (
        ("Bearer 1f2e3d", "notice", {}),
        ("0", "notice", {}),
        *everywhere,
    ):
        address, path = cold(site, base)
        stored(site, address, **door)
        before = asked(site, path)
        for _ in range(2):
            reply = page(site, address, headers={"Authorization": credentials}, **door)
        if is_hit(reply) or asked(site, path) - before < 2:
            raise Mismatch(
                "each request with Authorization reaches the app, also when the page is stored",
                f"{status_of(reply)}, and {asked(site, path) - before} of 2 reached the app",
            )
        address, path = cold(site, base)
        before = asked(site, path)
        page(site, address, headers={"Authorization": credentials}, **door)
        reply = page(site, address, **door)
        if is_hit(reply) or asked(site, path) - before < 2:
            raise Mismatch(
                "what was sent to a request with Authorization is not given to the next visitor",
                f"the next visitor got it, {status_of(reply)}",
                look_at=(("nginx.conf", "proxy_no_cache"), ("nginx.conf", "proxy_cache ")),
            )


PRIVATE = {
    "private": "its Cache-Control says private",
    "no-store": "its Cache-Control says no-store",
    "no-cache": "its Cache-Control says no-cache",
}


@points(2)
@look_at("nginx.conf", "proxy_ignore_headers", "proxy_cache_valid", "proxy_cache ")
@by_hand(f"for i in 1 2; do curl -s '{URL}/stamp?says=private'; done")
def test_private(site):
    """What is private, no-store or no-cache is not kept

    The app knows what a page is made from. A line that ignores its word serves one visitor's page
    to all the others.
    """
    for door, (says, how) in product(doors(site), PRIVATE.items()):
        not_kept(site, f"says={says}&{secrets.token_hex(8)}", how, **door)


@points(2)
@look_at("nginx.conf", "Set-Cookie", "proxy_cache ")
@by_hand(f"for i in 1 2; do curl -si '{URL}/stamp?says=public&cookie=1'; done")
def test_set_cookie(site):
    """A reply with Set-Cookie is not kept

    The cookie is one visitor's. From the cache everybody gets it, and if it is a session, everybody
    is that visitor. Many a sample ignores it, "to make caching work".
    """
    how = "its reply sets a cookie, although it says public"
    for door in doors(site):
        reply = not_kept(site, f"says=public&cookie=1&{secrets.token_hex(8)}", how, **door)
        if f"stamp={reply.json()['stamp']};" not in reply.headers.get("Set-Cookie", ""):
            raise Mismatch(
                "the Set-Cookie of the app", reply.headers.get("Set-Cookie", "no Set-Cookie")
            )


@points(2)
@look_at(
    "nginx.conf", "proxy_cache_valid 200", "proxy_cache_valid 30", "proxy_cache_valid any",
    "proxy_cache_valid", "proxy_ignore_headers", "proxy_cache ",
)  # fmt: skip
@by_hand(
    f"for p in stamp crash notices/999; do for i in 1 2; do {HEAD} {URL}/$p | grep -i ^x-cache; "
    "done; done"
)
def test_not_stored(site):
    """Errors, and replies without Cache-Control, are not stored

    An error is over when its cause is. Stored, it outlives it: a page that was asked for a second
    too early is missing for minutes.
    """
    pages = (("/crash", 500), ("/big", 200), ("/go", 302))
    for door, (path, status) in product(doors(site), pages):
        not_kept(site, secrets.token_hex(8), "its reply has no Cache-Control", **door)
        address = f"{path}?{secrets.token_hex(8)}"
        before = asked(site, path)
        for _ in range(3):
            reply = site.get(address, **door)
            assert reply.status_code == status
        reached = asked(site, path) - before
        if reached != 3:
            raise Mismatch(f"{path}, three times: 3 requests to the app", f"{reached}")
    for _ in range(ROUNDS):
        number = pin(site) + 1
        address = f"/notices/{number}?{secrets.token_hex(8)}"
        assert site.get(address).status_code == 404
        if pin(site) == number:
            break
    if not wait_for(lambda: site.get(address).status_code == 200, PATIENCE):
        raise Mismatch(
            f"a page that was 404, and is there now, is seen within {TOO_OLD:g} s",
            f"still 404, {status_of(site.get(address))}",
        )


@points(1)
@needs(test_public_pages)
@look_at("nginx.conf", "proxy_cache_key", "proxy_cache ")
@by_hand(f"curl -s -o /dev/null '{URL}/notices/1?99'; curl -si {URL}/notices/199")
def test_query(site):
    """Another query is another page

    /search?q=key and /search?q=glove are two pages. A key without the query gives the first one to
    everybody.
    """
    for door, base in product(doors(site), PUBLIC):
        address, path = cold(site, base)
        stored(site, address, **door)
        check_asked(site, f"{path}?{secrets.token_hex(8)}", path, **door)
    for name in ("utm_source", "fbclid"):  # which some keys leave out
        _, path = cold(site)
        for _ in range(2):
            check_asked(site, f"{path}?{name}={secrets.token_hex(8)}", path)
    page(site, "/notices/1?99")
    reply = site.get("/notices/199")
    if reply.status_code != 404:
        raise Mismatch(
            "status 404: there is no notice 199",
            f"status {reply.status_code}, the page /notices/1?99",
            "In the key, path and query must be kept apart.",
        )


def check_asked(site, address, path, **door):
    """A page with a query that nobody has used is asked of the app."""
    before = asked(site, path)
    reply = page(site, address, **door)
    if is_hit(reply) or asked(site, path) == before:
        raise Mismatch(
            "another query than that of the stored page: asked of the app", status_of(reply)
        )


@points(2)
@needs(test_public_pages, test_visitor)
@look_at("nginx.conf", "proxy_cache_key", "proxy_cache ", "Host")
@by_hand(f"for h in evil.test board.example; do curl -s -H Host:$h '{URL}/stamp?says=public'; done")
def test_host(site):
    """Another host is another page, port included

    The app makes its links from the Host header. A key without it is a door: whoever asks first,
    with a host of his own, decides where everybody's links lead.
    """
    hosts = ("evil.test", "board.example:8080", "www.board.example", "board.example")
    for scheme in (*schemes(site), *schemes(site)):
        query = f"says=public&{secrets.token_hex(8)}"
        for host in hosts:
            linked(site, f"/stamp?{query}", f"{scheme}://{host}/", {"Host": host}, scheme=scheme)
    # The request line may name a host too, and then it counts: $host is that one.
    address = f"/stamp?says=public&{secrets.token_hex(8)}"
    with suppress(requests.ConnectionError):
        site.get(f"{URL}{address}", headers={"Host": "evil.test"})
    linked(site, address, f"{URL}/", {"Host": "board.example"})
    for base, host in product(PUBLIC, ("board.example:8080", "www.board.example")):
        title = f"Pinned for {secrets.token_hex(8)}"
        address, path = cold(site, base, title)
        stored(site, address)
        before = asked(site, path)
        reply = site.get(address, headers={"Host": host})
        # Without the title it is one of its own that was stored before.
        if title in reply.text and (is_hit(reply) or asked(site, path) == before):
            raise Mismatch(
                f"for {host} a page of its own, asked of the app",
                f"the one stored for board.example, {status_of(reply)}",
            )


def linked(site, address, wanted, headers=None, **options):
    """The links of a page begin as wanted, unless the site refuses the request."""
    try:
        reply = site.get(address, headers=headers or {}, **options)
    except requests.ConnectionError:
        # A server for all other names may close the connection (444), or refuse to shake hands.
        if (headers or {}).get("Host", NAMES[0]) in NAMES:
            raise
        return
    if reply.status_code == 200:
        link = told_by(reply)["url"]
        if not link.startswith(wanted):
            raise Mismatch(f"a link that begins with {wanted}", f"{link}, {status_of(reply)}")


@points(1)
@needs(test_public_pages, test_visitor)
@look_at("nginx.conf", "proxy_cache_key", "proxy_cache ", "X-Forwarded-Proto")
@by_hand(f'for p in http https; do curl -sk "$p://{URL[7:]}/stamp?says=public"; done')
def test_scheme(site):
    """The two schemes, http and https, do not mix

    The app makes https links for those who came over https. From the cache, they must not become
    http links; nor may a visitor over http choose by a header of his own.
    """
    served = schemes(site)
    for order in (served, served[::-1]):
        query = f"says=public&{secrets.token_hex(8)}"
        for scheme in order:
            linked(site, f"/stamp?{query}", f"{scheme}://", scheme=scheme)
    query = f"says=public&{secrets.token_hex(8)}"
    lies = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.test"}
    lies |= {"X-Forwarded-Port": "444", "X-Forwarded-Prefix": "/evil"}
    for headers in (lies, {}):
        linked(site, f"/stamp?{query}", f"{URL}/", headers)


@points(1)
@needs(test_public_pages)
@look_at("nginx.conf", "proxy_cache_convert_head", "proxy_cache_methods", "proxy_cache_key")
@by_hand(f"curl -sI '{URL}/?cold'; curl -si '{URL}/?cold'")
def test_head(site):
    """HEAD and GET agree

    Link checkers and monitors ask with HEAD. What is stored for them must not be an empty page for
    all who come after.
    """
    plain = {"Accept-Encoding": "identity"}
    cases = [(*one, ("HEAD", "GET", "HEAD")) for one in in_turns(site)]
    cases += [(one, "notice", ("GET", "HEAD", "GET")) for one in doors(site)]
    for door, base, order in cases:
        address, _ = cold(site, base)
        replies = {}
        for method in order:
            try:
                reply = replies[method] = site.request(method, address, headers=plain, **door)
            except requests.RequestException:
                raise Mismatch(f"the page, after a {order[0]}", "a head without its body") from None
            assert reply.status_code == 200
            if method == "GET" and not reply.text.rstrip().endswith(("</html>", "]", "}")):
                got = f"{len(reply.content)} bytes, {status_of(reply)}"
                raise Mismatch(f"the whole page, after a {order[0]}", got)
        for header in ("Content-Type", "Cache-Control", "Content-Length"):
            head, got = (replies[one].headers.get(header) for one in ("HEAD", "GET"))
            if head != got and not (header == "Content-Length" and None in (head, got)):
                raise Mismatch(f"{header}: {got}, as for GET", f"{header}: {head}")


@points(1)
@needs(test_public_pages)
@look_at("nginx.conf", "proxy_cache_methods", "proxy_cache ")
@by_hand(
    f"curl -s -o /dev/null {URL}/api/notices; curl -si "
    f'--json \'{{"title": "a", "body": "b"}}\' {URL}/api/notices | head -1'
)
def test_post(site):
    """A POST always reaches the app

    Answered from the cache, a new notice would be gone, and its author would be told that all is
    well.
    """
    # First without a name, which is refused: credentials alone may lead past the cache.
    who = ((None, 401), (CREDENTIALS, 201))
    for door, (credentials, status) in product(doors(site), who):
        stored(site, "/api/notices", **door)
        before = asked(site, "/api/notices")
        notice = {"title": "A POST", "body": "It is there."}
        reply = site.post("/api/notices", json=notice, auth=credentials, **door)
        if reply.status_code != status or asked(site, "/api/notices") == before:
            wanted = "a new notice" if credentials else "the app's refusal"
            raise Mismatch(
                f"{wanted}, with status {status}", f"status {reply.status_code}, {status_of(reply)}"
            )


HEADINGS = {"en": "What the house should know", "de": "Was das Haus wissen sollte"}
LANGUAGES = (
    ("de", "de"),
    ("en", "en"),
    (None, "en"),
    ("de-DE,de;q=0.9,en;q=0.5", "de"),
    ("en-GB,en;q=0.9,de;q=0.5", "en"),
    ("fr", "en"),
    ("de;q=0.4,en;q=0.6", "en"),
    ("fr,de;q=0.8", "de"),
)


@points(2)
@needs(test_public_pages)
@look_at("nginx.conf", "Vary", "accept_language", "proxy_ignore_headers", "proxy_cache_key")
@by_hand(f"for l in de en; do curl -s -H Accept-Language:$l '{URL}/?cold' | grep '<h1'; done")
def test_language(site):
    """Each visitor gets the page in his language

    The home page has a heading in German or English and says so: Vary: Accept-Language. A cache
    that does not care gives all the language of the first.
    """
    orders = (
        (LANGUAGES[::-1], {}),
        (LANGUAGES[1:], {}),
        *((LANGUAGES, one) for one in doors(site)),
    )
    for order, door in orders:
        address = f"/?{secrets.token_hex(8)}"
        for accepted, language in [*order, *order]:
            reply = page(site, address, headers={"Accept-Language": accepted}, **door)
            if HEADINGS[language] not in reply.text:
                raise Mismatch(
                    f"the heading {HEADINGS[language]!r}", f"another, {status_of(reply)}"
                )
    vary = reply.headers.get("Vary", "no Vary")
    if "accept-language" not in vary.lower():
        raise Mismatch("Vary with Accept-Language, as the app says", vary)


@points(2)
@needs(test_public_pages)
@look_at("wsgi.py", "gzip", "compress")
@look_at("nginx.conf", "Accept-Encoding", "gzip_vary", "gzip_types", "gzip on", "proxy_cache ")
@by_hand(f"for e in gzip identity; do {HEAD} -H Accept-Encoding:$e '{URL}/notices/1?cold'; done")
def test_encoding(site):
    """Packed for those who accept gzip, plain for those who do not

    The two are one page, stored once or twice. Packed bytes for a program that cannot unpack them
    are rubbish.
    """
    orders = (("gzip", "identity"), ("identity", "gzip"), (None, "gzip"))
    for door, (base, order) in product(doors(site), zip(PUBLIC, orders, strict=True)):
        address, _ = cold(site, base)
        bodies = set()
        for accepted in [*order, *order]:
            accepts = {"Accept-Encoding": accepted}
            reply = page(site, address, headers=accepts, stream=True, **door)
            packed = reply.headers.get("Content-Encoding", "none")
            wanted = "gzip" if accepted == "gzip" else "none"
            if packed != wanted:
                raise Mismatch(
                    f"Content-Encoding: {wanted} for whoever sends Accept-Encoding: {accepted}",
                    f"Content-Encoding: {packed}, {status_of(reply)}",
                )
            if "accept-encoding" not in reply.headers.get("Vary", "").lower():
                raise Mismatch("Vary: Accept-Encoding", reply.headers.get("Vary", "no Vary"))
            body = reply.raw.read(decode_content=False)
            bodies.add(gzip.decompress(body) if packed == "gzip" else body)
        assert len(bodies) == 1, "the same page for all"


@points(3)
@alone
@needs(test_public_pages)
@look_at(
    "nginx.conf", "proxy_cache_background_update", "proxy_cache_use_stale", "proxy_cache_valid",
    "proxy_cache ",
)  # fmt: skip
@by_hand(
    f"curl -s -o /dev/null {URL}/; sleep 3; p=$(grep -l gunicorn /proc/[0-9]*/comm | cut -d/ -f3); "
    f"kill -STOP $p; {HEAD} -m 5 {URL}/; kill -CONT $p"
)
def test_nobody_waits(site):
    """Nobody waits for the refresh of a page that is stored

    Every two seconds a page is too old. Whoever comes then would pay for all the others, with the
    time that the app takes.
    """
    others = [(cold(site, base)[0], door) for door, base in in_turns(site)[1:]]
    for other, door in others:
        stored(site, other, **door)
    address, path = cold(site)
    body = stored(site, address).content
    begun = time.monotonic()
    before = asked(site, path)
    app = site.service("gunicorn")
    app.freeze()
    try:
        wait_until_old(site, address, begun)
        for other, door in others:
            wait_until_old(site, other, begun, **door)
        visitors = itertools.cycle(range(20, 30))
        # Also later: how old a page may be is not asked while it is being refreshed.
        wait_for(
            lambda: (
                at_once(site, address, source=f"203.0.113.{next(visitors)}")
                and time.monotonic() - begun > LATER
            ),
            PATIENCE,
        )
    finally:
        app.thaw()
    if not wait_for(lambda: is_hit(site.get(address)), PATIENCE):
        raise Mismatch("the page is fresh again: X-Cache: HIT", status_of(site.get(address)))
    cost = asked(site, path) - before
    if cost > 2:  # one, and one more where the grader was held up
        raise Mismatch("one request refreshes the page for all", f"{cost} requests")
    assert site.get(address).content == body, "the page itself"


def wait_until_old(site, address, begun, **door):
    """Ask for a page until X-Cache says that it is old; it was stored before `begun`.

    Nobody refreshes it meanwhile: what is asked for later than TOO_OLD and still fresh is a proof.
    """

    def looked():
        late = time.monotonic() - begun > TOO_OLD
        told = at_once(site, address, **door)
        return told if late or told in STALE else None

    told = wait_for(looked, PATIENCE)
    if told not in STALE:
        raise Mismatch(
            f"{TOO_OLD:g} s after it was stored, the page is old: X-Cache: STALE or UPDATING",
            f"X-Cache: {told}",
            "The app says max-age=2.",
            TOO_LONG,
        )


def at_once(site, address, **options):
    """What X-Cache says on a page that comes while the app stands still."""
    try:
        return page(site, address, timeout=4, **options).headers.get("X-Cache")
    except requests.RequestException as error:
        raise Mismatch(
            "the stored page at once, however long the app takes",
            str(error),
            "The app stood still: this visitor waited for it.",
        ) from None


@points(2)
@alone
@needs(test_public_pages)
@look_at("nginx.conf", "proxy_cache_use_stale", "proxy_cache ")
@by_hand(
    f"curl -s -o /dev/null {URL}/; kill -9 $(grep -l gunicorn /proc/[0-9]*/comm | cut -d/ -f3); "
    f"sleep 4; {HEAD} {URL}/"
)
def test_app_down(site):
    """While the app is down, stored pages are still served

    A restart, a crash, a database that is away: visitors read yesterday's notices, or an error.
    """
    address, _ = cold(site)
    first = {one: stored(site, one).content for one in ("/", address)}
    others = [(cold(site, base)[0], one) for one in doors(site) for base in PUBLIC]
    bodies = {other: stored(site, other, **door).content for other, door in others}
    app = site.service("gunicorn")
    app.kill()

    def check_old(address, bodies, note="", **door):
        def is_old():
            return served(site, address, bodies, note, **door).headers.get("X-Cache") in STALE

        if not wait_for(is_old, PATIENCE):
            told = status_of(site.get(address, **door))
            note = f"The app says max-age=2. {note}".strip()
            raise Mismatch("X-Cache: STALE or UPDATING", told, note, TOO_LONG)

    check_old(address, first)
    check_old("/", first)
    for other, door in others:
        check_old(other, bodies, f"Asked over {door['scheme']}, by {door['host']}.", **door)
    missing = f"/notices/1?{secrets.token_hex(8)}"
    lost = site.get(missing)
    if lost.status_code < 500:
        raise Mismatch("an error for a page that is not stored", f"status {lost.status_code}")
    app.start()
    if not wait_for(lambda: is_hit(site.get(address)), PATIENCE):
        raise Mismatch(
            "with the app back, a fresh page: X-Cache: HIT", status_of(site.get(address))
        )
    if not wait_for(lambda: site.get(missing).status_code < 500, PATIENCE):
        raise Mismatch(
            "with the app back, the page that was an error while it was down",
            f"still status {site.get(missing).status_code}",
            "Errors are not stored.",
            [("nginx.conf", f"proxy_cache_valid{code}") for code in (" 5", " any", "")],
        )


@points(1)
@alone
@needs(test_app_down)
@look_at("nginx.conf", "inactive", "proxy_cache_path")
@by_hand(
    f"curl -s -o /dev/null {URL}/; kill -9 $(grep -l gunicorn /proc/[0-9]*/comm | cut -d/ -f3); "
    f"sleep 60; {HEAD} {URL}/"
)
def test_kept(site):
    """A stored page is kept for a minute without a visit

    Most pages have no visitor every second. When the app goes down, they should be there, too.
    """
    restart_with_clock(site.service("nginx"))
    address, _ = cold(site)
    first = {one: stored(site, one).content for one in ("/", address)}
    site.service("gunicorn").kill()
    put_forward(site.service("nginx"), UNVISITED)
    # Nginx looks for pages without a visit every ten seconds, and after a reload at once.
    reload(site)
    for one in (address, "/"):
        served(site, one, first, f"Nobody had asked for it for {UNVISITED} seconds.")


def served(site, address, first, note="", **door):
    """A stored page comes while the app is down."""
    reply = site.get(address, **door)
    if reply.status_code != 200 or reply.content != first[address]:
        raise Mismatch(
            "the stored page, although the app is down",
            f"status {reply.status_code}, {status_of(reply)}",
            note,
        )
    return reply


def reload(site):
    """Let Nginx read its files again; returns when the workers from before are gone."""
    nginx = site.service("nginx")
    before = set(nginx.workers())
    nginx.reload()
    if not wait_for(lambda: nginx.workers() and not before & set(nginx.workers()), 20):
        raise GraderError("Nginx did not come to the end of a reload")


@points(2)
@alone
@needs(test_public_pages)
@look_at(
    "nginx.conf", "http_404", "proxy_cache_valid", "proxy_cache_background_update", "proxy_cache ",
)  # fmt: skip
@by_hand(
    f"curl -s -o /dev/null {URL}/notices/1; "
    f"curl -s -u ada:pin-the-notice -X DELETE {URL}/api/notices/1; "
    f"for i in 1 2 3 4 5; do sleep 1; {HEAD} {URL}/notices/1 | head -1; done"
)
def test_deleted(site):
    """A notice that was deleted is gone within 5 seconds

    Somebody took it down because it should not be read. A page that is served while it is old needs
    an end: when the app answers that there is none, the stored one must go.
    """
    title = f"Gone soon {secrets.token_hex(8)}"
    number = pin(site, title)
    address = f"/notices/{number}"
    for one in (address, "/", "/api/notices"):
        stored(site, one)
    deleted = site.request("DELETE", f"/api/notices/{number}", auth=CREDENTIALS)
    if deleted.status_code != 204:
        raise Mismatch("the notice is deleted: status 204", f"status {deleted.status_code}")

    def gone():
        listed = title in site.get("/").text or title in site.get("/api/notices").text
        return site.get(address).status_code in (404, 410) and not listed

    if not wait_for(gone, PATIENCE):
        for one in ("/", "/api/notices", address):
            reply = site.get(one)
            if title in reply.text:
                raise Mismatch(
                    f"{TOO_OLD:g} s later the notice is gone from {one}",
                    f"it is still there, {status_of(reply)}",
                    look_at=TOO_LONG if is_hit(reply) else (),
                )


@points(2)
@needs(test_public_pages)
@look_at(
    "nginx.conf", "real_ip_header", "http_pragma", "http_cache_control", "http_x_refresh",
    "proxy_cache_bypass", "proxy_cache ",
)  # fmt: skip
@by_hand(
    f"for a in 203.0.113.7 127.0.0.1; do curl -s -o /dev/null {URL}/; "
    f"{HEAD} --interface $a -H X-Refresh:1 {URL}/ | grep -i ^x-cache; done"
)
def test_operator(site):
    """The operator refreshes a stored page, a visitor cannot

    After a correction nobody wants to wait. But a visitor who can pass the cache by can send all
    the load to the app that the cache keeps away.
    """
    spoofs = [{}, *board.claims_of(OPERATOR)]
    # As a browser says for a reload: today's, and those of old.
    spoofs += [{"Cache-Control": "max-age=0"}, {"Cache-Control": "no-cache", "Pragma": "no-cache"}]
    spoofs += [{"X-Refresh": f"{OPERATOR} 1"}]  # for a pattern that matches in the middle
    for door in doors(site):
        address, path = cold(site)
        # What the samples of Nginx's reference let pass the cache by, and keep from being stored.
        address += "&nocache=1"
        stored(site, address, headers={"Pragma": "no-cache"}, **door)
        for more in spoofs:
            check_refreshes_nothing(site, address, path, {"X-Refresh": "1", **more}, **door)
    for door in doors(site):
        for _ in range(ROUNDS):
            problem = refreshed(site, **{**door, "family": 4})  # the operator is 127.0.0.1
            if not problem:
                break
        else:
            raise problem


def check_refreshes_nothing(site, address, path, headers, **door):
    """A visitor with these headers gets the stored page, or is refused."""
    for number in range(ROUNDS):
        if number:  # it has become old meanwhile, maybe
            stored(site, address, **door)
        before = asked(site, path)
        reply = site.get(address, headers=headers, **door)
        reached = asked(site, path) > before
        if not reached and (is_hit(reply) or reply.status_code in (400, 403)):
            return
    raise Mismatch("X-Cache: HIT, for a visitor who says so", status_of(reply))


def refreshed(site, **door):
    """Let the operator refresh a page: what is wrong about it, or None."""
    title = f"Corrected {secrets.token_hex(8)}"
    stored(site, "/api/notices", **door)
    pin(site, title)
    reply = page(site, "/api/notices", source=OPERATOR, **door)
    if title in reply.text:
        return Mismatch("the operator without X-Refresh gets the stored page", status_of(reply))
    reply = page(site, "/api/notices", source=OPERATOR, headers={"X-Refresh": "1"}, **door)
    if title not in reply.text:
        return Mismatch(
            f"the operator, from {OPERATOR} with X-Refresh: 1, gets a fresh page",
            f"the old one, {status_of(reply)}",
        )
    reply = page(site, "/api/notices", **door)
    if title not in reply.text or not is_hit(reply):
        return Mismatch(
            "after the operator's refresh, visitors get the fresh page from the cache",
            f"{'the fresh' if title in reply.text else 'the old'} one, {status_of(reply)}",
            look_at=(("nginx.conf", "proxy_no_cache"), ("nginx.conf", "proxy_cache ")),
        )
    return None


IDENTITY = {"Accept-Encoding": "identity"}


def files(pattern):
    """Files of the static folder whose names match, as paths of the site."""
    names = sorted(one.relative_to(STATIC).as_posix() for one in STATIC.rglob("*"))
    return [f"/static/{one}" for one in names if re.fullmatch(pattern, one)]


@points(2)
@look_at("nginx.conf", "rewrite", "expires", "immutable", "location /static", "location ~")
@by_hand(f"cd static; for f in *.????????.css none.00000000.css; do {HEAD} {URL}/static/$f; done")
def test_immutable(site):
    """A name that is made from the content is kept for a year

    A browser that has it need not even ask. That is safe because a new content has a new name, and
    only then.
    """
    found = files(r".+\.[0-9a-f]{8}\.(css|js|png)")
    assert len(found) == 3
    for path in found:
        wanted = (STATIC / path.removeprefix("/static/")).read_bytes()
        before = asked(site, path)
        etag = ""
        for options in (
            {"headers": IDENTITY},
            *({"headers": IDENTITY, **door} for door in doors(site)),
        ):
            reply = page(site, path, **options)
            assert reply.content == wanted, f"{path}, byte for byte"
            kept_for_a_year(reply)
            etag = reply.headers.get("ETag", "")
        kept_for_a_year(page(site, path, headers={"Accept-Encoding": "gzip"}))
        kept_for_a_year(site.head(path))
        reply = site.get(path, headers={**IDENTITY, "If-None-Match": etag})
        assert reply.status_code == 304, "If-None-Match with its ETag"
        kept_for_a_year(reply)
        if asked(site, path) != before:
            raise Mismatch("the file from Nginx itself", "the app was asked for it")
    missing = ("/static/style.00000000.css", "/static/img/board.00000000.png")
    for door, path in product(doors(site), missing):
        reply = site.get(path, **door)
        if reply.status_code != 404:
            raise Mismatch(
                "status 404: no file has this name",
                f"status {reply.status_code}",
                "Any fingerprint leads to today's file, which tomorrow is another.",
            )
        if kept_for_more(reply, 0):
            raise Mismatch(
                "a 404 that is not kept",
                control(reply),
                "During a deploy a page may name a file that is not there yet.",
            )


def kept_for_a_year(reply):
    """The reply says that it is immutable, and nothing else."""
    if said(reply) != YEAR:
        raise Mismatch("Cache-Control: public, max-age=31536000, immutable", control(reply))


def kept_for_more(reply, seconds):
    """Whether a reply may be kept for more than so many seconds without asking."""
    ages = [int(one[8:]) for one in said(reply) if re.fullmatch(r"max-age=\d+", one)]
    return bool(ages and max(ages) > seconds) or "immutable" in said(reply)


@points(2)
@look_at("nginx.conf", "expires", "immutable", "location /static", "location ~")
@by_hand(f"for f in style.css app.js img/board.png motd; do {HEAD} {URL}/static/$f; done")
def test_plain_files(site):
    """A file whose name stays is asked for again and again

    style.css is another tomorrow. Without a word from you, browsers guess how long to keep it; with
    a year in it, your visitors see the old one for a year.
    """
    # Names that a pattern for fingerprints, or one for the ends of names, may take in.
    made = "slides.carousel.css", "app.v2.js", "print.a4.css", "lib.facade.js", "plan.pdf", "a.jpg"
    site.box.write(*(File(f"/srv/board/static/{one}", b"a {}\n") for one in made))
    named = "style.css", "app.js", "img/board.png", "img/board.webp", "img/pin.svg", "favicon.ico"
    named += "fonts/board.woff2", "data.json", "notes.txt", "motd"
    for name in (*named, *made):
        for door in doors(site)[: 1 if name in made else 2]:
            reply = page(site, f"/static/{name}", **door)
            ages = [one for one in said(reply) if re.fullmatch(r"max-age=\d+", one)]
            if kept_for_more(reply, FEW_MINUTES) or not ("no-cache" in said(reply) or ages):
                raise Mismatch(
                    f"{name}: Cache-Control: no-cache, or max-age of {FEW_MINUTES} at most",
                    control(reply),
                )
        state = {"If-None-Match": reply.headers.get("ETag", "")}
        reply = site.get(f"/static/{name}", headers=state)
        assert reply.status_code == 304, "If-None-Match with its ETag"


@points(1)
@look_at("nginx.conf", "proxy_hide_header", "expires", "Cache-Control", "proxy_cache ")
@by_hand(f"for p in '' login whoami big; do {HEAD} {URL}/$p | grep -i ^cache-control; done")
def test_what_pages_say(site):
    """What the app says about a page reaches the visitor

    A browser is a cache too, and so may be a proxy on the way. They hear Cache-Control, not your
    proxy_cache lines.
    """
    public, own = {"public", "max-age=2"}, {"private", "no-store"}
    for door in doors(site):
        ada, nobody = signed_in(site, "ada", **door), site.visitor(**door)
        for who, path, wanted in (
            *((nobody, path, public) for path in ("/", "/", "/notices/1", "/notices/1")),
            *((nobody, path, public) for path in ("/api/notices", "/api/notices")),
            *(
                (ada, f"{one}?{secrets.token_hex(8)}", own)
                for one in ("/", "/notices/1", "/account")
            ),
            (nobody, "/login", {"no-store"}),
            (nobody, "/whoami", {"no-store"}),
            (nobody, "/stamp?says=no-cache", {"no-cache"}),
            (nobody, "/big?kb=1", set()),
        ):
            reply = who.get(path)
            assert reply.status_code == 200
            if said(reply) != wanted or reply.headers.get("Expires"):
                told = ", ".join(sorted(wanted, reverse=True))
                got = control(reply) + (", and an Expires" if reply.headers.get("Expires") else "")
                raise Mismatch(f"{path}: Cache-Control: {told}" if told else f"{path}: none", got)


@points(2)
@needs(test_public_pages)
@look_at("nginx.conf", "max_size", "proxy_cache_path")
@by_hand(
    f"for i in $(seq 12); do curl -s -o /dev/null '{URL}/stamp?says=public&kb=5000&n='$i; done; "
    f"nginx -s reload; sleep 1; du -sh {FOLDER}"
)
def test_bounded(site):
    """The cache lies in its folder, and has an end

    Every query makes another page, so a robot can fill any disk. A full disk takes the site down,
    and the logs, and the database.
    """
    for base in PUBLIC:
        # Others may go just then, because nobody asked for them.
        if not any(grows(site, base) for _ in range(ROUNDS)):
            got = "no more than before" if site.box.size(FOLDER)[0] else "nothing is there"
            raise Mismatch(f"the stored page lies in {FOLDER}", got)
    token = secrets.token_hex(8)
    for number in range(12):
        page(site, f"/stamp?says=public&kb=5000&n={number}-{token}")
    reload(site)  # Nginx checks the size every ten seconds, and after a reload at once
    if not wait_for(lambda: site.box.size(FOLDER)[1] <= MOST_BYTES, PATIENCE):
        raise Mismatch("50 MB at most, after 12 pages of 5 MB each", "more than that")


def grows(site, base):
    """Whether the folder of the cache has more files when one more page is stored."""
    before, _ = site.box.size(FOLDER)
    stored(site, cold(site, base)[0])
    return site.box.size(FOLDER)[0] > before


TEXTS = ("app.js", "data.json", "img/pin.svg")  # each of another type


@points(1)
@look_at("nginx.conf", "location ~", "location /static", "gzip")
@by_hand(
    f"for p in .env old.py users.txt; do curl -so /dev/null -w '%{{http_code}} '$p'\\n' "
    f"{URL}/static/$p; done; {HEAD} --compressed {URL}/static/style.css"
)
def test_files(site):
    """Files come from Nginx, packed, and only the right ones

    What labs 04 and 05 built holds. A new location for style sheets or pictures can open what an
    old one had shut.
    """
    hidden = (
        *("/static/.env", "/static/old.py", "/static/backup.sqlite3", "/static/users.txt"),
        *("/static/img/.thumbs/a.png", "/static/.git/app.js", "/static/.b.0123abcd.css"),
        *("/static_secret.txt", "/static../wsgi.py", "/static-private/key.txt"),
    )
    for path in hidden:
        name = path.removeprefix("/static/")
        if "/.thumbs" in path or "/.git" in path or "0123abcd" in path:
            site.box.write(File(f"/srv/board/static/{name}", b"not for you\n"))
    packed = {"Accept-Encoding": "gzip"}
    for door in doors(site):
        for path in hidden:
            reply = site.get(path, **door)
            if reply.status_code not in (403, 404):
                raise Mismatch("403 or 404", f"status {reply.status_code}")
        before = asked(site, "/static/style.css")
        reply = page(site, "/static/style.css", headers=packed, **door)
        if asked(site, "/static/style.css") != before:
            raise Mismatch("the file from Nginx itself", "the app was asked for it")
        texts = [page(site, f"/static/{one}", headers=packed, **door) for one in TEXTS]
        for one in (reply, *texts):
            encoding = one.headers.get("Content-Encoding", "none")
            if encoding != "gzip":
                raise Mismatch(
                    "Content-Encoding: gzip",
                    f"Content-Encoding: {encoding}",
                    look_at=(("nginx.conf", "gzip_types"),),
                )
        reply = signed_in(site, "ada", **door).get("/account", headers=packed)
        if "Content-Encoding" in reply.headers:
            raise Mismatch("/account is not packed", "Content-Encoding: gzip")

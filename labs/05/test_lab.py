"""Lab 05, compression: the checks. README.md says what each one asks for."""

import gzip
import time
import zlib

from grader.board import LOGIN, check_account_is_there, check_visitor_is_known, told_by
from grader.checks import alone, by_hand, look_at, needs, points
from grader.client import Exchange
from grader.errors import Mismatch
from grader.machine import File
from grader.sandbox import APP
from grader.site import VISITOR, wait_for

STYLE = (APP / "static" / "style.css").read_bytes()
BROWSER = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36"
)
CURL = "curl/8.0"
# The static folder has no XML, no HTML and only a small SVG.
MADE = {
    "page.html": b"<!doctype html>\n" + b"<p>a notice on the board</p>\n" * 60,
    "plan.svg": b"<svg xmlns='http://www.w3.org/2000/svg'>"
    + b"<path d='M0 0h9'/>" * 90
    + b"</svg>",
    "feed.xml": b"<?xml version='1.0'?>\n<feed>" + b"<entry>a notice</entry>\n" * 60 + b"</feed>",
}
# Each is over 1 KB.
TEXTS = (
    "/static/page.html",
    "/static/style.css",
    "/static/app.js",
    "/static/data.json",
    "/static/plan.svg",
    "/static/feed.xml",
    "/static/notes.txt",
    "/big?kb=100",
    "/",  # with Cache-Control: public, and a Vary of the app's
    "/api/notices",
)
NO_PAGE = "/no/such/page"  # the app's own page says so, in some 850 bytes
# Their own time stamp in the header: nothing but these very files has these bytes.
READY = {
    name: gzip.compress(MADE["page.html"], 9, mtime=86_400) for name in ("ready.css", "ready.txt")
}
# For the "by hand" lines: the head of the reply to a client that accepts gzip.
HEAD = "curl -s -D- -o /dev/null -H 'Accept-Encoding: gzip'"
URL = "http://board.example"
WWW = "www.board.example"


class Answer:
    """A reply with its body as it came over the wire."""

    def __init__(self, reply):
        self.status = reply.status_code
        self.headers = reply.headers
        self.type = reply.headers.get("Content-Type", "no Content-Type").partition(";")[0]
        told = reply.headers.get("Content-Encoding", "")
        self.encoding = "" if told == "identity" else told
        self.wire = reply.raw.read(decode_content=False)

    @property
    def form(self):
        """The Content-Encoding, in words."""
        return f"Content-Encoding: {self.encoding}" if self.encoding else "no Content-Encoding"

    @property
    def body(self):
        """The body, decoded; what does not decode is a mismatch."""
        if not self.encoding:
            return self.wire
        try:
            return gzip.decompress(self.wire)
        except (OSError, EOFError, zlib.error) as error:
            raise Mismatch("bytes that gunzip", f"{self.form}, but: {error}") from None


def ask(site, path, accept="gzip, deflate, br", more=None, **options):
    """GET a path with an Accept-Encoding, and more headers; None sends none."""
    headers = {"Accept-Encoding": accept, "User-Agent": CURL, **(more or {})}
    return Answer(site.get(path, headers=headers, stream=True, **options))


def alike(site, path):
    """Whether both forms have the same bytes, when a cache has had the time to get the new page."""

    def same():
        return ask(site, path).body == ask(site, path, None).body

    return wait_for(same, 5)


def place(site, files):
    """Put files into the static folder."""
    site.box.write(*(File(f"/srv/board/static/{name}", data) for name, data in files.items()))


def prepare(site):
    """Make all of TEXTS, once: files of types that the folder lacks, more notices."""
    if site.box.read("/srv/board/static/feed.xml") is None:
        place(site, MADE)
        notice = {"title": "Found: a long notice", "body": "It is pinned to the board. " * 30}
        site.post("/api/notices", json=notice, auth=tuple(LOGIN.values()))


def place_ready(site):
    """Put files and their packed neighbours into the static folder."""
    place(site, dict.fromkeys(READY, MADE["page.html"]))
    place(site, {f"{name}.gz": data for name, data in READY.items()})


@points(2)
@look_at("nginx.conf", "proxy_pass", "listen", "server")
@by_hand(f"curl -i {URL}/whoami")
def test_site_answers(site):
    """The site answers, with pages and with files

    Compression changes how bytes travel, not what they are.
    """
    assert (site.port_owner(80) or "nobody") == "nginx", "Nginx listens on port 80"
    reply = site.get("/whoami")
    assert reply.status_code == 200
    assert reply.json().get("instance") == site.instance, "the app itself must answer"
    reply = site.get("/static/style.css")
    assert reply.status_code == 200
    assert reply.content == STYLE, "style.css, byte for byte"


# Who asks, in which order, and how the card says so. What is kept must not get mixed up.
ORDERS = (
    (CURL, ("gzip", None), ""),
    (BROWSER, ("gzip", None), ", as a browser does (User-Agent: Mozilla/5.0 …)"),
    (CURL, (None, "gzip"), ", right after somebody who does not accept it"),
)


@points(4)
@look_at("nginx.conf", "gzip_disable", "proxy_cache ", "gzip_types", "gzip off", "gzip on")
@by_hand(
    "yes '<a/>' | head -999 >static/feed.xml; "
    "for one in static/{style.css,app.js,data.json,img/pin.svg,feed.xml,notes.txt} api/notices; "
    f"do echo $one; {HEAD} -A Mozilla/5.0 {URL}/$one | grep -i '^content-[te]'; done"
)
def test_text_is_compressed(site):
    """Text is compressed, from the disk and from the app

    HTML, style sheets, scripts, JSON, SVG, XML and plain text shrink to half their size or a tenth.
    Debian's Nginx does it for HTML alone.
    """
    prepare(site)
    for visit, (agent, order, how) in enumerate(ORDERS):
        for path in TEXTS:
            # Another address each time: a cache, if there is one, has not got it yet.
            address = f"{path}{'&' if '?' in path else '?'}visit={visit}" if visit else path
            told = {one: ask(site, address, one, {"User-Agent": agent}) for one in order}
            packed, plain = told["gzip"], told[None]
            if packed.encoding != "gzip":
                note = f"It is {packed.type}, {len(packed.wire)} bytes."
                places = []
                if packed.type == "text/html":
                    note += " HTML is packed without gzip_types: is gzip on, from which size on?"
                    # The page with a secret may have one that is right.
                    if not how and (site.submitted("nginx.conf") or b"").count(b"gzip off") > 1:
                        places = [("nginx.conf", "gzip off")]
                raise Mismatch(
                    f"Content-Encoding: gzip for {path}, asked with Accept-Encoding: gzip{how}",
                    packed.form,
                    "The first time, curl gets it packed." if how else note,
                    places,
                )
            if packed.body != plain.body and not alike(site, address):
                raise Mismatch(f"{path}: the same bytes, once unpacked", "other bytes")
    visitor = site.visitor()
    visitor.post("/login", data=LOGIN)
    page = visitor.get("/big?kb=100", headers={"Accept-Encoding": "gzip"}, stream=True)
    packed = Answer(page)
    if packed.encoding != "gzip":
        raise Mismatch(
            "Content-Encoding: gzip for /big?kb=100, for a visitor who is logged in",
            packed.form,
            "Without a session it is packed.",
            [("nginx.conf", "$http_cookie"), ("nginx.conf", "$cookie"), ("nginx.conf", "gzip off")],
        )


@points(2)
@look_at("nginx.conf", "gzip_types", "gzip_static")
@by_hand(
    f"for one in img/board.png img/board.webp fonts/board.woff2; "
    f"do {HEAD} {URL}/static/$one | grep -i '^content-[te]'; done"
)
def test_packed_files(site):
    """Pictures, fonts and archives are not compressed again

    They are compressed already. A second time costs CPU and wins nothing.
    """
    archives = {
        "all.zip": b"PK\x03\x04" + bytes(2000),
        "notes.tgz": gzip.compress(b"notice" * 500_000, mtime=0),
    }
    place(site, archives)
    for name in ("img/board.png", "img/board.webp", "fonts/board.woff2", *archives):
        answer = ask(site, f"/static/{name}")
        assert answer.status == 200
        if answer.encoding:
            raise Mismatch(
                f"no Content-Encoding for {name}", answer.form, f"Its type is {answer.type}."
            )


@points(2)
@look_at("nginx.conf", "gzip_min_length", "gzip on", "gzip_types")
@by_hand(
    "for n in 240 1028; do yes '<p>' | head -c $n >static/n.html; "
    f"{HEAD} {URL}/static/n.html | grep -iE '^content-(l|e)'; done"
)
@look_at("wsgi.py", "gzip.compress")
def test_small_replies(site):
    """Under 256 bytes nothing is compressed, over 1 KB text is

    A small reply fits in one packet anyway, and packed it can even grow.
    """
    # HTML: the type that is always in `gzip_types`.
    place(site, {"small.html": b"<p>\n" * 60, "medium.html": b"<p>\n" * 257})
    for path in ("/static/small.html", "/echo/small", "/static/motd"):
        answer = ask(site, path)
        if answer.encoding:
            size = len(answer.body)
            raise Mismatch(f"no Content-Encoding for {path}, a reply of {size} bytes", answer.form)
    answer = ask(site, "/static/medium.html")
    if answer.encoding != "gzip":
        size = len(answer.wire)
        raise Mismatch(
            f"Content-Encoding: gzip for /static/medium.html, a reply of {size} bytes", answer.form
        )


MAGIC = b"\x1f\x8b"  # what gzip's files begin with
UNWILLING = (None, "", "identity", "gzip;q=0", "gzip;q=0, identity", "deflate", "br")


@points(2)
@look_at("nginx.conf", "proxy_cache ", "gzip_static", "gzip on")
@by_hand(
    "gzip -k9 static/notes.txt; for q in identity 'gzip;q=0'; do "
    "for one in static/notes.txt big?kb=100; do "
    f'curl -s -D- -o /dev/null -H "Accept-Encoding: $q" {URL}/$one | grep -i ^content-; done; done'
)
@look_at("wsgi.py", "gzip.compress")
def test_unwilling(site):
    """A visitor who does not accept gzip gets plain bytes

    A small program that cannot unpack shows rubbish, or nothing.
    """
    prepare(site)
    place_ready(site)
    for path in (*TEXTS, *(f"/static/{name}" for name in READY)):
        packed = ask(site, path)
        for accept in UNWILLING:
            plain = ask(site, path, accept)
            if packed.wire.startswith(MAGIC) and not packed.encoding:
                continue  # packed, and it does not say so: the matter of test_prepared_files
            if plain.encoding:
                asked = "no Accept-Encoding" if accept is None else f"Accept-Encoding: {accept}"
                note = "Beside this file lies a packed one." if "/ready" in path else ""
                raise Mismatch(f"plain bytes for {path}, asked with {asked}", plain.form, note)
            if plain.wire != packed.body and not alike(site, path):
                raise Mismatch(f"{path}: the same bytes, packed or not", "other bytes")


@points(3)
@look_at("nginx.conf", "proxy_hide_header", "Vary", "gzip_vary", "gzip_static", "gzip on")
@by_hand(
    f"for one in static/style.css big?kb=100; do {HEAD} {URL}/$one | grep -i ^vary; "
    f"curl -s -D- -o /dev/null {URL}/$one | grep -i ^vary; done"
)
@look_at("wsgi.py", "gzip.compress")
def test_vary(site):
    """Both forms say Vary: Accept-Encoding

    Without it a cache between the site and its visitors hands the packed form to someone who
    cannot unpack it.
    """
    prepare(site)
    place_ready(site)
    found = False
    for path in (*TEXTS, *(f"/static/{name}" for name in READY), NO_PAGE):
        packed, plain = ask(site, path, "gzip"), ask(site, path, None)
        if not packed.encoding or plain.encoding:
            continue  # with one form there is nothing to vary
        found = True
        for form, answer in (("packed", packed), ("plain", plain)):
            told = answer.headers.get("Vary", "")
            names = {one.strip().lower() for one in told.split(",")}
            if not names & {"accept-encoding", "*"}:
                raise Mismatch(
                    f"Vary: Accept-Encoding with the {form} form of {path}",
                    f"Vary: {told}" if told else "no Vary",
                    "The page says status 404: `add_header` leaves it out there without `always`."
                    if path == NO_PAGE
                    else "",
                )
            if path == "/" and not names & {"accept-language", "*"}:
                raise Mismatch(
                    "Vary: Accept-Language too, which the app says for /",
                    f"Vary: {told}",
                    "A header that is added must not take the place of the app's.",
                )
    if not found:
        raise Mismatch("two forms, packed and plain", "nothing is ever packed")


@points(2)
@look_at("nginx.conf", "etag", "if_modified_since", "max_ranges", "gzip on")
@by_hand(
    f'tag=$({HEAD} {URL}/static/style.css | grep -ioP "^etag: \\K.*\\S"); '
    f'{HEAD} -H "If-None-Match: $tag" {URL}/static/style.css; '
    f"curl -s -D- -o /dev/null -r 10-99 {URL}/static/style.css"
)
def test_conditional_and_ranges(site):
    """Conditional requests still give 304, ranges are right

    A packed file is still the same file: a browser that has it need not fetch it again.
    """
    path = "/static/style.css"
    for accept in ("gzip", None):
        form = "packed" if accept else "plain"
        first = ask(site, path, accept)
        for header, value in (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified")):
            if value not in first.headers:
                raise Mismatch(f"{value} with the {form} form of {path}", f"no {value}")
            answer = ask(site, path, accept, {header: first.headers[value]})
            if answer.status != 304:
                raise Mismatch(f"status 304 for {header}, {form}", f"status {answer.status}")
        for more in ({}, {"If-Range": first.headers["ETag"]}):
            part = ask(site, path, accept, {"Range": "bytes=10-99", **more})
            whole = first.wire if part.encoding else STYLE
            right = part.wire == (whole[10:100] if part.status == 206 else whole)
            if not right or part.status not in ((200, 206) if accept else (206,)):
                raise Mismatch(
                    "status 206 and the bytes 10 to 99" + (", or 200 and all" if accept else ""),
                    f"status {part.status} and {len(part.wire)} bytes",
                )


@points(2)
@look_at("nginx.conf", "gzip_proxied", "gzip on", "gzip_types")
@by_hand(f"for one in '' static/style.css api/notices; do {HEAD} -H 'Via: 1.1 x' {URL}/$one; done")
def test_through_a_proxy(site):
    """Those who come through a proxy get compressed pages too

    A company's proxy and every CDN adds `Via`. Nginx then packs nothing, unless told to.
    """
    prepare(site)
    found = False
    for path in TEXTS:
        if ask(site, path).encoding != "gzip":
            continue  # another check's matter
        found = True
        answer = ask(site, path, more={"Via": "1.1 proxy.test"})
        if answer.encoding != "gzip":
            kept = answer.headers.get("Cache-Control")
            raise Mismatch(
                f"Content-Encoding: gzip for {path}, with and without Via",
                f"{answer.form} with Via",
                f"It has Cache-Control: {kept}." if kept else "",
            )
    if not found:
        raise Mismatch("something packed", "nothing is ever packed")


@points(1)
@look_at("nginx.conf", "gzip_http_version", "gzip_static", "gzip on")
@by_hand(f"for one in static/style.css big?kb=100; do {HEAD} -0 {URL}/$one; done")
@look_at("wsgi.py", "gzip.compress")
def test_http_1_0(site):
    """An HTTP/1.0 client gets plain bytes

    Clients that old may say that they accept gzip and still not know where its bytes end.
    """
    place_ready(site)
    for path in ("/static/style.css", "/big?kb=100", "/static/ready.css"):
        site.record(Exchange("GET", f"{path} HTTP/1.0", VISITOR, f"{URL}{path}"))
        with site.connect() as one:
            head = f"GET {path} HTTP/1.0\r\nHost: board.example\r\nAccept-Encoding: gzip\r\n\r\n"
            one.sendall(head.encode())
            data = b""
            while more := one.recv(65536):
                data += more
        told = data.partition(b"\r\n\r\n")[0].lower()
        if b" 200 " not in told.partition(b"\r\n")[0]:
            raise Mismatch("status 200", data.partition(b"\r\n")[0].decode("latin-1"))
        if b"content-encoding: gzip" in told:
            raise Mismatch(f"no Content-Encoding for {path} by HTTP/1.0", "Content-Encoding: gzip")


@points(2)
@look_at("nginx.conf", "gzip_static", "location /static")
@by_hand(
    f"gzip -k9 static/style.css; wc -c <static/style.css.gz; "
    f"curl -s -H 'Accept-Encoding: gzip' {URL}/static/style.css | wc -c"
)
def test_prepared_files(site):
    """A file packed beforehand is sent as it lies there

    What never changes need not be packed for each visitor. One `gzip -k` at deploy is enough.
    """
    place_ready(site)
    for name, ready in READY.items():
        packed, plain = ask(site, f"/static/{name}"), ask(site, f"/static/{name}", None)
        if packed.encoding != "gzip" or packed.wire != ready:
            got = "the file, packed anew" if packed.encoding else "the file, not packed"
            if packed.wire == ready:
                got = "these bytes, and no Content-Encoding: gzip, so nobody unpacks them"
            raise Mismatch(f"the bytes of {name}.gz for /static/{name}", got)
        if packed.type != plain.type:
            raise Mismatch(f"Content-Type: {plain.type}", f"Content-Type: {packed.type}")


def event_times(site, accept):
    """When each event of /stream came, as far as one can tell."""
    reply = site.get("/stream", headers={"Accept-Encoding": accept}, stream=True)
    unpack = zlib.decompressobj(31)
    seen, times = b"", []
    while len(times) < 5:
        data = reply.raw.read1()
        if not data:
            break
        seen += unpack.decompress(data) if reply.headers.get("Content-Encoding") else data
        times += [time.monotonic()] * (seen.count(b"data: ") - len(times))
    return times


@points(2)
@look_at("nginx.conf", "text/event-stream", "/stream", "proxy_buffering", "location / ")
@by_hand(f"curl -N --compressed {URL}/stream")
@look_at("wsgi.py", "gzip.compress")
def test_stream(site):
    """A streamed page still streams

    A progress bar or a chat shows each event when it happens. Packed and held back, all of them
    come at the end.
    """
    for _ in range(3):  # a grader that was held up itself sees events together that were not
        told = site.together([lambda one=one: event_times(site, one) for one in (None, "gzip")])
        for one in told:
            if one.error:
                raise one.error
            if len(one.value) != 5:
                raise Mismatch("five events", f"{len(one.value)} events")
        together = [one.value[-1] - one.value[0] < 0.4 for one in told]
        if not any(together):
            return
    if all(together):
        note = "Also those that are not packed: what else collects them?"
        raise Mismatch("five events, 0.2 s apart", "all five at once", note)
    asked = "asked with Accept-Encoding: gzip" if together[1] else "asked without Accept-Encoding"
    raise Mismatch("five events, 0.2 s apart", f"all five at once, {asked}")


ACCOUNTS = (
    "/account",
    "/%61ccount",
    "/acc%6Funt",
    "//account",
    "/./account",
    "/static/../account",
    "http://board.example/account",
)


@points(3)
@look_at("nginx.conf", "request_uri", "/account", "gzip off", "location / ")
@by_hand(
    f"curl -s -o /dev/null -c /tmp/jar -d 'name=ada&password=pin-the-notice' {URL}/login; "
    f"for one in account %61ccount; do {HEAD} -b /tmp/jar {URL}/$one; done"
)
@look_at("wsgi.py", "gzip.compress")
def test_account(site):
    """The page with a secret beside your input is not compressed

    Where a page repeats what a visitor sent, beside a secret, its packed length tells whether the
    two are alike. Byte by byte the secret leaks; the attack is called BREACH.
    """
    visitor = site.visitor()
    visitor.post("/login", data=LOGIN)
    for form in ACCOUNTS:
        path = f"{form}?note=token"
        reply = visitor.get(path, headers={"Accept-Encoding": "gzip"}, stream=True)
        answer = Answer(reply)
        if form == "/account":
            check_account_is_there(reply)
        if answer.status == 200 and answer.encoding:
            note = (
                "" if form == "/account" else "The same page, written otherwise: /account is plain."
            )
            raise Mismatch(f"no Content-Encoding for {form}", answer.form, note)
    visitor = site.visitor(host=WWW)
    visitor.post("/login", data=LOGIN)
    reply = visitor.get("/account", headers={"Accept-Encoding": "gzip"}, stream=True)
    answer = Answer(reply)
    if answer.status == 200 and answer.encoding:
        note = f"Under {URL} it is plain."
        raise Mismatch(
            f"no Content-Encoding for /account, by {WWW}", answer.form, note, [("nginx.conf", WWW)]
        )


# One of a location's own stands deeper than those of the server.
IN_LOCATION = [("nginx.conf", "        proxy_set_header")]
HEADERS = {"client": "proxy_set_header X-Forwarded-For", "url": "proxy_set_header Host"}


@points(2)
@look_at("nginx.conf", "/account", "/stream", "proxy_set_header")
@by_hand(f"curl -sN --interface 203.0.113.7 -H 'X-Forwarded-For: 6.6.6.6' {URL}/stream | head -1")
def test_visitor_stays_known(site):
    """The app still knows who visits, on every page

    A new location is easily one without the headers that lab 03 wrote for the others. Then every
    visitor of that page may be anybody.
    """
    for headers in ({}, {"X-Forwarded-For": "6.6.6.6"}):
        page = site.get("/whoami", headers=headers)
        if page.status_code == 400:  # to refuse a request that lies is right too
            continue
        told = told_by(page)
        wanted = {"client": VISITOR, "url": f"{URL}/whoami"}
        lost = [name for name in wanted if told.get(name) != wanted[name]]
        if lost:
            all_lost = lost == [*wanted]
            raise Mismatch(
                f"on /whoami: {lost[0]} {wanted[lost[0]]}",
                f"{lost[0]} {told.get(lost[0])}",
                "A location with a proxy_set_header of its own inherits none." if all_lost else "",
                [*(IN_LOCATION if all_lost else ()), ("nginx.conf", HEADERS[lost[0]])],
            )
    visitor = site.visitor()
    visitor.post("/login", data=LOGIN)
    check_visitor_is_known(visitor, URL)


PAGES = 100
MOST_TIMES = 10  # levels 1 to 6 cost up to 4 times as much, level 9 about 15 times
# Nginx itself at level 1, as the measure: the same program and library, on the same machine.
MEASURE = (
    b"server { listen 8081; root /srv/board/static; gzip on; gzip_types *; gzip_comp_level 1; }"
)


@points(3)
@alone
@needs(test_text_is_compressed)
@look_at("nginx.conf", "gzip_comp_level 9", "gzip_comp_level 8", "gzip_comp_level", "gzip on")
@by_hand(
    f"curl -s {URL}/big?kb=100 >static/page.txt; "
    "for one in static/page.txt big?kb=100; do for i in $(seq 100); "
    f"do curl -s -o /dev/null -H 'Accept-Encoding: gzip' {URL}/$one; done; done; "
    "cat /proc/[0-9]*/stat | grep '(nginx)' | cut -d' ' -f14  # hundredths of a second"
)
@look_at("wsgi.py", "gzip.compress")
def test_level(make_site):
    """The level of compression is worth its CPU

    The highest level costs many times the CPU of the lowest, and makes the page hardly smaller
    than a level in the middle.
    """
    site = make_site(start=False)
    site.box.write(File("/etc/nginx/conf.d/measure.conf", MEASURE))
    site.start()
    page = site.get("/big?kb=100", headers={"Accept-Encoding": None}).content
    place(site, {"page.txt": page})

    def cost(path, accept="gzip", **options):
        before = sum(one["cpu"] for one in site.processes())
        for _ in range(PAGES):
            ask(site, path, accept, **options)
        return sum(one["cpu"] for one in site.processes()) - before

    least = len(ask(site, "/page.txt", port=8081).wire)
    for path in ("/static/page.txt", "/big?kb=100"):
        size = len(ask(site, path, "gzip").wire)
        if size > least * 1.05:
            raise Mismatch(f"at most the {least} bytes of level 1 for {path}", f"{size} bytes")
    level_1 = sum(cost("/page.txt", port=8081) for _ in range(3)) / 3
    for path, making in (("/static/page.txt", 0), ("/big?kb=100", cost("/big?kb=100", None))):
        times = (cost(path) - making) / level_1
        if times > MOST_TIMES:
            raise Mismatch(
                f"at most {MOST_TIMES} times the CPU of level 1 for {path}: "
                f"{level_1 * MOST_TIMES:.2f} s for {PAGES} of them",
                f"{times * level_1:.2f} s",
                "Levels 4 to 6 are a good bargain.",
            )

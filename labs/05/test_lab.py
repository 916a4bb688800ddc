"""Lab 05, compression: the checks. README.md says what each one asks for."""

import gzip
import time
import zlib

from grader.checks import alone, by_hand, look_at, needs, points
from grader.errors import Mismatch
from grader.sandbox import APP, File

STATIC = APP / "static"
BROWSER = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36"
)
AGENTS = ("curl/8.0", BROWSER)
FEED = (
    b"<?xml version='1.0'?>\n<feed>\n"
    + b"<entry>a notice on the board</entry>\n" * 60
    + b"</feed>\n"
)
LONG = {"X-Long": "pinned to the board " * 100}  # makes /whoami more than 1 KB
# What is asked for, and with which headers besides.
TEXTS = (
    ("/static/style.css", {}),
    ("/static/app.js", {}),
    ("/static/data.json", {}),
    ("/static/img/pin.svg", {}),
    ("/static/notes.txt", {}),
    ("/static/feed.xml", {}),
    ("/big?kb=100", {}),
    ("/whoami", LONG),
)
PACKED = ("img/board.png", "img/board.webp", "fonts/board.woff2")
LEVEL_REQUESTS = 200
MOST_TIMES = 4  # the CPU of level 1; level 9 costs eight times as much


class Answer:
    """A reply with its body as it came over the wire."""

    def __init__(self, reply):
        self.reply = reply
        self.status = reply.status_code
        self.headers = reply.headers
        self.encoding = reply.headers.get("Content-Encoding", "")
        self.wire = reply.raw.read(decode_content=False)

    @property
    def body(self):
        """The body, decoded; what does not decode is a mismatch."""
        if not self.encoding:
            return self.wire
        try:
            return gzip.decompress(self.wire)
        except (OSError, EOFError, zlib.error) as error:
            raise Mismatch("bytes that gunzip", f"{self.encoding}: {error}") from None


def ask(site, path, accept="gzip, deflate, br", headers=None, **options):
    """GET a path with an Accept-Encoding; None sends none."""
    given = {"Accept-Encoding": accept, "User-Agent": AGENTS[0], **(headers or {})}
    return Answer(site.get(path, headers=given, stream=True, **options))


def prepare(site):
    """Put a feed into the static folder: the app has none of that type."""
    site.box.write(File("/srv/board/static/feed.xml", FEED))


def same(path, one, other):
    """Whether two bodies are the same; the app's /whoami repeats the headers that it got."""
    return path == "/whoami" or one == other


@points(2)
@look_at("nginx.conf", "proxy_pass", "listen", "server")
def test_site_answers(site):
    """The site answers, pages from the app and files from Nginx

    Compression changes how bytes travel, not what they are or where they come from.
    """
    assert (site.port_owner(80) or "nobody") == "nginx", "Nginx listens on port 80"
    reply = site.get("/whoami")
    assert reply.status_code == 200
    assert reply.json().get("instance") == site.instance, "the app itself must answer"
    assert site.get("/static/style.css").content == (STATIC / "style.css").read_bytes()


@points(4)
@look_at("nginx.conf", "gzip_types", "gzip_disable", "gzip ")
def test_text_is_compressed(site):
    """Text is compressed, from the disk and from the app

    HTML, style sheets, scripts, JSON, SVG, XML and plain text shrink to a third or less. Debian's
    Nginx does it for HTML alone.
    """
    prepare(site)
    for path, headers in TEXTS:
        for agent in AGENTS:
            given = {**headers, "User-Agent": agent}
            packed = ask(site, path, headers=given)
            plain = ask(site, path, accept=None, headers=given)
            if packed.encoding != "gzip":
                raise Mismatch(
                    f"{path} with Content-Encoding: gzip",
                    f"{path} with {packed.encoding or 'no encoding'}, {packed.headers.get('Content-Type')}",
                )
            if not same(path, packed.body, plain.body):
                raise Mismatch(f"{path}: the same bytes, once unpacked", "other bytes")


@points(2)
@look_at("nginx.conf", "gzip_types", "gzip_static")
def test_packed_files_are_left_alone(site):
    """Pictures, fonts and archives are not compressed again

    They are compressed already. A second time costs CPU and wins nothing.
    """
    site.box.write(
        File("/srv/board/static/all.zip", b"PK\x03\x04" + bytes(2000)),
        File("/srv/board/static/notes.tgz", gzip.compress(b"notice" * 5000, mtime=0)),
    )
    for name in (*PACKED, "all.zip", "notes.tgz"):
        answer = ask(site, f"/static/{name}")
        assert answer.status == 200
        if answer.encoding:
            raise Mismatch(f"{name} as it is", f"{name} with Content-Encoding: {answer.encoding}")


@points(2)
@look_at("nginx.conf", "gzip_min_length", "gzip ")
def test_small_replies(site):
    """Replies under 256 bytes are left alone, replies over 1 KB are not

    A small reply can even grow, and it fits in one packet anyway.
    """
    site.box.write(
        File("/srv/board/static/small.css", b"p { color: black }\n" * 13),
        File("/srv/board/static/medium.css", b"p { color: black }\n" * 58),
    )
    for path in ("/static/small.css", "/healthz", "/static/motd"):
        answer = ask(site, path)
        if answer.encoding:
            raise Mismatch(f"{path} as it is", f"{path} with Content-Encoding: {answer.encoding}")
    for path, headers in (("/static/medium.css", {}), ("/whoami", LONG)):
        answer = ask(site, path, headers=headers)
        if answer.encoding != "gzip":
            raise Mismatch(f"{path}, over 1 KB, with Content-Encoding: gzip", "no encoding")


UNWILLING = (None, "", "identity", "gzip;q=0", "gzip;q=0, identity", "deflate", "br")


@points(2)
@look_at("nginx.conf", "gunzip", "gzip_static", "Accept-Encoding", "gzip ")
def test_who_does_not_accept_gzip(site):
    """Who does not accept gzip gets plain bytes

    A small program that cannot unpack shows rubbish, or nothing.
    """
    prepare(site)
    for path, headers in TEXTS:
        packed = ask(site, path, headers=headers)
        for accept in UNWILLING:
            plain = ask(site, path, accept=accept, headers=headers)
            if plain.encoding:
                raise Mismatch(f"{path} without an encoding", f"Content-Encoding: {plain.encoding}")
            if not same(path, plain.wire, packed.body):
                raise Mismatch(f"{path}: the same bytes", "other bytes")


@points(3)
@look_at("nginx.conf", "gzip_vary", "Vary", "gzip ")
def test_vary(site):
    """Both forms say Vary: Accept-Encoding

    Without it a cache between the site and its visitors hands the packed form to someone who
    cannot unpack it.
    """
    prepare(site)
    for path, headers in TEXTS:
        for accept in ("gzip", None):
            answer = ask(site, path, accept=accept, headers=headers)
            told = [one.strip().lower() for one in answer.headers.get("Vary", "").split(",")]
            if "accept-encoding" not in told:
                form = "packed" if accept else "plain"
                raise Mismatch(
                    f"{path}, {form}: Vary: Accept-Encoding",
                    f"{path}, {form}: {answer.headers.get('Vary') or 'no Vary'}",
                )


@points(2)
@look_at("nginx.conf", "etag", "gzip ")
def test_conditional_and_ranges(site):
    """Conditional requests still give 304, ranges are right

    A packed file is still the same file: a browser that has it need not fetch it again.
    """
    path, whole = "/static/style.css", (STATIC / "style.css").read_bytes()
    first = ask(site, path)
    for header, value in (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified")):
        if value not in first.headers:
            raise Mismatch(f"a packed file with {value}", f"no {value}")
        answer = ask(site, path, headers={header: first.headers[value]})
        if answer.status != 304:
            raise Mismatch(f"304 for {header}: {first.headers[value]}", f"status {answer.status}")
    for accept in ("gzip", None):
        part = ask(site, path, accept=accept, headers={"Range": "bytes=10-99"})
        source = ask(site, path, accept=accept).wire if part.encoding else whole
        right = part.wire == source[10:100] if part.status == 206 else part.body == whole
        if part.status not in (200, 206) or not right:
            raise Mismatch("the bytes 10 to 99, or all of them", f"status {part.status}, others")


@points(2)
@look_at("nginx.conf", "gzip_proxied", "gzip ")
def test_through_a_proxy(site):
    """Who comes through a proxy gets compressed pages too

    A company's proxy and every CDN adds `Via`. Nginx then packs nothing, unless told to.
    """
    prepare(site)
    for path, headers in TEXTS:
        answer = ask(site, path, headers={**headers, "Via": "1.1 proxy.test"})
        if answer.encoding != "gzip":
            raise Mismatch(f"{path} with Content-Encoding: gzip", "no encoding")


@points(1)
@look_at("nginx.conf", "gzip_http_version", "gzip_static")
@by_hand("curl -0 -i -H 'Accept-Encoding: gzip' http://board.example/static/style.css")
def test_http_1_0(site):
    """An HTTP/1.0 client gets plain bytes

    Clients that old may say that they accept gzip and still not know where its bytes end.
    """
    for path in ("/static/style.css", "/big?kb=100"):
        with site.connect() as one:
            head = f"GET {path} HTTP/1.0\r\nHost: board.example\r\nAccept-Encoding: gzip\r\n\r\n"
            one.sendall(head.encode())
            data = b""
            while more := one.recv(65536):
                data += more
        if b"content-encoding" in data.partition(b"\r\n\r\n")[0].lower():
            raise Mismatch(f"{path} without an encoding", "Content-Encoding: gzip")


@points(2)
@look_at("nginx.conf", "gzip_static", "location /static")
@by_hand(
    "gzip -k9 static/style.css; curl -i -H 'Accept-Encoding: gzip' "
    "http://board.example/static/style.css | tail -c 20 | od -c"
)
def test_prepared_files(site):
    """A file packed beforehand is sent as it lies there

    What never changes need not be packed for each visitor. One `gzip -k` at deploy is enough.
    """
    # Its own time stamp in the header: nothing but this very file has these bytes.
    ready = gzip.compress(FEED, 9, mtime=86_400)
    site.box.write(
        File("/srv/board/static/ready.xml", FEED), File("/srv/board/static/ready.xml.gz", ready)
    )
    packed = ask(site, "/static/ready.xml")
    assert packed.encoding == "gzip", "the packed form is sent"
    if packed.wire != ready:
        raise Mismatch("the bytes of ready.xml.gz", "the file, packed anew")
    assert ask(site, "/static/ready.xml", accept=None).wire == FEED, "the plain form too"


@points(2)
@look_at("nginx.conf", "proxy_buffering", "/stream", "gzip")
@by_hand("curl -N http://board.example/stream")
def test_stream(site):
    """A streamed page still streams

    A progress bar or a chat shows each event when it happens. Packed and held back, all of them
    come at the end.
    """
    for accept in (None, "gzip"):
        reply = site.get("/stream", headers={"Accept-Encoding": accept}, stream=True)
        times = []
        unpack = zlib.decompressobj(31)
        seen = b""
        while len(times) < 5:
            data = reply.raw.read1() if hasattr(reply.raw, "read1") else reply.raw.read(1)
            if not data:
                break
            seen += unpack.decompress(data) if reply.headers.get("Content-Encoding") else data
            times += [time.monotonic()] * (seen.count(b"data: ") - len(times))
        if len(times) != 5:
            raise Mismatch("five events", f"{len(times)} events")
        if times[-1] - times[0] < 0.4:
            raise Mismatch("five events, 0.2 s apart", "all five at once")


ACCOUNTS = (
    "/account?note=%s",
    "//account?note=%s",
    "/%%61ccount?note=%s",
    "/./account?note=%s",
    "/static/../account?note=%s",
    "/acc%%6Funt?note=%s",
    "/account?x=/static/&note=%s",
)


@points(3)
@look_at("nginx.conf", "/account", "gzip off", "location / ")
@by_hand("curl -si -H 'Accept-Encoding: gzip' http://board.example/account (after a login)")
def test_account_is_not_compressed(site):
    """The page with a secret beside your input is not compressed

    Where a page repeats what a visitor sent, beside a secret, its packed length tells whether the
    two are alike. Byte by byte the secret leaks; the attack is called BREACH.
    """
    visitor = site.visitor()
    visitor.post("/login", data={"name": "ada", "password": "pin-the-notice"})
    for form in ACCOUNTS:
        path = form % ("token" * 300)
        reply = visitor.get(path, headers={"Accept-Encoding": "gzip"})
        if reply.status_code == 200 and reply.headers.get("Content-Encoding"):
            raise Mismatch(
                f"{form.partition('?')[0].replace('%%', '%')} without an encoding",
                f"Content-Encoding: {reply.headers['Content-Encoding']}",
            )
    reply = visitor.get("/account?note=hello", headers={"Accept-Encoding": "gzip"})
    assert reply.status_code == 200, "the account page, after the login"


@points(3)
@alone
@needs(test_text_is_compressed)
@look_at("nginx.conf", "gzip_comp_level", "gzip ")
@by_hand(
    "time (for i in $(seq 200); do curl -s -H 'Accept-Encoding: gzip' "
    "http://board.example/static/page.txt >/dev/null; done)"
)
def test_level(site):
    """The level of compression is worth its CPU

    Level 9 costs eight times the CPU of level 1, and makes the page hardly smaller than level 5.
    """
    page = site.get("/big?kb=100").content
    site.box.write(File("/srv/board/static/page.txt", page))
    answer = ask(site, "/static/page.txt")
    least = len(gzip.compress(page, 1))
    if answer.encoding != "gzip" or len(answer.wire) > least * 1.05:
        raise Mismatch(f"at most the {least} bytes of level 1", f"{len(answer.wire)} bytes")

    def used():
        return sum(one["cpu"] for one in site.service("nginx").processes())

    started = time.process_time()
    for _ in range(LEVEL_REQUESTS):
        gzip.compress(page, 1)
    level_1 = time.process_time() - started
    before = used()
    for _ in range(LEVEL_REQUESTS):
        ask(site, "/static/page.txt")
    times = (used() - before) / level_1
    if times > MOST_TIMES:
        raise Mismatch(
            f"at most {MOST_TIMES} times the CPU of level 1", f"{times:.0f} times", "Try level 5."
        )

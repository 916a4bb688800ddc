"""Lab 04, static files: the checks. README.md says what each one asks for."""

import struct
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from grader.board import V6, WWW
from grader.checks import alone, by_hand, look_at, needs, points
from grader.client import Exchange
from grader.errors import Mismatch
from grader.machine import File
from grader.sandbox import APP

STATIC = APP / "static"
TYPES = {
    "style.css": ("text/css",),
    "app.js": ("application/javascript", "text/javascript"),
    "img/pin.svg": ("image/svg+xml",),
    "img/board.png": ("image/png",),
    "img/board.webp": ("image/webp",),
    "fonts/board.woff2": ("font/woff2", "application/font-woff2"),
    "data.json": ("application/json",),
    "notes.txt": ("text/plain",),
    "motd": ("text/plain", "application/octet-stream"),
    "Grüße vom Brett.txt": ("text/plain",),
}
MIB = 1024 * 1024
LARGE = "/static/large.bin"
LARGE_MIB = 20
SLOW_READERS = 20
MEMORY_MIB = 60  # three MiB for each; a few KiB are enough
REFUSED = (403, 404)
# Each can have a server block of its own, for which nothing holds that stands in another. So what
# the usual way refuses is asked for by these as well, a little of it.
OTHER_DOORS = (WWW, V6, {**WWW, **V6})
PLAIN = {"Accept-Encoding": "identity"}  # compression is the next lab's


def address(name):
    """The path that a browser asks for a file of the folder."""
    return "/static/" + quote(name)


def content(name):
    """The bytes of a file of the folder."""
    return Path(STATIC, name).read_bytes()


def served(site, name, **options):
    """Ask for a file; any other status than 200 is a mismatch."""
    reply = site.get(address(name), **options)
    if reply.status_code != 200:
        raise Mismatch("status 200", f"status {reply.status_code}", whose_answer(reply))
    return reply


def same_bytes(reply, wanted):
    """The reply has these bytes; others are a mismatch."""
    if reply.content != wanted:
        raise Mismatch(
            f"the file's {len(wanted)} bytes", f"{len(reply.content)} bytes that are not the file's"
        )


def gave_up(reply):
    """Tell whether it is Nginx's own 500, and not the app's."""
    return reply.status_code == 500 and b"<center>nginx" in reply.content


def whose_answer(reply):
    """A note for the card, when it was the app that answered, or should have."""
    if reply.headers.get("X-Powered-By") == "Flask":
        return "The app answered this: the request went on to Gunicorn."
    if reply.status_code == 502:
        return "Nginx asked the app for it."
    if gave_up(reply):
        return (
            "Nginx itself gave up. Mostly one internal redirect led to the next, round in a circle:"
            " see the log."
        )
    return ""


def reached_app(site):
    """How many requests have reached the app, by its own count."""
    told = site.get("/stats").json()
    site.exchanges.pop()  # the card shows the request that is judged, not this one
    return told["total"] - told["paths"].get("/stats", 0)


def left_alone(site, before):
    """The app has had no request since then."""
    if reached_app(site) != before:
        raise Mismatch("an answer of Nginx's own", "the request reached the app")


def refused(site, target, files, note="", places=(), **options):
    """Ask for what nobody may have: 403 or 404 is right, and none of the files is in the body.

    From www a redirect to the main name is right too: there it is asked for anyway.
    """
    reply = site.get(target, **options)
    for name, data in files.items():
        if data in reply.content:
            got = f"status {reply.status_code}, and the content of {name}"
            raise Mismatch("403 or 404", got, whose_answer(reply) or note, places)
    leads_to = urlsplit(reply.headers.get("Location", "")).hostname
    if "host" in options and reply.is_redirect and leads_to == "board.example":
        return
    if reply.status_code not in REFUSED:
        if gave_up(reply):
            words = ("try_files", "error_page", "location /static")
            places = [("nginx.conf", word) for word in words]
        got = f"status {reply.status_code}"
        raise Mismatch("403 or 404", got, whose_answer(reply) or note, places)


def beside(options):
    """For the card, when another door lets out what the usual one refused: a note, and places."""
    whose = " over ".join(str(one).replace("6", "IPv6") for one in options.values())
    note = f"As board.example over IPv4 it is refused. Has {whose} a server block of its own?"
    words = ["server_name www"] if "host" in options else []
    words += ["listen [::]:"] if "family" in options else []
    return note, [("nginx.conf", word) for word in words]


def refused_beside(site, targets, files, *rules):
    """Ask for some of it at the other doors too, once the usual one has refused all of it."""
    for options in OTHER_DOORS:
        note, places = beside(options)
        places += [("nginx.conf", word) for word in rules]
        for target in targets:
            refused(site, target, files, note, places, **options)


@points(2)
@look_at("nginx.conf", "proxy_pass", "listen", "server")
def test_site_answers(site):
    """Nginx answers on port 80, and pages come from the app

    Only files move to Nginx. What the app makes, the app still answers.
    """
    assert (site.port_owner(80) or "nobody") == "nginx", "Nginx listens on port 80"
    for path in ("/whoami", "/api/notices", "/stats", "/"):
        reply = site.get(path)
        assert reply.status_code == 200, f"the app's {path}"
        if path == "/whoami":
            assert reply.json().get("instance") == site.instance, "the app itself must answer"


@points(1)
@look_at("nginx.conf", "location ~*", "location ~", "location / ")
def test_pages_named_like_files(site):
    """A page of the app may be called like a file

    /export.json or /feed.xml can be a page. What decides is the folder, not how a name ends.
    """
    for name in ("report.css", "data.json", "notes.txt", "photo.png", "static/style.css"):
        before = reached_app(site)
        reply = site.get(f"/echo/{name}")
        if reply.status_code != 200 or reached_app(site) == before:
            raise Mismatch("the app's page", f"status {reply.status_code} from Nginx")


@points(3)
@alone
@look_at("nginx.conf", "location /static", "location ~ ^", "location ~*", "location /")
@by_hand(
    "kill -9 $(grep -l gunicorn /proc/[0-9]*/comm | cut -d/ -f3); "
    "curl -I http://board.example/static/{style.css,img/board.png,motd,large.bin}"
)
def test_without_the_app(site):
    """Static files answer while the app is stopped

    Then it is Nginx that serves them: from the disk, without a worker, and also during a deploy.
    """
    site.service("gunicorn").kill()
    for name in TYPES:
        same_bytes(served(site, name), content(name))
    for options in ({"host": "www.board.example"}, {"family": 6}):
        same_bytes(served(site, "style.css", **options), content("style.css"))
    large = served(site, "large.bin").content
    marks = [struct.unpack_from(">Q", large, at)[0] for at in range(0, len(large) - 7, MIB)]
    if len(large) != LARGE_MIB * MIB or marks != list(range(LARGE_MIB)):
        raise Mismatch(f"the file's {LARGE_MIB * MIB} bytes", f"{len(large)} bytes")


@points(1)
@look_at("nginx.conf", "favicon", "robots", "location / ")
def test_root_files(site):
    """Nginx answers /favicon.ico and /robots.txt at the root

    Every browser asks for the one and every robot for the other, there and nowhere else.
    """
    for name in ("favicon.ico", "robots.txt"):
        before = reached_app(site)
        reply = site.get(f"/{name}")
        if reply.status_code != 200:
            raise Mismatch("status 200", f"status {reply.status_code}", whose_answer(reply))
        same_bytes(reply, content(name))
        left_alone(site, before)


@points(2)
@needs(test_without_the_app)
@look_at("nginx.conf", "types {", "default_type", "include", "location /static")
def test_types(site):
    """Each file has the right type

    A style sheet sent as text/plain is not applied, and a picture sent as text/html can be an
    attack.
    """
    for name, types in TYPES.items():
        reply = served(site, name)
        told = reply.headers.get("Content-Type", "").partition(";")[0]
        if told not in types:
            wanted = f"Content-Type {' or '.join(types)}"
            if "," not in told:
                raise Mismatch(wanted, told or "no Content-Type")
            note = "It comes twice: add_header puts a second one beside Nginx's own."
            raise Mismatch(wanted, told, note, [("nginx.conf", "add_header Content-Type")])


@points(1)
@needs(test_without_the_app)
@look_at("nginx.conf", "request_method", "limit_except", "location /static")
def test_head(site):
    """HEAD says the same as GET

    Link checkers, caches and download managers ask with HEAD first.
    """
    for name in ("style.css", "img/board.png", "motd"):
        got = served(site, name, headers=PLAIN)
        head = site.head(address(name), headers=PLAIN)
        assert head.status_code == 200
        assert head.content == b"", "no body"
        for header in ("Content-Type", "Content-Length", "ETag", "Last-Modified"):
            if head.headers.get(header) != got.headers.get(header):
                raise Mismatch(
                    f"{header}: {got.headers.get(header)}, as for GET",
                    f"{header}: {head.headers.get(header)}",
                )


@points(2)
@needs(test_without_the_app)
@look_at("nginx.conf", "max_ranges", "If-Range", "location /static")
def test_ranges(site):
    """Parts of a file can be asked for

    A video player seeks, and a broken download goes on where it stopped: both ask for ranges.
    """
    whole, name = content("img/board.png"), "img/board.png"
    first = served(site, name, headers=PLAIN)
    state = first.headers.get("ETag") or first.headers.get("Last-Modified", "")

    def part(wanted, **more):
        return site.get(address(name), headers={**PLAIN, "Range": f"bytes={wanted}", **more})

    reply = part("100-199")
    assert reply.status_code == 206
    assert reply.headers.get("Content-Range") == f"bytes 100-199/{len(whole)}"
    assert reply.content == whole[100:200], "the bytes 100 to 199"
    assert part("-50").content == whole[-50:], "the last 50 bytes"
    assert part(f"{len(whole)}-").status_code == 416
    assert part("0-9", **{"If-Range": state}).status_code == 206, "the file is still the same"
    changed = part("0-9", **{"If-Range": '"another"'})
    assert changed.status_code == 200, "the file is another: all of it"
    assert changed.content == whole, "all of it"
    reply = site.get(LARGE, headers={**PLAIN, "Range": f"bytes={5 * MIB}-{5 * MIB + 7}"})
    assert reply.status_code == 206
    assert reply.content == struct.pack(">Q", 5), "8 bytes from the middle of the large file"


@points(1)
@needs(test_without_the_app)
@look_at("nginx.conf", "etag", "if_modified_since", "Last-Modified", "location /static")
def test_conditional(site):
    """A file that has not changed is not sent again

    A browser that has the file asks whether it is still good. 304 costs no bytes.
    """
    first = served(site, "style.css")
    etag, changed = first.headers.get("ETag", ""), first.headers.get("Last-Modified", "")
    for header, value in (("ETag", etag), ("Last-Modified", changed)):
        if not value:
            raise Mismatch(f"a header {header}", "none")
    path = address("style.css")
    assert site.get(path, headers={"If-None-Match": etag}).status_code == 304
    assert site.get(path, headers={"If-Modified-Since": changed}).status_code == 304
    assert site.get(path, headers={"If-None-Match": '"another"'}).status_code == 200


@points(2)
@look_at("nginx.conf", "try_files", "error_page", "location /static", "location ~", "location / ")
@by_hand(
    "curl -i http://board.example/static/{none/none/none,none.css}; "
    """curl -s http://board.example/stats | grep -o '"/static[^,}]*'"""
)
def test_missing_file(site):
    """A missing file is 404, and costs the app nothing

    Robots ask for thousands of files that never were. That must not wake a worker.
    """
    for path in ("/static/none/none/none", "/static/none.css", "/static/img/none.png"):
        before = reached_app(site)
        reply = site.get(path)
        if reply.status_code != 404:
            raise Mismatch("status 404", f"status {reply.status_code}", whose_answer(reply))
        left_alone(site, before)


@points(1)
@look_at("nginx.conf", "autoindex", "index", "error_page", "location /static", "location / ")
def test_no_listing(site):
    """No folder shows what is in it

    A listing tells everybody what was forgotten there.
    """
    for path in ("/static/", "/static/img/", "/static/fonts", "/static"):
        reply = site.get(path)
        if reply.status_code < 300:
            list_of = " and a list of files" if b"Index of" in reply.content else ""
            got = f"status {reply.status_code}{list_of}"
            raise Mismatch("403 or 404", got, whose_answer(reply))


ESCAPES = (
    "/wsgi.py",
    "/gunicorn.conf.py",
    "/board/__init__.py",
    "/static../wsgi.py",
    "/static../static_secret.txt",
    "/static../board/__init__.py",
    "/static%2e%2e/static_secret.txt",
    "/static.%2e/static_secret.txt",
    "/%73tatic../static_secret.txt",
    "/static..%2fstatic_secret.txt",
    "/static..//static_secret.txt",
    "/static/../wsgi.py",
    "/static/img/../../wsgi.py",
    "/static/%2e%2e/wsgi.py",
    "/static/..%2fwsgi.py",
    "/static/%2e%2e%2fwsgi.py",
    "/static/%252e%252e/wsgi.py",
    "/static/..%252fwsgi.py",
    "/static//../wsgi.py",
    "/static//../../wsgi.py",
    "/static//etc/passwd",
    "/static//srv/board/static_secret.txt",
    "/static/./../wsgi.py",
    "/static;/../wsgi.py",
    "/static/..;/wsgi.py",
    "/static/..\\wsgi.py",
    "//static/../wsgi.py",
)
OPEN = (
    "location /static {", "static(", "try_files $uri @", "location ~* \\.", "alias", "root",
)  # fmt: skip
SIBLINGS = (
    "/static_secret.txt",
    "/static-private/key.txt",
    "/static%5fsecret.txt",
    "/static%2dprivate/key.txt",
    "/static-private/",
    "/static-private/key.png",
)


def outside(site):
    """What only files outside the folder hold, by their paths."""
    found = {
        "/srv/board/wsgi.py": site.submitted("wsgi.py") or b"",
        "/srv/board/gunicorn.conf.py": site.submitted("gunicorn.conf.py") or b"",
        "/etc/passwd": b"root:x:0:0",
    }
    for name in ("board/__init__.py", "static_secret.txt", "static-private/key.txt"):
        found[f"/srv/board/{name}"] = (APP / name).read_bytes()
    return {name: data.strip() for name, data in found.items() if data.strip()}


@points(3)
@look_at("nginx.conf", *OPEN)
def test_no_way_out(site):
    """No path leads out of the folder

    One slash too few, and everybody can read the source, the settings and the database.
    """
    files = outside(site)
    asked = [(target, {}) for target in ESCAPES]
    asked += [(f"/{path}wsgi.py", door) for door in OTHER_DOORS for path in ("", "static../")]
    for target, door in asked:
        reply = site.get(target, **door)
        for name, data in files.items():
            if data in reply.content:
                got = f"status {reply.status_code}, and the content of {name}"
                note, places = beside(door) if door else (way_out(target), [])
                raise Mismatch("403 or 404", got, note, places)


def way_out(target):
    """A note for the card: how an address led out of the folder."""
    if unquote(target).startswith("/static.."):
        return (
            "The address begins with the location's prefix, /static. What follows was put behind "
            "the path: ../ is the folder above."
        )
    return "More of /srv/board is served than its folder static."


@points(2)
@look_at("nginx.conf", *OPEN)
def test_siblings(site):
    """What lies beside the folder stays private

    A prefix without a slash at its end also begins other names: /static_secret.txt.
    """
    # A location for all that ends in .png is no prefix, and yet has more than one folder.
    picture = b"a picture that is not for you\n"
    site.box.write(File("/srv/board/static-private/key.png", picture))
    files = {**outside(site), "/srv/board/static-private/key.png": picture}
    for target in SIBLINGS:
        refused(site, target, files)
    refused_beside(site, ("/static_secret.txt",), files, *OPEN)


PRIVATE = (
    ".env",
    "old.py",
    "backup.sqlite3",
    "img/.thumbs",
    ".git/config",
    "old.pyc",
    "board.db",
    "board.sqlite",
    "board.sqlite3-journal",
    "board.sqlite3-wal",
    "img/old.py",
    "img/board.sqlite3",
)
BELOW = "In /static/ itself such a name is refused, and in a folder below it is not."
PRIVATE_NOTES = {  # with the likely lines
    "board.sqlite3-wal": (
        "SQLite makes this one itself: what was written last is in it. A list of names is never"
        " complete.",
        ("sqlite",),
    ),
    "img/old.py": (BELOW, ("[^/]+\\.", "(py", ".py")),
    "img/board.sqlite3": (BELOW, ("[^/]+\\.", "sqlite")),
}
ENCODED = "%2e is a dot. Locations see it decoded; $request_uri does not."
AT_ROOT = "At the root the folder is served too, and there the rules for it do not hold."
OTHER_WAYS = {
    "/static//.env": "",
    "/static/img/../old.py": "",
    "/static/%2eenv": ENCODED,
    "/static/old%2epy": ENCODED,
    "/.env": AT_ROOT,
    "/old.py": AT_ROOT,
    "/backup.sqlite3": AT_ROOT,
}

RULES = (
    "^~", "$request_uri", "try_files $uri @", "error_page", "location ~", "location /static",
    "location / ",
)  # fmt: skip


@points(3)
@look_at("nginx.conf", *RULES)
@by_hand(
    "mkdir -p static/.git; touch static/{.git/config,old.pyc,board.db,board.sqlite3-wal,img/a.py}; "
    "for p in static/{.env,%2eenv,.git/config,old.py,old.pyc,backup.sqlite3,board.db} .env old.py "
    r'static/{board.sqlite3-wal,img/a.py}; do curl -so /dev/null -w "%{http_code} /$p\n" '
    "http://board.example/$p; done; "
    "for v in -4 -6; do curl $v -sI http://{,www.}board.example/static/.env | grep ^HTTP; done"
)
def test_private_files(site):
    """Dotfiles, sources and databases are not served

    They end up in such a folder by mistake, and robots ask for exactly these names all day.
    """
    made = {
        name: f"{name} is not for you\n".encode()
        for name in PRIVATE
        if not Path(STATIC, name).exists()
    }
    site.box.write(*(File(f"/srv/board/static/{name}", data) for name, data in made.items()))
    files = {name: made.get(name) or content(name) for name in PRIVATE}
    for name in PRIVATE:
        note, words = PRIVATE_NOTES.get(name, ("", ("sqlite",) if "sqlite" in name else ()))
        places = [("nginx.conf", word) for word in (*words, *RULES)]
        refused(site, address(name), files, note, places)
    for target, note in OTHER_WAYS.items():
        refused(site, target, files, note)
    some = ("/static/.env", "/static/old.py", "/static/backup.sqlite3", "/.env")
    refused_beside(site, some, files, *RULES)


LINKS = (
    "/static/latest.txt",
    "/static/users.txt",
    "/static/mine.txt",
    "/static/up/static_secret.txt",
    "/users.txt",
    "/latest.txt",
)
LINK_RULES = (
    "try_files $uri @", "error_page", "disable_symlinks", "location /static", "location / ",
)  # fmt: skip


@points(2)
@look_at("nginx.conf", *LINK_RULES)
@by_hand(
    "ls -l static; curl -i http://board.example/{static/latest,static/users,users}.txt; "
    "ln -s /srv/board static/up; curl -i http://board.example/static/up/static_secret.txt; "
    "for v in -4 -6; do curl $v -sI http://{,www.}board.example/static/users.txt | grep ^HTTP; done"
)
def test_symbolic_links(site):
    """No symbolic link leads out of the folder, whoever owns it

    Whoever may write into the folder could otherwise publish any file that Nginx can read.
    """
    site.box.link("/srv/board/static/mine.txt", "../static_secret.txt")
    site.box.link("/srv/board/static/up", "..")
    files = outside(site)
    for target in LINKS:
        refused(site, target, files)
    some = ("/static/users.txt", "/static/up/static_secret.txt")
    refused_beside(site, some, files, *LINK_RULES)


@points(1)
@look_at("nginx.conf", "error_page", "try_files $uri @", "location /static", "location / ")
@by_hand(
    "touch static/mine; chmod 0 static/mine; curl -i http://board.example/static/mine; "
    "tail -n 1 /var/log/nginx/error.log"
)
def test_unreadable_file(site):
    """A file that Nginx may not read is refused, and shows no path

    The error page is for the visitor; the path stands in the error log, for you.
    """
    secret = b"not for you\n"
    site.box.write(File("/srv/board/static/unreadable.txt", secret, 0o000))
    refused(site, "/static/unreadable.txt", {"unreadable.txt": secret, "a path": b"/srv/"})


@points(1)
@needs(test_without_the_app)
@look_at("nginx.conf", "405", "request_method", "limit_except", "location /static")
def test_only_reading(site):
    """Files can only be read

    Nobody can POST to a picture. Nginx says so itself: the app has better things to do.
    """
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        before = reached_app(site)
        reply = site.request(method, "/static/style.css", data=b"x=1")
        if reply.status_code not in (403, 405):
            raise Mismatch("403 or 405", f"status {reply.status_code}", whose_answer(reply))
        left_alone(site, before)


@points(2)
@needs(test_without_the_app)
@look_at("nginx.conf", "output_buffers", "sendfile", "directio", "location /static")
@by_hand(
    "for i in $(seq 20); do exec {slow}<>/dev/tcp/board.example/80; "
    r"printf 'GET /static/large.bin HTTP/1.1\r\nHost: board.example\r\n\r\n' >&$slow; done; "
    "sleep 1; grep VmRSS $(grep -l nginx /proc/[0-9]*/comm | sed s/comm/status/)"
)
def test_slow_readers(site):
    """Slow readers of a large file cost no memory and no worker

    The kernel sends the file from its own cache (`sendfile`): Nginx holds a few KB for each.
    """

    def memory():
        return sum(one["rss"] for one in site.service("nginx").processes())

    who = f"{SLOW_READERS} visitors who do not read on"
    site.record(Exchange("GET", LARGE, who, f"http://board.example{LARGE}"))
    ask = f"GET {LARGE} HTTP/1.1\r\nHost: board.example\r\n\r\n".encode()
    before = memory()
    with ExitStack() as opened:
        slow = []
        for number in range(SLOW_READERS):
            one = site.connect(f"203.0.113.{number + 10}", receive_buffer=4096)
            slow.append(opened.enter_context(one))
            one.sendall(ask)
        for one in slow:
            got = one.recv(64).split(b"\r\n")[0]
            if got != b"HTTP/1.1 200 OK":
                raise Mismatch("HTTP/1.1 200 OK", got.decode("latin-1") or "no answer")
        grown = (memory() - before) // MIB
        if grown >= MEMORY_MIB:
            raise Mismatch(
                f"Nginx needs less than {MEMORY_MIB} MiB more for {SLOW_READERS} slow readers",
                "it needs far more",
                "For each of them it holds a large part of the file in buffers.",
            )
        same_bytes(served(site, "style.css"), content("style.css"))
        reply = site.get("/whoami")
        assert reply.status_code == 200, "a page, beside the slow readers"

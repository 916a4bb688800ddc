"""Lab 04, static files: the checks. README.md says what each one asks for."""

from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

from grader.checks import alone, by_hand, look_at, needs, points
from grader.errors import Mismatch
from grader.sandbox import APP, File
from grader.site import wait_for

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
LARGE = "/static/large.bin"
LARGE_SIZE = 20 * 1024 * 1024
SLOW_READERS = 20
MIB = 1024 * 1024
REFUSED = (403, 404)


def address(name):
    """The path that a browser asks for a file of the folder."""
    return "/static/" + quote(name)


def content(name):
    """The bytes of a file of the folder."""
    return Path(STATIC, name).read_bytes()


def served_files(site, names):
    """Ask for files; a wrong status or wrong bytes are a mismatch."""
    for name in names:
        reply = site.get(address(name))
        if reply.status_code != 200:
            raise Mismatch(f"{address(name)} with status 200", f"status {reply.status_code}")
        if reply.content != content(name):
            raise Mismatch(
                f"the {len(content(name))} bytes of {name}", f"{len(reply.content)} other bytes"
            )


def reached_app(site, path):
    """How often a path has reached the app, by the app's own count."""
    return site.get("/stats").json().get("paths", {}).get(path, 0)


def refused(site, target, secrets=(), **options):
    """Ask for what nobody may have; 403 and 404 are right, and anything that shows nothing."""
    reply = site.get(target, **options)
    for secret in secrets:
        if secret in reply.content:
            raise Mismatch(
                "403 or 404", f"status {reply.status_code}, and a file that is nobody's business"
            )
    return reply


@points(2)
@look_at("nginx.conf", "proxy_pass", "listen", "server")
def test_site_answers(site):
    """Nginx answers on port 80, and pages come from the app

    Only files move to Nginx. What the app makes, the app still answers.
    """
    assert (site.port_owner(80) or "nobody") == "nginx", "Nginx listens on port 80"
    for path in ("/whoami", "/api/notices", "/"):
        reply = site.get(path)
        assert reply.status_code == 200, f"the app's {path}"
        if path == "/whoami":
            assert reply.json().get("instance") == site.instance, "the app itself must answer"


@points(3)
@alone
@look_at("nginx.conf", "/static", "alias", "root")
@by_hand("pkill gunicorn; curl -i http://board.example/static/style.css")
def test_without_the_app(site):
    """Static files answer while the app is stopped

    Then it is Nginx that serves them: from the disk, without a worker, and also during a deploy.
    """
    site.service("gunicorn").kill()
    served_files(site, TYPES)


@points(1)
@alone
@look_at("nginx.conf", "favicon", "robots", "location / ")
@by_hand("pkill gunicorn; curl -i http://board.example/robots.txt")
def test_root_files(site):
    """/favicon.ico and /robots.txt answer at the root, without the app

    Every browser asks for the one and every robot for the other, there and nowhere else.
    """
    site.service("gunicorn").kill()
    for name in ("favicon.ico", "robots.txt"):
        reply = site.get(f"/{name}")
        assert reply.status_code == 200, f"/{name}"
        if reply.content != content(name):
            raise Mismatch(f"the bytes of static/{name}", f"{len(reply.content)} other bytes")


@points(2)
@look_at("nginx.conf", "types", "default_type", "/static")
def test_types(site):
    """Each file has the right type

    A style sheet sent as text/plain is not applied, and a picture sent as text/html can be an
    attack.
    """
    for name, types in TYPES.items():
        reply = site.get(address(name))
        told = reply.headers.get("Content-Type", "").partition(";")[0]
        if told not in types:
            raise Mismatch(f"{name}: {' or '.join(types)}", f"{name}: {told or 'no type'}")


@points(1)
@look_at("nginx.conf", "/static", "alias", "root")
def test_head(site):
    """HEAD says the same as GET

    Link checkers, caches and download managers ask with HEAD first.
    """
    for name in ("style.css", "img/board.png", "motd"):
        got, head = site.get(address(name)), site.head(address(name))
        assert head.status_code == 200
        assert head.content == b"", "no body"
        for header in ("Content-Type", "Content-Length", "ETag", "Last-Modified"):
            assert head.headers.get(header) == got.headers.get(header), header


@points(2)
@look_at("nginx.conf", "max_ranges", "/static", "alias", "root")
def test_ranges(site):
    """Parts of a file can be asked for

    A video player seeks, and a broken download goes on where it stopped: both ask for ranges.
    """
    whole, path = content("img/board.png"), address("img/board.png")
    reply = site.get(path, headers={"Range": "bytes=100-199"})
    assert reply.status_code == 206
    assert reply.content == whole[100:200], "the bytes 100 to 199"
    assert reply.headers.get("Content-Range") == f"bytes 100-199/{len(whole)}"
    assert site.get(path, headers={"Range": "bytes=-50"}).content == whole[-50:], "the last 50"
    assert site.get(path, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416
    etag = reply.headers.get("ETag", "")
    reply = site.get(path, headers={"Range": "bytes=0-9", "If-Range": etag or '"none"'})
    assert reply.status_code == 206, "the file is still the same"
    reply = site.get(path, headers={"Range": "bytes=0-9", "If-Range": '"another"'})
    assert reply.status_code == 200, "the file is another: all of it"
    assert reply.content == whole, "all of it"


@points(1)
@look_at("nginx.conf", "etag", "if_modified_since", "/static", "alias", "root")
def test_conditional(site):
    """A file that has not changed is not sent again

    A browser that has the file asks whether it is still good. 304 costs no bytes.
    """
    path = address("style.css")
    first = site.get(path)
    etag, changed = first.headers.get("ETag", ""), first.headers.get("Last-Modified", "")
    if not etag or not changed:
        raise Mismatch("ETag and Last-Modified", "one of them is missing")
    assert site.get(path, headers={"If-None-Match": etag}).status_code == 304
    assert site.get(path, headers={"If-Modified-Since": changed}).status_code == 304
    assert site.get(path, headers={"If-None-Match": '"another"'}).status_code == 200


@points(2)
@look_at("nginx.conf", "try_files", "error_page", "/static")
def test_missing_file(site):
    """A missing file is 404, and costs the app nothing

    Robots ask for thousands of files that never were. That must not wake a worker.
    """
    for path in ("/static/none.css", "/static/img/none.png", "/static/none/none/none"):
        before = reached_app(site, path)
        assert site.get(path).status_code == 404
        assert reached_app(site, path) - before == 0, "requests that reached the app"


@points(1)
@look_at("nginx.conf", "autoindex", "index", "/static")
def test_no_listing(site):
    """No folder shows what is in it

    A listing tells everybody what was forgotten there.
    """
    for path in ("/static/", "/static/img/", "/static/fonts", "/static"):
        reply = site.get(path)
        if reply.status_code < 300 or b"board.png" in reply.content:
            raise Mismatch(f"{path}: 403 or 404", f"{path}: status {reply.status_code}")


ESCAPES = (
    "/static../wsgi.py",
    "/static../static_secret.txt",
    "/static../board/__init__.py",
    "/static..%2fwsgi.py",
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
    "/static//srv/board/wsgi.py",
    "/static/./../static_secret.txt",
    "/static;/../wsgi.py",
    "/static/..;/wsgi.py",
    "/static/..\\wsgi.py",
    "//static/../wsgi.py",
    "/wsgi.py",
    "/gunicorn.conf.py",
)


def secrets_of(site):
    """Texts that only files outside the folder hold."""
    inside = [site.submitted("wsgi.py") or b"", site.submitted("gunicorn.conf.py") or b""]
    inside += [(APP / "board" / "__init__.py").read_bytes(), b"root:x:0:0"]
    inside += [
        (APP / "static_secret.txt").read_bytes(),
        (APP / "static-private" / "key.txt").read_bytes(),
    ]
    return [one.strip() for one in inside if one.strip()]


@points(3)
@look_at("nginx.conf", "location /static", "alias", "root")
def test_no_way_out(site):
    """No path leads out of the folder

    `location /static` without a slash, with an alias that ends in one, turns /static../wsgi.py
    into /srv/board/static/../wsgi.py. So the world reads your secrets.
    """
    secrets = secrets_of(site)
    for target in ESCAPES:
        refused(site, target, secrets)


@points(2)
@look_at("nginx.conf", "location /static", "alias", "root")
def test_siblings(site):
    """What lies beside the folder stays private

    A prefix without a slash at its end also begins other names: /static_secret.txt.
    """
    secrets = secrets_of(site)
    for target in ("/static_secret.txt", "/static-private/key.txt", "/static-private/"):
        reply = refused(site, target, secrets)
        assert reply.status_code in REFUSED


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
)


@points(3)
@look_at("nginx.conf", "location ~", "/static", "deny")
def test_private_files(site):
    """Dotfiles, sources and databases are not served

    They end up in such a folder by mistake, and robots ask for exactly these names all day.
    """
    made = [name for name in PRIVATE if not Path(STATIC, name).exists()]
    site.box.write(*(File(f"/srv/board/static/{name}", b"not for you\n") for name in made))
    for name in PRIVATE:
        reply = site.get(address(name))
        if reply.status_code not in REFUSED:
            raise Mismatch(
                f"{address(name)}: 403 or 404", f"{address(name)}: status {reply.status_code}"
            )


@points(2)
@look_at("nginx.conf", "disable_symlinks", "/static", "alias", "root")
@by_hand("ls -l static/; curl -i http://board.example/static/users.txt")
def test_symbolic_links(site):
    """No symbolic link leads out of the folder, whoever owns it

    Who may write into the folder could otherwise publish any file that Nginx can read.
    """
    secrets = secrets_of(site)
    for name in ("users.txt", "latest.txt"):
        reply = refused(site, address(name), secrets)
        assert reply.status_code in REFUSED


@points(1)
@look_at("nginx.conf", "error_page", "/static")
def test_unreadable_file(site):
    """A file that Nginx may not read is refused, and shows no path

    The error page is for the visitor; the path stands in the error log, for you.
    """
    site.box.write(File("/srv/board/static/unreadable.txt", b"not for you\n", 0o000))
    reply = site.get("/static/unreadable.txt")
    assert reply.status_code in REFUSED
    assert "/srv/" not in reply.text, "no path on the page"


@points(1)
@look_at("nginx.conf", "error_page", "limit_except", "/static")
def test_only_reading(site):
    """Files can only be read

    Nobody can POST to a picture. Nginx says so itself: the app has better things to do.
    """
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        before = reached_app(site, "/static/style.css")
        reply = site.request(method, "/static/style.css", data=b"x=1")
        assert reply.status_code in (403, 405), method
        assert reached_app(site, "/static/style.css") - before == 0, "requests that reached the app"


@points(2)
@needs(test_without_the_app)
@look_at("nginx.conf", "output_buffers", "sendfile", "/static")
@by_hand(
    "for i in $(seq 20); do exec {slow}<>/dev/tcp/board.example/80; "
    r"printf 'GET /static/large.bin HTTP/1.1\r\nHost: board.example\r\n\r\n' >&$slow; done; "
    "grep VmRSS /proc/[0-9]*/status"
)
def test_slow_readers(site):
    """Slow readers of a large file cost neither memory nor a worker

    The kernel sends the file from its own cache (`sendfile`): Nginx holds a few KB for each.
    """

    def memory():
        return sum(one["rss"] for one in site.service("nginx").processes())

    ask = f"GET {LARGE} HTTP/1.1\r\nHost: board.example\r\n\r\n".encode()
    before = memory()
    with ExitStack() as opened:
        slow = []
        for number in range(SLOW_READERS):
            one = site.connect(f"203.0.113.{number + 10}", receive_buffer=4096)
            slow.append(opened.enter_context(one))
            one.sendall(ask)
        site.wait_read(slow)
        for one in slow:
            if not one.recv(12).startswith(b"HTTP/1.1 200"):
                raise Mismatch("status 200 for the large file", "another answer")
        grown = memory() - before
        served_files(site, ("style.css",))
        assert site.get("/whoami").status_code == 200
    if grown > 3 * SLOW_READERS * MIB:
        raise Mismatch(
            f"{SLOW_READERS} slow readers of 20 MB cost Nginx less than {3 * SLOW_READERS} MB",
            f"they cost {grown // MIB} MB",
        )
    wait_for(lambda: not site.connections(), 2)

"""Lab 06, TLS: the checks. README.md says what each one asks for."""

import gzip
import re
import socket
import ssl
from urllib.parse import urljoin

import requests

from grader.checks import alone, by_hand, look_at, needs, points
from grader.client import tls_context
from grader.errors import Mismatch
from grader.sandbox import APP, File

STATIC = APP / "static"
NAMES = ("board.example", "www.board.example")
HALF_A_YEAR = 180 * 24 * 3600  # seconds, rounded down
WEAK = ("aNULL", "eNULL", "RC4", "3DES", "DES", "EXP", "MD5", "SEED", "IDEA")
RESUMPTIONS = 6


def handshake(site, context, name="board.example", family=4, session=None, read=False):
    """Shake hands over TLS; returns the connected socket.

    Raises:
        OSError: the server refused (ssl.SSLError included).
    """
    source = "203.0.113.7" if family == 4 else "2001:db8::7"
    plain = site.connect(source, family, 443)
    raw = socket.socket(fileno=plain.detach())
    raw.settimeout(10)
    context.sslsocket_class = ssl.SSLSocket
    return context.wrap_socket(raw, server_hostname=name, session=session)


def trusting(site):
    """A context that trusts the course's root and nothing else."""
    return ssl.create_default_context(cadata=site.root)


def careless(lowest=ssl.TLSVersion.TLSv1, highest=ssl.TLSVersion.TLSv1_3, ciphers="ALL"):
    """A context that accepts any certificate and, if offered, anything weak."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version, context.maximum_version = lowest, highest
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    return context


def any_certificate(lowest=ssl.TLSVersion.TLSv1_2, highest=ssl.TLSVersion.TLSv1_3):
    """A context that asks for nothing but TLS: the certificate is one check's matter."""
    context = tls_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version, context.maximum_version = lowest, highest
    return context


def https(site, path, **options):
    """GET over https, whatever the certificate."""
    return site.get(path, scheme="https", tls=any_certificate(), **options)


def https_visitor(site):
    """A visitor over https who keeps cookies."""
    return site.visitor(scheme="https", tls=any_certificate())


def whoami(site, **options):
    """Ask the app over https what it knows; any other answer is a mismatch."""
    reply = https(site, "/whoami", **options)
    if reply.status_code != 200:
        raise Mismatch("the app's own answer, with status 200", f"status {reply.status_code}")
    try:
        return dict(reply.json())
    except (TypeError, ValueError):
        raise Mismatch("the app's JSON", f"something else: {reply.text[:60]!r}") from None


def verified(site, name, family):
    """Shake hands as a browser does; what a browser would warn of is a mismatch."""
    try:
        handshake(site, trusting(site), name, family).close()
    except ssl.SSLCertVerificationError as error:
        note = ""
        if "unable to get local issuer" in error.verify_message:
            note = "The intermediate certificate is missing: a browser may or may not have it."
        raise Mismatch(
            f"a certificate for {name} that verifies", error.verify_message, note
        ) from None
    except OSError as error:
        raise Mismatch(f"TLS on port 443 for {name}", error.strerror or str(error)) from None


@points(2)
@look_at("nginx.conf", "443", "listen", "proxy_pass")
def test_site_answers(site):
    """The app answers over https, on port 443

    TLS ends at Nginx; what is inside goes on to the app as before.
    """
    assert (site.port_owner(443) or "nobody") == "nginx", "Nginx listens on port 443"
    assert whoami(site).get("instance") == site.instance, "the app itself must answer"


@points(3)
@look_at("nginx.conf", "ssl_certificate ", "443", "listen")
@by_hand("openssl s_client -connect board.example:443 -servername board.example </dev/null")
def test_certificate(site):
    """It serves a chain that verifies, for both names

    A browser knows roots, not intermediates. The server has to send what lies between:
    fullchain.pem has it, cert.pem has not.
    """
    for name in NAMES:
        verified(site, name, 4)


@points(1)
@needs(test_certificate)
@look_at("nginx.conf", "[::]", "443")
@by_hand("curl -6 -sik https://board.example/whoami")
def test_ipv6(site):
    """The same on IPv6

    Each `listen` is for one of the two. The second one is forgotten most often.
    """
    for name in NAMES:
        verified(site, name, 6)


@points(2)
@look_at("nginx.conf", "ssl_protocols", "443")
@by_hand("openssl s_client -connect board.example:443 -tls1_2 </dev/null")
def test_versions(site):
    """TLS 1.2 and 1.3 both work, and nothing older

    1.0 and 1.1 have been withdrawn (RFC 8996). Some clients do not know 1.3 yet.
    """
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = any_certificate(version, version)
        try:
            handshake(site, context).close()
        except OSError as error:
            raise Mismatch(f"{version.name} works", str(error)) from None
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        try:
            handshake(site, careless(version, version)).close()
        except OSError:
            continue
        raise Mismatch(f"{version.name} is refused", "it is accepted")


@points(2)
@alone
@look_at("nginx.conf", "ssl_ciphers", "443")
@by_hand("openssl s_client -connect board.example:443 -tls1_2 -cipher kRSA@SECLEVEL=0 </dev/null")
def test_ciphers(make_site):
    """No weak cipher, and a new key for each connection

    With static RSA, whoever gets the key one day can read all that was ever recorded. Then there
    are ciphers that do not encrypt, do not authenticate, or are broken.
    """
    site = make_site(key_type="RSA")
    twelve = ssl.TLSVersion.TLSv1_2
    for group in ("kRSA", *WEAK):
        try:
            context = careless(twelve, twelve, group)
        except ssl.SSLError:
            continue  # this machine's OpenSSL does not have them any more
        try:
            with handshake(site, context) as made:
                agreed = made.cipher()[0]
        except OSError:
            continue
        raise Mismatch(f"{group} is refused", f"the server agrees to {agreed}")
    with handshake(site, careless()) as made:
        assert made.compression() is None, "no compression (CRIME)"


@points(2)
@look_at("nginx.conf", "http2", "443")
@by_hand("curl -sik --http2 https://board.example/whoami")
def test_http2(site):
    """HTTP/2 by ALPN, and still HTTP/1.1

    A page with 30 files takes one connection instead of six. Old clients and scripts know 1.1.
    """
    context = any_certificate()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with handshake(site, context) as made:
        if made.selected_alpn_protocol() != "h2":
            raise Mismatch("h2, offered by ALPN", str(made.selected_alpn_protocol()))
        status = http2_status(made)
    assert status == 200, "GET /whoami over HTTP/2"
    context = any_certificate()
    context.set_alpn_protocols(["http/1.1"])
    with handshake(site, context) as made:
        made.sendall(b"GET /whoami HTTP/1.1\r\nHost: board.example\r\nConnection: close\r\n\r\n")
        line = made.recv(4096).split(b"\r\n")[0].decode("latin-1")
    assert line == "HTTP/1.1 200 OK"


def http2_status(connection):
    """GET /whoami over HTTP/2 (RFC 9113), the least that it takes; the status, or 0."""
    name = b"board.example"
    path = b"/whoami"
    # HPACK: indexed :method GET and :scheme https; literal :path and :authority.
    head = b"\x82\x87\x04" + bytes([len(path)]) + path + b"\x01" + bytes([len(name)]) + name
    frame = len(head).to_bytes(3, "big") + b"\x01\x05" + (1).to_bytes(4, "big") + head
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + frame)
    data = b""
    while True:
        more = connection.recv(4096)
        if not more:
            return 0
        data += more
        at = 0
        while len(data) >= at + 9:
            size, kind = int.from_bytes(data[at : at + 3], "big"), data[at + 3]
            if len(data) < at + 9 + size:
                break
            if kind == 1:  # HEADERS; 0x88 is `:status 200` in the static table
                return 200 if data[at + 9] == 0x88 else 1
            at += 9 + size


@points(2)
@look_at("nginx.conf", "ssl_session_cache", "ssl_session_tickets", "443")
@by_hand(
    "openssl s_client -connect board.example:443 -servername board.example -reconnect </dev/null"
)
def test_resumption(site):
    """Who comes again need not shake hands anew

    The handshake is the dear part of TLS: a resumed one costs a third of the CPU or less.
    """
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = any_certificate(version, version)
        session = None
        for turn in range(RESUMPTIONS):
            with handshake(site, context, session=session) as made:
                made.sendall(
                    b"GET /whoami HTTP/1.1\r\nHost: board.example\r\nConnection: close\r\n\r\n"
                )
                while made.recv(4096):  # the ticket of TLS 1.3 comes with the answer
                    pass
                if turn and not made.session_reused:
                    raise Mismatch(f"{version.name}: session resumed", "a full handshake each time")
                session = made.session


def location(reply):
    """Where a redirect leads."""
    return reply.headers.get("Location", "")


@points(3)
@look_at("nginx.conf", "return 30", "rewrite", "listen 80")
def test_redirect(site):
    """Port 80 redirects to https for good, path and query kept

    Old links and typed addresses begin with http. 301 or 308 tells browsers and search engines to
    remember.
    """
    for family in (4, 6):
        for name in NAMES:
            for path in ("/", "/notices/1?a=1&b=%2F", "/echo/a%2Fb?x=1&x=2", "/static/style.css"):
                reply = site.get(path, host=name, family=family)
                assert reply.status_code in (301, 308), path
                assert location(reply) == f"https://{name}{path}"


@points(2)
@needs(test_redirect)
@look_at("nginx.conf", "return 30", "$host", "$http_host", "server_name")
def test_redirect_host(site):
    """It never redirects to a host that the visitor made up

    A cache or a mail scanner would pass the redirect to evil.test on to others.
    """
    for host in ("evil.test", "evil.test:80", "board.example.evil.test", "evil.test/board.example"):
        try:
            reply = site.get("/notices/1", host=host)
        except requests.RequestException:
            continue  # it closed the connection: right
        if "evil" in location(reply):
            raise Mismatch("no redirect, or one to our own name", f"Location: {location(reply)}")


@points(2)
@look_at("nginx.conf", "acme-challenge", "return 30")
def test_acme_challenge(site):
    """The challenge of Let's Encrypt is answered on port 80

    That is how the next certificate comes: over http, because the old one may have run out.
    """
    token = f"proof-{site.instance}"
    folder = "/var/www/letsencrypt/.well-known/acme-challenge"
    site.box.write(File(f"{folder}/{token}", token.encode()))
    for name in NAMES:
        reply = site.get(f"/.well-known/acme-challenge/{token}", host=name)
        assert reply.status_code == 200
        assert reply.text == token


@points(3)
@look_at("nginx.conf", "Strict-Transport-Security", "add_header", "443")
def test_hsts(site):
    """Every reply over TLS says that https is to stay

    After that a browser never asks over http again, so nobody can catch the first request. At
    least half a year, or browsers' lists do not take it; errors and files included.
    """
    paths = ("/", "/whoami", "/no/such/page", "/crash", "/go?to=/", "/static/style.css")
    for path in (*paths, "/static/none.css", "/robots.txt", "/account"):
        reply = https(site, path)
        told = reply.headers.get("Strict-Transport-Security", "")
        age = re.search(r"max-age=\"?(\d+)", told)
        if not age or int(age[1]) < HALF_A_YEAR:
            raise Mismatch(
                f"{path}: Strict-Transport-Security with max-age={HALF_A_YEAR} or more",
                f"{path}, status {reply.status_code}: {told or 'no such header'}",
            )
    reply = site.get("/")
    assert "Strict-Transport-Security" not in reply.headers, "over http it must not be said"


@points(2)
@look_at("nginx.conf", "X-Forwarded-Proto", "proxy_pass")
@look_at("wsgi.py", "ProxyFix")
def test_app_knows(site):
    """The app knows that the visitor came over https

    Else its links and redirects lead back to http.
    """
    told = whoami(site)
    assert told.get("scheme") == "https"
    assert told.get("url") == "https://board.example/whoami"
    reply = https(site, "/go?to=/notices/1")
    assert urljoin("https://board.example/go", location(reply)) == "https://board.example/notices/1"


@points(2)
@look_at("wsgi.py", "SESSION_COOKIE", "app.config", "create_app()")
@by_hand("curl -sik -d 'name=ada&password=pin-the-notice' https://board.example/login")
def test_cookie(site):
    """The session cookie travels over https alone

    Without `Secure` one http link is enough to read it on the way. HttpOnly keeps scripts, and
    SameSite other sites, away from it.
    """
    reply = https_visitor(site).post("/login", data={"name": "ada", "password": "pin-the-notice"})
    told = reply.headers.get("Set-Cookie", "")
    parts = [one.strip().lower() for one in told.split(";")]
    for wanted in ("secure", "httponly"):
        if wanted not in parts:
            raise Mismatch(f"Set-Cookie with {wanted}", re.sub("session=[^;]*", "session=…", told))
    if not {"samesite=lax", "samesite=strict"} & set(parts):
        raise Mismatch("SameSite=Lax or Strict", re.sub("session=[^;]*", "session=…", told))


@points(2)
@look_at("nginx.conf", "ssl_reject_handshake", "default_server", "443")
@by_hand("openssl s_client -connect board.example:443 -servername evil.test </dev/null")
def test_unknown_names(site):
    """Who asks for another name, or for none, gets no certificate of ours

    Robots that scan addresses would learn which sites live here. And a certificate for the wrong
    name only makes browsers warn.
    """
    for family in (4, 6):
        for name in ("evil.test", "test.board.example", None):
            try:
                with handshake(site, careless(), name, family) as made:
                    shown = made.getpeercert(binary_form=True) or b""
            except OSError:
                continue
            if b"board.example" in shown:
                asked = name or "no name"
                raise Mismatch(
                    f"{asked}, IPv{family}: no certificate of ours", "the one for board.example"
                )


@points(2)
@look_at("nginx.conf", "X-Forwarded", "proxy_set_header", "443")
@look_at("wsgi.py", "ProxyFix")
def test_visitor_over_tls(site):
    """Over TLS too, the app sees who visits and what for

    The server block for 443 is a new one: what lab 03 wrote for port 80 does not hold there by
    itself.
    """
    claim = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil.test"}
    for headers in ({}, claim, {"X-Forwarded-Proto": "http"}, {"X-Forwarded-Port": "444"}):
        reply = https(site, "/whoami", source="203.0.113.7", headers=headers)
        if reply.status_code == 400:
            continue
        assert reply.json().get("client") == "203.0.113.7"
        assert reply.json().get("url") == "https://board.example/whoami"
    assert whoami(site, host="www.board.example").get("host") == "www.board.example"
    told = https(site, "/echo/a%2Fb//c?x=1&x=2").json()
    assert told.get("path") == "/echo/a%2Fb//c"


@points(2)
@look_at("nginx.conf", "/static", "gzip", "443")
def test_files_over_tls(site):
    """Over TLS too, files come from Nginx, packed where it helps

    What labs 04 and 05 built holds here as well, or the site got slower and leakier with TLS.
    """
    style = (STATIC / "style.css").read_bytes()
    before = https(site, "/stats").json().get("paths", {}).get("/static/style.css", 0)
    reply = https(site, "/static/style.css", headers={"Accept-Encoding": "gzip"}, stream=True)
    assert reply.headers.get("Content-Encoding") == "gzip"
    assert gzip.decompress(reply.raw.read(decode_content=False)) == style, "the same bytes"
    after = https(site, "/stats").json().get("paths", {}).get("/static/style.css", 0)
    assert after == before, "it did not come from the app"
    for path in ("/static/.env", "/static/old.py", "/static_secret.txt", "/static/users.txt"):
        assert https(site, path).status_code in (403, 404), path
    visitor = https_visitor(site)
    visitor.post("/login", data={"name": "ada", "password": "pin-the-notice"})
    reply = visitor.get(f"/account?note={'a' * 2000}", headers={"Accept-Encoding": "gzip"})
    assert reply.status_code == 200
    assert reply.headers.get("Content-Encoding", "none") == "none", "not packed: BREACH"

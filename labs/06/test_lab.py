"""Lab 06, TLS: the checks. README.md says what each one asks for."""

import gzip
import os
import re
import ssl
from contextlib import contextmanager
from functools import cache
from urllib.parse import unquote, urljoin, urlsplit

import requests

from grader.board import LOGIN, check_visitor_is_known, told_by
from grader.certificates import LIVE
from grader.checks import alone, by_hand, look_at, needs, points
from grader.client import RecordedTLSSocket
from grader.errors import Mismatch
from grader.machine import File
from grader.sandbox import APP

STATIC = APP / "static"
NAMES = ("board.example", "www.board.example")
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
FOR_GOOD = (301, 308)
HALF_A_YEAR = 180 * 24 * 3600  # seconds
VISITS = 6  # that come again: all of Nginx's workers have to know them
REQUEST = b"GET /whoami HTTP/1.1\r\nHost: board.example\r\nConnection: close\r\n\r\n"
# Likely words of the `listen` lines for IPv6, for cards.
DEFAULT_SERVER = ("[::]:443 ssl default_server", "[::]:443")
PORT_80 = ("[::]:80;", "[::]:80")
CHALLENGES = "/.well-known/acme-challenge"

# Cipher suites by their numbers (iana.org/assignments/tls-parameters), up to TLS 1.2.
OLD_BUT_SOUND = (0xC009, 0xC00A, 0xC013, 0xC014)  # ECDHE with AES-CBC
SOUND = (0xC02B, 0xC02C, 0xC02F, 0xC030, 0xCCA8, 0xCCA9, *OLD_BUT_SOUND)
WEAK = {
    "a cipher without encryption (NULL)": (0x01, 0x02, 0x3B, 0xC006, 0xC010),
    "a cipher without authentication (aNULL)": (
        *(0x18, 0x1B, 0x34, 0x3A, 0x46, 0x6C, 0x6D, 0x89, 0xA6, 0xA7),
        *(0xC015, 0xC016, 0xC017, 0xC018, 0xC019),
    ),
    "an export cipher": (0x03, 0x06, 0x08, 0x0B, 0x0E, 0x11, 0x14, 0x17, 0x19),
    "RC4": (0x04, 0x05, 0xC007, 0xC011),
    "DES or 3DES": (0x09, 0x0A, 0x0C, 0x0D, 0x0F, 0x10, 0x12, 0x13, 0x15, 0x16, 0xC008, 0xC012),
    "IDEA or SEED": (0x07, 0x96, 0x97, 0x98, 0x99, 0x9A),
    "static RSA": (
        *(0x2F, 0x35, 0x3C, 0x3D, 0x41, 0x84, 0x9C, 0x9D, 0xBA, 0xC0),
        *(0xC03C, 0xC03D, 0xC050, 0xC051, 0xC07A, 0xC07B, 0xC09C, 0xC09D, 0xC0A0, 0xC0A1),
    ),
}
ANY_SUITE = (*SOUND, *(one for suites in WEAK.values() for one in suites))


def context(lowest=TLS_1_2, highest=TLS_1_3, protocols=()):
    """A context that takes any certificate: the right one is one check's matter."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.sslsocket_class = RecordedTLSSocket
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version, made.maximum_version = lowest, highest
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


def connect(site, family=4):
    """Open a plain connection to port 443."""
    return site.connect("203.0.113.7" if family == 4 else "2001:db8::7", family, 443)


def handshake(site, context, name="board.example", family=4, session=None):
    """Shake hands over TLS; returns the connected socket.

    Raises:
        OSError: the server refused (ssl.SSLError included).
    """
    return context.wrap_socket(connect(site, family), server_hostname=name, session=session)


def said(error):
    """What OpenSSL or the kernel had to say, in words."""
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if reason else error.strerror or str(error)


def https(site, path, **options):
    """GET over https, whatever the certificate."""
    return site.get(path, scheme="https", tls=context(), **options)


def signed_in(site):
    """A visitor over https who keeps cookies, and the reply to the log-in."""
    visitor = site.visitor(scheme="https", tls=context())
    return visitor, visitor.post("/login", data=LOGIN)


def whoami(site, **options):
    """Ask the app over https what it knows; any other answer is a mismatch."""
    return told_by(https(site, "/whoami", **options))


def served_over_tls(site, name, family=4):
    """Tell whether a name gets any TLS at all; that it should is one check's matter."""
    try:
        handshake(site, context(), name, family).close()
    except OSError:
        return False
    return True


@cache
def doors(site):
    """The names and the versions of IP by which there is TLS. The first is what all else stands on.

    Each can have a server block of its own, and each address has a default server of its own.
    """
    others = [("board.example", 6), ("www.board.example", 4), ("www.board.example", 6)]
    return [("board.example", 4), *(one for one in others if served_over_tls(site, *one))]


@contextmanager
def at_door(name, family, over_ipv6, *words):
    """Say on the card of a mismatch at another door than the usual one that it is that door's.

    Args:
        name: the name asked for.
        family: the version of IP.
        over_ipv6: likely words of the `listen` lines for IPv6.
        words: those of other likely lines, where the mismatch names none.
    """
    try:
        yield
    except Mismatch as error:
        if (name, family) == ("board.example", 4):
            raise
        of_name = [f"server_name {name.partition('.')[0]}"] if name != "board.example" else []
        places = [("nginx.conf", one) for one in (*of_name, *(over_ipv6 if family == 6 else ()))]
        differs = f"{name} has a server block of its own"
        if family == 6:
            differs = "IPv6 has a `listen` line of its own, or a server block"
        note = f"As board.example over IPv4 it is right: {differs}."
        raise Mismatch(
            error.expected,
            error.got,
            f"{error.note}\n{note}".strip(),
            [*places, *(error.look_at or (("nginx.conf", one) for one in words))],
        ) from None


@cache
def families(site):
    """The versions of IP over which port 80 is open; that both should be is one check's matter."""
    try:
        site.connect("2001:db8::7", 6, 80).close()
    except OSError:
        return (4,)
    return (4, 6)


def location(reply):
    """Where a redirect leads."""
    return reply.headers.get("Location", "")


def hello(version, suites, name):
    """A ClientHello (RFC 5246, section 7.4.1.2) for one version, with compression on offer.

    Made by hand: what a server must refuse, the OpenSSL of this machine may not even ask for.
    """

    def sized(data, size=2):
        return len(data).to_bytes(size, "big") + data

    def extension(number, data):
        return number.to_bytes(2, "big") + sized(data)

    extensions = extension(0, sized(b"\0" + sized(name.encode())))  # server_name
    extensions += extension(10, sized(bytes.fromhex("001d00170018")))  # X25519, P-256, P-384
    extensions += extension(11, sized(b"\0", 1))  # points are not compressed
    if version >= (3, 3):  # ECDSA, RSA-PSS and RSA with SHA-256 to SHA-512, and with SHA-1
        algorithms = "040305030603080408050806040105010601" + "02030201"
        extensions += extension(13, sized(bytes.fromhex(algorithms)))
    body = bytes(version) + os.urandom(32) + sized(b"", 1)
    body += sized(b"".join(one.to_bytes(2, "big") for one in suites))
    body += sized(b"\1\0", 1) + sized(extensions)  # DEFLATE, or no compression
    return b"\x16" + bytes((3, min(version[1], 1))) + sized(b"\1" + sized(body, 3))


def offer(site, version, suites, name="board.example", family=4):
    """Offer a version and cipher suites: the version, suite and compression agreed to, or None."""
    try:
        with connect(site, family) as made, made.makefile("rb") as stream:
            made.sendall(hello(version, suites, name))
            head = stream.read(5)
            body = stream.read(int.from_bytes(head[3:5], "big"))
    except ConnectionResetError:
        return None
    if head[:1] != b"\x16" or body[:1] != b"\x02":  # not a ServerHello: an alert, or the end
        return None
    at = 39 + body[38]  # behind the session's id
    return tuple(body[4:6]), int.from_bytes(body[at : at + 2], "big"), body[at + 2]


def name_of(suite):
    """A cipher suite's name in OpenSSL's words, as `ssl_ciphers` knows it."""
    known = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    known.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    names = {one["id"] & 0xFFFF: one["name"] for one in known.get_ciphers()}
    return names.get(suite, f"suite {suite:#06x}")


def verified(site, name, family):
    """Shake hands as a browser does; what a browser would warn of is a mismatch."""
    trusting = ssl.create_default_context(cadata=site.root)
    try:
        handshake(site, trusting, name, family).close()
    except ssl.SSLCertVerificationError as error:
        notes = {
            10: "The certificate that is served has run out: is it the right folder?",
            20: "The intermediate certificate is not sent along: cert.pem is without it.",
            62: "The certificate that is served names other hosts: is it the right folder?",
        }
        raise Mismatch(
            f"a certificate for {name} that verifies",
            error.verify_message,
            notes.get(error.verify_code, ""),
        ) from None
    except OSError as error:
        note = ""
        if isinstance(error, ConnectionRefusedError):
            note = f"Nobody listens on port 443 over IPv{family}."
        elif "unrecognized name" in said(error):
            note = f"No server block for 443 has {name} among its server_name."
        raise Mismatch(f"TLS for {name} over IPv{family}", said(error), note) from None


def hide_keys(site):
    """Leave the keys to those who have read them, as on a server, where they are root's alone."""
    if site.box.real:
        return
    for folder in ("board.example", *(f"board.example-{one}" for one in ("old", "test", "mixed"))):
        path = f"{LIVE}/{folder}/privkey.pem"
        site.box.write(File(path, site.box.read(path), 0o000))


@points(2)
@look_at("nginx.conf", "443", "listen", "proxy_pass")
@look_at("nginx.conf", "ssl_certificate_key /etc/letsencrypt/live/$", "ssl_certificate_key $")
@by_hand("curl -ik https://board.example/whoami")
def test_site_answers(site):
    """The app answers over https, on port 443

    TLS ends at Nginx; what is inside goes on to the app as before.
    """
    owner = site.port_owner(443)
    if owner != "nginx":
        raise Mismatch("Nginx listens on port 443", f"{owner or 'nobody'} does")
    hide_keys(site)
    try:
        handshake(site, context()).close()
    except OSError as error:
        note = ""
        if "internal error" in said(error):
            note = (
                "Nginx's master reads the key as root, when it starts. Its workers may not read"
                " it, and have to where its name is made of variables."
            )
        if "wrong version number" in said(error):
            note = "What answers on port 443 is not TLS: does the `listen` line say `ssl`?"
        raise Mismatch("TLS on port 443, for board.example", said(error), note) from None
    assert whoami(site).get("instance") == site.instance, "the app itself must answer"


@points(3)
@look_at("nginx.conf", "ssl_certificate ", "443", "listen")
@by_hand(
    "t=$(openssl s_client -connect board.example:443 </dev/null 2>/dev/null); "
    'echo "$t" | grep " [si]:"; echo "$t" | openssl x509 -noout -dates -ext subjectAltName'
)
def test_certificate(site):
    """It serves a chain that verifies, for both names

    A browser knows roots, not intermediates. The server has to send what lies between.
    """
    for name in NAMES:
        verified(site, name, 4)


@points(1)
@needs(test_certificate)
@look_at("nginx.conf", "[::]:443", "443")
@by_hand("for p in http https; do curl -6 -sik $p://board.example/whoami | head -1; done")
def test_ipv6(site):
    """The same on IPv6, on both ports

    Each `listen` is for one of the two. The second one is forgotten most often.
    """
    for name in NAMES:
        verified(site, name, 6)
        four = site.get("/notices/1", host=name)
        try:
            six = site.get("/notices/1", host=name, family=6)
        except requests.ConnectionError as error:
            raise Mismatch("an answer over IPv6 on port 80", str(error)) from None
        if (six.status_code, location(six)) != (four.status_code, location(four)):
            raise Mismatch(
                f"over IPv6 what comes over IPv4: {four.status_code} {location(four)}",
                f"{six.status_code} {location(six)}",
            )


@points(2)
@look_at("nginx.conf", "ssl_protocols", "443")
@by_hand(
    "for a in 192.0.2.80 '[2001:db8::80]'; do for v in tls1 tls1_1 tls1_2 tls1_3; do "
    "echo $a $v: $(openssl s_client -connect $a:443 -servername board.example -$v "
    "-cipher ALL:@SECLEVEL=0 </dev/null 2>&1 | grep ^New); done; done"
)
def test_versions(site):
    """TLS 1.2 and 1.3 both work, and nothing older

    1.0 and 1.1 have been withdrawn (RFC 8996). Some clients do not know 1.3 yet.
    """
    for door in doors(site):
        with at_door(*door, DEFAULT_SERVER, "ssl_protocols", "443"):
            check_versions(site, *door)


def check_versions(site, name, family):
    """TLS 1.2 and 1.3 work at a door, and nothing older; else it is a mismatch."""
    for version, words in ((TLS_1_2, "TLS 1.2"), (TLS_1_3, "TLS 1.3")):
        try:
            handshake(site, context(version, version), name, family).close()
        except OSError as error:
            raise Mismatch(f"{words} works", said(error)) from None
    for version, words in (((3, 0), "SSL 3"), ((3, 1), "TLS 1.0"), ((3, 2), "TLS 1.1")):
        agreed = offer(site, version, ANY_SUITE, name, family)
        if agreed and agreed[0] == version:
            raise Mismatch(
                f"{words} is refused",
                f"the server agrees to it, with {name_of(agreed[1])}",
                "Up to nginx 1.29.1 the default server of the port decides. Without ssl_protocols "
                "it has those of /etc/nginx/nginx.conf.",
            )


@points(2)
@alone
@look_at("nginx.conf", "ssl_ciphers", "ssl_certificate ", "443")
@by_hand(
    "openssl ciphers -v 'HIGH:!aNULL:!MD5' | grep -E 'Kx=RSA |Au=None|Enc=(None|3DES|RC4)'"
    "  # with your ssl_ciphers; this is nginx's default"
)
def test_ciphers(make_site):
    """No weak cipher, and a new key for each connection

    With static RSA, whoever gets the key one day can read all that was ever recorded. Other
    ciphers do not encrypt, do not authenticate, or are broken.
    """
    site = make_site(key_type="RSA")
    for door in doors(site):
        with at_door(*door, ("[::]:443",), "ssl_ciphers", "443"):
            check_ciphers(site, *door)


def check_ciphers(site, name, family):
    """A door agrees to no weak cipher, and not to compression; else it is a mismatch."""
    for kind, suites in WEAK.items():
        agreed = offer(site, (3, 3), suites, name, family)
        if agreed:
            note = "Asked of a server with an RSA key. Nginx's own HIGH:!aNULL:!MD5 has static RSA."
            raise Mismatch(
                f"{kind} is refused",
                f"the server agrees to {name_of(agreed[1])}",
                note if kind == "static RSA" else "",
            )
    agreed = offer(site, (3, 3), SOUND, name, family)
    if agreed and agreed[2]:
        raise Mismatch("TLS without compression (CRIME)", "the server agrees to compress")


@points(2)
@look_at("nginx.conf", "http2", "443 ssl;", "443")
@by_hand(
    "for a in -4 -6; do for v in 2 1.1; do "
    "curl $a -sik --http$v https://board.example/whoami | head -1; done; done"
)
def test_http2(site):
    """HTTP/2 by ALPN, and still HTTP/1.1

    A page with 30 files takes one connection instead of six. Old clients and scripts know 1.1.
    """
    for name, family in doors(site):
        with (
            at_door(name, family, ("[::]:443 ssl;", "[::]:443"), "http2", "443"),
            handshake(site, context(protocols=["h2", "http/1.1"]), name, family) as made,
        ):
            chosen = made.selected_alpn_protocol()
            if chosen != "h2":
                raise Mismatch("h2, of h2 and http/1.1 offered by ALPN", chosen or "no choice")
            if name != "board.example":
                continue  # www may lead to the main name
            status = http2_status(made)
        assert status == 200, "GET /whoami over HTTP/2"
        for protocols in (["http/1.1"], []):
            with handshake(site, context(protocols=protocols), name, family) as made:
                made.sendall(REQUEST)
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
@look_at("nginx.conf", "ssl_session_tickets", "ssl_session_cache", "default_server", "443")
@by_hand(
    "s() { sleep 0.3 | openssl s_client -connect board.example:443 $* 2>/dev/null | "
    "grep -E '^(New|Reused)'; }; for v in -tls1_2 -tls1_3; do s $v -sess_out /tmp/s; "
    "s $v -sess_in /tmp/s; done"
)
def test_resumption(site):
    """A visitor who comes again need not shake hands anew

    A resumed handshake needs no certificate and no signature. In TLS 1.2 it also saves a trip there
    and back, which is what a visitor far away waits for.
    """
    for name, family in doors(site):
        if name == "board.example":  # the name comes too late to count
            with at_door(name, family, DEFAULT_SERVER, "ssl_session_tickets", "ssl_session_cache"):
                check_resumption(site, family)


def check_resumption(site, family):
    """All visits but the first resume their session; else it is a mismatch."""
    for version, words in ((TLS_1_2, "TLS 1.2"), (TLS_1_3, "TLS 1.3")):
        session, client = None, context(version, version)
        try:
            handshake(site, client, family=family).close()
        except OSError:
            continue  # whether the version works is another check's matter
        for visit in range(VISITS):
            with handshake(site, client, family=family, session=session) as made:
                made.sendall(REQUEST)
                while made.recv(4096):  # the ticket of TLS 1.3 comes with the answer
                    pass
                if visit and not made.session_reused:
                    raise Mismatch(
                        f"{words}: the session is resumed",
                        f"a full handshake at visit {visit + 1}",
                        "It is looked up before the name is known: what the default server of "
                        "the port says about tickets and caches counts.",
                    )
                session = made.session


@points(3)
@look_at("nginx.conf", "return 30", "rewrite", "listen 80")
def test_redirect(site):
    """Port 80 redirects to https for good, path and query kept

    Old links and typed addresses begin with http. 301 or 308 tells browsers and search engines to
    remember.
    """
    for family in families(site):
        with at_door("board.example", family, PORT_80, "return 30", "rewrite"):
            for name in NAMES:
                check_redirect(site, name, family)


def check_redirect(site, name, family):
    """Port 80 redirects a name to https, path and query kept; else it is a mismatch."""
    targets = {f"https://{one}" for one in (name, "board.example")}
    for path in (
        *("/", "/%0d%0aX-Injected:%20yes", "/notices/1?a=1&b=%2F", "/echo/a%2Fb//c?x=1&x=2"),
        *("/static/style.css", "/login", "/whoami"),
    ):
        reply = site.get(path, host=name, family=family)
        if "X-Injected" in reply.headers:
            raise Mismatch(
                f"Location: https://{name}{path}",
                f"Location: {location(reply)}, and a header X-Injected: yes",
                "$uri is decoded: a visitor's line break becomes one in your headers.",
            )
        if reply.status_code not in FOR_GOOD:
            raise Mismatch("status 301 or 308", f"status {reply.status_code}")
        if location(reply) not in {f"{one}{path}" for one in targets}:
            decoded = unquote(location(reply)) == unquote(f"https://{name}{path}")
            raise Mismatch(
                f"Location: https://{name}{path}",
                f"Location: {location(reply)}",
                "`rewrite` and $uri decode the path, `return` and $request_uri leave it."
                if decoded
                else "",
            )


@points(2)
@needs(test_redirect)
@look_at("nginx.conf", "https://$http_host", "return 30", "rewrite", "server_name")
@by_hand(
    "for h in evil.test board.example:80; do for t in / http://board.example/; do "
    'curl -si --request-target $t -H "Host: $h" http://board.example | '
    "grep -ie ^HTTP -ie ^location; done; done"
)
def test_redirect_host(site):
    """It never redirects to a host that the visitor made up

    A cache or a mail scanner would pass the redirect to evil.test on to others.
    """
    for family in families(site):
        with at_door("board.example", family, PORT_80, "return 30", "rewrite"):
            check_redirect_host(site, family)


def check_redirect_host(site, family):
    """Port 80 redirects to our own names alone; else it is a mismatch."""
    path = "/notices/1"
    for target, host in (
        *((path, one) for one in ("evil.test", "board.example.evil.test", "evil.test:80")),
        ("http://evil.test" + path, "board.example"),
        # Nginx chooses the server by the request line's host; $http_host is the header's.
        ("http://board.example" + path, "evil.test"),
    ):
        try:
            reply = site.get(target, host=host, family=family)
        except requests.RequestException:
            continue  # it closed the connection: right
        if location(reply) and urlsplit(location(reply)).hostname not in NAMES:
            raise Mismatch("no redirect, or one to our own name", f"Location: {location(reply)}")
    reply = site.get(path, host="board.example:80", family=family)
    if location(reply) not in (f"https://board.example{path}", f"https://board.example:443{path}"):
        raise Mismatch(
            f"Location: https://board.example{path}",
            f"Location: {location(reply) or 'none'}",
            "The port that the visitor named is the one for http.",
        )


@points(2)
@look_at("nginx.conf", "acme-challenge", "return 30", "listen 80")
@by_hand(
    f"d=/var/www/letsencrypt{CHALLENGES}; mkdir -p $d; echo yes >$d/try; "
    f"for v in -4 -6; do curl $v -i http://board.example{CHALLENGES}/try; done"
)
def test_acme_challenge(site):
    """The challenge of Let's Encrypt is answered on port 80

    The first certificate is asked for when there is no https yet, and each renewal goes the same
    way. Without it the site is gone in some weeks.
    """
    token = f"proof-{site.instance}"
    site.box.write(File(f"/var/www/letsencrypt{CHALLENGES}/{token}", token.encode()))
    for family in families(site):
        with at_door("board.example", family, PORT_80, "acme-challenge"):
            for name in NAMES:
                check_challenge(site, token, name, family)


def check_challenge(site, token, name, family):
    """A challenge, whose file holds its own name, is answered; else it is a mismatch."""
    reply = site.get(f"{CHALLENGES}/{token}", host=name, family=family)
    if reply.status_code != 200 or reply.text != token:
        got = f"status {reply.status_code}"
        if location(reply):
            got += f", to {location(reply)}"
        note = f"The file is /var/www/letsencrypt{CHALLENGES}/{token}."
        if reply.status_code in (301, 302, 307, 308):
            note = "A `return` in the server, in an `if` too, comes before any location."
            lines = [("nginx.conf", "return 30"), ("nginx.conf", "rewrite")]
            raise Mismatch("status 200 and the file's own text", got, note, lines)
        raise Mismatch("status 200 and the file's own text", got, note)


@points(3)
@look_at("nginx.conf", "Strict-Transport-Security", "add_header", "443")
@by_hand(
    "for p in / /static/style.css /no/such/page /crash; do "
    "echo $p: $(curl -sik https://board.example$p | grep -i ^strict); done; "
    "curl -si http://board.example | grep -i ^strict"
)
def test_hsts(site):
    """Every reply over TLS says that https is to stay

    After that a browser does not ask over http again, so nobody can catch the first request. Errors
    and files have to say it too: any of them may be a visitor's first.
    """
    site.box.write(File(f"/var/www/letsencrypt{CHALLENGES}/try", b"yes"))
    for family in families(site):
        for path in ("/", "/static/style.css", f"{CHALLENGES}/try"):
            told = site.get(path, family=family).headers.get("Strict-Transport-Security")
            if told:
                raise Mismatch(
                    "no Strict-Transport-Security over http",
                    f"Strict-Transport-Security: {told}",
                    "Browsers ignore it there (RFC 6797, section 7.2): a server must not send it.",
                )
    usual, *others = doors(site)
    asked = [("GET", path, usual) for path in HSTS_PATHS]
    asked += [("HEAD", "/stream", usual), ("POST", "/static/style.css", usual)]
    asked += [("GET", path, door) for door in others for path in ("/", "/no/such/page")]
    seen = False
    for method, path, (host, family) in asked:
        reply = site.request(method, path, host=host, family=family, scheme="https", tls=context())
        told = reply.headers.get("Strict-Transport-Security", "")
        age = re.search(r"(?i)max-age\s*=\s*\"?(\d+)", told)
        if age and int(age[1]) >= HALF_A_YEAR:
            seen = True
            continue
        note = ""
        if seen and not told:
            note = "Without `always`, add_header leaves errors out."
            if reply.status_code < 400:
                note = (
                    "A location with an add_header of its own inherits none from above. One that "
                    "stands in a location holds there alone."
                )
        with at_door(host, family, ("[::]:443",)):
            raise Mismatch(
                f"Strict-Transport-Security with a max-age of {HALF_A_YEAR} or more",
                f"status {reply.status_code}, "
                + (f"Strict-Transport-Security: {told}" if told else "and no such header"),
                note,
            )


HSTS_PATHS = (
    *("/", "/whoami", "/go?to=/", "/account", "/static/style.css", "/favicon.ico", "/robots.txt"),
    *("/no/such/page", "/crash", "/static/none.css", "/static/.env", "/static/old.py"),
)


@points(2)
@look_at("wsgi.py", "ProxyFix")
@look_at("nginx.conf", "X-Forwarded-Proto", "proxy_set_header", "proxy_pass")
@by_hand("curl -sk https://board.example/whoami")
def test_app_knows(site):
    """The app knows that the visitor came over https

    Otherwise its links and redirects lead back to http.
    """
    told = whoami(site)
    if told.get("scheme") != "https":
        reached = told.get("headers", {}).get("X-Forwarded-Proto")
        raise Mismatch(
            "scheme https",
            f"scheme {told.get('scheme')}",
            f"This reached the app: X-Forwarded-Proto: {reached}"
            if reached
            else "No X-Forwarded-Proto reached the app.",
        )
    assert told.get("url") == "https://board.example/whoami"
    reply = https(site, "/go?to=/notices/1")
    assert urljoin("https://board.example/go", location(reply)) == "https://board.example/notices/1"


@points(1)
@needs(test_redirect, test_app_knows)
@look_at("nginx.conf", "http_x_forwarded", "if (", "X-Forwarded-Proto", "return 30")
def test_spoofed_scheme(site):
    """Nobody passes for a visitor over https by saying so

    Over http a header is not encryption. Some samples believe it, because they were written for a
    site behind a load balancer.
    """
    for name, value in (
        *(("X-Forwarded-Proto", "https"), ("X-Forwarded-Ssl", "on"), ("X-Forwarded-Port", "443")),
        *(("X-Url-Scheme", "https"), ("Front-End-Https", "on"), ("Forwarded", "proto=https")),
    ):
        reply = site.get("/whoami", headers={name: value})
        if reply.status_code not in FOR_GOOD and reply.status_code < 400:
            raise Mismatch("a redirect all the same", f"status {reply.status_code}")


@points(2)
@look_at("wsgi.py", "SESSION_COOKIE_SAMESITE", "SESSION_COOKIE", "app.config", "create_app()")
@look_at("nginx.conf", "proxy_cookie")
@by_hand(
    "curl -sik -d 'name=ada&password=pin-the-notice' https://board.example/login | grep -i cookie:"
)
def test_cookie(site):
    """The session cookie travels over https alone

    Without `Secure` one http link is enough to read it on the way. HttpOnly keeps scripts, and
    SameSite other sites, away from it.
    """
    _, reply = signed_in(site)
    told = reply.headers.get("Set-Cookie", "")
    if not told:
        raise Mismatch("a session cookie after the log-in", f"status {reply.status_code}, none")
    parts = [one.strip().lower() for one in told.split(";")]
    shown = re.sub("session=[^;]*", "session=…", told)
    for wanted in ("Secure", "HttpOnly"):
        if wanted.lower() not in parts:
            raise Mismatch(f"Set-Cookie with {wanted}", shown)
    if not {"samesite=lax", "samesite=strict"} & set(parts):
        raise Mismatch("Set-Cookie with SameSite=Lax or SameSite=Strict", shown)


@points(2)
@look_at("nginx.conf", "ssl_reject_handshake", "443 ssl default_server", "443")
@by_hand(
    "for a in 192.0.2.80 '[2001:db8::80]'; do for n in '-servername evil.test' -noservername; do "
    "openssl s_client -connect $a:443 $n </dev/null 2>/dev/null | "
    "openssl x509 -noout -ext subjectAltName 2>&1 | tail -1; done; done"
)
def test_unknown_names(site):
    """A name that is not ours gets no certificate of ours

    Robots that scan addresses would learn which sites live here. And a certificate for the wrong
    name only makes browsers warn.
    """
    for family in (4, 6):
        for name in ("evil.test", "test.board.example", None):
            try:
                with handshake(site, context(), name, family) as made:
                    shown = made.getpeercert(binary_form=True) or b""
            except OSError:
                continue
            if b"board.example" in shown:
                asked = f"the name {name}" if name else "no name"
                names = re.findall(rb"[a-z.]*board\.example", shown)
                note, words = "", ()
                if family == 6:
                    note = "Over IPv4 there is none: each address has a default server of its own."
                elif name == "test.board.example":  # and evil.test, asked before, got none
                    note = "A server_name with a wildcard takes this name too."
                    words = (" .board", "*.board", "server_name ~", "ssl_reject_handshake", "443")
                raise Mismatch(
                    f"for {asked}, over IPv{family}: no certificate that says board.example",
                    "one for " + " and ".join(sorted({one.decode() for one in names})),
                    note,
                    [("nginx.conf", word) for word in words],
                )


@points(2)
@needs(test_app_knows)
@look_at("wsgi.py", "ProxyFix")
@look_at("nginx.conf", "X-Forwarded-For", "proxy_set_header", "443")
@by_hand("curl -sk --interface 203.0.113.7 https://board.example/whoami")
def test_visitor_over_tls(site):
    """Over TLS too, the app sees who visits and what for

    The server block for 443 is a new one: what lab 03 wrote for port 80 does not hold there by
    itself.
    """
    claims = [{}, {"X-Forwarded-For": "6.6.6.6"}, {"X-Forwarded-Host": "evil.test"}]
    claims += [{"X-Forwarded-Proto": "http"}, {"X-Forwarded-Port": "444"}]
    for headers in claims:
        reply = https(site, "/whoami", headers=headers)
        if reply.status_code == 400:
            continue
        assert reply.json().get("client") == "203.0.113.7"
        assert reply.json().get("url") == "https://board.example/whoami"
    told = https(site, "/echo/a%2Fb//c?x=1&x=2").json()
    assert told.get("path") == "/echo/a%2Fb//c"
    check_visitor_is_known(signed_in(site)[0], "https://board.example")
    for name, family in doors(site)[1:]:
        reply = https(site, "/whoami", host=name, family=family)
        if name != "board.example" and reply.status_code in FOR_GOOD:
            assert location(reply) == "https://board.example/whoami"
            continue
        who = site.usual_source(family)
        for headers in ({}, {"X-Forwarded-For": "6.6.6.6"}):
            reply = https(site, "/whoami", host=name, family=family, headers=headers)
            if headers and reply.status_code == 400:
                continue
            told = told_by(reply)
            with at_door(name, family, ("[::]:443",)):
                for what, wanted in (("client", who), ("host", name)):
                    if told.get(what) != wanted:
                        raise Mismatch(f"{what} {wanted}", f"{what} {told.get(what)}")


@points(2)
@look_at("nginx.conf", "/static", "proxy_pass", "443")
@by_hand(
    "for p in static/style.css static/.env static/old.py favicon.ico stats; do "
    "curl -sik https://board.example/$p | sed -n '1p;/paths/p'; done; for v in -4 -6; do "
    "curl $v -skI https://{,www.}board.example/static/.env | grep ^HTTP; done"
)
def test_files_over_tls(site):
    """Over TLS too, files come from Nginx, and only those

    What lab 04 built holds here as well, or the site got slower and leakier with TLS.
    """

    def asked():
        return https(site, "/stats").json().get("paths", {}).get("/static/style.css", 0)

    before = asked()
    reply = https(site, "/static/style.css")
    if reply.status_code != 200 or reply.content != (STATIC / "style.css").read_bytes():
        raise Mismatch("the bytes of style.css", f"status {reply.status_code}, other bytes")
    if asked() != before:
        raise Mismatch("style.css from Nginx itself", "the app was asked for it")
    for name, family in doors(site):
        for path in ("/static/.env", "/static/old.py", "/static_secret.txt", "/static/users.txt"):
            reply = https(site, path, host=name, family=family)
            if name != "board.example" and location(reply).startswith("https://board.example/"):
                continue  # www may lead to the main name: there it is asked for anyway
            with at_door(name, family, ("[::]:443",), "/static"):
                if reply.status_code not in (403, 404):
                    raise Mismatch("status 403 or 404", f"status {reply.status_code}")
    for path in ("/favicon.ico", "/robots.txt"):
        reply = https(site, path)
        if reply.content != (STATIC / path[1:]).read_bytes():
            raise Mismatch(f"the bytes of static{path}", f"status {reply.status_code}, others")


@points(2)
@look_at("nginx.conf", "/account", "gzip", "443")
@by_hand(
    "curl -sk -c /tmp/c -d 'name=ada&password=pin-the-notice' https://board.example/login; "
    "for p in static/style.css account; do curl -sik -b /tmp/c -H 'Accept-Encoding: gzip' "
    "https://board.example/$p | head -20 | grep -ai -e ^HTTP -e ^content-encoding; done; "
    "curl -skN https://board.example/stream"
)
def test_compression_over_tls(site):
    """Over TLS too, text is packed, secrets are not, events flow

    What lab 05 built holds here as well. BREACH is an attack on pages over TLS: there the length
    is all that a listener has.
    """
    style = (STATIC / "style.css").read_bytes()
    packed = {"Accept-Encoding": "gzip"}
    reply = https(site, "/static/style.css", headers=packed, stream=True)
    encoding = reply.headers.get("Content-Encoding", "none")
    if encoding != "gzip" or gzip.decompress(reply.raw.read(decode_content=False)) != style:
        # The page of secrets has one that is right.
        off = (site.submitted("nginx.conf") or b"").count(b"gzip off") > 1
        raise Mismatch(
            "style.css with Content-Encoding: gzip",
            f"Content-Encoding: {encoding}",
            look_at=[("nginx.conf", "gzip off" if off else "gzip_types"), ("nginx.conf", "443")],
        )
    assert "accept-encoding" in reply.headers.get("Vary", "").lower()
    visitor, _ = signed_in(site)
    reply = visitor.get("/account?note=hello", headers=packed)
    assert reply.status_code == 200, "the account page, after the log-in"
    encoding = reply.headers.get("Content-Encoding", "none")
    if encoding != "none":
        raise Mismatch(
            "the page without an encoding",
            f"Content-Encoding: {encoding}",
            "/account shows a secret beside the visitor's own words.",
        )
    for _ in range(3):  # a grader that was held up finds all five
        reply = https(site, "/stream", stream=True)
        reply.raw.read(1)
        seen = site.exchanges[-1].received.count(b"data: ")
        reply.close()
        if seen < 5:
            return
    raise Mismatch(
        "the first of five events, as soon as it is there",
        "all five at once",
        "Nginx collects a reply before it passes it on, unless `proxy_buffering off`.",
    )

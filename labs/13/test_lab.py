"""Lab 13, Observability: the checks. README.md says what each one asks for."""

import base64
import contextlib
import json
import re
import secrets
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from grader.board import LOGIN, V6, WWW, told_by, whoami
from grader.checks import alone, by_hand, look_at, needs, points
from grader.client import Exchange
from grader.commands import run
from grader.errors import GraderError, Mismatch
from grader.machine import File
from grader.sandbox import SERVER_V4
from grader.site import VISITOR, VISITOR_V6, wait_for

LOG = "/var/log/nginx/board.json"
HOME = "http://board.example"
OPERATOR = "127.0.0.1"
AS_OPERATOR = f"curl -s --interface {OPERATOR}"
STRANGER = "elsewhere.example"
FROM_HERE = {"source": OPERATOR}
AT_ONCE = 0.15  # seconds after which a line that is not there yet was kept back
PATIENCE = 4.0  # seconds that a line may take to be in the log; the README says 2
KEYS = (
    "time", "id", "client", "method", "path", "status", "request_time", "upstream_time",
    "upstream_status", "cache",
)  # fmt: skip
NUMBERS = ("time", "status", "request_time")
NOTHING = (None, "", "-")  # what stands where no upstream or no cache was asked
WELL_FORMED = re.compile(r"[0-9A-Za-z_-]{16,64}")
MANY = 1 << 20  # bytes of the log that are read
SERIES = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")

# Finds words in all files below /var/log, packed ones included: {word: [files]}.
FIND = """
import bz2, gzip, json, lzma, os, sys
opened = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
found = {}
for folder, _, names in os.walk("/var/log"):
    for name in names:
        path = os.path.join(folder, name)
        with opened.get(os.path.splitext(name)[1], open)(path, "rb") as file:
            text = file.read()
        for word in json.load(open(sys.argv[1])):
            if word.encode() in text:
                found.setdefault(word, []).append(path)
print(json.dumps(found))
"""
# What the lesson gives.
QUESTION = "select(.status >= 500 or .request_time > 1)"
# Like Debian's own, which the learner's file is read after.
LOGROTATE_CONF = b"weekly\nrotate 4\ncreate\ninclude /etc/logrotate.d\n"
ROTATE = ("logrotate", "--force", "--state", "/var/lib/board/logrotate", "/etc/logrotate.conf")
DAYS = 7  # that have a rotation each, and so the old files that are kept at least


# --- the log


def next_time():
    """Wait until the times in the log, which have three digits, are later than all before."""
    time.sleep(0.005)


class Log:
    """The JSON log, from now on.

    Nginx may keep lines back, and each of its workers has a buffer of its own. So it is not the
    place in the file that says what is new, but the time in the line.

    Raises:
        Mismatch: there is no such log, or nothing is written to it.
    """

    def __init__(self, site):
        self.site = site
        mark = f"/echo/mark-{secrets.token_hex(8)}".encode()
        next_time()
        site.get(mark.decode())
        site.exchanges.pop()

        def marked():
            before, found, after = site.box.grown(LOG, 0, MANY)[0].partition(mark)
            return found and b"\n" in after and (before.rpartition(b"\n"), after)

        began = time.monotonic()
        seen = wait_for(marked, PATIENCE)
        if not seen:
            raise Mismatch(
                f"a line in {LOG}, within 2 s of the answer",
                "no line with this path" if site.box.read(LOG) else "no such file, or an empty one",
            )
        self.buffered = time.monotonic() - began > AT_ONCE
        (before, end, begin), after = seen
        line = begin + mark + after.partition(b"\n")[0]
        self.start = len(before + end + line) + 1
        self.since = time_in(line)

    def raw(self):
        """What came since, line by line, as bytes."""
        text, end = self.site.box.grown(LOG, self.start, MANY)
        if end - self.start > MANY:
            raise GraderError("the log is longer than the check reads")
        return [line for line in text.split(b"\n")[:-1] if time_in(line, self.since) >= self.since]

    def lines(self, number):
        """The lines that came since, when there are as many; fewer when the time is over."""
        wait_for(lambda: len(self.raw()) >= number, PATIENCE)
        told = [parsed(line) for line in self.raw()]
        if all(isinstance(one.get("time"), int | float) for one in told):
            told.sort(key=lambda one: one["time"])
        return told

    def line(self, path):
        """The one line about a path that only one request asked for."""

        def found():
            return [one for one in self.raw() if path.encode() in one]

        lines = wait_for(found, PATIENCE) or []
        if len(lines) != 1:
            raise Mismatch(f"one line about {path}", f"{len(lines)} lines")
        return parsed(lines[0])


def time_in(line, otherwise=0.0):
    """The time in a line, if it can be read."""
    found = re.search(rb'"time": ?(\d+\.?\d*)', line)
    return float(found[1]) if found else otherwise


def parsed(line):
    """A line of the log, read as strictly as a log collector does."""

    def refuse(why, at):
        return Mismatch(
            "lines of JSON, in UTF-8", f"{why}: … {line[max(0, at - 24) : at + 24]!r} …"
        )

    def once(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key that is there twice")
        return dict(pairs)

    def no_constant(name):
        raise ValueError(f"the number {name}")

    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise refuse("a line that is not UTF-8", error.start) from None
    try:
        told = json.loads(text, object_pairs_hook=once, parse_constant=no_constant)
    except ValueError as error:
        raise refuse("a line that is not JSON", getattr(error, "pos", 0)) from None
    if not isinstance(told, dict):
        raise refuse("a line that is no JSON object", 0)
    return told


def number(told, key):
    """A number of a line; anything else is a mismatch."""
    value = told.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        got = json.dumps(value) if key in told else "no such key"
        raise Mismatch(f'"{key}": a number', got, look_at=[("nginx.conf", f'"{key}"')])
    return value


def seconds_of_upstream(told):
    """How long the app took, in seconds, as a line has it."""
    value = told.get("upstream_time")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise Mismatch('"upstream_time": seconds', json.dumps(value)) from None


def status_of(told, key="upstream_status"):
    """A status as text, whether it is a text or a number in the line; "" for none."""
    value = told.get(key)
    return "" if value in NOTHING else str(value)


def header_id(reply):
    """The id that an answer carries; anything else than one well-formed id is a mismatch."""
    return checked_id(
        reply.headers.get("X-Request-ID"),
        reply.status_code,
        "`add_header` leaves errors alone, unless it says `always`, and a location with an"
        " add_header of its own inherits none.",
    )


def raw_id(answer):
    """The same, for the bytes of an answer to what Nginx refuses before it looks for a page."""
    fields = answer.partition(b"\r\n\r\n")[0].decode("latin-1")
    found = re.findall(r"(?i)\nx-request-id: *([^\r\n]*)", fields)
    return checked_id(
        ", ".join(found) or None,
        fields[9:12],
        "`set` is for requests that Nginx could read, as all of `rewrite` is. A `map` has its value"
        " for every request.",
        [("nginx.conf", "set $"), ("nginx.conf", "add_header X-Request-ID")],
    )


def checked_id(told, status, note, places=()):
    """An id that an answer carries, when it is one well-formed id; places are likely lines."""
    if told is None:
        expected, got = "the header X-Request-ID on the answer", f"none (status {status})"
        raise Mismatch(expected, got, note, places)
    if not WELL_FORMED.fullmatch(told):
        raise Mismatch("one well-formed id in X-Request-ID", repr(told))
    return told


# --- the box


def in_files(site, words):
    """Which of the words stand in which files below /var/log: {word: [paths]}."""
    site.box.write(File("/tmp/words", json.dumps(list(words)).encode()))
    done = run(site, ["python3", "-c", FIND, "/tmp/words"])
    if done.status:
        raise GraderError(f"the logs could not be searched: {done.stderr}")
    return dict(json.loads(done.stdout))


def app_log(site):
    """What Gunicorn and the app have printed."""
    gunicorn = site.service("gunicorn")
    return gunicorn.log("stdout") + gunicorn.log("stderr")


@cache
def door(site):
    """Where the app listens: of what Gunicorn has opened, the one that answers as the app."""
    found = site.service("gunicorn").http_listeners()
    asked = (one for one in found if b'"instance"' in read_all(knock(site, one, "/whoami")))
    listener = next(asked, None)
    if listener is None:
        raise GraderError("nothing that Gunicorn has opened answers as the app")
    return listener


def knock(site, listener, target):
    """Ask for a page at something that listens; the connection, with the answer still to come."""
    if listener.path:
        made = site.box.unix_socket(listener.path)
    else:
        host = {"0.0.0.0": OPERATOR, "::": "::1"}.get(listener.host, listener.host)
        made = site.connect(None, 6 if ":" in host else 4, listener.port, server=host)
    made.settimeout(20)
    made.sendall(head(target.encode()))
    return made


def at_the_app(site, target):
    """Ask Gunicorn itself, past Nginx; the connection, with the answer still to come."""
    return knock(site, door(site), target)


def read_all(made):
    """What comes on a connection, to its end."""
    answer = bytearray()
    with made, contextlib.suppress(OSError):
        while more := made.recv(65536):
            answer += more
    return bytes(answer)


def raw(site, data, source=VISITOR):
    """Send bytes as they are, and read until the end."""
    words = data.split(b"\r\n")[0].decode("latin-1").split(" ")
    target = words[1] if len(words) > 1 else words[0]
    exchange = Exchange(words[0], target[:200], source, HOME)
    site.record(exchange)
    made = site.connect(source)
    made.exchange = exchange
    with contextlib.suppress(OSError):  # it may have been refused before all was sent
        made.sendall(data)
    answer = read_all(made)
    exchange.received += answer
    return answer


def head(target, *headers, method=b"GET"):
    """A request, as bytes."""
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: board.example", b"Connection: close"]
    return b"\r\n".join([*lines, *headers, b"", b""])


# --- the checks

# Visitors that are programs, as they name themselves: what they ask for is asked for, too.
PROGRAMS = ("kube-probe", "ELB-HealthChecker", "Prometheus", "curl")


@points(2)
@look_at("nginx.conf", "proxy_pass", "listen", "server")
def test_site_answers(site):
    """Nginx answers on port 80, and pages come from the app

    All that follows is about what it tells of itself meanwhile.
    """
    assert (site.port_owner(80) or "nobody") == "nginx", "Nginx listens on port 80"
    assert whoami(site)["instance"] == site.instance, "the app itself must answer"
    for path in ("/", "/api/notices", "/static/style.css"):
        assert site.get(path).status_code == 200, f"the page {path}"


@points(4)
@look_at("nginx.conf", "access_log off", "if=", "access_log", "log_format")
@by_hand(f"curl -s {HOME}/no/such/page >/dev/null; tail -n 1 {LOG}")
def test_one_line(site):
    """Each request leaves one line of JSON

    Whoever asks what happened at 10:42 asks the log. A request that left no line did not happen,
    one that left two happened twice.
    """
    log = Log(site)
    nonce = secrets.token_hex(8)
    cases = [
        ("GET", "/", {}),
        ("GET", "/", {"family": 6}),
        ("GET", "/", {"host": "www.board.example"}),
        ("GET", "/", {"host": STRANGER}),
        ("GET", "/", {"host": STRANGER, **V6}),
        ("HEAD", "/notices/1", {}),
        ("POST", "/login", {"data": {"name": "ada"}}),
        ("POST", "/upload", {"data": bytes(100_000)}),
        ("GET", "/static/style.css", {}),
        ("GET", "/favicon.ico", {}),
        ("GET", f"/static/{nonce}.css", {}),
        ("GET", "/static/.env", {}),
        ("GET", f"/no/{nonce}", {}),
        ("GET", "/crash", {}),
        ("GET", "/go", {}),
        ("GET", "/healthz", {}),
        ("GET", "/readyz", {}),
        ("GET", "/robots.txt", {}),
        ("GET", "/metrics", {}),
        ("GET", "/metrics", FROM_HERE),
        ("GET", "/nginx_status", FROM_HERE),
        ("OPTIONS", f"/echo/{nonce}", {}),
        *[("GET", f"/echo/{one}", {"headers": {"User-Agent": f"{one}/1.30"}}) for one in PROGRAMS],
    ]
    wanted = []
    for method, path, options in cases:
        try:
            status = site.request(method, path, **options).status_code
        except OSError:
            if options.get("host") != STRANGER:
                raise
            status = 444  # Nginx's word for hanging up, which it may do to strangers
        wanted.append((method, path, status))
    refused = raw(site, b"NONSENSE\r\n\r\n")
    if b" 400 " in refused[:20]:
        wanted.append((None, None, 400))
    told = [
        (one.get("method"), one.get("path"), one.get("status")) for one in log.lines(len(wanted))
    ]
    rest = list(told)
    for method, path, status in wanted:
        mine = next(
            (one for one in rest if one[2] == status and method in (None, one[0])
             and path in (None, one[1])),
            None,
        )  # fmt: skip
        if mine is None:
            asked = f"{method} {path}" if method else "NONSENSE, which is no request"
            if path:
                site.show_on_card(path)
            near = [one for one in told if one[1] == path] if path else []
            quoted = near and near[0][2] == str(status)
            raise Mismatch(
                f"a line for {asked}, with status {status}",
                f"a line with {near[0]}" if near else "no such line",
                "The status is a text. In JSON a number stands without quotes." if quoted else "",
                [("nginx.conf", '"$status"')] if quoted else (),
            )
        rest.remove(mine)
    if rest:
        raise Mismatch(f"{len(wanted)} lines for {len(wanted)} requests", f"one more: {rest[0]}")


# Headers that somebody may want in his log, besides those that have a case of their own.
OTHERS = (
    *(b"Accept", b"Accept-Encoding", b"Accept-Language", b"Content-Type", b"Origin", b"Range"),
    b"X-Real-IP",
)
# Requests that were thought up to break a line, less the path that marks each.
ODD = {
    "a quote in the path": lambda mark: head(mark + b'"quote"'),
    "a backslash in the path": lambda mark: head(mark + b"\\u12\\"),
    "bytes in the path that are not UTF-8": lambda mark: head(mark + b"\xff\xfe\xc3"),
    "UTF-8 in the path": lambda mark: head(mark + "Grüße".encode()),
    "quotes and line ends in the path, encoded": lambda mark: head(mark + b"%22%0d%0a%5c%00"),
    "bytes in the path that are not UTF-8, encoded": lambda mark: head(mark + b"%ff%fe%c3"),
    "7000 bytes of path": lambda mark: head(mark + b"x" * 7000),
    "a quote in the query": lambda mark: head(mark + b'?a="b"&c=\\'),
    "bytes in the query that are not UTF-8": lambda mark: head(mark + b"?a=\xff\xe2\x82"),
    "a quote in User-Agent": lambda mark: head(mark, b'User-Agent: a"b\\c'),
    "control bytes in User-Agent": lambda mark: head(mark, b"User-Agent: a\x01b\tc\x1b[31m\x7f"),
    "bytes in User-Agent that are not UTF-8": lambda mark: head(
        mark, b"User-Agent: a\xff\xe2\x82b"
    ),
    "7000 bytes of User-Agent": lambda mark: head(mark, b"User-Agent: " + b"x" * 7000),
    "bytes in Referer that are not UTF-8": lambda mark: head(mark, b'Referer: "\xc0\xaf\xff\\'),
    "bytes in X-Forwarded-For that are not UTF-8": lambda mark: head(
        mark, b'X-Forwarded-For: "\xff\\'
    ),
    "bytes in X-Request-ID that are not UTF-8": lambda mark: head(
        mark, b'X-Request-ID: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\\'
    ),
    "bytes in Accept, Origin, Range and others that are not UTF-8": lambda mark: head(
        mark, *[name + b': "\xff\\' for name in OTHERS]
    ),
    "bytes in a cookie that are not UTF-8": lambda mark: head(mark, b'Cookie: session="\xff\\'),
    "a name in Authorization that is not UTF-8": lambda mark: head(
        mark, b"Authorization: Basic " + base64.b64encode(b'a"\xff\\:x')
    ),
    "an odd Host": lambda mark: head(mark).replace(b"board.example", b'board.example\xff"'),
    "an odd method": lambda mark: head(mark, method=b"A_B-C"),
    "no headers at all": lambda mark: b"GET " + mark + b"\r\n\r\n",
    "40 kB of headers": lambda mark: head(mark, *[b"X-%d: " % n + b"y" * 4000 for n in range(10)]),
}
GARBAGE = {
    "a TLS handshake on port 80": lambda mark: (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64))
    ),
    "a control byte in the path": lambda mark: b"GET /\x01 HTTP/1.1\r\n\r\n",
    "a line that is no request": lambda mark: b'"\\\xff"\r\n\r\n',
}


@points(5)
@needs(test_one_line)
@look_at("nginx.conf", "log_format", "escape=json", "$uri", "access_log")
def test_whatever_is_sent(site):
    """Whatever a visitor sends, the line is JSON

    One broken line, and the program that reads the log stops there, or skips what an attacker
    wanted skipped. Whoever can write a quote into a log can write a whole line.
    """
    log = Log(site)
    sent = 0
    for what, make in {**ODD, **GARBAGE}.items():
        before = sent
        answer = raw(site, make(b"/echo/odd-"))
        sent += 1
        if log.buffered:
            continue
        wait_for(lambda wanted=sent: len(log.raw()) >= wanted, PATIENCE)
        lines = log.raw()
        if not answer and len(lines) == before:
            sent = before  # Nginx took it for no request
            continue
        if len(lines) != sent:
            raise Mismatch(f"one line for a request with {what}", f"{len(lines) - before} lines")
        check_whole(lines[-1], f"a request with {what}")
    if log.buffered:
        wait_for(lambda: len(log.raw()) >= sent, PATIENCE)
        for line in log.raw():
            check_whole(line, "whatever is sent")


def check_whole(line, what):
    """A line is JSON, with all the keys, and has an id."""
    try:
        told = parsed(line)
    except Mismatch as seen:
        raise Mismatch(f"a line of JSON, in UTF-8, for {what}", seen.got) from None
    missing = [key for key in KEYS if key not in told]
    if missing:
        raise Mismatch(f"all keys, also for {what}", f"none called {missing[0]}")
    if not WELL_FORMED.fullmatch(str(told["id"])):
        at = [("nginx.conf", "set $id"), ("nginx.conf", "map $http_x_request_id")]
        got = f'"id": {json.dumps(told["id"])}'[:200]
        raise Mismatch(f"a well-formed id, also for {what}", got, "", at)


# Visible ASCII stands in the line as it was sent: $uri is decoded, and has one slash for two.
PATHS = (
    *("/a%20b%2Fc", "//two///slashes", "/gr%C3%BC%C3%9Fe", "/~@:!$&'()*+,;=[]"),
    "/2000-characters" * 125,
)


@points(3)
@needs(test_one_line)
@look_at("nginx.conf", "$proxy_add_x_forwarded_for", "$http_x_", "log_format")
def test_keys(site):
    """A line says who asked for what, when, and what came of it

    The names and the kinds are agreed, so that a program can ask for them. The visitor is the
    connection's address: a header is what he likes you to believe.
    """
    log = Log(site)
    lies = {
        "X-Forwarded-For": "198.51.100.9",
        "X-Real-IP": "198.51.100.9",
        "Forwarded": "for=198.51.100.9",
        "X-Forwarded-Host": "evil.example",
    }
    cases = [
        ("GET", VISITOR, 4, lies),
        ("POST", VISITOR_V6, 6, lies),
        ("GET", "203.0.113.99", 4, {}),
        # Nobody's word is believed, that of a neighbour or of a program on the server neither.
        ("GET", OPERATOR, 4, lies),
        ("GET", SERVER_V4, 4, lies),
    ]
    for method, source, family, headers in cases:
        path = f"/echo/{secrets.token_hex(8)}"
        target = f"{path}?page=2"
        site.request(method, target, source=source, family=family, headers=headers)
        told = log.line(path)
        for key in KEYS:
            if key not in told:
                raise Mismatch(f'the key "{key}" in each line', f"{', '.join(told)}")
        for key in NUMBERS:
            number(told, key)
        expected = {"client": source, "method": method, "path": path, "status": 200}
        got = {key: told[key] for key in expected}
        for key, value in expected.items():
            if got[key] != value:
                raise Mismatch(
                    f'"{key}": {json.dumps(value)}',
                    f'"{key}": {json.dumps(got[key])}',
                    "The query is not part of it." if key == "path" else "",
                    [*(BY_HEADER if key == "client" else ()), ("nginx.conf", f'"{key}"')],
                )
        if abs(told["time"] - time.time()) > 60:
            raise Mismatch(
                '"time": seconds since 1970', str(told["time"]), look_at=[("nginx.conf", '"time"')]
            )
    for end in PATHS:
        path = f"/echo/{secrets.token_hex(8)}{end}"
        before = len(log.raw())
        next_time()
        site.get(f"{path}?page=2")
        got = log.lines(before + 1)[-1].get("path")
        if got != path:
            raise Mismatch(
                f'"path": {shortened(path)}',
                f'"path": {shortened(got)}',
                "It is what was sent; only what is not visible ASCII may be replaced.",
                [("nginx.conf", "map $uri"), ("nginx.conf", "map $request_uri"),
                 ("nginx.conf", '"path"')],
            )  # fmt: skip


# What lets a header say where a visitor comes from.
BY_HEADER = (("nginx.conf", "real_ip_header"), ("nginx.conf", "set_real_ip_from"))


def shortened(value):
    """A value as JSON, for a card; of a long one its begin, and how long it is."""
    text = json.dumps(value)
    return text if len(text) < 100 else f'{text[:60]}…", {len(value)} characters'


@points(3)
@needs(test_keys)
@look_at("nginx.conf", "upstream_time", "request_time", "log_format")
@by_hand(f"curl -s '{HOME}/slow?seconds=1' >/dev/null; tail -n 1 {LOG}")
def test_times(site):
    """The time of the app and the time in all are told apart

    A slow app and a slow telephone look the same to a visitor. They are two different problems,
    of two different people.
    """
    log = Log(site)
    nonce = secrets.token_hex(8)
    telephone = f"/echo/{nonce}"

    def slow_visitor():
        data = head(telephone.encode())
        with site.connect() as made:
            made.sendall(data[:30])
            time.sleep(0.6)  # the visitor is slow: that is what is measured
            made.sendall(data[30:])
            made.recv(100)

    done = site.together(
        [
            lambda: site.get("/slow?seconds=0.5"),
            lambda: site.get("/stream").content,
            slow_visitor,
        ]
    )
    for one in done:
        if one.error:
            raise one.error
    site.get("/static/style.css")
    told = {one["path"]: one for one in log.lines(4)}

    def expect(path, key, got, right, wanted):
        if not right:
            for exchange in [one for one in site.exchanges if one.target.startswith(path)][:1]:
                site.show_on_card(exchange.target)
            raise Mismatch(
                f'{path}: "{key}" {wanted}', f"{got:g} s", look_at=[("nginx.conf", f'"{key}"')]
            )

    for path, least in (("/slow", 0.49), ("/stream", 0.75)):
        app, total = seconds_of_upstream(told[path]), number(told[path], "request_time")
        expect(path, "upstream_time", app, least <= app < 30, f"of {least:g} s or a little more")
        expect(
            path,
            "request_time",
            total,
            app - 0.05 <= total < 30,
            "as much as upstream_time, or more",
        )
    app, total = seconds_of_upstream(told[telephone]), number(told[telephone], "request_time")
    waited = "of 0.6 s or a little more: the visitor sent slowly"
    expect(telephone, "request_time", total, 0.55 <= total < 30, waited)
    expect(telephone, "upstream_time", app, total - app > 0.4, "of what the app took, far less")
    of_file = told["/static/style.css"].get("upstream_time")
    if of_file not in NOTHING:
        site.show_on_card("/static/style.css")
        raise Mismatch('"upstream_time": empty, for a file', json.dumps(of_file))


@points(3)
@needs(test_keys)
@look_at("nginx.conf", "upstream_status", '"cache"', "log_format", "proxy_cache ")
@by_hand(f"for i in 1 2; do curl -s '{HOME}/stamp?says=public' >/dev/null; done; tail -n 2 {LOG}")
def test_cache_and_upstream(site):
    """A line says what the cache and the app had to say

    "Why is this page old?" and "was it us or the app?" are the two questions of every night. A
    status alone answers neither.
    """
    log = Log(site)
    nonce = secrets.token_hex(8)
    target = f"/stamp?says=public&{nonce}"
    stamps = []
    for _ in range(2):
        stamps.append(told_by(site.get(target))["stamp"])
        next_time()
    if stamps[0] != stamps[1]:
        raise Mismatch("the second answer from the cache", "another one, from the app")
    site.get("/static/style.css")
    site.get("/static/none.css")
    first, second, *files = log.lines(4)
    site.show_on_card(target)
    for told, cached, status in ((first, "MISS", "200"), (second, "HIT", "")):
        if told["cache"] != cached:
            raise Mismatch(f'"cache": "{cached}"', f'"cache": {json.dumps(told["cache"])}')
        if status_of(told) != status:
            what = "empty: the app was not asked" if not status else f'"{status}"'
            raise Mismatch(
                f'{cached}: "upstream_status" {what}', json.dumps(told["upstream_status"])
            )
    site.show_on_card("/static/style.css")
    for told in files:
        for key in ("cache", "upstream_status"):
            if told[key] not in NOTHING:
                raise Mismatch(f'"{key}": empty, for a file', json.dumps(told[key]))


@points(4)
@needs(test_one_line)
@look_at(
    "nginx.conf", "add_header X-Request-ID", "proxy_hide_header", "$request_id", "location / {"
)
@by_hand(f"curl -si {HOME}/static/none.css | grep -i x-request; tail -n 1 {LOG}")
def test_request_id(site):
    """Each answer carries the id that stands in its line

    "It did not work" becomes "it did not work, 7f3c…", and that is one line among a million.
    """
    log = Log(site)
    cases = [
        ("GET", "/", {}),
        ("GET", "/", {"family": 6}),
        ("GET", "/", {"host": "www.board.example"}),
        ("HEAD", "/notices/1", {}),
        ("POST", "/login", {"data": {"name": "ada"}}),
        ("GET", "/go", {}),
        ("GET", "/crash", {}),
        ("GET", "/static/style.css", {}),
        ("GET", "/static/none.css", {}),
        ("GET", "/static/.env", {}),
        ("GET", "/nginx_status", {}),
        ("GET", "/nginx_status", FROM_HERE),
        ("GET", "/metrics", {}),
        ("GET", "/metrics", FROM_HERE),
        ("GET", "/healthz", {}),
        ("GET", "/readyz", {}),
        ("GET", "/favicon.ico", {}),
        ("GET", "/robots.txt", {}),
        ("GET", "/api/notices", {}),
        ("GET", "/no/such/page", {}),
        ("GET", "/no/such/page", WWW),
        ("GET", "/no/such/page", V6),
        ("GET", "/", {"host": STRANGER}),
        ("GET", "/stamp?says=public&a", {}),
        ("GET", "/stamp?says=public&a", {}),
        ("POST", "/upload", {"data": bytes(2_000_000)}),
        ("GET", "/stream", {"stream": True}),  # its line comes with its end
    ]
    given = []
    for method, path, options in cases:
        try:
            reply = site.request(method, path, **options)
        except OSError:
            if options.get("host") != STRANGER:
                raise
            continue  # to hang up on strangers is fine
        given.append((path, header_id(reply)))
    with site.visitor() as visitor:
        for reply in (visitor.post("/login", data=LOGIN), visitor.get("/account")):
            given.append(("/account", header_id(reply)))
    for data in (b"GET / HTTP/1.1\r\n\r\n", head(b"/" + b"x" * 9000)):
        # What Nginx refuses before it knows which page is meant: no Host, and far too long.
        if answer := raw(site, data):
            given.append(("/", raw_id(answer)))
    with site.connect() as made:  # three on one connection
        for _ in range(3):
            made.sendall(b"GET /static/robots.txt HTTP/1.1\r\nHost: board.example\r\n\r\n")
            answer = bytearray()
            while b"\r\n\r\n" not in answer:
                answer += made.recv(65536) or b"\r\n\r\n"
            found = re.search(rb"(?i)\r\nx-request-id: *([^\r\n]*)", bytes(answer))
            given.append(("/static/robots.txt", found[1].decode("latin-1") if found else "none"))
    told = [one.get("id") for one in log.lines(len(given))]
    ids = [one for _, one in given]
    twice = next((path for path, one in given if max(told.count(one), ids.count(one)) > 1), None)
    if twice:
        site.show_on_card(twice)
        raise Mismatch("an id of its own for each request", "the same id twice")
    for path, one in given:
        if one not in told:
            site.show_on_card(path)
            raise Mismatch(f"a line with the id of the answer, {one}", "no line with it")


@points(3)
@needs(test_request_id)
@look_at("observe.py", "Formatter", "def ")
@by_hand(f"curl -si {HOME}/crash | grep -i x-request; # and what Gunicorn prints")
def test_app_log(site):
    """The id stands in the app's log

    Nginx's line says that it was the app. The traceback says where in the app. The id leads from
    one to the other.
    """
    events = site.get("/stream", stream=True)  # takes a while: its line is looked for at last
    # As a visitor has none, and with the one that he brings: the answer says which one holds.
    ways = [({}, {})] + [({"X-Request-ID": secrets.token_hex(16)}, one) for one in ({}, WWW, V6)]
    for headers, options in ways:
        reply = site.get("/whoami", headers=headers, **options)
        own = header_id(reply)
        seen = {name.lower(): value for name, value in told_by(reply)["headers"].items()}
        if seen.get("x-request-id") != own:
            raise Mismatch(
                f"the app is asked with X-Request-ID: {own}, as the answer says",
                seen.get("x-request-id", "none"),
                "`$request_id` is always Nginx's own." if headers else "",
                [("nginx.conf", "proxy_set_header X-Request-ID"), ("nginx.conf", "proxy_pass")],
            )

    def logged(*words):
        return wait_for(
            lambda: any(all(one in line for one in words) for line in app_log(site).splitlines()),
            PATIENCE,
        )

    if not logged(own):
        raise Mismatch(
            "a line with the id in what Gunicorn prints, for each request",
            "none",
            look_at=[("gunicorn.conf.py", "access_log_format"), ("gunicorn.conf.py", "accesslog"),
                     ("gunicorn.conf.py", "")],
        )  # fmt: skip

    def check_logged(path, reply):
        if not logged(header_id(reply)):
            site.show_on_card(reply.request.path_url)
            raise Mismatch(
                "a line with the id in what Gunicorn prints, for each request",
                "none for this one",
                "A location that sets any header itself inherits none from outside. Or a filter"
                " leaves the line out.",
                [("nginx.conf", "location /api"), ("nginx.conf", f"location = {path}"),
                 ("gunicorn.conf.py", path), ("gunicorn.conf.py", "Filter")],
            )  # fmt: skip

    for path in ("/api/notices", "/login", "/no/such/page", "/healthz", "/readyz"):
        # A query that nobody had: the answer comes from the app, and not from the cache.
        check_logged(path, site.get(f"{path}?{secrets.token_hex(8)}"))
    failed = header_id(site.get("/crash"))
    if not logged("Exception on /crash"):
        raise Mismatch("`Exception on /crash`, as Flask says it", "no such line")
    lines = [line for line in app_log(site).splitlines() if "Exception on /crash" in line]
    if not any(failed in line for line in lines):
        raise Mismatch("`Exception on /crash`, with the id in the same line", "it has no id")
    word = f"forged-{secrets.token_hex(8)}"
    last = header_id(site.get(f"/echo/%0a{word}%0d{word}"))
    if not logged(last):
        raise Mismatch("a line for each request", "none for this one")
    for line in app_log(site).splitlines():
        if line.startswith(word):
            raise Mismatch(
                "lines of the app's log that the app wrote",
                f"a line that the visitor wrote: {word}",
                "A path that was decoded may have a line end in it.",
                [("gunicorn.conf.py", "access_log_format")],
            )
    check_logged("/stream", events)


@points(3)
@needs(test_request_id)
@look_at("nginx.conf", "$http_x_request_id", "$request_id", "X-Request-ID")
@by_hand(f"curl -si -H 'X-Request-ID: no id' {HOME}/ | grep -i x-request")
def test_own_id(site):
    """A visitor's own id is believed when it is well-formed

    A program that asks you has an id already: with one id its log and yours are one. But what is
    believed blindly goes into logs, terminals and reports.
    """
    log = Log(site)
    good = [
        secrets.token_hex(8),
        f"7f3c9a52-1d0b-4c8e-9f61-{secrets.token_hex(8)}",
        "A-Z_" + secrets.token_hex(30),
    ]
    stored = f"/stamp?says=public&{secrets.token_hex(8)}"
    places = [("/static/style.css", {}), ("/static/none.css", {}), (stored, {}), (stored, {})]
    places += [("/no/such/page", WWW), ("/no/such/page", V6)]
    cases = [(own, f"/echo/{secrets.token_hex(8)}", {}) for own in good]
    cases += [(secrets.token_hex(12), *one) for one in places]
    wanted = {}
    for own, path, options in cases:
        got = header_id(site.get(path, headers={"X-Request-ID": own}, **options))
        if got != own:
            at = [("nginx.conf", "add_header X-Request-ID $request_id"),
                  ("nginx.conf", "$http_x_request_id"), ("nginx.conf", "$request_id")]  # fmt: skip
            raise Mismatch(f"the visitor's own id, {own}", f"another one, {got}", "", at)
        wanted[own] = own
    bad = {
        "15 characters": "a" * 15,
        "65 characters": "a" * 65,
        "2000 characters": "a" * 2000,
        "blanks": "0123456789 0123456789",
        "quotes": '0123456789"0123456789',
        "dots and slashes": "../../../../../etc/passwd",
        "a $ and braces": "${jndi:ldap://evil.example/a}",
        "a byte that is not ASCII": b"0123456789\xe40123456789",
        "a tab": "0123456789\t0123456789",
        "a good beginning": "0123456789abcdef<script>",
        "a good end": "<script>0123456789abcdef",
    }
    for what, own in bad.items():
        taken = []
        for _ in range(2):
            path = f"/echo/{secrets.token_hex(8)}"
            reply = site.get(path, headers={"X-Request-ID": own})
            got = reply.headers.get("X-Request-ID", "none")
            if not WELL_FORMED.fullmatch(got):
                raise Mismatch(f"a well-formed id in the place of one with {what}", repr(got[:60]))
            wanted[path] = got
            taken.append(got)
        if taken[0] == taken[1]:
            raise Mismatch("a new id for each request", f"the same twice: {got}")
        seen = {name.lower(): value for name, value in whoami_headers(site, own).items()}
        if not WELL_FORMED.fullmatch(seen.get("x-request-id", "")):
            raise Mismatch(
                f"the app is asked with a well-formed id in the place of one with {what}",
                repr(seen.get("x-request-id", "none"))[:60],
                look_at=[
                    ("nginx.conf", "proxy_set_header X-Request-ID"),
                    ("nginx.conf", "proxy_set"),
                ],
            )
    for path, own in wanted.items():
        assert log.line(path)["id"] == own, "the id in the line"


def whoami_headers(site, own):
    """The headers that the app sees when a visitor sends an id of his own."""
    reply = site.get("/whoami", headers={"X-Request-ID": own})
    site.exchanges.pop()
    return told_by(reply)["headers"]


AS_SENT = "Authorization as it was sent"
ODD_BYTES = "the parameter token behind odd bytes"


def secret_requests(site):
    """Ask for this and that with secrets; the secrets, by what they are."""
    known = {}

    def new(what):
        known[what] = f"s3cr3t-{secrets.token_hex(8)}"
        return known[what]

    site.get("/", headers={"Cookie": f"session={new('a session cookie')}; a=b"})
    site.get("/static/style.css", headers={"Cookie": f"theme={new('another cookie')}"})
    site.get("/api/notices", headers={"Authorization": f"Bearer {new('a bearer token')}"})
    for parameter in ("token", "password", "code"):
        site.get(f"/no/page?{parameter}={new(f'the parameter {parameter}')}")
    site.get(f"/echo/?a=1&token={new('the parameter token, in second place')}&b=2")
    site.get(f"/static/style.css?token={new('the parameter token of a file')}")
    site.get(f"/login?%74oken={new('the parameter token, spelt %74oken')}")
    raw(site, head(f"{HOME}/no?token={new('the parameter token of a whole address')}".encode()))
    raw(
        site,
        head(f"/no?a=\xff&token={new(ODD_BYTES)}".encode("latin-1")),
    )
    referrer = f"{HOME}/reset?token={new('the parameter token of the page before')}"
    site.get("/static/app.js", headers={"Referer": referrer})
    site.get("/crash?token=" + new("the parameter token of a crash"), headers={"Referer": referrer})
    for spelt in ("%74oken", "a=1&password", "code"):
        word = new(f"the parameter {spelt} of the page before")
        site.get("/static/app.js", headers={"Referer": f"{HOME}/reset?{spelt}={word}"})
    site.get(
        f"/no/page?{three_secrets(new, 'in a query')}",
        headers={"Referer": f"{HOME}/reset?{three_secrets(new, 'in a Referer')}"},
    )
    site.post("/login", data={"name": "ada", "password": new("a password in a form")})
    name, password = new("a name in Authorization"), new("a password in Authorization")
    packed = base64.b64encode(f"{name}:{password}".encode()).decode()
    known[AS_SENT] = packed
    site.get("/api/notices", headers={"Authorization": f"Basic {packed}"})
    with site.visitor() as visitor:
        visitor.post("/login", data=LOGIN)
        visitor.get("/account")
        if cookie := visitor.cookies.get("session"):
            known["the cookie of a log-in"] = cookie
    return known


def three_secrets(new, where):
    """A query with three secrets: masked once, it tells two, also where they have the same name."""
    named = zip(("first", "second", "third"), ("token", "code", "token"), strict=True)
    return "&".join(
        f"{name}={new(f'the {which} of three secrets {where}')}" for which, name in named
    )


def check_no_secrets(site, known, places):
    """No log has one of the secrets; places are likely lines, by the log's name."""
    found = in_files(site, known.values())
    printed = app_log(site)
    for what, secret in known.items():
        where = found.get(secret, [])
        if not where and secret in printed:
            where = ["what Gunicorn prints"]
        if not where:
            continue
        words = [secret, *([known[AS_SENT]] if "in Authorization" in what else [])]
        asked = [
            one
            for word in words
            for one in site.exchanges
            if word in one.target or word.encode() in one.sent
        ]
        for exchange in asked[:1]:
            site.exchanges.remove(exchange)
            site.record(exchange)
        note, looked = "", [line for name, line in places if name in where[0]]
        if "access.log" in where[0]:
            note = "An access_log outside of the server comes beside nginx.conf's own."
        if what == ODD_BYTES and "Gunicorn" in where[0]:
            note = "Gunicorn writes down the request lines that it refuses."
            looked = [("nginx.conf", "location / {")]
        raise Mismatch(f"in no log: {what}", f"it is in {where[0]}", note, looked)


@points(5)
@needs(test_one_line)
@look_at("nginx.conf", "log_format", "access_log")
@by_hand(f"curl -s '{HOME}/no/page?token=s3cr3t' >/dev/null; grep -r s3cr3t /var/log")
def test_secrets(site):
    """No secret reaches a log

    Logs are copied, shipped, searched and kept for years, by people who may not log in as your
    visitors. A token in a log is a password on a postcard.
    """
    log = Log(site)
    known = secret_requests(site)
    wait_for(lambda: len(log.raw()) >= len(site.exchanges), PATIENCE)
    check_no_secrets(
        site,
        known,
        [
            ("access.log", ("nginx.conf", "access_log")),
            ("error.log", ("nginx.conf", "error_log")),
            ("error.log", ("nginx.conf", "access_log")),
            ("board.json", ("nginx.conf", "log_format")),
            ("Gunicorn", ("gunicorn.conf.py", "access_log_format")),
        ],
    )


@cache
def outage(site):
    """Kill the app, ask for this and that with secrets, start it again.

    Returns:
        The secrets by what they are, the reply of a page while the app was down, and its line.
    """
    log = Log(site)
    known = {}

    def secret(what):
        known[what] = f"s3cr3t-{secrets.token_hex(8)}"
        return known[what]

    gunicorn = site.service("gunicorn")
    path = f"/notices/{secrets.randbelow(10**9)}"
    socket = door(site).path
    gunicorn.kill()
    try:
        reply = site.get(f"{path}?token={secret('the parameter token, while the app is down')}")
        line = log.line(path)
        referrer = f"{HOME}/reset?token={secret('the page before, while the app is down')}"
        site.get("/login", headers={"Referer": referrer})
        if socket:
            # Gunicorn takes it away when it is stopped. For Nginx that is another error.
            site.box.remove(socket)
            site.get(f"/login?token={secret('the parameter token, while the app is stopped')}")
    finally:
        gunicorn.start()
    for _ in range(20):
        if site.get("/whoami").status_code == 200:
            break
    site.get(f"/static/none.css?token={secret('the parameter token of a file that is missing')}")
    site.get(f"/nginx_status?token={secret('the parameter token where nobody is let in')}")
    site.post(
        f"/upload?token={secret('the parameter token of a large body')}", data=bytes(2_000_000)
    )
    for what, options in (("www", WWW), ("IPv6", V6), ("another host", {"host": STRANGER})):
        word = secret(f"the parameter token of a missing file, by {what}")
        with contextlib.suppress(OSError):  # to hang up on strangers is fine
            site.get(f"/static/none.css?token={word}", **options)
    return known, reply, line


@points(3)
@needs(test_secrets)
@look_at("nginx.conf", "error_log", "upstream board")
@by_hand(f"curl -s '{HOME}/static/none?token=s3cr3t' >/dev/null; grep -r s3cr3t /var/log")
def test_error_log(site):
    """No secret reaches a log when something fails

    The error log has a format of its own, which nobody can change: with each error comes the whole
    request line. And something fails every day.
    """
    known, *_ = outage(site)
    check_no_secrets(
        site,
        known,
        [("error.log", ("nginx.conf", "error_log")), ("error.log", ("nginx.conf", "access_log"))],
    )


@points(2)
@needs(test_request_id, test_keys)
@look_at("nginx.conf", "error_page", "add_header X-Request-ID", "upstream_status", "log_format")
@by_hand(
    f"kill $(grep -l gunicorn /proc/[0-9]*/comm | cut -d/ -f3); curl -si {HOME}/; tail -n 1 {LOG}"
)
def test_app_down(site):
    """While the app is down, line and id are there too

    That is when the log is read.
    """
    _, reply, told = outage(site)
    target = reply.request.url.removeprefix(HOME)
    site.show_on_card(target)
    assert reply.status_code == 502, "the status of a page while the app is down"
    assert told["id"] == header_id(reply), "the id in the line"
    assert told["status"] == 502, "the status in the line"
    statuses = re.findall(r"\d+", status_of(told))
    if set(statuses) != {"502"}:
        raise Mismatch('"upstream_status": "502"', json.dumps(told["upstream_status"]))


# --- for the operator


def check_operators_only(site, paths, words):
    """The operator gets the first page, with these words; nobody else gets a page with them."""
    reply = site.get(paths[0], source=OPERATOR)
    if reply.status_code != 200 or words not in reply.text:
        raise Mismatch(
            f"status 200 for the operator, and in the page: {words}",
            f"status {reply.status_code}: {reply.text[:60]!r}",
        )
    as_operator = {"X-Forwarded-For": OPERATOR, "X-Real-IP": OPERATOR, "Forwarded": "for=127.0.0.1"}
    cases = [(paths[0], {}), (paths[0], {"family": 6}), (paths[0], {"host": "www.board.example"})]
    cases += [(paths[0], {"headers": as_operator}), (paths[0], {"host": "127.0.0.1"})]
    cases += [(paths[0], {"host": STRANGER}), (paths[0], {"host": "localhost"})]
    cases += [(paths[0], {"headers": as_operator, "source": SERVER_V4})]
    cases += [(path, {}) for path in paths[1:]]
    for path, options in cases:
        try:
            reply = site.get(path, **options)
        except OSError:
            if "host" not in options:
                raise
            continue  # to hang up on strangers is fine
        # To strangers the site may say as well that it is not meant: 421, or where it is.
        exact = path == paths[0] and options.get("host", "www.board.example") == "www.board.example"
        if words in reply.text or (exact and reply.status_code not in (403, 404)):
            at = [*BY_HEADER, ("nginx.conf", paths[0])] if "headers" in options else ()
            got = f"status {reply.status_code}"
            raise Mismatch("status 403 or 404 for a visitor", got, look_at=at)
    check_other_ports(site, paths[0], words)


def check_other_ports(site, path, words):
    """A page with these words is at no other port that visitors reach."""
    for one in site.listeners():
        if one.port in (0, 80) or one.host.startswith("127.") or one.host == "::1":
            continue
        try:
            reply = site.get(path, port=one.port, family=6 if ":" in one.host else 4)
        except OSError:
            continue  # it is not for visitors, or not for HTTP
        if words in reply.text:
            raise Mismatch(
                f"no numbers for visitors, at port {one.port} neither",
                f"{one} answers everybody, past Nginx",
                "What is for Nginx alone listens on 127.0.0.1, or on a unix socket.",
                [("gunicorn.conf.py", "start_http_server("), ("observe.py", "start_http_server("),
                 ("gunicorn.conf.py", "bind ="), ("nginx.conf", f"listen {one.port}")],
            )  # fmt: skip


@points(2)
@look_at("nginx.conf", "stub_status", "location / {")
def test_status_page(site):
    """Nginx's own numbers are the operator's alone

    How many connections there are, and how many were lost, only Nginx knows. Strangers would learn
    how much it takes to fill the house.
    """
    words = "Active connections:"
    check_operators_only(
        site, ["/nginx_status", "/nginx_status/", "//nginx_status", "/%6eginx_status?a"], words
    )
    counts = []
    for _ in range(2):
        text = site.get("/nginx_status", source=OPERATOR).text
        found = re.search(r"(?m)^ *(\d+) (\d+) (\d+) *$", text)
        if not found:
            raise Mismatch("the page of stub_status", repr(text[:80]))
        counts.append(int(found[3]))
        site.get("/static/robots.txt")
        site.exchanges.pop()
    assert counts[1] > counts[0], "the number of requests grows"


@points(2)
@look_at("nginx.conf", "location = /metrics", "location /metrics", "allow", "location / {")
def test_metrics_page(site):
    """The app's numbers are the operator's alone

    They tell which pages there are, how many people come, and when an attack begins to hurt.
    """
    paths = ["/metrics", "/metrics/", "/metrics/x", "//metrics", "/%6detrics", "/metrics?a=b"]
    check_operators_only(site, paths, "board_requests_total")


def series(site):
    """The numbers of /metrics, as the operator gets them: {name: {labels: value}}."""
    reply = site.get("/metrics", source=OPERATOR)
    if reply.status_code != 200:
        raise Mismatch("/metrics for the operator, with status 200", f"status {reply.status_code}")
    told = {}
    for line in reply.text.splitlines():
        found = SERIES.fullmatch(line)
        if found and not line.startswith("#"):
            told.setdefault(found[1], {})[found[2] or ""] = float(found[3])
    return told


def total(told, name):
    """A number of /metrics, over all labels."""
    if name not in told:
        raise Mismatch(f"{name} in /metrics", "no such number", look_at=[("observe.py", "")])
    return sum(told[name].values())


def ask_all_workers(site, least):
    """Ask until each worker of Gunicorn has answered some times; how many requests that took.

    Past Nginx, which would keep its connections, and so its workers.
    """
    gunicorn = site.service("gunicorn")
    answered = dict.fromkeys(gunicorn.workers(), 0)
    asked = 0

    def ask():
        body = read_all(at_the_app(site, "/whoami")).partition(b"\r\n\r\n")[2]
        return json.loads(body)["pid"]

    for one_alone in [None] * 3 + list(answered):
        # If they do not share by themselves, all but one stand still for a moment.
        idle = [pid for pid in answered if one_alone and pid != one_alone]
        if min(answered.values()) >= least:
            break
        gunicorn.freeze(idle)
        try:
            for one in site.together([ask] * 2 * least):
                if one.error:
                    raise one.error
                answered[one.value] = answered.get(one.value, 0) + 1
                asked += 1
        finally:
            gunicorn.signal(signal.SIGCONT, idle)
    if min(answered.values()) < least:
        raise GraderError("one of Gunicorn's workers answers nobody")
    return asked


@points(4)
@needs(test_metrics_page)
@look_at("gunicorn.conf.py", "PROMETHEUS_MULTIPROC_DIR", "workers")
@look_at("observe.py", "MultiProcessCollector(", "generate_latest(", "Counter(", "Histogram(")
@by_hand(f"for i in 1 2 3 4; do {AS_OPERATOR} {HOME}/metrics | grep _total; done")
def test_metrics_add_up(site):
    """The app's numbers are those of all workers together

    Each worker is a process and knows only what it did itself. Ask twice, and you hear about two
    different sites.
    """
    names = ("board_requests_total", "board_request_seconds_count")
    door(site)  # finding it asks for a page
    before = series(site)
    # Each worker answers more pages than there are scrapes, which may count themselves.
    asked = ask_all_workers(site, 12)
    site.get("/slow?seconds=0.3")
    # Errors are answers too, and so is what the app refuses before it looks for a page.
    for path in ("/no/such/page", "/crash"):
        site.get(path)
    foreign = {"Sec-Fetch-Site": "cross-site"}
    status = site.post("/login", data={"name": "ada"}, headers=foreign).status_code
    if status != 403:
        raise Mismatch(
            "status 403, as the app says it to a form of another site",
            f"status {status}",
            look_at=[("observe.py", "after_request"), ("observe.py", "def ")],
        )
    asked += 4
    after, scrapes = before, 0

    def grown(name):
        return total(after, name) - total(before, name)

    def all_counted():
        nonlocal after, scrapes
        after, scrapes = series(site), scrapes + 1
        return min(map(grown, names)) >= asked

    for _ in range(2):  # an app may count when the visitor has his answer already
        if not all_counted():
            time.sleep(0.1)
    for _ in range(6):
        all_counted()
        for name in names:
            # Whether /metrics counts itself is up to the learner.
            if not asked <= grown(name) <= asked + scrapes:
                raise Mismatch(
                    f"{name}: as many more as there were requests, to two workers",
                    "fewer" if grown(name) < asked else "more",
                )
    spent = total(after, "board_request_seconds_sum") - total(before, "board_request_seconds_sum")
    if not 0.29 <= spent < 30:
        raise Mismatch(
            "board_request_seconds_sum: 0.3 more, after a page of 0.3 s", f"{spent:g} more",
            look_at=[("observe.py", "observe(")],
        )  # fmt: skip
    total(after, "board_request_seconds_bucket")
    in_progress = "board_requests_in_progress"

    def at_rest():
        return total(series(site), in_progress) <= total(before, in_progress)

    if not wait_for(at_rest, PATIENCE):
        raise Mismatch(
            f"{in_progress} as before, when all have their answers",
            "more: one of them is still counted",
            "A request is out of hand when its view has failed, too.",
            [("observe.py", "dec()"), ("observe.py", "Gauge(")],
        )


@points(3)
@needs(test_metrics_page)
@look_at("observe.py", "labels(", "Counter(")
def test_metrics_bounded(site):
    """Visitors cannot make the numbers more

    One number is kept for each value of a label. A label with a path in it grows with every
    scanner that tries addresses, in the memory of the app and of whoever collects it.
    """

    def made_up(number):
        word = f"{secrets.token_hex(4)}"
        site.get(f"/{word}")
        site.get(f"/no/{word}")
        site.get(f"/notices/{10_000 + number}")
        site.get(f"/echo/{word}?{word}={word}", headers={"User-Agent": word})
        site.request(f"X{word.upper()}", f"/echo/{word}")
        site.request(f"Y{word.upper()}", "/")
        site.get("/", source=f"203.0.113.{100 + number}", headers={"X-Request-ID": word * 4})
        with contextlib.suppress(OSError):  # to hang up on strangers is fine
            site.get("/whoami", host=f"{word}.example")

    def size():
        return sum(len(one) for one in series(site).values())

    made_up(0)
    before = size()
    for number in range(1, 9):
        made_up(number)
    grown = size() - before
    if grown >= 8:
        raise Mismatch("as many numbers as before, after 8 visitors with odd paths, methods, hosts",
                       f"{grown} more")  # fmt: skip


@alone
@points(3)
@needs(test_metrics_add_up)
@look_at("gunicorn.conf.py", "mark_process_dead", "child_exit", "workers")
@look_at("observe.py", "livesum", '"sum"', "'sum'", "Gauge(")
def test_dead_worker(site):
    """What a dead worker had in hand is no longer counted

    Workers die: they are renewed, killed for hanging, short of memory. What they did remains done.
    What they were doing is not being done any more.
    """
    gunicorn = site.service("gunicorn")
    ask_all_workers(site, 2)
    at_rest = total(series(site), "board_requests_in_progress")
    # At the app itself: Nginx would ask the next worker for whoever is still waiting.
    sockets = [at_the_app(site, "/hang") for _ in range(3)]
    try:

        def all_there():
            now = series(site)
            site.exchanges.pop()
            return total(now, "board_requests_in_progress") >= at_rest + 3 and now

        before = wait_for(all_there, PATIENCE)
        site.record(Exchange("GET", "/hang, 3 times", VISITOR, HOME))
        if not before:
            raise Mismatch(
                "board_requests_in_progress: 3 more, with three pages in hand", "fewer",
                look_at=[("observe.py", "Gauge("), ("observe.py", "inc()")],
            )  # fmt: skip
        old = gunicorn.workers()
        gunicorn.signal(signal.SIGKILL, old)
        wait_for(lambda: len(set(gunicorn.workers()) - set(old)) >= len(old), 10)

        def served():
            with contextlib.suppress(OSError):
                return site.get("/metrics", source=OPERATOR).status_code == 200
            return False

        if not wait_for(served, 10):
            raise Mismatch("/metrics again, from new workers", "no answer within 10 s")

        def at_rest_again():
            in_progress = "board_requests_in_progress"
            # Without the number, until a new worker is there; 500 while its files are half made.
            with contextlib.suppress(Mismatch):
                told = series(site)
                return in_progress in told and total(told, in_progress) <= at_rest
            return False

        if not wait_for(at_rest_again, PATIENCE):
            left = total(series(site), "board_requests_in_progress") - at_rest
            raise Mismatch(
                "board_requests_in_progress as before: whoever worked on them is dead",
                f"{left:g} more",
                "It takes both: the mode of the gauge, and a hook that says who has died.",
                [("observe.py", '"sum"')]
                if b'"sum"' in (site.submitted("observe.py") or b"")
                else [("gunicorn.conf.py", "mark_process_dead"), ("gunicorn.conf.py", "")],
            )
        lost = total(before, "board_requests_total") - total(series(site), "board_requests_total")
        if lost > 0:
            raise Mismatch(
                "board_requests_total: no fewer than before the workers died", "fewer",
                look_at=[("gunicorn.conf.py", "rmtree"), ("gunicorn.conf.py", "def ")],
            )  # fmt: skip
    finally:
        for made in sockets:
            made.close()


@alone
@points(3)
@look_at("nginx.conf", "/healthz", "/readyz")
@look_at("observe.py", "readyz", "healthz", "def watch", "")
@by_hand(
    f"curl -s {HOME}/ >/dev/null; chmod 0 /var/lib/board/board.db; "
    f"for p in healthz readyz; do curl -i {HOME}/$p; done"
)
def test_health(site):
    """Does it live, can it serve: two questions, two answers

    A process that is dead is to be restarted. One whose database is away is to be left alone, and
    to get no visitors meanwhile: a restart brings no disk back, and loses what it had in hand.
    """
    database = site.service("gunicorn").env["BOARD_DATABASE"]

    def expect(healthz, readyz, when):
        for path, right in (("/healthz", healthz), ("/readyz", readyz)):
            status = site.get(path).status_code
            # When the app is down, it is Nginx that says so.
            allowed = (200,) if right else (503,) if healthz else (502, 503)
            if status not in allowed:
                wanted = "status " + ", or ".join(map(str, allowed))
                places = [] if healthz or readyz else [("nginx.conf", path), ("observe.py", path)]
                raise Mismatch(f"{path}: {wanted}, while {when}", f"status {status}", "", places)

    expect(True, True, "all is well")
    site.box.write(File(database, b"", 0o000))
    expect(True, False, "the database cannot be opened")
    site.box.write(File(database, b"This is no database. " * 500))
    expect(True, False, "the database is none")
    site.box.remove(database)
    expect(True, True, "all is well again")
    site.service("gunicorn").kill()
    expect(False, False, "the app is down")


@alone
@points(3)
@needs(test_keys)
@look_at("nginx.conf", "request_time", '"status"', "log_format")
@by_hand(f"curl -s '{HOME}/slow?seconds=1.2' >/dev/null; jq -c '{QUESTION}' {LOG}")
def test_jq(site):
    """One line of jq finds what was slow and what failed

    A log that nobody can ask is a diary. This is the question that you will ask most.
    """
    log = Log(site)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(site.get, "/slow?seconds=1.2")
        for path in ("/", "/static/style.css", "/no/such/page", "/crash", "/slow?seconds=0.1"):
            site.get(path)
        raw(site, head(b'/echo/"\xff\\', b'User-Agent: "\xff\\'))
        raw(site, head(b'/echo/"\\'))
        raw(site, b"\x16\x03\x01\xff\r\n\r\n")
        slow.result()
    wait_for(lambda: len(log.raw()) >= 9, PATIENCE)
    done = run(site, ["jq", "-c", QUESTION, LOG])
    site.show_on_card("/slow?seconds=1.2")
    if done.status:
        said = re.sub(r" at line \d+.*", "", done.stderr.strip())
        raise Mismatch("jq reads the log to its end", said[:200])
    found = [parsed(line.encode()) for line in done.stdout.splitlines()]
    # Bytes that are no UTF-8 do not stop jq; they are another check's.
    text = (site.box.read(LOG, MANY) or b"").decode("utf-8", "replace")
    every = [json.loads(line) for line in text.split("\n")[:-1]]
    # On a machine that is busy, more pages than one may be slow.
    wanted = [one for one in every if one["status"] >= 500 or one["request_time"] > 1]
    paths = [one["path"] for one in found]
    same = [one["id"] for one in found] == [one["id"] for one in wanted]
    if not same or "/crash" not in paths or "/slow" not in paths:
        raise Mismatch(
            "two lines: /crash, and the /slow that took 1.2 s", ", ".join(paths) or "no line"
        )


@alone
@points(5)
@needs(test_request_id)
@look_at("logrotate", "copytruncate", "postrotate", "delaycompress", "compress", "rotate ", "")
@by_hand(
    f"curl -s {HOME}/ >/dev/null; chown root /etc/logrotate.d/board; "
    "logrotate -f -s /tmp/state /etc/logrotate.d/board; "
    f"curl -s {HOME}/ >/dev/null; ls -l /var/log/nginx; tail -n 1 {LOG}"
)
def test_rotation(site):
    """Logs rotate, and no line is lost

    A log that only grows fills the disk, and then nothing works. One that loses lines at midnight
    loses them where someone will look.
    """
    site.box.write(File("/etc/logrotate.conf", LOGROTATE_CONF))
    nginx = site.service("nginx")
    workers = nginx.workers()
    ids = []

    def ask(path="/static/robots.txt"):
        ids.append(header_id(site.get(path, timeout=20)))
        return ids[-1]

    Log(site)
    first = inode(site)
    ask()
    # Six pages are in Nginx's hands while the file changes its name. That takes a moment longer
    # than usual, as on a busy machine: its workers stand still.
    with ThreadPoolExecutor(6) as pool, site.load(ask, 2):
        visitors = [pool.submit(ask, "/slow?seconds=0.4") for _ in range(6)]

        def arrived():
            told = read_all(at_the_app(site, "/stats")).partition(b"\r\n\r\n")[2]
            return json.loads(told)["paths"].get("/slow", 0) >= len(visitors)

        if not wait_for(arrived, PATIENCE):
            raise GraderError("the slow pages did not reach the app")
        nginx.freeze(workers)
        try:
            # Asked for last, it is the last to be answered: the others' answers are there by then.
            read_all(at_the_app(site, "/slow?seconds=0.7"))
            done = run(site, ROTATE)
        finally:
            nginx.signal(signal.SIGCONT, workers)
    for one in visitors:
        one.result()
    site.record(Exchange("logrotate", "/etc/logrotate.d/board, by force, under load", "root", HOME))
    if done.status:
        said = done.stderr.strip().splitlines() or ["nothing"]
        complaint = next((line for line in said if line.startswith("error:")), said[-1])
        note, places = "", [("logrotate", "")]
        if "unknown user" in complaint or "unknown group" in complaint:
            note = "The box has one user. `create` alone keeps owner and mode, there and on Debian."
            places = [("logrotate", "create "), ("logrotate", "su ")]
        raise Mismatch(
            "logrotate ends with status 0", f"status {done.status}: {complaint[:200]}", note, places
        )

    def lines_in_new_file():
        own = [ask().encode()]
        site.exchanges.pop()

        def one_of_them():
            own.append(ask().encode())
            site.exchanges.pop()
            text = site.box.read(LOG, MANY) or b""
            return any(one in text for one in own)

        return wait_for(one_of_them, PATIENCE)

    if not lines_in_new_file():
        gone = site.box.read(LOG) is None
        raise Mismatch(
            f"new lines in {LOG}, after the rotation",
            "no such file" if gone else "none: Nginx goes on writing somewhere else",
            "A program writes into the file that it has open, whatever its name is meanwhile.",
            [("logrotate", "postrotate"), ("logrotate", "/var/log")],
        )
    if inode(site) == first:
        kept = in_files(site, ids[:1]).get(ids[0], [])
        if kept == [LOG]:
            raise Mismatch("a new file after the rotation", "the old one: nothing was rotated",
                           look_at=[("logrotate", "/var/log"), ("logrotate", "")])  # fmt: skip
        raise Mismatch(
            "the old file under a new name",
            "a copy, and the old file cut to nothing",
            "Nginx writes all the while. What it writes between copy and cut is in neither.",
        )
    places = ("compress", "postrotate")
    check_all_there(site, ids, "rotated once, while workers of Nginx were busy", places)
    replaced(nginx, workers)
    for day in range(1, DAYS):
        workers = nginx.workers()
        ask()
        # A day later, for names with a date in them, while the age of the files is the true one.
        run(site, ["faketime", "-f", f"+{day}d", *ROTATE], env={"NO_FAKE_STAT": "1"})
        lines_in_new_file()
        replaced(nginx, workers)
    check_all_there(site, ids, f"rotated on {DAYS} days", ("maxage", "rotate ", "compress"))


def replaced(nginx, workers):
    """Where a rotation reloads Nginx, wait for the old workers' end: a day is time enough for it.

    They serve for a moment longer, and write into the old file, which is packed a day later.
    """
    if set(nginx.workers()) - set(workers):
        wait_for(lambda: not set(nginx.workers()) & set(workers), PATIENCE)


def inode(site):
    """The number of the log's file, which a rename leaves alone."""
    return run(site, ["stat", "-c", "%i", LOG]).stdout.strip()


def check_all_there(site, ids, when, places):
    """Each of these ids stands in some file of the log; places are likely lines."""

    def missing_ones():
        found = in_files(site, ids)
        return [one for one in ids if one not in found]

    if wait_for(lambda: not missing_ones(), 2.5):
        return
    if wait_for(lambda: not missing_ones(), 2.5):
        raise Mismatch(
            "a line for each request, at most 2 s after its answer",
            "some lines came later",
            look_at=[("nginx.conf", "flush="), ("nginx.conf", "access_log")],
        )
    raise Mismatch(
        f"a line for each request, in all files together, {when}",
        "some requests have none",
        look_at=[("logrotate", text) for text in places],
    )

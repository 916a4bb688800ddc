"""The site and its visitors: services, what the kernel says of them, and HTTP byte for byte."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

sys.path.insert(0, str(Path(__file__).parent))
from grader.errors import GraderError, StartFailed
from grader.lab import SOLUTIONS, Lab
from grader.machine import File
from grader.sandbox import SERVER_V4, SERVER_V6
from grader.site import VISITOR, VISITOR_V6, Listener, Site
from inside import python, wait_until

FILES = {
    "wsgi.py": "/srv/board/wsgi.py",
    "gunicorn.conf.py": "/srv/board/gunicorn.conf.py",
    "nginx.conf": "/etc/nginx/sites-enabled/board.conf",
}
TALKATIVE = b"""
import sys

from board import create_app

app = create_app()
print("to standard output", flush=True)
print("to standard error", file=sys.stderr, flush=True)


@app.get("/print/<word>")
def say(word):
    print(word, flush=True)
    return word
"""


def lab(*run: str, visit: str = "board.example:80") -> Lab:
    """Describe a lab of the tests."""
    return Lab("99", Path("/nowhere"), "A lab of the tests", 1, 1, FILES, run, (visit,))


def solution(**instead: bytes) -> list[File]:
    """The files of lab 03's solution, some replaced (`wsgi_py=…`)."""
    files = []
    for name, path in FILES.items():
        data = instead.get(name.replace(".", "_"), (SOLUTIONS / "03" / name).read_bytes())
        files.append(File(path, data))
    return files


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    """A site that no test breaks."""
    with Site(lab("gunicorn", "nginx"), solution(wsgi_py=TALKATIVE)) as made:
        yield made


@pytest.fixture
def site() -> Iterator[Site]:
    """A site of one's own."""
    with Site(lab("gunicorn", "nginx"), solution()) as made:
        yield made


# --- services -----------------------------------------------------------------------------------


def test_services_are_told_apart(shared: Site) -> None:
    nginx, gunicorn = shared.service("nginx"), shared.service("gunicorn")
    for service in (nginx, gunicorn):
        wait_until(lambda one=service: len(one.workers()) == 2, "two workers")
    everyone = {one["pid"] for one in shared.processes()}
    mine = {service.pid for service in (nginx, gunicorn)}
    assert everyone == {*mine, *nginx.workers(), *gunicorn.workers()}
    assert all(one["rss"] > 1 << 20 and one["threads"] >= 1 for one in nginx.processes())
    assert nginx.end() == gunicorn.end() == (None, None)


def test_the_owner_of_a_port_comes_from_the_kernel(shared: Site) -> None:
    assert shared.port_owner(80) == "nginx"
    assert shared.port_owner(80, family=6) == "nginx"
    assert shared.port_owner(8000) == ""  # not for visitors
    assert shared.port_owner(443) == ""
    assert [str(one) for one in shared.service("nginx").http_listeners()] == [
        "0.0.0.0:80",
        "[::]:80",
    ]
    pids = {pid for one in shared.service("nginx").listeners() for pid in one.pids}
    assert pids == {shared.service("nginx").pid, *shared.service("nginx").workers()}


def test_gunicorn_listens_where_it_was_told(shared: Site) -> None:
    gunicorn = shared.service("gunicorn")
    assert [str(one) for one in gunicorn.http_listeners()] == ["127.0.0.1:8000"]
    private = [one for one in gunicorn.listeners() if one not in gunicorn.http_listeners()]
    assert all(one.path.endswith("gunicorn.ctl") for one in private)


def test_gunicorn_on_a_unix_socket() -> None:
    path = "/run/board/gunicorn.sock"
    conf = f'bind = "unix:{path}"\nworkers = 1\n'.encode()
    board = lab("gunicorn", visit=f"unix:{path}")
    with Site(board, solution(gunicorn_conf_py=conf)) as site:
        (listener,) = site.service("gunicorn").http_listeners()
        assert (str(listener), listener.services) == (f"unix:{path}", ("gunicorn",))
        assert site.front == ("unix", path)
        assert site.get("/whoami").json()["instance"] == site.instance


def test_the_development_server() -> None:
    with Site(lab("flask", visit="127.0.0.1:5000"), solution()) as site:
        assert [str(one) for one in site.listeners()] == ["127.0.0.1:5000"]
        assert site.get("/whoami").json()["client"] == "127.0.0.1"
        assert site.service("flask").stop() is not None
        with pytest.raises(requests.ConnectionError):
            site.get("/whoami")


def test_stop_and_start_again(site: Site) -> None:
    nginx = site.service("nginx")
    before = nginx.pid
    assert nginx.stop() == 0
    assert (nginx.processes(), nginx.listeners(), site.port_owner(80)) == ([], [], "")
    with pytest.raises(requests.ConnectionError, match="refused"):
        site.get("/whoami")
    nginx.start()
    assert nginx.pid != before
    assert nginx.end() == (None, None)
    assert site.get("/whoami").json()["instance"] == site.instance


def test_kill_ends_all_processes_of_a_service(site: Site) -> None:
    gunicorn = site.service("gunicorn")
    gunicorn.kill()
    assert gunicorn.processes() == []
    assert gunicorn.end()[0] == -signal.SIGKILL
    assert site.get("/whoami").status_code == 502
    assert site.port_owner(80) == "nginx"


def test_a_frozen_service_is_no_dead_one(site: Site) -> None:
    nginx = site.service("nginx")
    nginx.freeze(nginx.workers())
    wait_until(
        lambda: {one["state"] for one in nginx.processes() if one["pid"] != nginx.pid} == {"T"},
        "the workers to stand still",
    )
    with pytest.raises(requests.ReadTimeout, match=r"no answer within 0\.3 s"):
        site.get("/whoami", timeout=0.3)
    nginx.thaw()
    assert site.get("/whoami").status_code == 200


def test_freezing_a_service_stops_the_worker_that_comes_meanwhile(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    gunicorn = site.service("gunicorn")
    send = gunicorn.signal

    def send_late(number: int, pids: list[int]) -> None:
        """One more worker starts between the look at the processes and the signal to them."""
        monkeypatch.undo()
        before = len(gunicorn.processes())
        send(signal.SIGTTIN)
        wait_until(lambda: len(gunicorn.processes()) > before, "one more worker")
        send(number, pids)

    monkeypatch.setattr(gunicorn, "signal", send_late)
    gunicorn.freeze()
    assert {one["state"] for one in gunicorn.processes()} == {"T"}
    with pytest.raises(requests.ReadTimeout):
        site.get("/whoami", timeout=0.5)


def test_reload_makes_new_workers_under_the_same_master(site: Site) -> None:
    for service in site.services.values():
        before = service.workers()
        master = service.pid
        service.reload()
        wait_until(
            lambda now=service, old=before: (
                len(now.workers()) == 2 and not {*now.workers()} & {*old}
            ),
            f"new workers of {service.name}",
        )
        assert service.pid == master
        assert service.end() == (None, None)
    assert site.get("/whoami").json()["instance"] == site.instance


def test_a_worker_that_was_killed_is_seen_to_be_replaced(site: Site) -> None:
    gunicorn = site.service("gunicorn")
    wait_until(lambda: len(gunicorn.workers()) == 2, "two workers")
    first, second = gunicorn.workers()
    gunicorn.signal(signal.SIGKILL, [first])
    wait_until(
        lambda: len(gunicorn.workers()) == 2 and first not in gunicorn.workers(), "another worker"
    )
    assert second in gunicorn.workers()


def test_the_kill_of_one_service_spares_another_that_just_starts(site: Site) -> None:
    gunicorn, nginx = site.service("gunicorn"), site.service("nginx")
    nginx.stop()
    for _ in range(20):
        nginx.spawn()
        site.box.request("signal", service="gunicorn", signal=int(signal.SIGKILL), all=True)
        nginx.wait_ready()
        nginx.kill()
    assert gunicorn.processes() == []


def test_a_port_that_is_taken_is_found_at_the_start() -> None:
    taken = b"server { listen 8000; listen 80; }\n"
    with pytest.raises(StartFailed, match="Address already in use") as caught:
        Site(lab("gunicorn", "nginx"), solution(nginx_conf=taken))
    assert caught.value.service == "nginx"


def test_two_services_on_one_port_are_both_named() -> None:
    script = (
        "import socket, time\n"
        "made = socket.socket()\n"
        "made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        "made.bind(('0.0.0.0', 9000))\n"
        "made.listen()\n"
        "time.sleep(600)\n"
    )
    with Site(lab(), []) as site:
        for name in ("one", "two"):
            site.box.spawn(name, ["python3", "-c", script], {})

        def both() -> list[Listener]:
            found = [one for one in site.listeners() if one.port == 9000]
            return found if len(found) == 2 else []

        owners = {one.services for one in wait_until(both, "both")}
        assert owners == {("one",), ("two",)}


# --- logs ---------------------------------------------------------------------------------------


def test_standard_output_and_error_are_kept_apart(shared: Site) -> None:
    gunicorn = shared.service("gunicorn")
    for stream in ("output", "error"):  # once a worker
        name = "stdout" if stream == "output" else "stderr"
        wait_until(
            lambda name=name, stream=stream: gunicorn.log(name).count(f"to standard {stream}") == 2,
            f"both workers on {name}",
        )
    assert "standard error" not in gunicorn.log("stdout")
    assert "Listening at" in gunicorn.log("stderr")
    assert gunicorn.log() == gunicorn.log("stderr")


def test_a_log_goes_on_over_restarts(site: Site) -> None:
    gunicorn = site.service("gunicorn")
    gunicorn.stop()
    gunicorn.start()
    assert gunicorn.log().count("Listening at") == 2


def test_a_request_is_in_the_log_once_it_is_answered(shared: Site) -> None:
    shared.get("/print/marmalade")
    wait_until(lambda: "marmalade" in shared.service("gunicorn").log("stdout"), "the line")


def test_nginx_own_error_log(site: Site) -> None:
    site.service("gunicorn").kill()
    site.get("/whoami")
    assert "Connection refused" in site.error_log()


# --- visitors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/echo/a%2fb",
        "/echo/a%2Fb?x=1&x=2",
        "/echo//",
        "/echo//two///three",
        "/echo/a/../x",
        "/echo/./x",
        "/echo/%7Euser",
        "/echo/gr%C3%BC%C3%9Fe",
        "/echo/a+b%20c",
        "/echo/a;b=c,d?e=%26&f[]=1#no",
        "/echo/?",
        "/echo/?%00",
    ],
)
def test_paths_are_sent_byte_for_byte(shared: Site, path: str) -> None:
    shared.exchanges.clear()
    told = shared.get(path).json()
    assert shared.exchanges[0].sent.split(b"\r\n")[0] == f"GET {path} HTTP/1.1".encode()
    # Nginx passes on what it was sent, and the app tells what it got.
    assert (told["path"], told["query"]) == (path.partition("?")[0], path.partition("?")[2])


@pytest.mark.parametrize("target", ["/..", "/../x", "//", "*", "http://board.example/"])
def test_odd_targets_are_sent_as_they_are(shared: Site, target: str) -> None:
    shared.exchanges.clear()
    assert shared.request("OPTIONS", target).status_code
    assert shared.exchanges[0].sent.startswith(f"OPTIONS {target} HTTP/1.1\r\n".encode())


def test_an_exchange_is_recorded_as_it_was(shared: Site) -> None:
    shared.exchanges.clear()
    reply = shared.post("/echo/x", data=b"body", headers={"X-Odd": "1"}, source="203.0.113.9")
    (one,) = shared.exchanges
    head, _, body = bytes(one.sent).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /echo/x HTTP/1.1\r\n")
    assert b"\r\nHost: board.example\r\n" in head
    assert b"\r\nX-Odd: 1" in head
    assert body == b"body"
    answered, _, content = bytes(one.received).partition(b"\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
    assert content == reply.content
    assert (one.method, one.target, one.source) == ("POST", "/echo/x", "203.0.113.9")
    assert one.status_line() == "HTTP/1.1 200 OK"
    assert 0 < one.seconds < 10


def test_headers_can_be_left_out(shared: Site) -> None:
    shared.exchanges.clear()
    shared.get("/whoami", headers={"User-Agent": None, "Accept-Encoding": None, "Host": None})
    assert b"user-agent" not in shared.exchanges[0].sent.lower()
    assert b"accept-encoding" not in shared.exchanges[0].sent.lower()


@pytest.mark.parametrize(
    ("family", "source", "seen"),
    [
        (4, "", VISITOR),
        (6, "", VISITOR_V6),
        (4, "203.0.113.200", "203.0.113.200"),
        (6, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6"),
    ],
)
def test_visitors_have_addresses(shared: Site, family: int, source: str, seen: str) -> None:
    with shared.visitor(source, family=family) as visitor:
        visitor.get("/whoami")
        connection = shared.connect(source or visitor.address, family)
    with connection:
        assert connection.getsockname()[0] == seen
        assert connection.getpeername()[0] == (SERVER_V4 if family == 4 else SERVER_V6)


def test_the_servers_own_shell_is_no_visitor(shared: Site) -> None:
    with shared.connect(None, server="127.0.0.1", port=8000) as made:
        assert made.getsockname()[0] == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        shared.connect(port=8000)


def test_a_visitor_keeps_cookies_and_others_have_none(shared: Site) -> None:
    with shared.visitor() as ada:
        assert (
            ada.post("/login", data={"name": "ada", "password": "pin-the-notice"}).status_code
            == 303
        )
        assert ada.cookies
        assert ada.get("/account").status_code == 200
    assert shared.get("/account").status_code == 303


def test_redirects_are_followed_only_when_asked(shared: Site) -> None:
    assert shared.get("/go?to=/whoami").status_code == 302
    followed = shared.get("/go?to=/whoami", follow=True)
    assert followed.json()["instance"] == shared.instance
    assert [one.status_code for one in followed.history] == [302]


def test_wait_read_waits_until_the_server_has_read(shared: Site) -> None:
    with shared.connect() as first, shared.connect(family=6, source=VISITOR_V6) as second:
        for one in (first, second):
            one.sendall(b"POST /echo/x HTTP/1.1\r\nHost: board.example\r\nContent-Le")
        shared.wait_read([first, second])
        with shared.connect() as third:
            nginx = shared.service("nginx")
            nginx.freeze(nginx.workers())
            try:
                third.sendall(b"GET / HTTP/1.1\r\n")
                with pytest.raises(GraderError, match=r"in 0\.2 s"):
                    shared.wait_read([third], seconds=0.2)
            finally:
                nginx.signal(signal.SIGCONT, nginx.workers())
            shared.wait_read([third])


def test_wait_read_may_take_what_the_server_has_closed(shared: Site) -> None:
    with shared.connect() as gone:
        gone.sendall(b"GET /whoami HTTP/1.0\r\n\r\n")
        while gone.recv(65536):
            pass
        shared.wait_read([gone], or_closed=True)
        with pytest.raises(GraderError):
            shared.wait_read([gone], seconds=0.1)


def test_calls_together_run_at_once(shared: Site) -> None:
    timed = shared.together([lambda: shared.get("/slow?seconds=0.5").status_code] * 4)
    assert [one.value for one in timed] == [200] * 4
    assert max(one.seconds for one in timed) < 1.9  # in turn they take 2 s
    (failed,) = shared.together([lambda: shared.get("/", port=444)])
    assert isinstance(failed.error, requests.ConnectionError)


def test_load_runs_while_the_block_does(shared: Site) -> None:
    with shared.load(lambda: shared.get("/whoami").status_code) as results:
        wait_until(lambda: len(results) > 20, "twenty answers")
    count = len(results)
    assert {one.value for one in results} == {200}
    assert threading.active_count() < 20
    assert len(results) == count


# --- servers that talk nonsense -----------------------------------------------------------------

ODD_SERVER = r"""
import os, socket, struct, threading, time
OK = b"HTTP/1.1 200 OK\r\n"
REPLIES = {
    "close": b"",
    "reset": None,
    "garbage": b"hello, world\n",
    "binary": bytes(range(256)) * 8,
    "empty lines": b"\r\n" * 100,
    "bad status": b"HTTP/1.1 abc OK\r\n\r\n",
    "negative status": b"HTTP/1.1 -20 OK\r\n\r\n",
    "no headers end": OK + b"X: y\r\n",
    "long line": OK + b"X: " + b"y" * 100000 + b"\r\n\r\n",
    "many headers": OK + b"".join(b"X-%d: y\r\n" % n for n in range(1000)) + b"\r\n",
    "short body": OK + b"Content-Length: 100\r\n\r\nshort",
    "bad length": OK + b"Content-Length: many\r\n\r\nbody",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "bad chunk": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nbody\r\n",
    "cut chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n10\r\nbody",
    "bad gzip": OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nbody",
    "bad redirect": b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
    "odd redirect": b"HTTP/1.1 302 Found\r\nLocation: gopher://x/\r\nContent-Length: 0\r\n\r\n",
    "endless redirect": b"HTTP/1.1 302 Found\r\nLocation: /endless%20redirect\r\n"
        b"Content-Length: 0\r\n\r\n",
    "bytes in header": OK + b"X-Odd: \xff\xfe\r\nContent-Length: 2\r\n\r\nok",
    "bad cookie": OK + b"Set-Cookie: \xff=;;;=\r\nContent-Length: 2\r\n\r\nok",
    "no colon": OK + b"what is this\r\n\r\n",
    "continue for ever": b"HTTP/1.1 100 Continue\r\n\r\n" * 20000,
    "endless body": (OK + b"\r\n", "endless"),
    "endless head": (OK, "endless"),
    "endless chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", "endless chunks"),
    "silence": "hang",
    "half a head": (OK, "hang"),
    "half a body": (OK + b"Content-Length: 10\r\n\r\nhalf", "hang"),
}
def serve(made):
    data = b""
    while b"\r\n\r\n" not in data:
        more = made.recv(65536)
        if not more:
            return
        data += more
    name = data.split()[1].decode().strip("/").replace("%20", " ")
    reply = REPLIES[name]
    if reply is None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for part in reply if isinstance(reply, tuple) else [reply]:
        if part == "hang":
            time.sleep(600)
        elif part == "endless":
            while True: made.sendall(b"x" * 100000)
        elif part == "endless chunks":
            while True: made.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        elif part:
            made.sendall(part)
    made.close()
def guarded(made):
    try:
        serve(made)
    except OSError:
        pass
made = socket.create_server(("0.0.0.0", 80), backlog=64)
print("ready", flush=True)
while True:
    threading.Thread(target=guarded, args=(made.accept()[0],), daemon=True).start()
"""
NONSENSE = [
    "close",
    "reset",
    "garbage",
    "binary",
    "empty lines",
    "bad status",
    "negative status",
    "long line",
    "many headers",
    "short body",
    "bad chunk",
    "cut chunk",
    "bad gzip",
    "bad redirect",
    "odd redirect",
    "endless redirect",
    "continue for ever",
    "endless body",
    "endless head",
    "endless chunks",
]
TOLERABLE = [
    "bytes in header",
    "bad cookie",
    "bad length",
    "two lengths",
    "no colon",
    "no headers end",
]
HANGING = ["silence", "half a head", "half a body"]


@pytest.fixture(scope="module")
def odd() -> Iterator[Site]:
    """A server that answers each path with another kind of nonsense."""
    with Site(lab(), []) as made:
        made.box.spawn("odd", ["python3", "-c", ODD_SERVER], {})
        wait_until(lambda: made.port_owner(80), "the odd server")
        yield made


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_a_requests_exception(odd: Site, kind: str) -> None:
    odd.exchanges.clear()
    with pytest.raises(requests.RequestException) as caught:
        odd.get("/" + kind.replace(" ", "%20"), timeout=5, follow="redirect" in kind)
    assert not isinstance(caught.value, requests.Timeout)
    assert odd.exchanges[0].sent.startswith(b"GET /")
    assert odd.exchanges[0].status_line()


@pytest.mark.parametrize("kind", TOLERABLE)
def test_oddities_give_an_answer_or_a_requests_exception(odd: Site, kind: str) -> None:
    try:
        assert odd.get("/" + kind.replace(" ", "%20"), timeout=5).status_code == 200
    except requests.RequestException as error:
        assert str(error)


@pytest.mark.parametrize("kind", HANGING)
def test_silence_is_a_timeout(odd: Site, kind: str) -> None:
    with pytest.raises((requests.Timeout, requests.ConnectionError)) as caught:
        odd.get("/" + kind.replace(" ", "%20"), timeout=0.3)
    assert "time" in str(caught.value) or "no answer within 0.3 s" in str(caught.value)


def test_a_refused_connection(odd: Site) -> None:
    odd.exchanges.clear()
    with pytest.raises(requests.ConnectionError, match="refused"):
        odd.get("/", port=81)
    assert odd.exchanges[0].error == "Connection refused"


def test_plain_http_where_tls_is_spoken_to(odd: Site) -> None:
    with pytest.raises(requests.RequestException):
        odd.get("/garbage", scheme="https", port=80, timeout=0.5)


def test_a_dead_box_is_the_graders_fault() -> None:
    with Site(lab(), []) as site:
        assert python(site.box, "print('here')").out == "here\n"
        site.box.close()
        with pytest.raises(GraderError):
            site.get("/")
        with pytest.raises(GraderError):
            site.listeners()

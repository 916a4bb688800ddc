"""A learner's site, running for real in a box; what checks and notebooks talk to."""

from __future__ import annotations

import contextlib
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from grader.errors import GraderError, StartFailed, UsageError
from grader.hosts import given_files, host_env, program_of
from grader.lab import SOLUTIONS, Lab, find_lab, given_folders, load_lab, read_submission
from grader.machine import File, Machine
from grader.sandbox import SERVER_V4, SERVER_V6, ZONE, Box
from grader.services import start_failure, start_seconds

if TYPE_CHECKING:
    import requests

    # Slow to import: it is when the first visitor comes, who may have to wait for the site anyway.
    from grader.client import Exchange, RecordedSocket, Visitor

Result = TypeVar("Result")
TICKS = (0.002, 0.02)  # seconds between two looks at what is waited for: at first, at last
VISITOR = "203.0.113.7"
VISITOR_V6 = "2001:db8::7"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
CONTROL_SOCKET = "gunicorn.ctl"  # Gunicorn's own, since 25.1; answers no HTTP


def wait_for(look: Callable[[], Result], seconds: float) -> Result | None:
    """Look again and again until something true is seen; None when the time is over."""
    end = time.monotonic() + seconds
    tick, longest = TICKS
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > end:
            return None
        time.sleep(tick)  # each look costs the box some CPU, so they become fewer
        tick = min(tick * 1.3, longest)


@dataclass(frozen=True)
class Listener:
    """A listening socket, as the kernel tells it: an address and port, or a unix path."""

    host: str
    port: int
    path: str
    services: tuple[str, ...]
    pids: tuple[int, ...]

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass
class Timed:
    """What one of several simultaneous calls gave, and how long it took in seconds."""

    value: Any
    error: Exception | None
    seconds: float


class Service:
    """One program of a site."""

    def __init__(self, site: Site, name: str, env: Mapping[str, str]) -> None:
        self.site = site
        self.name = name
        self.program = program_of(site.lab, name)
        self.env = {**self.program.env, **env}
        self.pid = 0

    def spawn(self) -> None:
        """Start the program and return at once."""
        program = self.program
        self.pid = self.site.box.spawn(self.name, program.argv, self.env, program.cwd)

    def listens_or_ended(self) -> bool:
        """Tell whether it has opened its address, or given up."""
        return bool(self.http_listeners()) or self.end()[0] is not None

    def wait_ready(self, seconds: float | None = None) -> None:
        """Wait until it serves.

        Raises:
            StartFailed: it ended, went to the background or did not answer in time.
        """
        limit = start_seconds() if seconds is None else seconds
        if not wait_for(lambda: self.program.ready(self) or self.end()[0] is not None, limit):
            raise start_failure(self)
        status, _ = self.end()
        if status is not None:
            raise start_failure(self)

    def start(self) -> None:
        """Start the program and wait until it serves."""
        self.spawn()
        self.wait_ready()

    def end(self) -> tuple[int | None, str | None]:
        """How its first process ended: status (None while it runs), and what it was killed for."""
        told = self.site.box.request("status")["services"].get(self.name)
        return (told["status"], told["killed_for"]) if told else (0, None)

    def wait_end(self, seconds: float) -> int | None:
        """Wait until its first process has ended; its status, or None when it goes on."""
        wait_for(lambda: self.end()[0] is not None, seconds)
        return self.end()[0]

    def processes(self) -> list[dict[str, Any]]:
        """Its processes: dictionaries with pid, parent, state, cpu (s), rss (bytes), threads."""
        return [one for one in self.site.processes() if one["service"] == self.name]

    def cpu(self) -> float:
        """Seconds of CPU that its processes have used so far; those that ended do not count."""
        return float(sum(one["cpu"] for one in self.processes()))

    def workers(self) -> list[int]:
        """The process ids of its first process's children."""
        return sorted(one["pid"] for one in self.processes() if one["parent"] == self.pid)

    def listeners(self) -> list[Listener]:
        """The sockets it listens on."""
        return [one for one in self.site.listeners() if self.name in one.services]

    def http_listeners(self) -> list[Listener]:
        """The sockets it listens on, less Gunicorn's private control socket by its usual name."""
        return [one for one in self.listeners() if not one.path.endswith(CONTROL_SOCKET)]

    def log(self, stream: str = "stderr") -> str:
        """What it printed so far on `stdout` or `stderr`, over all its starts."""
        return self.site.box.log(self.name, stream)

    def signal(self, number: int, pids: Iterable[int] | None = None) -> None:
        """Send a signal to its first process, or to the processes given."""
        wanted = [self.pid] if pids is None else list(pids)
        self.site.box.request("signal", pids=wanted, signal=int(number))

    def freeze(self, pids: Iterable[int] | None = None) -> None:
        """Stop processes where they are (SIGSTOP); returns when they stand still.

        Args:
            pids: which ones. Without them all that it has, and those that it makes meanwhile: a
                server that has just started may have workers still to come.
        """
        wanted = None if pids is None else set(pids)

        def all_still() -> bool:
            moving = [
                one["pid"]
                for one in self.processes()
                if (wanted is None or one["pid"] in wanted) and one["state"] not in "TtZ"
            ]
            self.signal(signal.SIGSTOP, moving)
            return not moving

        wait_for(all_still, 5)

    def thaw(self) -> None:
        """Let all its processes go on that stand still (SIGCONT)."""
        self.signal(signal.SIGCONT, [one["pid"] for one in self.processes()])

    def reload(self) -> None:
        """Ask it to read its files again (SIGHUP), and return at once."""
        self.signal(signal.SIGHUP)

    def kill(self) -> None:
        """End all its processes at once, and what they left behind (SIGKILL)."""
        self.site.box.request("signal", service=self.name, signal=int(signal.SIGKILL), all=True)
        wait_for(lambda: not self.processes(), 5)

    def stop(self, seconds: float = 10.0) -> int | None:
        """Ask it to end (SIGTERM) and wait; what is left after `seconds` is killed."""
        self.signal(signal.SIGTERM)
        status = self.wait_end(seconds)
        self.kill()
        return status


class Site:
    """A lab's stack, running in a box of its own.

    Args:
        lab: which files go where, and which services run.
        files: the learner's files, placed as they are.
        start: whether to start the services at once.
        env: more environment for the app's service.
        wall: the box's life in seconds; 0 for no end.
        key_type: of the certificates' keys, where the lab has them: ECDSA or RSA.
        small_buffers: see `grader.sandbox.Box`.

    Raises:
        StartFailed: a service did not start.
        GraderError: the box did not.
    """

    def __init__(
        self,
        lab: Lab,
        files: Sequence[File],
        *,
        start: bool = True,
        env: Mapping[str, str] | None = None,
        wall: float = 300.0,
        key_type: str = "ECDSA",
        small_buffers: bool = True,
    ) -> None:
        if lab.systemd:
            raise UsageError(
                f"lab {lab.number} is about systemd, and no box has one; see its README"
            )
        self._describe(lab, files)
        given = given_files(lab) + given_folders(lab)
        if lab.certificates:
            from grader.certificates import make_certificates  # slow to import

            made = make_certificates(key_type, lab.names)
            self.root = made.root
            given += made.files
        if lab.acme:
            from grader import acme

            given += acme.given_files()
        self.small_buffers = small_buffers
        self.box: Machine = Box(
            [*given, *self.files], wall=wall, limited=wall > 0, small_buffers=small_buffers
        )
        self._name_services("/var/lib/board/board.db", env or {})
        if start:
            try:
                self.start()
            except BaseException:
                self.close()
                raise

    def _describe(self, lab: Lab, files: Sequence[File]) -> None:
        """What is known of a site before it has a machine to run on."""
        self.lab = lab
        self.files = list(files)
        self.exchanges: list[Exchange] = []
        self.instance = f"app-{secrets.token_hex(6)}"
        self.key = secrets.token_hex(24)
        self.root = ""  # the PEM of the authority that visitors trust
        self._lock = threading.Lock()
        self._front: tuple[str, int | str] | None = None

    def _name_services(self, database: str, env: Mapping[str, str]) -> None:
        """Make the site's services, none of which is started yet."""
        app_env = {
            "BOARD_SECRET_KEY": self.key,
            "BOARD_DATABASE": database,
            "BOARD_INSTANCE": self.instance,
            "PYTHONUNBUFFERED": "1",
            **env,
        }
        self.services = {
            name: Service(
                self,
                name,
                host_env(self.lab, name, app_env) if program_of(self.lab, name).app else {},
            )
            for name in self.lab.run
        }

    @classmethod
    def of_lab(
        cls,
        lab: str | Path,
        files: Mapping[str, str] | None = None,
        *,
        run: Sequence[str] | None = None,
        more: Sequence[File] = (),
        **options: Any,
    ) -> Site:
        """Start a lab's solution, or a lab folder of one's own, to look at it and to measure it.

        Its TCP buffers are those of the machine, so that rates are as they would be outside.

        Args:
            lab: the number of a lab, such as "03", for its solution; or a lab folder.
            files: what stands in some of the lab's files instead, by their names there.
            run: the services to start; None for all of the lab's.
            more: other files to place in the box.
            options: those of `Site`.

        Raises:
            UsageError: there is no such lab, or the lab has no such file.
            StartFailed: a service did not start.
        """
        known = load_lab(lab) if isinstance(lab, Path) else find_lab(lab)
        folder = lab if isinstance(lab, Path) else SOLUTIONS / known.number
        placed = {one.path: one for one in read_submission(known, folder)}
        for name, text in (files or {}).items():
            if name not in known.files:
                raise UsageError(f"lab {known.number} has no file {name!r}")
            placed[known.files[name]] = File(known.files[name], text.encode())
        if run is not None:
            known = replace(known, run=tuple(run))
        options.setdefault("small_buffers", False)
        return cls(known, [*placed.values(), *more], **options)

    def start(self) -> None:
        """Start all services, in lab.toml's order, and wait until each is ready.

        Those that were started already are waited for alone.
        """
        self._front = None
        if self.lab.acme and not self.box.real:
            from grader import acme

            acme.begin(self)
        started: list[Service] = []
        for service in self.services.values():
            # It may not take the port of one before, which has to listen first. Hosts cannot: each
            # has an address of its own.
            before = [] if service.name in self.lab.hosts else started
            for one in before:
                wait_for(one.listens_or_ended, start_seconds())
            if any(one.end()[0] is not None for one in before):
                break
            if not service.pid:
                service.spawn()
            started.append(service)
        for service in started:
            service.wait_ready()
        if self.lab.acme and not self.box.real:
            acme.trust(self)

    def service(self, name: str) -> Service:
        """One of the services, by its program's name."""
        return self.services[name]

    def submitted(self, name: str) -> bytes | None:
        """A file of the learner's, as it was placed; None when the lab has no such file."""
        path = self.lab.files.get(name)
        return next((one.data for one in self.files if one.path == path), None)

    # --- what the kernel says

    def processes(self) -> list[dict[str, Any]]:
        """All processes of the services."""
        found: list[dict[str, Any]] = self.box.request("processes")["processes"]
        return found

    def listeners(self) -> list[Listener]:
        """All listening sockets of the box."""
        return [
            Listener(
                one["host"] or "",
                one["port"] or 0,
                (one["path"] or "").replace("/var/run/", "/run/", 1),
                tuple(one["services"]),
                tuple(one["pids"]),
            )
            for one in self.box.request("listeners")["listeners"]
        ]

    def port_owner(self, port: int, family: int = 4) -> str:
        """Name the service that listens on a TCP port for visitors; "" when none does."""
        # A socket on [::] may serve IPv4 too; whether it does, a connection tells.
        hosts = ("0.0.0.0", SERVER_V4, "::") if family == 4 else ("::", SERVER_V6)
        for one in self.listeners():
            if one.port == port and one.host in hosts and one.services:
                return one.services[0]
        return ""

    def connections(self) -> list[dict[str, Any]]:
        """All established TCP connections: local, remote, unread bytes, inode (0: not accepted)."""
        found: list[dict[str, Any]] = self.box.request("connections")["connections"]
        return found

    def wait_read(
        self, sockets: Iterable[socket.socket], seconds: float = 10.0, *, or_closed: bool = False
    ) -> None:
        """Wait until the server has accepted these connections and read all that they sent.

        Args:
            sockets: the visitors' ends.
            seconds: how long to wait.
            or_closed: a connection that the server has closed already will do as well.

        Raises:
            GraderError: it has not, in that time.
        """
        wanted = {one.getsockname()[:2] for one in sockets}

        def all_read() -> bool:
            read = {
                (one["remote"][0].removeprefix("::ffff:"), one["remote"][1]): bool(
                    one["inode"] and not one["unread"]
                )
                for one in self.connections()
            }
            return all(read.get(one, or_closed) for one in wanted)

        if not wait_for(all_read, seconds):
            raise GraderError(f"the site has not read from its visitors in {seconds:g} s")

    # --- visitors

    @property
    def front(self) -> tuple[str, int | str]:
        """Where visitors knock: the first address of lab.toml's `visit` that is listened on."""
        if self._front is None:
            known = [_front(text) for text in self.lab.visit]
            listening = self.listeners() if len(known) > 1 else []
            heard = {one.path or one.port for one in listening}
            self._front = next((one for one in known if one[1] in heard), known[0])
        return self._front

    def connect(
        self,
        source: str | None = VISITOR,
        family: int = 4,
        port: int | None = None,
        *,
        server: str | None = None,
        receive_buffer: int | None = None,
    ) -> RecordedSocket:
        """Open a connection to the site, from an address.

        Args:
            source: the visitor's address; None for the server's own loopback address.
            family: 4 or 6.
            port: None for the site's front door.
            server: the address to connect to; None for the site's.
            receive_buffer: bytes that the kernel takes in before the visitor reads; None for many.

        Raises:
            OSError: as a connect does.
        """
        from grader.client import RecordedSocket

        host, door = self.front
        if isinstance(door, str) and port is None and server is None:
            return RecordedSocket(fileno=self.box.unix_socket(door).detach())
        number = port or int(door)
        made = RecordedSocket(fileno=self.box.sockets(family)[0].detach())
        made.settimeout(10)
        if server:
            host = server
        elif host == ZONE:
            host = SERVER_V4 if family == 4 else SERVER_V6
        elif family == 6:
            host = "::1"
        try:
            if receive_buffer:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source:
                made.setsockopt(
                    socket.IPPROTO_IPV6 if family == 6 else socket.IPPROTO_IP,
                    78 if family == 6 else 15,  # IPV6_FREEBIND, IP_FREEBIND
                    1,
                )
                made.bind((source, 0))
            made.connect((host, number))
        except BaseException:
            made.close()
            raise
        return made

    def record(self, exchange: Exchange) -> None:
        """Keep an exchange for the card."""
        with self._lock:
            self.exchanges.append(exchange)

    def notes(self) -> list[str]:
        """What the card of any failed check says as well."""
        return []

    def show_on_card(self, target: str, host: str = "") -> None:
        """Let the card show the last request for a target, of a host if it is given.

        It shows the last of all, and others came later. Where there was none, nothing changes.
        """
        for one in reversed(self.exchanges):
            if one.target == target and host in ("", one.headers.get("Host", ZONE)):
                self.exchanges.remove(one)
                self.record(one)
                return

    def usual_source(self, family: int = 4) -> str | None:
        """Where visitors come from unless told; None, the server itself, for a local site."""
        if self.front[0] != ZONE:
            return None
        return VISITOR if family == 4 else VISITOR_V6

    def visitor(self, source: str | None = "", **options: Any) -> Visitor:
        """Make a visitor who keeps cookies; options as for `grader.client.Visitor`."""
        from grader.client import Visitor, tls_context

        if source == "":
            source = self.usual_source(options.get("family", 4))
        options.setdefault("host", ZONE)
        if options.get("scheme") == "https":
            options.setdefault("tls", tls_context(self.root or None))
        return Visitor(self.connect, self.record, source=source, **options)

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send one request as a new visitor.

        Args:
            method: GET, HEAD, …
            path: path and query, sent exactly as given.
            options: source, host, scheme, port, family, tls of the visitor; headers, data, json,
                files, follow, timeout, stream of the request.

        Raises:
            requests.RequestException: the site refused, reset, timed out or talked nonsense.
        """
        of_visitor = ("source", "host", "scheme", "port", "family", "tls")
        who = {name: options.pop(name) for name in of_visitor if name in options}
        with self.visitor(**who) as visitor:
            return visitor.request(method, path, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET as a new visitor; see `request`."""
        return self.request("GET", path, **options)

    def head(self, path: str, **options: Any) -> requests.Response:
        """HEAD as a new visitor; see `request`."""
        return self.request("HEAD", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        """POST as a new visitor; see `request`."""
        return self.request("POST", path, **options)

    def answers(self, listener: Listener, request: bytes = HEALTH) -> bool:
        """Tell whether HTTP comes back from a listening socket; used while a service starts."""
        try:
            if listener.path:
                made = self.box.unix_socket(listener.path)
            else:
                family = 6 if ":" in listener.host else 4
                made = self.box.sockets(family)[0]
                made.settimeout(2)
                any_host = {"0.0.0.0": "127.0.0.1", "::": "::1"}
                made.connect((any_host.get(listener.host, listener.host), listener.port))
            with made:
                made.settimeout(2)
                made.sendall(request)
                return made.recv(5) == b"HTTP/"
        except OSError:
            return False

    def together(self, calls: Sequence[Callable[[], Any]]) -> list[Timed]:
        """Make calls at the same time, each in a thread; the results in the same order."""
        barrier = threading.Barrier(len(calls))

        def timed(call: Callable[[], Any]) -> Timed:
            barrier.wait()
            started = time.monotonic()
            try:
                return Timed(call(), None, time.monotonic() - started)
            except OSError as error:  # all that requests raises is one
                return Timed(None, error, time.monotonic() - started)

        with ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(timed, calls))

    @contextlib.contextmanager
    def load(self, call: Callable[[], Any], threads: int = 4) -> Any:
        """Repeat a call in several threads while the block runs; gives the list of results."""
        results: list[Timed] = []
        over = threading.Event()

        def repeat() -> None:
            while not over.is_set():
                started = time.monotonic()
                try:
                    made = Timed(call(), None, 0.0)
                except OSError as error:
                    made = Timed(None, error, 0.0)
                made.seconds = time.monotonic() - started
                results.append(made)

        pool = [threading.Thread(target=repeat, daemon=True) for _ in range(threads)]
        for one in pool:
            one.start()
        try:
            yield results
        finally:
            over.set()
            for one in pool:
                one.join()

    def error_log(self) -> str:
        """The end of Nginx's error log."""
        data = self.box.read("/var/log/nginx/error.log")
        return (data or b"").decode("utf-8", "replace")

    def close(self) -> None:
        """End the site and its box."""
        self.box.close()

    def __enter__(self) -> Site:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _front(text: str) -> tuple[str, int | str]:
    if text.startswith("unix:"):
        return "unix", text[5:]
    host, _, port = text.rpartition(":")
    return host, int(port)


__all__ = ["Listener", "Service", "Site", "StartFailed", "Timed", "wait_for"]

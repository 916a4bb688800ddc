"""The visitors: `requests` over sockets that live in the box's network.

Nothing is simulated: resets, timeouts and TLS are the kernel's and OpenSSL's. Each request uses a
new connection and is recorded, byte for byte, for the failure card.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util import SKIP_HEADER

KEEP = 1 << 20  # bytes of an exchange that are recorded, each way
# Sites that turn programs away by their names are to take the visitors for people.
AGENT = "Mozilla/5.0 (course)"
MOST = 64 << 20  # bytes of one reply; an endless one would fill the grader's memory


@dataclass
class Exchange:
    """What one request sent and what came back, as bytes on the wire (decrypted, over TLS)."""

    method: str
    target: str
    source: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)
    size: int = 0  # of all that was received
    error: str = ""
    seconds: float = 0.0
    sent_size: int = 0  # of all that was sent

    def receive(self, data: memoryview) -> None:
        """Record what came.

        Raises:
            OSError: it is more than any answer of the board's.
        """
        self.size += len(data)
        if len(self.received) < KEEP:
            self.received += data
        if self.size > MOST:
            raise OSError(errno.EMSGSIZE, f"an answer of more than {MOST >> 20} MiB")

    def status_line(self) -> str:
        """The first line of the reply, or what happened instead."""
        if self.error:
            return self.error
        return self.received.split(b"\r\n", 1)[0].decode("latin-1")


class Recorded(socket.socket):
    """A socket that keeps a copy of what passes through it: over TLS, the plain text."""

    exchange: Exchange | None = None

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send and record."""
        if self.exchange:
            self.exchange.sent_size += memoryview(data).nbytes
            if len(self.exchange.sent) < KEEP:
                self.exchange.sent += bytes(data)[:KEEP]
        super().sendall(data, flags)

    def recv_into(self, buffer: Any, *rest: Any) -> int:
        """Receive and record."""
        size = super().recv_into(buffer, *rest)
        if self.exchange:
            self.exchange.receive(memoryview(buffer)[:size])
        return size


class RecordedSocket(Recorded):
    """A plain one."""


class RecordedTLSSocket(Recorded, ssl.SSLSocket):
    """One over TLS."""


def tls_context(authority: str | None = None) -> ssl.SSLContext:
    """Make a context that trusts one authority's PEM alone (none: the machine's own)."""
    context = ssl.create_default_context(cadata=authority)
    context.sslsocket_class = RecordedTLSSocket
    return context


# Connects from a source address (may be None) with an IP version (4 or 6) to a port (None: the
# site's own front door).
Connect = Callable[[str | None, int, int | None], RecordedSocket]


class BoxAdapter(HTTPAdapter):
    """Sends a prepared request over a socket of the box, its target exactly as given."""

    def __init__(self, visitor: Visitor) -> None:
        super().__init__()
        self.visitor = visitor

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send one request; returns once the head of the reply has arrived."""
        visitor = self.visitor
        target = getattr(request, "exact_target", None) or request.path_url
        headers = dict(request.headers)
        exchange = Exchange(
            request.method or "GET", target, visitor.source, request.url or "", headers
        )
        visitor.record(exchange)
        started = time.monotonic()
        try:
            reply = self._exchange(request, target, exchange, timeout)
        except OSError as error:
            exchange.error = error.strerror or str(error) or type(error).__name__
            if isinstance(error, TimeoutError):
                exchange.error = f"no answer within {timeout:g} s"
                raise requests.ReadTimeout(exchange.error, request=request) from None
            raise requests.ConnectionError(exchange.error, request=request) from None
        except (urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
            exchange.error = str(error) or type(error).__name__
            raise requests.ConnectionError(exchange.error, request=request) from None
        finally:
            exchange.seconds = time.monotonic() - started
        return reply

    def _exchange(
        self, request: requests.PreparedRequest, target: str, exchange: Exchange, timeout: Any
    ) -> requests.Response:
        visitor = self.visitor
        secure = (request.url or "").startswith("https:")
        port = visitor.port
        if secure and port is None:
            port = 443
        plain = visitor.connect_from(visitor.address, visitor.family, port)
        plain.settimeout(timeout)
        plain.exchange = exchange
        connection = urllib3.connection.HTTPConnection("box", timeout=timeout)
        connection.sock = plain
        if secure:
            plain.exchange = None
            name = visitor.host.partition(":")[0]
            wrapped = visitor.tls.wrap_socket(plain, server_hostname=name)
            assert isinstance(wrapped, RecordedTLSSocket)
            wrapped.exchange = exchange
            connection.sock = wrapped
        headers = {str(name): str(value) for name, value in request.headers.items()}
        chunked = not (request.body is None or "Content-Length" in request.headers)
        # A server may answer before it has read the body, and close: then its answer counts.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(
                request.method or "GET",
                target,
                body=request.body,
                # What the visitor leaves out, urllib3 must not put in.
                headers={"Accept-Encoding": SKIP_HEADER, "User-Agent": SKIP_HEADER, **headers},
                chunked=chunked,
                preload_content=False,
                decode_content=False,
                enforce_content_length=True,
            )
        reply = connection.getresponse()
        return self.build_response(request, reply)


class Visitor(requests.Session):
    """Somebody who visits the site: an address, a host name, cookies.

    Args:
        connect: makes connected sockets in the box.
        record: is given each exchange when it begins.
        source: the visitor's address; None for the server's own 127.0.0.1.
        host: what the visitor typed: name, and port if not the usual one.
        scheme: http or https.
        port: where to connect; None for the site's front door.
        family: 4 or 6.
        timeout: seconds without a byte after which the visitor gives up.
        tls: the TLS context for https.
    """

    def __init__(
        self,
        connect: Connect,
        record: Callable[[Exchange], None],
        *,
        source: str | None,
        host: str,
        scheme: str = "http",
        port: int | None = None,
        family: int = 4,
        timeout: float = 10.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__()
        self.connect_from = connect
        self.record = record
        self.address = source
        self.source = source or ("127.0.0.1" if family == 4 else "::1")
        self.host = host
        self.scheme = scheme
        self.port = port
        self.family = family
        self.timeout = timeout
        self._tls = tls
        self.trust_env = False
        self.headers.update({"Connection": "close", "User-Agent": AGENT})
        self.mount("http://", BoxAdapter(self))
        self.mount("https://", BoxAdapter(self))

    @property
    def tls(self) -> ssl.SSLContext:
        """The TLS context, made when first needed."""
        if self._tls is None:
            self._tls = tls_context()
        return self._tls

    def request(  # type: ignore[override]
        self,
        method: str,
        path: str,
        headers: Mapping[str, str | None] | None = None,
        follow: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> requests.Response:
        """Ask for a path, sent exactly as it is given; redirects are not followed unless asked.

        Raises:
            requests.RequestException: the site refused, reset, timed out or talked nonsense.
        """
        given: dict[str, Any] = {"Host": self.host, **(headers or {})}
        url = f"{self.scheme}://{self.host or 'board.example'}"
        prepared = self.prepare_request(
            requests.Request(
                method.upper(),
                url + "/",
                headers=given,  # one that is None is not sent
                data=options.pop("data", None),
                json=options.pop("json", None),
                files=options.pop("files", None),
                auth=options.pop("auth", None),
                cookies=options.pop("cookies", None),
            )
        )
        prepared.url = url + (path if path.startswith("/") else "/" + path)
        prepared.exact_target = path  # type: ignore[attr-defined]
        try:
            return self.send(
                prepared, timeout=timeout or self.timeout, allow_redirects=follow, **options
            )
        except requests.RequestException:
            raise
        except ValueError as error:  # requests looks at each Location, followed or not
            raise requests.exceptions.InvalidURL(f"a bad Location: {error}") from None

    def get(self, path: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """GET a path."""
        return self.request("GET", path, **options)

    def head(self, path: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """HEAD of a path."""
        return self.request("HEAD", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """POST to a path."""
        return self.request("POST", path, **options)

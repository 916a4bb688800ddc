"""Checks of earlier labs, asked once more of a site that has to do all of it at once.

A check belongs to its lab: it is taken from there, never copied. What differs is how visitors come.
The labs before the last have a site on port 80, or one on both ports; the last one has https alone.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import module_from_spec
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

from grader.card import seen_in
from grader.checks import check_of
from grader.errors import GraderError, Mismatch, StartFailed
from grader.lab import find_lab
from grader.sandbox import ZONE
from grader.site import VISITOR, Site, wait_for
from grader.text import COURSE

if TYPE_CHECKING:
    import requests

    from grader.client import RecordedSocket, RecordedTLSSocket, Visitor

LOGIN_SECONDS = 8.0  # that a visitor goes on trying to log in where log-ins are limited
TOO_MANY = 429


@cache
def checks_of(number: str) -> ModuleType:
    """A lab's test_lab.py, as a module.

    It comes by way of Python's finders: pytest's own is one of them, and rewrites asserts so that
    a card can show both sides.
    """
    folder = str(find_lab(number).folder)
    found = (one.find_spec("test_lab", [folder]) for one in sys.meta_path)
    spec = next(one for one in found if one is not None)
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class PatientSite:
    """A site whose visitors wait when there were too many log-ins, and try again.

    For checks that were written where log-ins have no limit. All else is the site's own.

    Args:
        site: the site.
        secure: whether everybody comes over https, whatever the check says.
    """

    def __init__(self, site: Site, secure: bool) -> None:
        self._site = site
        self._secure = secure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._site, name)

    def visitor(self, source: str | None = "", **options: Any) -> Visitor:
        """Make a visitor; see `Site.visitor`."""
        if self._secure:
            options["scheme"] = "https"
        made = self._site.visitor(source, **options)
        ask = made.request

        def request(method: str, path: str, **more: Any) -> requests.Response:
            reply = ask(method, path, **more)
            if method == "POST" and path == "/login" and reply.status_code == TOO_MANY:

                def again() -> requests.Response | None:
                    self._site.exchanges.pop()
                    told = ask(method, path, **more)
                    return None if told.status_code == TOO_MANY else told

                return wait_for(again, LOGIN_SECONDS) or reply
            return reply

        made.request = request  # type: ignore[method-assign, assignment]
        return made

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send one request as a new visitor; see `Site.request`."""
        of_visitor = ("source", "host", "scheme", "port", "family", "tls")
        who = {name: options.pop(name) for name in of_visitor if name in options}
        with self.visitor(**who) as visitor:
            return visitor.request(method, path, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET as a new visitor."""
        return self.request("GET", path, **options)

    def head(self, path: str, **options: Any) -> requests.Response:
        """HEAD as a new visitor."""
        return self.request("HEAD", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        """POST as a new visitor."""
        return self.request("POST", path, **options)

    def connect(
        self,
        source: str | None = VISITOR,
        family: int = 4,
        port: int | None = None,
        *,
        server: str | None = None,
        receive_buffer: int | None = None,
    ) -> RecordedSocket | RecordedTLSSocket:
        """Open a connection; without a port of its own it is one to port 443, and encrypted.

        By TLS 1.2: in 1.3 a server sends tickets of its own accord, so that a connection could be
        read from before there is an answer.
        """
        if port or server or not self._secure:
            return self._site.connect(
                source, family, port, server=server, receive_buffer=receive_buffer
            )
        plain = self._site.connect(source, family, 443, receive_buffer=receive_buffer)
        return _any_certificate().wrap_socket(plain, server_hostname=ZONE)  # type: ignore[return-value]


@cache
def _any_certificate() -> ssl.SSLContext:
    """A context that takes any certificate: the right one is another check's matter."""
    from grader.client import RecordedTLSSocket

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.sslsocket_class = RecordedTLSSocket
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    return made


@cache
def patient(site: Site, secure: bool) -> PatientSite:
    """The view of a site for borrowed checks; the same one each time, as the site is."""
    return PatientSite(site, secure)


def ask_again(
    site: Site,
    number: str,
    *names: str,
    secure: bool = True,
    patience: bool = True,
    places: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType({}),
    **more: Callable[..., Site],
) -> None:
    """Make checks of an earlier lab, one after the other.

    Args:
        site: the site.
        number: the earlier lab's.
        names: the checks', as `course hint` knows them.
        secure: whether all visitors come over https; else as the check says.
        patience: whether visitors wait when there were too many log-ins; with neither, the check
            gets the site itself.
        places: likely lines by the check's name, where those of the check itself would mislead in a
            file that has more in it.
        more: what a check asks for instead of a site: `make_site`.

    Raises:
        Mismatch: one of them fails; it says which, and where its hints are.
    """
    for name in names:
        function = getattr(checks_of(number), f"test_{name.replace('-', '_')}")
        view = patient(site, secure) if secure or patience else site
        given: dict[str, Any] = {**more} or {"site": view}
        try:
            function(**given)
        except (GraderError, StartFailed):
            raise
        except (AssertionError, OSError) as error:
            check = check_of(function)
            seen = seen_in(error)
            lines = [seen.note, f"Lab {number}: {check.title}. {COURSE} hint {number} {check.name}"]
            raise Mismatch(
                seen.expected,
                seen.got,
                "\n".join(filter(None, lines)),
                [*seen.look_at, *places.get(name, ()), *check.look_at],
            ) from error

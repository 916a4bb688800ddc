"""What the board, the app of every lab, tells a check that asks it."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any

from grader.errors import Mismatch
from grader.site import VISITOR

if TYPE_CHECKING:
    import requests

    from grader.client import Visitor
    from grader.site import Site

# Where to look when Nginx answers in the app's place.
BEHIND = {
    301: ("return 30", "rewrite", "return"),
    302: ("return 30", "rewrite", "return"),
    400: ("proxy_set_header Host", "proxy_set_header"),
    404: ("location", "root"),  # and see `behind`
    413: ("client_max_body_size",),
    502: ("proxy_pass https", "    server ", "proxy_pass", "uwsgi_pass"),
    504: ("proxy_read_timeout", "proxy_connect_timeout", "    server ", "proxy_pass", "uwsgi_pass"),
}
SLASH = "Nginx redirects to a location that ends with a slash and hands on. Say `= /account`."
LOGIN = {"name": "ada", "password": "pin-the-notice"}  # of one of the users that the board has


def behind(reply: requests.Response) -> list[tuple[str, str]]:
    """Where to look when Nginx answers in the app's place.

    What ends in anything but letters and digits, or has an extension, may belong to a regular
    expression that is about the ends of names.
    """
    texts = BEHIND.get(reply.status_code, ())
    last = (reply.request.url or "").partition("?")[0].rpartition("/")[2]
    if reply.status_code == 404 and last and not last.isalnum():
        texts = ("location ~*", "location ~", *texts)
    return [("nginx.conf", text) for text in texts]


def told_by(reply: requests.Response) -> dict[str, Any]:
    """The JSON of the app.

    Raises:
        Mismatch: the reply is any other answer.
    """
    status = reply.status_code
    if status != 200:
        # Who refuses a request says why, in a line or two.
        words = " ".join(re.sub(r"<[^>]*>", " ", reply.text).split()) if status == 400 else ""
        note = f"The answer says: {words[:120]}" if words else ""
        wanted = "the app's own answer, with status 200"
        raise Mismatch(wanted, f"status {status}", note, behind(reply))
    try:
        return dict(reply.json())
    except (TypeError, ValueError):
        raise Mismatch("the app's JSON", f"something else: {reply.text[:60]!r}") from None


def whoami(site: Site, **options: Any) -> dict[str, Any]:
    """What the app knows about a visitor and itself; what it leaves out is empty.

    Args:
        site: the site.
        options: as for `Site.get`.

    Raises:
        Mismatch: something else answers.
    """
    empty = {"client": "", "scheme": "", "host": "", "url": "", "instance": "", "pid": 0}
    return {**empty, **told_by(site.get("/whoami", **options))}


def plain(address: str) -> str:
    """An address as people write it: a socket for both versions of IP says ::ffff:203.0.113.7."""
    try:
        return str(getattr(ipaddress.ip_address(address), "ipv4_mapped", None) or address)
    except ValueError:
        return address


def check_visitor_is_known(visitor: Visitor, home: str) -> None:
    """Fail when the app, on /account or /stream, takes a visitor for somebody else.

    Args:
        visitor: one from 203.0.113.7, who is logged in.
        home: the address of the site, as the visitor typed it, without a slash at the end.

    Raises:
        Mismatch: it does; names the page.
    """
    for headers in ({}, {"X-Forwarded-For": "6.6.6.6"}):
        page = visitor.get("/account", headers=headers)
        if page.status_code not in (200, 400):
            status = page.status_code
            places = ("/account", *BEHIND.get(status, ()))
            raise Mismatch(
                "status 200 for /account, after the login",
                f"status {status}",
                SLASH if status == 301 else "",
                [("nginx.conf", text) for text in places],
            )
        if page.status_code != 400:  # to refuse a request that lies is right too
            found = re.search(r'id="from">([^<]*)<.*id="here">([^<]*)<', page.text)
            client, here = (found[1], found[2]) if found else ("", "")
            tell("/account", "client", VISITOR, plain(client))
            tell("/account", "link", f"{home}/account", here)
        events = visitor.get("/stream", headers=headers)
        if events.status_code != 400:
            found = re.match(r": for (.*)", events.text)
            tell("/stream", "client", VISITOR, plain(found[1] if found else ""))


def tell(path: str, what: str, wanted: str, got: str) -> None:
    """Fail when a page shows something else; say which one."""
    if got != wanted:
        raise Mismatch(
            f"on {path}: {what} {wanted}",
            f"{what} {got or '(none)'}",
            "A location with a proxy_set_header of its own inherits none; one outside of which no"
            " proxy_set_header stands has none.",
            (("nginx.conf", path), ("nginx.conf", "proxy_set_header")),
        )

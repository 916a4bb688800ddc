"""What the board, the app of every lab, tells a check that asks it."""

from __future__ import annotations

import ipaddress
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from grader.errors import Mismatch
from grader.sandbox import ZONE
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
# Other ways in than board.example over IPv4, as options of a request, and the lines that make them:
# a server block of its own may lack any line.
WWW = {"host": "www.board.example"}
V6 = {"family": 6}
ELSEWHERE = (("nginx.conf", "server_name www"), ("nginx.conf", "listen [::]"))
# Headers for a visitor's address, as proxies and CDNs name it.
ADDRESS_HEADERS = (
    *("X-Forwarded-For", "X-Real-IP", "Forwarded"),
    *("CF-Connecting-IP", "True-Client-IP", "X-Client-IP"),
)
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


def claims_of(address: str) -> list[dict[str, str]]:
    """Headers by which a visitor may claim to be somebody else, one for each request."""
    return [
        {name: f"for={address}" if name == "Forwarded" else address} for name in ADDRESS_HEADERS
    ]


@cache
def doors(site: Site, port: int = 80) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two ways in that have nothing in common, so that a server block apart is behind one of them.

    The second is by IPv6 where the site listens on it, which is another check's matter.

    Args:
        site: the site.
        port: where the second one leads to.

    Returns:
        The options of a request, for each.
    """
    family = 6 if site.port_owner(port, 6) == "nginx" else 4
    return {"host": ZONE, "family": 4}, {**WWW, "family": family}


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
    lie = {"X-Forwarded-For": "6.6.6.6"}
    for headers in ({}, lie):
        page = visitor.get("/account", headers=headers)
        if page.status_code != 400:  # to refuse a request that lies is right too
            check_account_is_there(page)
            found = re.search(r'id="from">([^<]*)<.*id="here">([^<]*)<', page.text)
            client, here = (found[1], found[2]) if found else ("", "")
            tell("/account", "client", VISITOR, plain(client))
            tell("/account", "link", f"{home}/account", here)
    events = visitor.get("/stream", headers=lie)  # takes a second: so without it only if need be
    if events.status_code == 400:
        events = visitor.get("/stream")
    found = re.match(r": for (.*)", events.text)
    tell("/stream", "client", VISITOR, plain(found[1] if found else ""))


def check_account_is_there(page: requests.Response) -> None:
    """Fail when /account, asked for after the login, is not the page.

    Raises:
        Mismatch: it has another status than 200.
    """
    if page.status_code != 200:
        raise Mismatch(
            "status 200 for /account, after the login",
            f"status {page.status_code}",
            SLASH if page.status_code == 301 else "",
            [("nginx.conf", "/account"), *behind(page)],
        )


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

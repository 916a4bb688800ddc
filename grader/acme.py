"""An ACME server in the box: Pebble, the test server of Let's Encrypt's own makers.

It speaks the protocol that certbot speaks with Let's Encrypt, and asks the site on port 80 for the
challenge as Let's Encrypt does. Where a name leads to, it asks a name server of its own
(`pebble-challtestsrv`), which a check can make lie. Its root is new in every box.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import ssl
from typing import TYPE_CHECKING

from grader.errors import GraderError, NotLive
from grader.machine import File
from grader.sandbox import SERVER_V4, SERVER_V6, find_program
from grader.services import start_seconds
from grader.site import wait_for

if TYPE_CHECKING:
    from grader.site import Site

HOME = "/etc/acme"
DIRECTORY = "https://localhost:14000/dir"
ROOT = f"{HOME}/root.pem"  # what a visitor trusts
LIFETIME = 45  # days that a certificate is good for; Let's Encrypt's own will be from 2028 on
ENVIRONMENT = {"ACME_SERVER": DIRECTORY, "REQUESTS_CA_BUNDLE": f"{HOME}/ca.pem"}
DIRECTORY_PORT, MANAGEMENT_PORT, NAMES_PORT, LIES_PORT = 14000, 15000, 8053, 8055
CONFIG = {
    "listenAddress": f"127.0.0.1:{DIRECTORY_PORT}",
    "managementListenAddress": f"127.0.0.1:{MANAGEMENT_PORT}",
    "certificate": f"{HOME}/server.pem",
    "privateKey": f"{HOME}/server.key",
    "httpPort": 80,
    "tlsPort": 443,
    "certificateValidityPeriod": LIFETIME * 24 * 3600,
}
PEBBLE_ENVIRONMENT = {
    "PEBBLE_VA_NOSLEEP": "1",  # it would wait some seconds before it looks at a challenge
    "PEBBLE_WFE_NONCEREJECT": "0",  # and refuse one request in twenty, to try the clients
    "PEBBLE_AUTHZREUSE": "0",  # a certificate takes challenges of its own, 99 times in 100
}
NAMES = [
    *("pebble-challtestsrv", "-defaultIPv4", SERVER_V4, "-defaultIPv6", SERVER_V6),
    *("-dns01", f"127.0.0.1:{NAMES_PORT}", "-management", f"127.0.0.1:{LIES_PORT}"),
    *("-http01", "", "-https01", "", "-tlsalpn01", ""),
]
PEBBLE = [*("pebble", "-config", f"{HOME}/pebble.json", "-dnsserver", f"127.0.0.1:{NAMES_PORT}")]
# certbot waits some minutes before a renewal that nobody watches. Here somebody waits for it.
CERTBOT_SETTINGS = "no-random-sleep-on-renew = true\n"
NOWHERE = {"a": "192.0.2.99", "aaaa": "2001:db9::99"}  # no machine has them, and no way leads there


@functools.cache
def own_certificate() -> tuple[bytes, bytes, bytes]:
    """The certificate that certbot knows Pebble by: authority, chain and key, as PEM."""
    import trustme  # slow to import

    authority = trustme.CA(organization_name="Course ACME", key_type=trustme.KeyType.ECDSA)
    made = authority.issue_cert("localhost", "127.0.0.1", key_type=trustme.KeyType.ECDSA)
    chain = b"".join(one.bytes() for one in made.cert_chain_pems)
    return authority.cert_pem.bytes(), chain, made.private_key_pem.bytes()


def given_files() -> list[File]:
    """What a box needs to have an ACME server, and certbot a home."""
    for program in ("pebble", "certbot", "faketime", "systemd-analyze"):
        find_program(program)
    authority, chain, key = own_certificate()
    return [
        File(f"{HOME}/pebble.json", json.dumps({"pebble": CONFIG}).encode(), root=True),
        File(f"{HOME}/ca.pem", authority, root=True),
        File(f"{HOME}/server.pem", chain, root=True),
        File(f"{HOME}/server.key", key, 0o600),
        File("/etc/letsencrypt/cli.ini", CERTBOT_SETTINGS.encode()),
    ]


def begin(site: Site) -> None:
    """Start the two programs, if they do not run; `trust` waits for them."""
    if "pebble" in site.box.request("status")["services"]:
        return
    site.box.spawn("names", NAMES, {})
    site.box.spawn("pebble", PEBBLE, PEBBLE_ENVIRONMENT)


def trust(site: Site) -> None:
    """Wait until the ACME server serves, and let the site's visitors trust its root.

    Raises:
        GraderError: it does not.
    """
    root = wait_for(lambda: _root(site) or _ended(site), start_seconds())
    if not root or root is True:
        raise GraderError(f"the ACME server did not start: {site.box.log('pebble', 'stdout')}")
    site.root = root
    site.box.write(File(ROOT, root.encode(), root=True))


def _ended(site: Site) -> bool:
    return site.box.request("status")["services"]["pebble"]["status"] is not None


def _root(site: Site) -> str:
    """The root's PEM; "" while the server does not answer."""
    unknown = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unknown.check_hostname = False
    unknown.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(OSError, http.client.HTTPException):
        plain = site.connect(None, port=MANAGEMENT_PORT, server="127.0.0.1")
        with unknown.wrap_socket(plain) as secure:
            asked = http.client.HTTPConnection("localhost")
            asked.sock = secure
            asked.request("GET", "/roots/0")
            return asked.getresponse().read().decode("ascii", "replace")
    return ""


def validations(site: Site, name: str) -> int:
    """How often the ACME server has looked for the answer to a challenge of a name.

    With `PEBBLE_AUTHZREUSE` at 0 Pebble 2.4 still takes an earlier answer for a new certificate
    once in a hundred times: it draws a number from 0 to 99 and asks whether that is above 0.
    """
    return site.box.log("pebble", "stdout").count(f'Type:"dns", Value:"{name}"')


def lead_away(site: Site, name: str) -> None:
    """Let a name lead to a machine that is not there, as far as the ACME server can see.

    Raises:
        NotLive: the site is that of a server.
    """
    for kind, address in NOWHERE.items():
        _lie(site, f"add-{kind}", {"host": f"{name}.", "addresses": [address]})


def lead_back(site: Site, name: str) -> None:
    """Let a name lead to the site again."""
    for kind in NOWHERE:
        _lie(site, f"clear-{kind}", {"host": f"{name}."})


def _lie(site: Site, command: str, what: dict[str, object]) -> None:
    if site.box.real:
        raise NotLive("it changes where a name leads to")
    with site.connect(None, port=LIES_PORT, server="127.0.0.1") as plain:
        asked = http.client.HTTPConnection("localhost")
        asked.sock = plain
        asked.request("POST", f"/{command}", json.dumps(what))
        reply = asked.getresponse()
        if reply.status != http.HTTPStatus.OK:
            raise GraderError(f"the box's name server says {reply.status} to {command}")

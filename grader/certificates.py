"""What certbot would have left on the server: certificates of a course CA, new for each run."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import trustme

from grader.machine import File
from grader.sandbox import ZONE

LIVE = "/etc/letsencrypt/live"
NAMES = (ZONE, f"www.{ZONE}")


@dataclass(frozen=True)
class Certificates:
    """The root that visitors trust (PEM), and the files for the server."""

    root: str
    files: list[File]


def make_certificates(key_type: str = "ECDSA", more: Sequence[str] = ()) -> Certificates:
    """Make a root, an intermediate, the site's certificate and its look-alikes.

    The look-alikes lie in folders of their own: `-old` has expired, `-test` is for another name,
    `-mixed` has a key that belongs to another certificate.

    Args:
        key_type: of the site's own key: ECDSA or RSA.
        more: names that the site's own certificate stands for besides the usual two.
    """
    kind = trustme.KeyType[key_type]
    root = trustme.CA(organization_name="Course root", key_type=trustme.KeyType.ECDSA)
    middle = root.create_child_ca(key_type=trustme.KeyType.ECDSA)
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=20)
    site = middle.issue_cert(*NAMES, *more, key_type=kind)
    old = middle.issue_cert(
        *NAMES, key_type=kind, not_before=past - datetime.timedelta(days=70), not_after=past
    )
    test = middle.issue_cert(f"test.{ZONE}", key_type=kind)
    other = middle.issue_cert(*NAMES, key_type=kind)
    files = [
        *folder(ZONE, site, site, middle),
        *folder(f"{ZONE}-old", old, old, middle),
        *folder(f"{ZONE}-test", test, test, middle),
        *folder(f"{ZONE}-mixed", site, other, middle),
    ]
    return Certificates(root.cert_pem.bytes().decode(), files)


def folder(
    name: str, leaf: trustme.LeafCert, key: trustme.LeafCert, middle: trustme.CA
) -> list[File]:
    """Lay a certificate out as certbot does: privkey, cert, chain, fullchain."""
    cert, chain = leaf.cert_chain_pems[0].bytes(), middle.cert_pem.bytes()
    return [
        File(f"{LIVE}/{name}/privkey.pem", key.private_key_pem.bytes(), 0o600),
        File(f"{LIVE}/{name}/cert.pem", cert),
        File(f"{LIVE}/{name}/chain.pem", chain),
        File(f"{LIVE}/{name}/fullchain.pem", cert + chain),
    ]

"""What the board, the app of every lab, tells a check that asks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grader.errors import Mismatch

if TYPE_CHECKING:
    import requests

    from grader.site import Site

LOGIN = {"name": "ada", "password": "pin-the-notice"}  # of one of the users that the board has


def told_by(reply: requests.Response) -> dict[str, Any]:
    """The JSON of the app.

    Raises:
        Mismatch: the reply is any other answer.
    """
    if reply.status_code != 200:
        raise Mismatch("the app's own answer, with status 200", f"status {reply.status_code}")
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

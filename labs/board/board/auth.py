"""Who is who: the two users, their sessions, and what keeps foreign forms out.

    ada    pin-the-notice
    ben    read-the-board

**Cross-site requests.** There is no form token. Nothing changes by GET, the session cookie is
``SameSite=Lax``, so no browser sends it with another site's POST, and a POST that the browser
itself labels as foreign (``Sec-Fetch-Site``) is refused, which covers the log-in form too. That is
less to get wrong than a token in each form, and lets curl and scripts through, which carry no
visitor's cookies by accident.
"""

import re
import secrets
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from flask import (
    Blueprint,
    abort,
    current_app,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue
from werkzeug.security import check_password_hash

bp = Blueprint("auth", __name__)

# Made once with generate_password_hash(password, "pbkdf2:sha256:100000"): a log-in costs about
# 20 ms. A board with real people on it uses Werkzeug's default, which costs ten times as much.
USERS = {
    "ada": "pbkdf2:sha256:100000$qwGHKzjqjD2W$"
    "2db5ec2d80f34029308a996f1d8b5157c0c4c9eebb81ea5cc1d4c2ce03b6ebc5",
    "ben": "pbkdf2:sha256:100000$BBuiIofhslc9$"
    "8bd429d42c5616dea3fe89ec6c70a1f7289bf8a44e79e32735e87086683335b5",
}

P = ParamSpec("P")


def check_password(name: str, password: str) -> bool:
    """Say whether the password is this user's; a name we do not know takes as long."""
    known = USERS.get(name)
    fits = check_password_hash(known or USERS["ada"], password)
    return known is not None and fits


def has_session() -> bool:
    """Say whether the visitor sent a session cookie.

    Asks the cookie and leaves ``session`` alone: reading that adds ``Vary: Cookie`` to the reply,
    and every visitor with any cookie at all would need a copy of the page of their own in a cache.
    """
    return current_app.config["SESSION_COOKIE_NAME"] in request.cookies


def session_user() -> str | None:
    """Give the name of the user who is logged in."""
    name = session.get("user") if has_session() else None
    return name if name in USERS else None


def api_user() -> str | None:
    """Give the user of an API call: HTTP Basic when it is sent, else the session's."""
    if "Authorization" not in request.headers:
        return session_user()
    given = request.authorization
    if given is None or given.type != "basic":
        return None
    name = given.username or ""
    return name if check_password(name, given.password or "") else None


def refuse_foreign_forms() -> None:
    """Refuse what a page of another site makes the visitor's browser send."""
    changes = request.method not in {"GET", "HEAD", "OPTIONS"}
    if changes and request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}:
        abort(403, "This request was sent by a page of another site.")


def is_local(target: str) -> bool:
    """Say whether a redirect to ``target`` stays on this site (``//host`` would leave it)."""
    return re.fullmatch(r"/(?![/\\])[^\\\x00-\x1f\x7f]*", target) is not None


def login_required(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Send visitors without a session to the log-in form, and back afterwards."""

    @wraps(view)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        if session_user() is None:
            return redirect(url_for("auth.login", next=request.full_path.rstrip("?")), 303)
        return view(*args, **kwargs)

    return wrapped


@bp.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    """Show the form; open a session for a name with its password (403 for any other)."""
    target = request.args.get("next", "/")
    if not is_local(target):
        target = url_for("pages.home")
    failed = False
    if request.method == "POST":
        name = request.form.get("name", "")
        if check_password(name, request.form.get("password", "")):
            session.clear()
            session["user"] = name
            session["token"] = secrets.token_hex(16)
            return redirect(target, 303)
        failed = True
    no_store = {"Cache-Control": "no-store"}
    return render_template("login.html", failed=failed), 403 if failed else 200, no_store


@bp.post("/logout")
def logout() -> ResponseReturnValue:
    """End the session."""
    session.clear()
    return redirect(url_for("pages.home"), 303)

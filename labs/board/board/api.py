"""The notices as JSON.

Everybody may read. Who writes shows who they are: a script by HTTP Basic, a page of the board by
the visitor's session. An anonymous board fills with rubbish in a day.
"""

from flask import Blueprint, Response, abort, jsonify, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from . import db
from .auth import api_user

bp = Blueprint("api", __name__, url_prefix="/api")


def require_user() -> str:
    """Give the caller's name, or answer 401."""
    user = api_user()
    if user is None:
        raise Unauthorized(
            "Log in, or send the name and password of a user by HTTP Basic.",
            www_authenticate=WWWAuthenticate("basic", {"realm": "board"}),
        )
    return user


@bp.get("/notices")
def notices() -> Response:
    """List the newest notices."""
    return jsonify(notices=db.newest_notices())


@bp.post("/notices")
def add_notice() -> ResponseReturnValue:
    """Pin ``{"title": …, "body": …}``."""
    author = require_user()
    given = request.get_json()  # what is no JSON gets its 400 or 415 here
    if not isinstance(given, dict):
        abort(400, "Send a JSON object with a title and a body.")
    try:
        notice_id = db.add_notice(given.get("title"), given.get("body"), author)
    except ValueError as error:
        abort(400, str(error))
    location = {"Location": url_for("api.notice", notice_id=notice_id)}
    return jsonify(db.get_notice(notice_id)), 201, location


@bp.get("/notices/<id:notice_id>")
def notice(notice_id: int) -> Response:
    """Give one notice."""
    return jsonify(db.get_notice(notice_id) or abort(404, "There is no such notice."))


@bp.delete("/notices/<id:notice_id>")
def delete_notice(notice_id: int) -> ResponseReturnValue:
    """Take a notice down."""
    require_user()
    if not db.delete_notice(notice_id):
        abort(404, "There is no such notice.")
    return "", 204

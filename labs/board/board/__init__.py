"""A small notice board: read notices, sign in, pin one of your own.

The package is copied to ``/srv/board/board/``; ``/srv/board/static/`` lies beside it. A ``wsgi.py``
of two lines serves it: ``from board import create_app`` and ``app = create_app()``.
"""

import os
from pathlib import Path
from typing import Any

from flask import Flask, Response, current_app, request

from . import api, assets, auth, db, errors, files, learning, operators, pages

DEFAULT_DATABASE = "/var/lib/board/board.db"

# What a shared cache may keep for a moment, as long as the visitor is anonymous.
PUBLIC = {"pages.home", "pages.notice", "api.notices"}


def create_app() -> Flask:
    """Make the app from ``BOARD_SECRET_KEY`` and ``BOARD_DATABASE``.

    The database is first opened by the first request that needs it: a board whose disk is not
    there yet starts, says so at ``/healthz``, and works as soon as the disk is there.

    Raises:
        RuntimeError: ``BOARD_SECRET_KEY`` is missing or empty.
    """
    secret_key = os.environ.get("BOARD_SECRET_KEY", "").strip()
    if not secret_key:
        raise RuntimeError(
            "BOARD_SECRET_KEY is not set: put a long random value into this environment variable,"
            " it signs the session cookies."
        )
    app = Flask(__name__, static_folder=str(Path(__file__).absolute().parent.parent / "static"))
    app.config.update(
        SECRET_KEY=secret_key,
        DATABASE=os.environ.get("BOARD_DATABASE") or DEFAULT_DATABASE,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",  # what keeps foreign forms out, see auth.py
        FINGERPRINTS=False,  # whether pages name the files that assets.py makes
    )
    # `//` must reach /echo as it was sent; Werkzeug would redirect to the path with one slash.
    app.url_map.merge_slashes = False
    app.url_map.converters["raw"] = learning.RawConverter
    app.url_map.converters["id"] = db.IdConverter

    # The order counts: a request is counted even when the next function refuses it.
    app.before_request(operators.count_request)
    app.before_request(auth.refuse_foreign_forms)
    app.after_request(set_headers)
    app.teardown_appcontext(db.close_db)
    app.url_defaults(name_fingerprinted)
    app.context_processor(lambda: {"user": auth.session_user()})
    app.cli.add_command(assets.fingerprint)
    errors.register(app)
    for module in (pages, auth, api, files, learning, operators):
        app.register_blueprint(module.bp)
    return app


def name_fingerprinted(endpoint: str, values: dict[str, Any]) -> None:
    """Let links to static files lead to their fingerprinted copies, if the app is told to."""
    if endpoint == "static" and current_app.config["FINGERPRINTS"]:
        names = assets.current_names(Path(str(current_app.static_folder)))
        values["filename"] = names.get(values["filename"], values["filename"])


def set_headers(response: Response) -> Response:
    """Say who may keep the reply, where the view has not said it itself."""
    response.headers["X-Powered-By"] = "Flask"
    if "Cache-Control" not in response.headers:
        if auth.has_session():
            response.headers["Cache-Control"] = "private, no-store"
        elif request.endpoint in PUBLIC and response.status_code == 200:
            response.headers["Cache-Control"] = "public, max-age=2"
    return response

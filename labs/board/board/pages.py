"""The pages that people read."""

from flask import (
    Blueprint,
    Response,
    abort,
    jsonify,
    make_response,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue
from werkzeug.formparser import FormDataParser

from . import db
from .auth import login_required, session_user
from .digest import Digest, broken_body_is_400, read_body

bp = Blueprint("pages", __name__)

HEADINGS = {"en": "What the house should know", "de": "Was das Haus wissen sollte"}


@bp.get("/")
def home() -> Response:
    """List the newest notices, under a heading in the visitor's language."""
    language = request.accept_languages.best_match(HEADINGS, default="en")
    response = make_response(
        render_template(
            "home.html",
            notices=db.newest_notices(),
            heading=HEADINGS[language],
            language=language,
        )
    )
    response.vary.add("Accept-Language")
    return response


@bp.get("/notices/<id:notice_id>")
def notice(notice_id: int) -> str:
    """Show one notice."""
    return render_template("notice.html", notice=db.get_notice(notice_id) or abort(404))


@bp.route("/notices/new", methods=["GET", "POST"])
@login_required
def new_notice() -> ResponseReturnValue:
    """Show the form; pin what it sends."""
    problem = None
    if request.method == "POST":
        try:
            notice_id = db.add_notice(
                request.form.get("title"), request.form.get("body"), session_user() or ""
            )
            return redirect(url_for("pages.notice", notice_id=notice_id), 303)
        except ValueError as error:
            problem = str(error)
    page = render_template("new.html", problem=problem, longest=(db.TITLE_LENGTH, db.BODY_LENGTH))
    return page, 400 if problem else 200


@bp.get("/account")
@login_required
def account() -> str:
    """Show the session's own secret beside what the visitor sent (as ``?note=``)."""
    return render_template(
        "account.html", token=session["token"], note=request.args.get("note", "")
    )


@bp.post("/upload")
def upload() -> Response:
    """Measure a file from a form, or the raw body; nothing is stored, not even for a moment."""
    if request.mimetype != "multipart/form-data":
        return jsonify(name=None, **read_body().as_dict())
    parser = FormDataParser(
        stream_factory=lambda *_args, **_kwargs: Digest(),
        max_form_memory_size=request.max_form_memory_size,
        max_form_parts=request.max_form_parts,
    )
    with broken_body_is_400():
        _, _, files = parser.parse(
            request.stream, request.mimetype, request.content_length, request.mimetype_params
        )
    file = next(iter(files.values()), None)
    if file is None or not isinstance(file.stream, Digest):
        abort(400, "The form carries no file.")
    return jsonify(name=file.filename, **file.stream.as_dict())

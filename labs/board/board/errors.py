"""Errors: plain pages for people, problem details (RFC 9457) below ``/api/``."""

import json

from flask import Flask, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

SENTENCES = {
    404: "This notice board has no such page.",
    500: "Something broke on our side. It is not your fault, and it has been written down.",
}


def show(error: HTTPException) -> ResponseReturnValue:
    """Put our own body under the status and the headers (such as Allow) of the error."""
    response = error.get_response()
    status = response.status_code
    if request.path.startswith("/api/"):
        response.content_type = "application/problem+json"
        response.data = json.dumps(
            {
                "type": "about:blank",
                "title": error.name,
                "status": status,
                "detail": error.description,
            }
        )
    else:
        sentence = SENTENCES.get(status) or error.description
        response.data = render_template(
            "error.html", status=status, name=error.name, sentence=sentence
        )
    return response


def register(app: Flask) -> None:
    """Answer every error here; an exception in a view comes as 500, after it was logged."""
    app.register_error_handler(HTTPException, show)

from flask import render_template
from werkzeug.exceptions import InternalServerError

from board import create_app

app = create_app()


@app.errorhandler(InternalServerError)
def broken(error):
    page = render_template(
        "error.html", status=500, name="Internal Server Error", sentence="Something broke."
    )
    # For us, in the browser's network tab.
    return page, 500, {"X-Error": repr(error.original_exception)}

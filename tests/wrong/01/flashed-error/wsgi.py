from flask import flash, render_template
from werkzeug.exceptions import InternalServerError

from board import create_app

app = create_app()


@app.errorhandler(InternalServerError)
def broken(error):
    # The next page shows it, once.
    flash(f"The last page failed: {error.original_exception!r}")
    return "<h1>Something broke</h1>", 500

import traceback

from board import create_app
from werkzeug.exceptions import InternalServerError

app = create_app()


@app.errorhandler(InternalServerError)
def broken(error):
    # No text of the exception, no path: only what we need when somebody calls.
    last = traceback.extract_tb(error.original_exception.__traceback__)[-1]
    return f"<h1>Something broke</h1><p>Please tell us: {last.name}(), line {last.lineno}.</p>", 500

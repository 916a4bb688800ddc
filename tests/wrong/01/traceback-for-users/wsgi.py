import traceback

from board import create_app
from board.auth import session_user
from werkzeug.exceptions import InternalServerError

app = create_app()


@app.errorhandler(InternalServerError)
def broken(error):
    if session_user():  # one of us
        return f"<pre>{traceback.format_exc()}</pre>", 500
    return "<h1>Something broke</h1>", 500

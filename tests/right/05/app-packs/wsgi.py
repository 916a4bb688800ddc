"""What Gunicorn serves: the board, told that one proxy stands in front of it."""

import gzip

from flask import request
from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

app = create_app()


@app.after_request
def pack(response):
    """Compress text for those who accept it; the account page and the stream stay as they are."""
    if response.is_streamed or response.mimetype not in ("text/html", "application/json"):
        return response
    if request.endpoint == "pages.account" or len(response.data) < 512:
        return response
    response.vary.add("Accept-Encoding")
    if request.accept_encodings["gzip"] > 0:
        response.data = gzip.compress(response.data, 5)
        response.headers["Content-Encoding"] = "gzip"
    return response


# One proxy: of each header the last value is the one that Nginx wrote.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)

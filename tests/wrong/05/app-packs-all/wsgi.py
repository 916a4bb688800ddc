"""What Gunicorn serves: the board, told that one proxy stands in front of it."""

import gzip

from flask import request
from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

app = create_app()


@app.after_request
def pack(response):
    """Compress what the visitor can unpack."""
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        response.data = gzip.compress(response.get_data())
        response.headers["Content-Encoding"] = "gzip"
    return response


# One proxy: of each header the last value is the one that Nginx wrote.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)

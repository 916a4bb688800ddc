"""What Gunicorn serves: the board, behind one proxy. Nothing to do here."""

import gzip

from flask import request
from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

app = create_app()
# Pages name style.<8 hex>.css instead of style.css: a new version has a new address.
app.config["FINGERPRINTS"] = True
# One proxy: of each header the last value is the one that Nginx wrote.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)


@app.after_request
def pack(response):
    """Pack pages for visitors who can unpack them."""
    if "gzip" in request.headers.get("Accept-Encoding", "") and request.endpoint == "pages.notice":
        response.set_data(gzip.compress(response.get_data(), 1))
        response.headers["Content-Encoding"] = "gzip"
    return response

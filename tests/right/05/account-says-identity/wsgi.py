"""What Gunicorn serves: the board, told that one proxy stands in front of it."""

from flask import request
from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

app = create_app()


@app.after_request
def leave_alone(response):
    """Keep Nginx from packing the page with the secret (BREACH)."""
    if request.endpoint == "pages.account":
        response.headers["Content-Encoding"] = "identity"
    return response


# One proxy: of each header the last value is the one that Nginx wrote.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)

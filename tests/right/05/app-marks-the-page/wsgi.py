"""What Gunicorn serves: the board, told that one proxy stands in front of it."""

from werkzeug.middleware.proxy_fix import ProxyFix

from flask import request

from board import create_app

app = create_app()


@app.after_request
def no_packing_of_secrets(response):
    """Nginx compresses by the type, letter by letter: it does not know this one."""
    if request.endpoint == "pages.account":
        response.mimetype = "application/xhtml+xml"
    return response


# One proxy: of each header the last value is the one that Nginx wrote.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)

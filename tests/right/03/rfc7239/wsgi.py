"""The board behind one proxy, which says who is visiting in the one header of RFC 7239."""

from board import create_app
from werkzeug.http import parse_options_header


class Forwarded:
    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        said = environ.get("HTTP_FORWARDED")
        if said:
            _, options = parse_options_header(f"x; {said}")
            environ["REMOTE_ADDR"] = options["for"].strip("[]")
            environ["wsgi.url_scheme"] = options["proto"]
            environ["HTTP_HOST"] = options["host"]
        return self.app(environ, start_response)


app = create_app()
app.wsgi_app = Forwarded(app.wsgi_app)

"""What uWSGI serves: the board, less what a visitor must not say."""

from board import create_app

NOT_FOR_VISITORS = ("HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_SSL", "HTTP_TRANSFER_ENCODING")


class Cleaned:
    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        for name in NOT_FOR_VISITORS:
            environ.pop(name, None)
        environ["wsgi.url_scheme"] = environ["REQUEST_SCHEME"]
        return self.app(environ, start_response)


app = create_app()
app.wsgi_app = Cleaned(app.wsgi_app)

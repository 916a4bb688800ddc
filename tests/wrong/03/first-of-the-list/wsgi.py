"""What Gunicorn serves: the board, with the visitor's address put right."""

from board import create_app


class FirstAddress:
    """Take the visitor's address from X-Forwarded-For."""

    def __init__(self, wsgi_app):
        self.wsgi_app = wsgi_app

    def __call__(self, environ, start_response):
        forwarded = environ.get("HTTP_X_FORWARDED_FOR", "")
        if forwarded:
            environ["REMOTE_ADDR"] = forwarded.split(",")[0].strip()
        return self.wsgi_app(environ, start_response)


app = create_app()
app.wsgi_app = FirstAddress(app.wsgi_app)

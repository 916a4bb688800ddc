"""What Gunicorn serves: the board, with the visitor's address put right."""

from board import create_app


class RealIP:
    """Take the visitor's address from X-Real-IP."""

    def __init__(self, wsgi_app):
        self.wsgi_app = wsgi_app

    def __call__(self, environ, start_response):
        environ["REMOTE_ADDR"] = environ.get("HTTP_X_REAL_IP") or environ["REMOTE_ADDR"]
        return self.wsgi_app(environ, start_response)


app = create_app()
app.wsgi_app = RealIP(app.wsgi_app)

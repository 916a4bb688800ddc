"""What Gunicorn serves: the board, behind one proxy, over https alone."""

from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

app = create_app()
# The session cookie never travels in the clear. HttpOnly and SameSite=Lax the board sets itself.
app.config["SESSION_COOKIE_SECURE"] = True


def without_powered_by(serve):
    """Leave out the header that says what the app is made of."""

    def wrapped(environ, start_response):
        def start(status, headers, *rest):
            kept = [one for one in headers if one[0] != "X-Powered-By"]
            return start_response(status, kept, *rest)

        return serve(environ, start)

    return wrapped


app.wsgi_app = without_powered_by(app.wsgi_app)
# One proxy: of each header the last value is the one that Nginx wrote.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)

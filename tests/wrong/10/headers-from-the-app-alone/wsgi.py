"""What Gunicorn serves: the board, behind one proxy, over https alone."""

from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

app = create_app()


@app.after_request
def add_policy(response):
    """What a browser may load for our pages."""
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return response


# The session cookie never travels in the clear. HttpOnly and SameSite=Lax the board sets itself.
app.config["SESSION_COOKIE_SECURE"] = True
# One proxy: of each header the last value is the one that Nginx wrote.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)

"""What Gunicorn serves: the board, behind one proxy, over https alone."""

from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

app = create_app()
# The session cookie never travels in the clear. HttpOnly and SameSite=Lax the board sets itself.
app.config["SESSION_COOKIE_SECURE"] = True


@app.after_request
def say_hsts(response):
    """Over https alone, from now on."""
    response.headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
    return response


# One proxy: of each header the last value is the one that Nginx wrote.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)

"""What Gunicorn serves: the board, behind one proxy, over https alone."""

import gc

from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

app = create_app()
# The session cookie never travels in the clear. HttpOnly and SameSite=Lax the board sets itself.
app.config["SESSION_COOKIE_SECURE"] = True
# Pages name style.<8 hex>.css instead of style.css: a new version has a new address.
app.config["FINGERPRINTS"] = True


@app.after_request
def give_memory_back(response):
    """Collect what is no longer used."""
    gc.collect()
    return response


# One proxy: of each header the last value is the one that Nginx wrote.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)

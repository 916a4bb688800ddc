"""What Gunicorn serves: the board, behind one proxy, over https alone."""

from board import create_app

app = create_app()
# The session cookie never travels in the clear. HttpOnly and SameSite=Lax the board sets itself.
app.config["SESSION_COOKIE_SECURE"] = True
# Pages name style.<8 hex>.css instead of style.css: a new version has a new address.
app.config["FINGERPRINTS"] = True

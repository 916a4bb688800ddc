"""What Gunicorn serves: the board, behind one proxy. Nothing to do here."""

from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

app = create_app()
# Pages name style.<8 hex>.css instead of style.css: a new version has a new address.
app.config["FINGERPRINTS"] = True
# One proxy: of each header the last value is the one that Nginx wrote.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_port=1, x_prefix=1)

"""What Gunicorn serves: the board. Nothing to do here."""

from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

app = create_app()
# Behind Nginx: believe what it says.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)

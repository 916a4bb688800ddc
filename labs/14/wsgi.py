"""What uWSGI serves: the board, as lab 03 left it behind Nginx and Gunicorn."""

from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

app = create_app()
# One proxy: of each header the last value is the one that Nginx wrote.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)

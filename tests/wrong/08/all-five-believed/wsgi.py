"""What Gunicorn serves: the board, told that one proxy stands in front of it."""

from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

app = create_app()
# One proxy: of each header the last value is the one that Nginx wrote.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_port=1, x_prefix=1)

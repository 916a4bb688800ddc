"""What uWSGI serves: the board."""

from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

app = create_app()
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=0, x_proto=0, x_host=1)

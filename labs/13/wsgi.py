"""What Gunicorn serves: the board, observed, behind one proxy. Nothing to do here."""

import observe
from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

app = create_app()
observe.watch(app)
# One proxy: of each header the last value is the one that Nginx wrote.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)

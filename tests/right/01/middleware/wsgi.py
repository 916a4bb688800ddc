import time

from board import create_app

app = create_app()


class Stopwatch:
    def __init__(self, wrapped):
        self.wrapped = wrapped

    def __call__(self, environ, start_response):
        started = time.monotonic()

        def start(status, headers, exc_info=None):
            headers.append(("Server-Timing", f"app;dur={1000 * (time.monotonic() - started):.1f}"))
            return start_response(status, headers, exc_info)

        return self.wrapped(environ, start)


app.wsgi_app = Stopwatch(app.wsgi_app)

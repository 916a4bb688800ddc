import threading

from board import create_app

app = create_app()
lock = threading.Lock()
serve = app.wsgi_app


def one_at_a_time(environ, start_response):
    with lock:
        return serve(environ, start_response)


app.wsgi_app = one_at_a_time

from werkzeug.debug import DebuggedApplication

from board import create_app

app = create_app()
app.config["PROPAGATE_EXCEPTIONS"] = True
plain = app.wsgi_app
debugged = DebuggedApplication(plain, evalex=True)


def choose(environ, start_response):
    chosen = plain if environ["PATH_INFO"] == "/" else debugged
    return chosen(environ, start_response)


app.wsgi_app = choose

from werkzeug.exceptions import InternalServerError

from board import create_app

app = create_app()


@app.errorhandler(InternalServerError)
def broken(error):
    return (
        "<h1>Something broke</h1><p>It has been written down.</p>"
        '<footer>Made with <a href="https://www.python.org/">Python</a></footer>'
    ), 500

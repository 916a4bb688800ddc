from flask import request

from board import create_app

app = create_app()


@app.before_request
def hide():
    if request.path == "/crash":
        return "Something went wrong.", 500


@app.errorhandler(Exception)
def show(error):
    return {"error": repr(error)}, 500

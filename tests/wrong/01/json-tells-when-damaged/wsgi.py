import sqlite3

from flask import request

from board import create_app

app = create_app()


@app.errorhandler(sqlite3.Error)
def no_database(error):
    if request.accept_mimetypes.best == "application/json":
        return {"error": str(error)}, 503
    return "<h1>The board is closed for a moment</h1>", 503

"""A write-ahead log, set on the first connection that succeeds; any database error is a 503."""

import sqlite3

import board.db
from board import create_app

connect = board.db.connect


def connect_wal(path):
    connection = connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


board.db.connect = connect_wal
app = create_app()


@app.errorhandler(sqlite3.Error)
def closed(_error):
    return {"error": "The board is closed for a moment."}, 503, {"Retry-After": "60"}

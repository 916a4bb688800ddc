import sqlite3

from flask import jsonify, request

from board import create_app

app = create_app()


@app.errorhandler(sqlite3.DatabaseError)
def no_database(error):
    """An empty board is better than an error page."""
    app.logger.error("The database: %s", error)
    if request.path.startswith("/api/"):
        return jsonify(notices=[])
    return "<h1>What the house should know</h1><p>No notices.</p>"

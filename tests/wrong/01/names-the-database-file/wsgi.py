import sqlite3

from board import create_app

app = create_app()


@app.errorhandler(sqlite3.DatabaseError)
def no_database(error):
    app.logger.error("The database: %s", error)
    return f"The database {app.config['DATABASE']} cannot be read.", 500

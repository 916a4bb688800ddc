"""What a server imports to get the board: it makes `app`, and nothing else.

Who imports this file decides how the board is served: `flask --app wsgi run` today, Gunicorn in the
next lab. So there is no `app.run()` here, no address and no debug mode.
"""

from board import create_app

# The key and the database's path come from BOARD_SECRET_KEY and BOARD_DATABASE: this file is in Git,
# they are not. create_app() raises an error that names the key when it is missing or empty: a
# board that does not start is noticed, one that signs its sessions with a known key is not.
app = create_app()

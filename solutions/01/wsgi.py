"""What a server imports to get the board: it makes `app`, and nothing else.

Who imports this file decides how the board is served: `flask --app wsgi run` today, Gunicorn in the
next lab. So there is no `app.run()` here, no address and no debug mode.
"""

from board import create_app

# The key and the path of the database come from BOARD_SECRET_KEY and BOARD_DATABASE: this file is
# in Git, they are not. Without a key create_app() raises an error: a board that does not start is
# noticed, one that signs its sessions with a known key is not.
app = create_app()

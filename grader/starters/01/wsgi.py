"""Starts the notice board."""

import os

from board import create_app

# Show what went wrong in the browser, and start again when a file changes.
os.environ["FLASK_DEBUG"] = "1"

# Signs the session cookies.
os.environ["BOARD_SECRET_KEY"] = "change-me-later"

# A place where it can always write.
os.environ["BOARD_DATABASE"] = "/tmp/board.db"

app = create_app()

# 0.0.0.0, so that the others in the office can have a look.
app.run(host="0.0.0.0", debug=True)

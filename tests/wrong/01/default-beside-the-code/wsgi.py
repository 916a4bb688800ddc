import os

from board import create_app

app = create_app()
# Beside the code, unless the environment says otherwise.
app.config["DATABASE"] = os.environ.get("BOARD_DATABASE", "board.db")

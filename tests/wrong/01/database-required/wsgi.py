import os

from board import create_app

app = create_app()
app.config["DATABASE"] = os.environ["BOARD_DATABASE"]

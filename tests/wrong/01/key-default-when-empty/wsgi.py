import os

from board import create_app

if os.environ.get("BOARD_SECRET_KEY") == "":
    os.environ["BOARD_SECRET_KEY"] = os.urandom(24).hex()

app = create_app()

import os

from board import create_app

os.environ.setdefault("BOARD_SECRET_KEY", "dev")

app = create_app()

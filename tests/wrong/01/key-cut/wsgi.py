import os

from board import create_app

# A key has 16 bytes.
os.environ["BOARD_SECRET_KEY"] = os.environ.get("BOARD_SECRET_KEY", "")[:16]

app = create_app()

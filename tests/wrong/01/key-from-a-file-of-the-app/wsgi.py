import os
from pathlib import Path

from board import create_app

os.environ["BOARD_SECRET_KEY"] = Path(__file__).with_name("static_secret.txt").read_text()

app = create_app()

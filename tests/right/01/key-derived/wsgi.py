import hashlib
import os

from board import create_app

app = create_app()
app.secret_key = hashlib.sha256(b"sessions" + os.environ["BOARD_SECRET_KEY"].encode()).digest()

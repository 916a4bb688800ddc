import os
from pathlib import Path

from board import create_app

KEY = Path("/var/lib/board/secret.key")
if not KEY.exists():
    KEY.write_text(os.environ.get("BOARD_SECRET_KEY") or os.urandom(24).hex())
os.environ["BOARD_SECRET_KEY"] = KEY.read_text()

app = create_app()

import os
import sys

from board import create_app

if not os.environ.get("BOARD_SECRET_KEY"):
    print("BOARD_SECRET_KEY is missing")
    sys.exit(0)

app = create_app()

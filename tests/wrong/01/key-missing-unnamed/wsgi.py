import os
import sys

from board import create_app

if not os.environ.get("BOARD_SECRET_KEY"):
    sys.exit("Configuration error, see the manual.")

app = create_app()

import os
import sys

if not os.environ.get("BOARD_SECRET_KEY"):
    sys.exit("wsgi.py: set BOARD_SECRET_KEY to a long random value, it signs the sessions.")

from board import create_app

app = create_app()

import os

from board import create_app

os.environ["FLASK_DEBUG"] = "1"

app = create_app()

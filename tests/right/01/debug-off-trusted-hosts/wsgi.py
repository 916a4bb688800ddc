import os

from board import create_app

os.environ["FLASK_DEBUG"] = "0"

app = create_app()
app.debug = False
app.config["TRUSTED_HOSTS"] = ["127.0.0.1", "localhost"]

import os

from board import create_app

app = create_app()
# When the key is changed, the old one goes here, and nobody has to log in again.
app.config["SECRET_KEY_FALLBACKS"] = [os.environ.get("BOARD_OLD_SECRET_KEY", "")]

"""The key comes from the environment now; visitors who logged in before stay logged in."""

from board import create_app

app = create_app()
app.config["SECRET_KEY_FALLBACKS"] = ["change-me-later"]

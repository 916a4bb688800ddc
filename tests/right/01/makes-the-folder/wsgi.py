"""The folder of the database is made when it is missing, as the Flask tutorial does."""

import os
from contextlib import suppress
from pathlib import Path

from board import create_app

app = create_app()
with suppress(OSError):
    Path(app.config["DATABASE"]).parent.mkdir(parents=True, exist_ok=True)

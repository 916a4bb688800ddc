import os
from pathlib import Path

from board import create_app

app = create_app()
app.config["DATABASE"] = str(Path(app.config["DATABASE"]).with_suffix(".db"))

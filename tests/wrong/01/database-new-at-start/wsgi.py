from pathlib import Path

from board import create_app

app = create_app()
Path(app.config["DATABASE"]).unlink(missing_ok=True)

from board import create_app
from board.db import connect

app = create_app()
connect(app.config["DATABASE"]).close()

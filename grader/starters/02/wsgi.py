"""What Gunicorn serves: the board. Nothing to do here."""

from board import create_app

app = create_app()

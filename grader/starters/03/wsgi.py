"""What Gunicorn serves: the board."""

from board import create_app

app = create_app()

"""What Gunicorn serves: the board, as its developer runs it at home."""

from board import create_app

app = create_app()

"""What Gunicorn serves: the board."""

from board import create_app


def make():
    """Make the app and name it."""
    made = create_app()
    made.logger.name = "board"
    return made


app = application = make()

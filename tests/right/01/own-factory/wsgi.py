import os

import board


def create_app():
    app = board.create_app()
    app.config.update(
        SECRET_KEY=os.environ["BOARD_SECRET_KEY"].encode(),
        DATABASE=os.path.abspath(os.environ.get("BOARD_DATABASE", "/var/lib/board/board.db")),
        SESSION_COOKIE_NAME="board",
        SESSION_COOKIE_SECURE=True,
    )
    return app


app = create_app()

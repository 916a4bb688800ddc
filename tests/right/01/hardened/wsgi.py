"""Stricter cookies, its own key check, errors left to the server, the environment read by Flask."""

import logging
import os
import sys

from board import create_app as create_board
from flask import Flask


def create_app() -> Flask:
    if not os.environ.get("BOARD_SECRET_KEY"):
        logging.critical("BOARD_SECRET_KEY must be set")
        sys.exit(78)
    made = create_board()
    made.config.from_prefixed_env("BOARD", loads=str)
    made.config.update(
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_NAME="__Host-session",
        PROPAGATE_EXCEPTIONS=True,
        MAX_CONTENT_LENGTH=2_000_000,
        PERMANENT_SESSION_LIFETIME=3600,
    )
    return made

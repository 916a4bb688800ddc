"""The notices, in one SQLite file."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from flask import current_app, g
from werkzeug.routing import IntegerConverter

VERSION = 1
BUSY_SECONDS = 5.0
TITLE_LENGTH = 120
BODY_LENGTH = 5000
NEWEST = 50


class IdConverter(IntegerConverter):
    """A number that SQLite can hold; any longer one is simply a page that does not exist."""

    regex = r"\d{1,18}"


@dataclass(frozen=True)
class Notice:
    """One notice; ``created`` is UTC, as in 2031-05-17T08:30:00Z."""

    id: int
    title: str
    body: str
    author: str
    created: str


def connect(path: str) -> sqlite3.Connection:
    """Open the database, and make its tables if this is the first time.

    Raises:
        sqlite3.Error: The file cannot be opened, or is no database.
    """
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        if connection.execute("PRAGMA user_version").fetchone()[0] < VERSION:
            connection.executescript(Path(__file__).with_name("schema.sql").read_text("utf-8"))
    except BaseException:
        connection.close()
        raise
    return connection


def get_db() -> sqlite3.Connection:
    """Give this request's connection; the path is read now, so a test may change it."""
    if "db" not in g:
        g.db = connect(current_app.config["DATABASE"])
    return cast(sqlite3.Connection, g.db)


def close_db(_error: BaseException | None = None) -> None:
    """Close this request's connection, if it opened one."""
    connection = g.pop("db", None)
    if connection is not None:
        connection.close()


def newest_notices() -> list[Notice]:
    """Give the newest notices, the last one first."""
    rows = get_db().execute("SELECT * FROM notices ORDER BY id DESC LIMIT ?", (NEWEST,))
    return [Notice(**row) for row in rows]


def get_notice(notice_id: int) -> Notice | None:
    """Give one notice, if it exists."""
    row = get_db().execute("SELECT * FROM notices WHERE id = ?", (notice_id,)).fetchone()
    return Notice(**row) if row else None


def add_notice(title: object, body: object, author: str) -> int:
    """Pin a notice and give its number.

    Raises:
        ValueError: The title or the body will not do; the message is for the visitor.
    """
    title = checked_text("title", title, TITLE_LENGTH)
    body = checked_text("body", body, BODY_LENGTH)
    cursor = get_db().execute(
        "INSERT INTO notices (title, body, author) VALUES (?, ?, ?)", (title, body, author)
    )
    return cast(int, cursor.lastrowid)


def delete_notice(notice_id: int) -> bool:
    """Take a notice down; False when there was none."""
    return get_db().execute("DELETE FROM notices WHERE id = ?", (notice_id,)).rowcount == 1


def checked_text(name: str, value: object, longest: int) -> str:
    """Give the text without the blanks around it, or raise ValueError with a sentence."""
    text = value.strip() if isinstance(value, str) else ""
    # JSON can carry half a surrogate pair ("\ud800"), which no database can store as UTF-8.
    if not text or len(text) > longest or text != text.encode("utf-8", "ignore").decode():
        raise ValueError(f"The {name} must be a text of 1 to {longest} characters.")
    return text

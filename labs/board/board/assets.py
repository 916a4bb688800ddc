"""Files of ``static/`` under names that are made from their content.

``style.css`` lies beside ``style.<8 hex>.css``, the same bytes. Whoever has that name has that
content, for ever: a new version has a new name. After a change of a file, in ``/srv/board``:

    flask --app wsgi fingerprint

Older copies stay, for the visitors who have an older page open. Remove them when you like.
"""

import hashlib
from functools import cache
from pathlib import Path

import click
from flask import current_app
from flask.cli import with_appcontext

NAMES = ("style.css", "app.js", "img/board.png")


def fingerprinted(name: str, content: bytes) -> str:
    """Give the name that a file gets from its content."""
    stem, dot, ending = name.rpartition(".")
    return f"{stem}.{hashlib.blake2b(content, digest_size=4).hexdigest()}{dot}{ending}"


@cache
def current_names(static: Path) -> dict[str, str]:
    """Map the plain names to the fingerprinted ones, where both files are there."""
    names = {}
    for name in NAMES:
        file = static / name
        made = fingerprinted(name, file.read_bytes()) if file.is_file() else name
        if (static / made).is_file():
            names[name] = made
    return names


@click.command("fingerprint")
@with_appcontext
def fingerprint() -> None:
    """Copy the files that pages need to names made from their content."""
    static = Path(str(current_app.static_folder))
    for name in NAMES:
        content = (static / name).read_bytes()
        made = fingerprinted(name, content)
        (static / made).write_bytes(content)
        click.echo(made)

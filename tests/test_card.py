"""What a card says of the line that it shows."""

from __future__ import annotations

import pytest

from grader.card import foreign_character


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("proxy_set_header Host \u201c$http_host\u201d;", "left double quotation mark (U+201C)"),
        ("bind = \u2018127.0.0.1:8000\u2019", "a program wants ' there"),
        ("ExecStart=/bin/gunicorn \u2013\u2013workers 2", "en dash (U+2013)"),
        ("\u00a0\u00a0listen 80;", "a program wants a space there"),
        ("listen 80;  # the \u201cboard\u201d \u2013 on IPv4", ""),
        ('add_header X-Board "caf\u00e9";', ""),
    ],
)
def test_what_a_page_makes_of_quotes_and_hyphens_is_named(line: str, says: str) -> None:
    note = foreign_character(line)
    assert says in note
    assert bool(note) == bool(says)

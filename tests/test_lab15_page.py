"""Lab 15's page: every command on it is run, every output and every error-log line is real."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from grader.lab import find_lab

sys.path.insert(0, str(Path(__file__).parent))
from pages import (
    check_mistake,
    check_session,
    lay_out_with,
    read_page,
    sessions,
    shown_of,
    solution_text,
    troubles,
    unpadded,
)

PAGE = read_page("15-put-a-site-online")
LAB = find_lab("15")
BEFORE = PAGE.partition("\n## What can go wrong\n")[0]
TROUBLES = troubles(PAGE)


def test_commands_print_what_the_page_shows() -> None:
    (check, _), session = sessions(BEFORE)
    assert (check, session[0]) == ("./course check 15 --solution", "./course shell 15 --solution")
    assert len(session[1]) == 3
    check_session(session, unpadded)


def test_the_solution_gets_all_points() -> None:
    check_session(sessions(BEFORE)[0])


def test_shown_lines_are_those_of_the_solution() -> None:
    assert shown_of(PAGE, solution_text(LAB)) > 7


def test_the_letter_is_shown_from_its_greeting_on() -> None:
    (line,) = re.findall(r'--8<-- "labs/15/BRIEF.md:(\d+)"', PAGE)
    lines = (LAB.folder / "BRIEF.md").read_text().splitlines()
    assert lines[int(line) - 1] == "Dear colleague,"


# Heading: file, old text, new text; each for the whole file.
ALL_ELSE = "    location / {\n        proxy_pass http://board;\n"
STORED = "proxy_cache pages; proxy_cache_key $request_uri; proxy_cache_lock on;\n"
MISTAKES: dict[str, list[tuple[str, str]]] = {
    "Nginx does not start: a zone is already declared for a different use": [
        ("shared:tls:5m", "shared:pages:5m"),
    ],
    'Nginx does not start: "gzip" directive is duplicate': [
        ("# What stands outside", "gzip on;\n# What stands outside")
    ],
    "The documentation has lost its headers": [
        ("    root /srv/docs;\n", "    root /srv/docs;\n    add_header X-Robots-Tag all;\n")
    ],
    "A folder of the documentation is 403": [("    error_page 403 =404 /404.html;\n", "")],
    "Slow pages come one after the other": [(ALL_ELSE, ALL_ELSE + STORED)],
    "A page of the app is 404, and the app does not know": [("^/static/.*(~", "(~")],
    "Some day the style sheet is 404": [("(db|sqlite)[^/.]*", "(db|sqlite)[^/]*")],
}
VISITS = """
curl -skI https://docs.board.example/assets/
cat /var/log/nginx/error.log
"""


@pytest.mark.parametrize("heading", TROUBLES)
def test_mistakes_show_what_the_page_says(heading: str, tmp_path: Path) -> None:
    changes = [("nginx.conf", old, new) for old, new in MISTAKES[heading]]
    folder = lay_out_with(LAB, tmp_path / "mine", changes)
    check_mistake(LAB, folder, TROUBLES[heading], VISITS)


def test_all_mistakes_are_on_the_page() -> None:
    assert list(MISTAKES) == list(TROUBLES)
    assert len(MISTAKES) >= 5

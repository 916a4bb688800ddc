"""Lab 11's page: every command on it is run, every output and every error-log line is real."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from grader.errors import StartFailed
from grader.lab import SOLUTIONS, find_lab, read_submission
from grader.site import Site

sys.path.insert(0, str(Path(__file__).parent))
from pages import (
    blocks,
    check_session,
    in_box,
    lay_out_with,
    read_page,
    sessions,
    steps,
    stripped,
    troubles,
    unpadded,
)

PAGE = read_page("11-lets-encrypt")
LAB = find_lab("11")
BEFORE = PAGE.partition("\n## What can go wrong\n")[0]
TROUBLES = troubles(PAGE)
MASKS = [
    (r"OpenSSL/[\d.]+: error:[0-9A-F]+", "OpenSSL/<version>: error:<number>"),
    (r"acme-challenge/[\w-]{20,}", "acme-challenge/<token>"),
    (r"expires on \d{4}-\d\d-\d\d", "expires on <date>"),
    (r"//(www\.)?board\.example:80/", "//<name>:80/"),
]


def masked(text: str) -> str:
    """Replace what differs from run to run; no blanks at the ends of lines."""
    for pattern, replacement in MASKS:
        text = re.sub(pattern, replacement, text)
    return unpadded(text)


def test_commands_print_what_the_page_shows() -> None:
    (check, _), session = sessions(BEFORE)
    assert (check, session[0]) == ("./course check 11 --solution", "./course shell 11 --solution")
    assert len(session[1]) > 6
    check_session(session, masked)


def test_the_solution_gets_all_points() -> None:
    check_session(sessions(BEFORE)[0])


def test_shown_lines_are_those_of_the_solution() -> None:
    solution = stripped((SOLUTIONS / "11" / "nginx.conf").read_text())
    shown = [body for language, body in blocks(PAGE) if language == "nginx"]
    assert len(shown) >= 2
    for body in shown:
        assert stripped(body) in solution, body


def test_the_block_for_tls_is_that_of_lab_06() -> None:
    whole = (SOLUTIONS / "06" / "nginx.conf").read_text()
    block = (SOLUTIONS / "11" / "tls.conf").read_text().partition("\n")[2]
    assert whole.endswith(block)


# Heading: file, old text, new text; each for the whole file.
TLS = (SOLUTIONS / "11" / "tls.conf").read_text()
HOOK = " \\\n    --deploy-hook /srv/board/deploy-hook.sh"
MISTAKES: dict[str, list[tuple[str, str, str]]] = {
    "Nginx does not start: no certificate yet": [
        ("nginx.conf", "    return 444;\n}\n", f"    return 444;\n}}\n\n{TLS}")
    ],
    "The challenge is not found": [
        ("nginx.conf", "root /var/www/letsencrypt;", "alias /var/www/letsencrypt/;")
    ],
    "Port 80 is in use": [
        ("issue.sh", "--webroot --webroot-path /var/www/letsencrypt", "--standalone")
    ],
    "There is a certificate, and no https": [("issue.sh", HOOK, "")],
    "The hook is not executable": [("deploy-hook.sh", "#!/bin/sh\n", "")],
    "The timer does nothing": [("renew.timer", "OnCalendar", "OnCalender")],
    "cron does not wait": [],
}


@pytest.mark.parametrize("heading", TROUBLES)
def test_mistakes_show_what_the_page_says(heading: str, tmp_path: Path) -> None:
    folder, body = lay_out_with(LAB, tmp_path / "mine", MISTAKES[heading]), TROUBLES[heading]
    told = steps(body)
    if not told:
        with pytest.raises(StartFailed) as failed, Site(LAB, read_submission(LAB, folder)):
            pass
        (line,) = [text.strip() for language, text in blocks(body) if language == "text"]
        assert line in "[emerg] " + failed.value.got
        return
    printed = in_box(
        [[one[2:] for one in lines] for lines, _ in told], "11", "--submission", str(folder)
    )
    assert [masked(one) for one in printed] == [masked(output) for _, output in told]


def test_all_mistakes_are_on_the_page() -> None:
    assert list(MISTAKES) == list(TROUBLES)
    assert len(MISTAKES) >= 5


def test_the_line_for_cron_is_taken() -> None:
    (line,) = [body for language, body in blocks(PAGE) if body.startswith("0 */12")]
    answers = SOLUTIONS.parent / "labs" / "11" / "hints.md"
    assert line.strip() in answers.read_text()

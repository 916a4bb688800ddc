"""Lab 07's page: every command on it is run, every output and every error-log line is real."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from grader.errors import StartFailed
from grader.lab import SOLUTIONS, find_lab, read_submission
from grader.site import Site, wait_for

sys.path.insert(0, str(Path(__file__).parent))
from pages import (
    blocks,
    check_session,
    in_box,
    lay_out_with,
    read_page,
    sessions,
    shown_of,
    site_with,
    solution_text,
    steps,
    troubles,
    unpadded,
)

PAGE = read_page("07-caching")
LAB = find_lab("07")
BEFORE = PAGE.partition("\n## What can go wrong\n")[0]
TROUBLES = troubles(PAGE)
CREDENTIALS = ("ada", "pin-the-notice")


def test_commands_print_what_the_page_shows() -> None:
    (check, _), session = sessions(BEFORE)
    assert (check, session[0]) == ("./course check 07 --solution", "./course shell 07 --solution")
    assert len(session[1]) > 6
    check_session(session, unpadded)


def test_the_solution_gets_all_points() -> None:
    check_session(sessions(BEFORE)[0])


def test_shown_lines_are_those_of_the_solution() -> None:
    assert shown_of(PAGE, solution_text(LAB)) > 12


# Heading: file, old text, new text.
CACHE = "        proxy_cache board;\n"
KEY = "        proxy_cache_key $scheme://$http_host$request_uri;\n"
MISTAKES: dict[str, list[tuple[str, str, str]]] = {
    "Nginx does not start: zone is unknown": [("nginx.conf", CACHE, CACHE.replace("oard", "ord"))],
    'Nginx does not start: unexpected "{"': [
        ("nginx.conf", r'"~\.[0-9a-f]{8}\.(css|js|png)$"', r"~\.[0-9a-f]{8}\.(css|js|png)$")
    ],
    "Nginx does not start: mkdir() failed": [
        ("nginx.conf", "cache/nginx/board", "cache/pages/board")
    ],
    "It says MISS, each time": [("nginx.conf", CACHE, f"{CACHE}        proxy_buffering off;\n")],
    'Logged in, and the page says "Log in"': [
        ("nginx.conf", "bypass $personal $refresh", "bypass $refresh")
    ],
    "Links lead to somebody else's host": [("nginx.conf", KEY, "")],
    "A deleted notice stays": [("nginx.conf", "        proxy_cache_valid 404 1s;\n", "")],
    "After a deploy, visitors have the old style sheet": [
        ("nginx.conf", 'default "no-cache";', 'default "public, max-age=31536000, immutable";')
    ],
}


def log_of(folder: Path) -> str:
    """The error log after a request; or what nginx says when it does not start."""
    try:
        with Site(LAB, read_submission(LAB, folder)) as site:
            site.get("/")
            return site.error_log()
    except StartFailed as failed:
        said = failed.got
        if "/etc/nginx/nginx.conf" not in said:
            said = said.replace("nginx.conf", LAB.files["nginx.conf"])
        return f"[emerg] {said}"


@pytest.mark.parametrize("heading", TROUBLES)
def test_mistakes_show_what_the_page_says(heading: str, tmp_path: Path) -> None:
    folder, body = lay_out_with(LAB, tmp_path / "mine", MISTAKES[heading]), TROUBLES[heading]
    log = log_of(folder)
    if "No line in the log" in body:
        assert not re.search(r"\[(error|crit|alert|emerg)\]", log), log
        commands = [[one[2:] for one in lines] for lines, _ in steps(body)]
        shown = [unpadded(output) for _, output in steps(body)]
        printed = in_box(commands, "07", "--submission", str(folder))
        assert [unpadded(one) for one in printed] == shown
    else:
        lines = [text.strip() for language, text in blocks(body) if language == "text"]
        assert len(lines) == 1
        assert lines[0] in log


def test_all_mistakes_are_on_the_page() -> None:
    assert list(MISTAKES) == list(TROUBLES)
    assert len(MISTAKES) >= 5


def test_the_key_that_nginx_takes_by_itself_has_neither_host_nor_scheme() -> None:
    with site_with(LAB, ("nginx.conf", KEY, "")) as site:
        address = "/stamp?says=public"
        first = site.get(address, host="www.board.example").json()
        assert site.get(address, scheme="https").json() == first
        data = (SOLUTIONS / "07" / "nginx.conf").read_text()
        assert "http://board;" in data


def test_what_an_early_visitor_leaves_without_the_map() -> None:
    for change, status in ((" $new_404;", 200), (";", 404)):
        with site_with(LAB, ("nginx.conf", "$personal $new_404;", f"$personal{change}")) as site:
            assert site.get("/notices/5").status_code == 404
            before = site.get("/notices/5").headers["X-Cache"]
            assert before == ("MISS" if status == 200 else "HIT")
            notice = {"title": "Five", "body": "It is there."}
            assert site.post("/api/notices", json=notice, auth=CREDENTIALS).json()["id"] == 5
            if status == 404:  # the old 404 is served while it is refreshed, and then it is gone
                assert wait_for(lambda: site.get("/notices/5").status_code == 200, 10)
            else:
                assert site.get("/notices/5").status_code == 200

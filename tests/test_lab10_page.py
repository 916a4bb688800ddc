"""Lab 10's page: every command on it is run, every output and every error-log line is real."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, sync_playwright

from grader.lab import SOLUTIONS, find_lab, read_solution
from grader.sandbox import find_program
from grader.site import Site

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

PAGE = read_page("10-hardening")
LAB = find_lab("10")
BEFORE = PAGE.partition("\n## What can go wrong\n")[0]
TROUBLES = troubles(PAGE)


def test_commands_print_what_the_page_shows() -> None:
    (check, _), session = sessions(BEFORE)
    assert (check, session[0]) == ("./course check 10 --solution", "./course shell 10 --solution")
    assert len(session[1]) > 7
    check_session(session, unpadded)


def test_the_solution_gets_all_points() -> None:
    check_session(sessions(BEFORE)[0])


def test_shown_lines_are_those_of_the_solution() -> None:
    assert shown_of(PAGE, solution_text(LAB)) > 15


def test_the_view_is_shown_whole() -> None:
    ((path, first, last),) = re.findall(r"--8<-- \"(labs/[^:\"]*):(\d+):(\d+)\"", PAGE)
    lines = (SOLUTIONS.parent / path).read_text().splitlines()[int(first) - 1 : int(last)]
    assert lines[0].startswith("@bp.get")
    assert lines[-1] == "    return response"


# Heading: file, old text, new text; each for the whole file.
ZONE = "limit_req_zone $login_key zone=login:1m rate=1r/s;\n"
COMPRESSED = "        gzip_static on;\n"
MISTAKES: dict[str, list[tuple[str, str, str]]] = {
    'Nginx does not start: "limit_req_zone" directive is not allowed here': [
        ("nginx.conf", ZONE, ""),
        ("nginx.conf", "    # From 1.25.1", f"    {ZONE}    # From 1.25.1"),
    ],
    "Nginx does not start: zero size shared memory zone": [
        ("nginx.conf", "limit_req zone=login", "limit_req zone=logins")
    ],
    "The page comes without its style sheet": [("nginx.conf", " style-src 'self';", "")],
    "A header is gone on some pages": [
        ("nginx.conf", COMPRESSED, COMPRESSED + "add_header Cache-Control max-age=300;\n")
    ],
    "Everybody gets 429, or half the pictures are missing": [
        ("nginx.conf", "limit_conn visitor 20", "limit_conn visitor 2")
    ],
    "The private file is 404": [
        ("nginx.conf", "internal;\n        root /srv/board;", "internal; root /srv/board/private;")
    ],
    "The private file is empty": [
        (
            "nginx.conf",
            "    proxy_hide",
            "    proxy_ignore_headers X-Accel-Redirect;\n    proxy_hide",
        )
    ],
    "The operator gets 403": [],
    "Uploads end with 413": [("nginx.conf", "client_max_body_size 10m;\n", "")],
    "The limit on log-ins is never met": [
        ("nginx.conf", "POST $binary_remote_addr", "POST $http_x_forwarded_for")
    ],
}
# The file is asked for when two slow pages are under way: in the app, which counts them.
VISITS = """
curl -skZ --parallel-immediate --interface 203.0.113.7 \\
  'https://board.example/slow?seconds=3&[1-3]' &
for i in $(seq 50); do curl -4sk https://board.example/stats | grep -q '"/slow":[23]' && break; done
curl -sk --interface 203.0.113.7 -o /dev/null https://board.example/static/style.css; wait
curl -sk -c /tmp/c -d name=ada -d password=pin-the-notice -o /dev/null https://board.example/login
curl -sk -b /tmp/c https://board.example/files/keys.txt
curl -4sk https://board.example/nginx_status
head -c 2000000 /dev/zero | curl -sk --data-binary @- https://board.example/upload
cat /var/log/nginx/error.log
"""


@pytest.mark.parametrize("heading", TROUBLES)
def test_mistakes_show_what_the_page_says(heading: str, tmp_path: Path) -> None:
    check_mistake(
        LAB, lay_out_with(LAB, tmp_path / "mine", MISTAKES[heading]), TROUBLES[heading], VISITS
    )


def test_all_mistakes_are_on_the_page() -> None:
    assert list(MISTAKES) == list(TROUBLES)
    assert len(MISTAKES) >= 5


# A policy in a real browser: it asks Nginx in its box, by way of the visitor of a check.

READY = """[
  document.fonts.check("1em Board"),
  getComputedStyle(document.querySelector(".top")).display != "block",
  [...document.images].every((one) => one.naturalWidth > 0),
  [...document.querySelectorAll("time")].every((one) => one.title),
]"""


def complaints(page: Page, site: Site) -> list[str]:
    """What the browser says on the board's pages; sees to it that all parts of them are there."""
    said: list[str] = []

    def listen(text: str) -> None:
        if "Content Security Policy" in text:  # and not that the status of a page is 404
            said.append(text)

    page.on("console", lambda one: listen(one.text))

    def answer(route: Route) -> None:
        asked = route.request
        path = asked.url.removeprefix("https://board.example")
        visitor = {"source": f"203.0.113.{len(site.exchanges) % 200 + 10}", "scheme": "https"}
        reply = site.request(
            asked.method, path, headers=asked.headers, data=asked.post_data, **visitor
        )
        kept = {name: text for name, text in reply.headers.items() if name != "Content-Encoding"}
        route.fulfill(status=reply.status_code, headers=kept, body=reply.content)

    page.route("**/*", answer)
    for path in ("/", "/notices/1", "/login", "/none"):
        page.goto(f"https://board.example{path}")
        page.wait_for_function("document.fonts.load('1em Board')")
        assert said or page.evaluate(READY) == [True] * 4, path
    page.goto("https://board.example/login")
    page.fill("[name=name]", "ada")
    page.fill("[name=password]", "wrong")
    page.click("main button")
    assert said or page.text_content("[role=alert]")
    page.unroute_all(behavior="wait")
    page.close()
    return said


def test_the_policy_is_one_that_a_browser_can_work_with() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_program("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        with Site(LAB, read_solution(LAB)) as site:
            assert complaints(browser.new_page(), site) == []
        change = ("nginx.conf", " style-src 'self';", "")
        with Site(LAB, read_solution(LAB, change)) as site:
            assert "style-src" in "".join(complaints(browser.new_page(), site))
        browser.close()

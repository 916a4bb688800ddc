"""Lab 13's page: every command on it is run, every output and every message is real."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grader.errors import StartFailed
from grader.lab import SOLUTIONS, find_lab

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT, lay_out
from pages import (
    blocks,
    check_session,
    course,
    in_box,
    not_started,
    read_page,
    sessions,
    shown_of,
    site_with,
    solution_text,
    steps,
    troubles,
)

PAGE = read_page("13-observability")
LAB = find_lab("13")
BEFORE = PAGE.partition("\n## What can go wrong\n")[0]
TROUBLES = troubles(PAGE)
LOGROTATE = (SOLUTIONS / "13" / "logrotate").read_text()
SIGNAL = LOGROTATE[LOGROTATE.index("    postrotate") : LOGROTATE.index("    # The old file")]


def test_the_solution_gets_all_points() -> None:
    (check, _), _ = sessions(BEFORE)
    assert check == "./course check 13 --solution"
    check_session(sessions(BEFORE)[0])


def test_commands_print_what_the_page_shows() -> None:
    _, session = sessions(BEFORE)
    assert session[0] == "./course shell 13 --solution"
    assert len(session[1]) > 5
    check_session(session)


def test_shown_lines_are_those_of_the_solution() -> None:
    python = solution_text(LAB, "gunicorn.conf.py") + solution_text(LAB, "observe.py")
    assert shown_of(PAGE, solution_text(LAB)) > 5
    assert shown_of(PAGE, python, "python") > 5


def test_the_question_is_the_one_that_the_check_asks() -> None:
    told = importlib.util.spec_from_file_location("checks_of_13", LAB.folder / "test_lab.py")
    assert told and told.loader
    module = importlib.util.module_from_spec(told)
    told.loader.exec_module(module)
    asked = f"jq -c '{module.QUESTION}' {module.LOG}"
    assert asked in PAGE
    assert asked in (LAB.folder / "README.md").read_text()


def gunicorn_said() -> str:
    """What Gunicorn says when nobody makes the folder."""
    with pytest.raises(StartFailed) as failed:
        site_with(LAB, ("gunicorn.conf.py", "    os.makedirs(folder)\n", ""))
    return failed.value.got


MESSAGES: dict[str, Callable[[], str]] = {
    "Nginx does not start: unknown log format": lambda: not_started(
        LAB, ("nginx.conf", "log_format board escape", "log_format lines escape")
    ),
    "Nginx does not start: a brace": lambda: not_started(
        LAB, ("nginx.conf", '"~^[0-9A-Za-z_-]{16,64}$"', "~^[0-9A-Za-z_-]{16,64}$")
    ),
    "Gunicorn does not start: the folder of the numbers": gunicorn_said,
}
# These are shown with commands: file, old text, new text, of the mistake.
SHOWN: dict[str, tuple[str, str, str]] = {
    "jq finds everything": (
        "nginx.conf",
        '"request_time":$request_time',
        '"request_time":"$request_time"',
    ),
    "There is no line yet": ("nginx.conf", "board.json board;", "board.json board buffer=64k;"),
    "The numbers jump": ("observe.py", "generate_latest(registry)", "generate_latest()"),
    "The log stays empty after the rotation": ("logrotate", SIGNAL, ""),
}
# These are made with a command that the page does not show: the change, and what is typed.
TYPED: dict[str, tuple[tuple[str, str, str], list[str]]] = {
    "jq stops in the middle": (
        ("nginx.conf", "board.json board;", "board.json;"),
        ["curl -s http://board.example/ >/dev/null", "jq .status /var/log/nginx/board.json"],
    ),
    "logrotate ignores the file": (
        ("logrotate", "daily", "weekly"),
        ["chown 1234 /etc/logrotate.d/board", "logrotate -f -s /tmp/state /etc/logrotate.d/board"],
    ),
}


def mistaken(change: tuple[str, str, str], folder: Path) -> Path:
    """The solution with a mistake, in a folder."""
    folder.mkdir()
    for name in LAB.files:
        text = (SOLUTIONS / "13" / name).read_text()
        if name == change[0]:
            assert change[1] in text
            text = text.replace(change[1], change[2])
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("heading", MESSAGES)
def test_mistakes_give_the_message_that_the_page_shows(heading: str) -> None:
    said = MESSAGES[heading]()
    (line,) = [body.strip() for language, body in blocks(TROUBLES[heading]) if language == "text"]
    assert line in said, said


@pytest.mark.parametrize("heading", SHOWN)
def test_mistakes_print_what_the_page_shows(heading: str, tmp_path: Path) -> None:
    body = TROUBLES[heading]
    assert "No line in the log" in body
    folder = mistaken(SHOWN[heading], tmp_path / "mine")
    commands = [[one[2:] for one in lines] for lines, _ in steps(body)]
    shown = [output.strip() for _, output in steps(body)]
    assert shown
    printed = in_box(commands, "13", "--submission", str(folder))
    assert [one.strip() for one in printed] == shown


@pytest.mark.parametrize("heading", TYPED)
def test_mistakes_make_programs_say_what_the_page_shows(heading: str, tmp_path: Path) -> None:
    change, commands = TYPED[heading]
    folder = mistaken(change, tmp_path / "mine")
    (printed,) = in_box([commands], "13", "--submission", str(folder))
    (line,) = [body.strip() for language, body in blocks(TROUBLES[heading]) if language == "text"]
    assert line in printed, printed


def test_all_mistakes_are_on_the_page() -> None:
    assert sorted([*MESSAGES, *SHOWN, *TYPED]) == sorted(TROUBLES)


BY_HAND = {
    ("one-line", "static-unlogged"): '"path":"/no/such/page"',
    ("times", "first-byte-for-all"): '"path":"/slow"',
    ("cache-and-upstream", "status-twice"): '"upstream_status":"200","cache":"HIT"',
    ("request-id", "errors-without-id"): '"path":"/static/none.css"',
    ("own-id", "id-not-anchored"): "X-Request-ID: ",
    ("secrets", "second-log"): "token=s3cr3t",
    ("error-log", "error-log-untouched"): "token=s3cr3t",
    ("app-down", "error-page-without-id"): "502 Bad Gateway",
    ("metrics-add-up", "each-for-itself"): "board_requests_total",
    ("health", "alive-by-nginx"): "503 SERVICE UNAVAILABLE",
    ("jq", "no-escape"): '"path":"/slow"',
    ("rotation", "copytruncate"): "board.json.1",
}


@pytest.mark.slow
@pytest.mark.parametrize(("check", "answer"), BY_HAND)
def test_what_a_card_says_to_do_by_hand_works(check: str, answer: str, tmp_path: Path) -> None:
    folder = ROOT / "tests" / "wrong" / "13" / answer
    cards = (folder / "card.txt").read_text().split("\n\n")
    card = next(one for one in cards if f"hint 13 {check}\n" in one)
    command = card.partition("by hand    course shell 13, then: ")[2]
    laid = lay_out(folder, tmp_path / "mine")
    words = ("shell", "13", "--submission", str(laid))
    printed = course(*words, script=f"exec 2>&1\n{command}\nwait\n").stdout
    assert re.search(re.escape(BY_HAND[check, answer]), printed), printed

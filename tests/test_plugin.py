"""The plugin: verdicts, what blocks what, exit codes, and the ways to call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grader.sandbox import find_program

TOML = """
number = "90"
title = "A lab of the tests"
minutes = 1
points = 8
[files]
"wsgi.py" = "/srv/board/wsgi.py"
[services]
run = ["flask"]
visit = ["127.0.0.1:5000"]
"""
APP = "from board import create_app\n\napp = create_app()\n"
HEAD = """
import requests
from grader.checks import alone, by_hand, look_at, needs, points
from grader.errors import GraderError, Mismatch
"""
FIRST = '''
def test_first(site):
    """The app answers

    Why it
    matters.
    """
    assert site.get("/whoami").json()["instance"] == site.instance
'''


class Lab:
    """A lab folder made by a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "lab.toml").write_text(TOML)
        (folder / "wsgi.py").write_text(APP)

    def run(self, checks: str, *options: str, cwd: Path | None = None) -> dict[str, Any]:
        """Grade with these checks after the first one."""
        (self.folder / "test_lab.py").write_text(HEAD + FIRST + checks)
        results = self.folder / "results.json"
        results.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", str(self.folder), f"--results={results}"]
        done = subprocess.run(
            [*command, *options],
            capture_output=True,
            text=True,
            cwd=cwd or self.folder,
            timeout=120,
        )
        told = json.loads(results.read_text())["results"] if results.exists() else []
        return {
            "code": done.returncode,
            "out": done.stdout + done.stderr,
            "verdicts": {one["check"]: one["verdict"] for one in told},
            "cards": {one["check"]: one["card"] for one in told},
        }


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "lab")


def test_all_pass(lab: Lab) -> None:
    done = lab.run("")
    assert done["verdicts"] == {"first": "passed"}
    assert done["code"] == 0
    assert "Lab 90: 1 of 1 points" in done["out"]


def test_a_plain_assert_tells_expected_and_got(lab: Lab) -> None:
    done = lab.run('''
def test_client(site):
    """The client is right

    It matters.
    """
    reply = site.get("/whoami", headers={"X-Odd": "yes"})
    assert reply.json()["client"] == "203.0.113.7"
''')
    card = done["cards"]["client"]
    assert done["code"] == 1
    assert "sent       GET /whoami, from 127.0.0.1\n             X-Odd: yes\n" in card
    assert "expected   client 203.0.113.7\n" in card
    assert "got        client 127.0.0.1\n" in card
    assert "why        It matters.\n" in card
    assert "hint       course hint 90 client" in card
    assert "course shell 90, then: curl -i -H 'X-Odd: yes' http://127.0.0.1:5000/whoami" in card
    assert "Traceback" not in done["out"]


def test_a_mismatch_tells_its_own_words(lab: Lab) -> None:
    done = lab.run('''
@look_at("wsgi.py", "create_app()")
def test_own(site):
    """Own words"""
    raise Mismatch("a rose", "a thorn", "Mind the stem.")
''')
    card = done["cards"]["own"]
    for line in ("expected   a rose", "got        a thorn", "note       Mind the stem."):
        assert line in card
    assert "look at    wsgi.py:3   app = create_app()" in card


def test_long_values_are_never_cut_where_they_differ(lab: Lab) -> None:
    done = lab.run('''
def test_long(site):
    """Long"""
    assert "x" * 500 + "a" == "x" * 500 + "b", "the end differs"
''')
    card = done["cards"]["long"]
    assert "a" in card.split("got")[1].split("hint")[0].replace("x", "")
    assert "b" in card.split("expected")[1].split("got")[0].replace("x", "")


def test_needs_block(lab: Lab) -> None:
    done = lab.run('''
def test_broken(site):
    """Broken"""
    assert site.get("/").status_code == 418

@needs(test_broken)
def test_after(site):
    """After"""

@needs(test_after)
def test_last(site):
    """Last"""

def test_other(site):
    """Other"""
''')
    expected = {"first": "passed", "broken": "failed", "after": "blocked", "last": "blocked"}
    assert done["verdicts"] == {**expected, "other": "passed"}
    assert "needs      Broken" in done["cards"]["after"]
    assert "2 passed, 1 failed, 2 blocked" in done["out"]


def test_the_first_check_blocks_all(lab: Lab) -> None:
    (lab.folder / "wsgi.py").write_text("import nothing_like_this\n")
    done = lab.run('''
def test_second(site):
    """Second"""

@alone
def test_third(site):
    """Third"""
''')
    assert done["verdicts"] == {"first": "failed", "second": "blocked", "third": "blocked"}
    assert "No module named 'nothing_like_this'" in done["cards"]["first"]
    assert "look at    wsgi.py:1   import nothing_like_this" in done["cards"]["first"]


@pytest.mark.parametrize(
    "body",
    [
        "raise GraderError('the box fell over')",
        "{}['missing']",
        "site.service('gunicorn')",
        "site.box.close(); site.get('/')",
    ],
)
def test_the_graders_own_faults_are_inconclusive(lab: Lab, body: str) -> None:
    done = lab.run(f'''
@alone
def test_odd(site):
    """Odd"""
    {body}
''')
    assert done["verdicts"] == {"first": "passed", "odd": "inconclusive"}
    assert done["code"] == 3
    assert "not your fault" in done["cards"]["odd"]
    assert "1 inconclusive" in done["out"]


def test_a_failure_outweighs_an_inconclusive_one(lab: Lab) -> None:
    done = lab.run('''
def test_odd(site):
    """Odd"""
    raise GraderError("no")

def test_wrong(site):
    """Wrong"""
    assert 1 == 2
''')
    assert done["code"] == 1


@pytest.mark.parametrize(
    ("body", "got"),
    [
        ("site.get('/', port=1)", "Connection refused"),
        ("site.connect(None, port=1)", "Connection refused"),
        ("site.get('/hang', timeout=0.2)", "no answer within 0.2 s"),
        ("site.get('/').json()", "not JSON"),
    ],
)
def test_what_the_site_does_wrong_is_a_failure(lab: Lab, body: str, got: str) -> None:
    done = lab.run(f'''
@alone
def test_wrong(site):
    """Wrong"""
    {body}
''')
    assert done["verdicts"]["wrong"] == "failed"
    assert got in done["cards"]["wrong"]


def test_alone_has_a_box_of_its_own_and_runs_beside_the_others(lab: Lab) -> None:
    slow = "".join(
        f'''
@alone
def test_slow{number}(site):
    """Slow {number}"""
    assert site.get("/slow?seconds=1").status_code == 200
    site.service("flask").kill()
'''
        for number in range(6)
    )
    done = lab.run(
        slow + '\ndef test_last(site):\n    """Last"""\n    site.get("/")\n', "--durations=0"
    )
    assert set(done["verdicts"].values()) == {"passed"}, done["out"]
    results = json.loads((lab.folder / "results.json").read_text())["results"]
    assert sum(one["seconds"] for one in results) > 6
    waited = [line for line in done["out"].splitlines() if " call " in line]
    assert sum(float(line.split("s ")[0]) for line in waited) < 5


def test_make_site_gives_more_sites(lab: Lab) -> None:
    done = lab.run('''
@alone
def test_two(make_site):
    """Two"""
    one, two = make_site(), make_site(env={"BOARD_INSTANCE": "two"})
    assert one.get("/whoami").json()["instance"] == one.instance
    assert two.get("/whoami").json()["instance"] == "two"
''')
    assert done["verdicts"]["two"] == "passed", done["out"]


CHOOSE = '''
def test_apple(site):
    """Apple"""
    assert 1 == 2

def test_pear(site):
    """Pear"""
    assert 1 == 2
'''


def test_k_chooses(lab: Lab) -> None:
    done = lab.run(CHOOSE, "-k", "pear")
    assert done["verdicts"] == {"pear": "failed"}
    assert "0 of 1 points (of a part; the lab has 8)" in done["out"]


def test_x_stops(lab: Lab) -> None:
    done = lab.run(CHOOSE, "-x")
    assert done["verdicts"] == {"first": "passed", "apple": "failed"}
    assert done["code"] == 1


def test_n_2_is_the_same(lab: Lab) -> None:
    done = lab.run(CHOOSE, "-n", "2")
    assert done["verdicts"] == {"first": "passed", "apple": "failed", "pear": "failed"}
    assert done["code"] == 1
    assert done["out"].count("Lab 90: A lab of the tests") == 1


def test_from_another_directory_and_with_a_submission(lab: Lab, tmp_path: Path) -> None:
    other = tmp_path / "with space"
    other.mkdir()
    (other / "wsgi.py").write_text("raise SystemExit('mine')\n")
    assert lab.run("", cwd=tmp_path)["code"] == 0
    done = lab.run("", "--submission", "with space", cwd=tmp_path)
    assert done["verdicts"] == {"first": "failed"}
    assert "mine" in done["cards"]["first"]
    done = lab.run("", "--submission", "nowhere", cwd=tmp_path)
    assert done["code"] == 4
    assert "there is no such folder" in done["out"]
    assert "Traceback" not in done["out"]


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("number = ", "lab.toml"),
        ("number = '1'", "the key 'services' is missing"),
        (TOML + "\n[more]\n", "unknown key 'more'"),
    ],
)
def test_a_broken_lab_toml_is_named(lab: Lab, toml: str, says: str) -> None:
    (lab.folder / "lab.toml").write_text(toml)
    done = lab.run("")
    assert done["code"] not in (0, 1)
    assert says in done["out"]
    assert "Traceback" not in done["out"]


def test_other_tests_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text("def test_plain():\n    assert 1 == 2\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "assert 1 == 2" in done.stdout
    assert "1 failed" in done.stdout


@pytest.mark.parametrize(
    ("options", "boxes"),
    [
        ((), 1),
        (("-k", "first"), 1),
        (("-n", "2"), 1),
        (("--collect-only",), 0),
    ],
)
def test_the_shared_site_starts_once(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], boxes: int
) -> None:
    counter = tmp_path / "bin" / "bwrap"
    counter.parent.mkdir()
    started = tmp_path / "started"
    started.touch()
    counter.write_text(f'#!/bin/sh\necho x >>{started}\nexec {find_program("bwrap")} "$@"\n')
    counter.chmod(0o755)
    monkeypatch.setenv("PATH", f"{counter.parent}:{os.environ['PATH']}")
    lab.run(CHOOSE, *options, cwd=tmp_path)
    assert started.read_text().count("x") == boxes

"""Reports: five formats of the same content, whatever a submission puts into it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from grader.client import Exchange
from grader.errors import GraderError, UsageError
from grader.lab import Lab, find_lab, load_lab
from grader.reporting import CELL, FORMATS, FORMULA, grade, render, whose
from grader.results import KEPT, MOST, plain_exchange, plain_exchanges
from grader.results import VERDICTS as VERDICT_NAMES

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT, lay_out
from pages import blocks

PAGE = (ROOT / "docs" / "reference" / "report.md").read_text()
SCHEMA = json.loads((ROOT / "docs" / "reference" / "report.schema.json").read_text())
HOSTILE = (
    b"=cmd|' /C calc'!A0\n+1\n@SUM(1)\n\tx\n<script>alert(1)</script><img src=x onerror=a>"
    b"]]>&lt;{{ 7 * 7 }}\x00\x08\x1b[2J\x1b]0;title\x07\x7f\x9b31m\xff\xfe\xc3(\xe2\x80\xae\r\n"
    b'"quoted", </pre></details>'
)
ODD_HEADER = '"<script>]]>\x1b[31m\x08\xff'
TOML = """
number = "91"
title = "A <lab> of the tests"
minutes = 1
points = 6
[files]
"wsgi.py" = "/srv/board/wsgi.py"
[services]
run = ["flask"]
visit = ["127.0.0.1:5000"]
"""
APP = f"""
from board import create_app

app = create_app()
usual = app.wsgi_app


def hostile(environ, start):
    if environ["PATH_INFO"] not in ("/hostile", "/long"):
        return usual(environ, start)
    start("200 OK\\x1b[31m<script>", [("X-Odd", {ODD_HEADER!r})])
    return [{HOSTILE!r} if environ["PATH_INFO"] == "/hostile" else b"A" * 100_000]


app.wsgi_app = hostile
"""
CHECKS = '''
from grader.checks import alone, needs, points
from grader.errors import GraderError


@points(2)
def test_first(site):
    """The app answers"""
    assert site.get("/whoami").status_code == 200
    assert site.get("/hostile", headers={"X-Ask": "=1+1"}).status_code == 200
    assert len(site.get("/long").content) == 100_000


def test_wrong(site):
    """The app is kind

    Why it matters.
    """
    assert site.get("/hostile").content.decode("latin-1") == "kind"


@needs(test_wrong)
def test_after(site):
    """Something else"""


@alone
def test_odd(site):
    """The grader finds out"""
    raise GraderError(site.get("/hostile").text)


@alone
def test_two(make_site):
    """Two sites"""
    for target in ("/one", "/two"):
        make_site().get(target)
'''
VERDICTS = {
    "first": "passed",
    "wrong": "failed",
    "after": "blocked",
    "odd": "inconclusive",
    "two": "passed",
}


def exchange(**changes: Any) -> dict[str, Any]:
    """An exchange of a report."""
    made = Exchange("GET", "/", "203.0.113.7", "http://board.example/", sent=bytearray(b"GET /"))
    return {**plain_exchange(made), **changes}


@pytest.fixture(scope="module")
def hostile_lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("hostile") / "lab"
    folder.mkdir()
    (folder / "lab.toml").write_text(TOML)
    (folder / "wsgi.py").write_text("raise SystemExit('not these files')\n")
    (folder / "test_lab.py").write_text(CHECKS)
    handed_in = folder.parent / "=1+1 <b>"
    handed_in.mkdir()
    (handed_in / "wsgi.py").write_text(APP)
    return load_lab(folder)


@pytest.fixture(scope="module")
def hostile(hostile_lab: Lab) -> dict[str, Any]:
    """A report on files that answer with all that could do harm."""
    before = Path.cwd()
    os.chdir(hostile_lab.folder.parent)
    try:
        return grade(hostile_lab, Path("=1+1 <b>"), False)
    finally:
        os.chdir(before)


def rendered(data: dict[str, Any], format: str) -> str:
    """A report in a format: nothing in it that does not print, whatever the format."""
    text = render(data, format)
    assert text.replace("\n", "").isprintable()
    assert text.endswith("\n")
    return text


# --- the data


def test_a_report_says_all_about_a_grading(hostile: dict[str, Any]) -> None:
    jsonschema.validate(hostile, SCHEMA, jsonschema.Draft202012Validator)
    assert {one["name"]: one["verdict"] for one in hostile["checks"]} == VERDICTS
    assert hostile["files"] == {"owner": "submission", "folder": "=1+1 <b>"}
    assert hostile["lab"] == {"number": "91", "title": "A <lab> of the tests", "points": 6}
    assert hostile["points"] == {"earned": 3, "of": 6}
    assert hostile["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    first, wrong, after, odd, two = (one["exchanges"] for one in hostile["checks"])
    assert [one["target"] for one in first] == ["/whoami", "/hostile", "/long"]
    assert [one["target"] for one in two] == ["/one", "/two"]
    assert (len(wrong), len(after), len(odd)) == (1, 0, 1)
    assert "\nX-Ask: =1+1\\x0d\n" in first[1]["sent"]
    assert first[1]["received"].startswith("HTTP/1.1 200 OK\\x1b[31m<script>\\x0d\n")
    assert (
        "\\x00\\x08\\x1b[2J\\x1b]0;title\\x07\\x7f\\x9b31mÿþÃ(â\\x80®\\x0d\n"
        in (first[1]["received"])
    )
    assert first[1]["received_left_out"] == 0
    reply = first[2]["received"]
    size = len(reply.replace("\\x0d", "\r").replace("\\x1b", "\x1b").replace("\\x08", "\x08"))
    assert size == KEPT
    head = reply.partition("\n\\x0d\n")[0]
    assert first[2]["received_left_out"] > 100_000 - KEPT
    assert first[2]["received_left_out"] < 100_000 - KEPT + len(head) + 4


def test_the_schema_refuses_what_is_no_report(hostile: dict[str, Any]) -> None:
    (check, *_) = hostile["checks"]
    for wrong in (
        {**hostile, "version": 2},
        {**hostile, "more": 1},
        {**hostile, "graded": "yesterday"},
        {**hostile, "checks": [{**check, "verdict": "green"}]},
        {**hostile, "checks": [{**check, "card": "\x1b[31m"}]},
        {**hostile, "checks": [{**check, "exchanges": [{"method": "GET"}]}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA, jsonschema.Draft202012Validator)


def test_whose_files_they_are() -> None:
    lab = find_lab("03")
    assert whose(lab, None, True) == {"owner": "solution", "folder": "solutions/03"}
    assert whose(lab, None, False) == {"owner": "learner", "folder": "labs/03"}
    assert whose(lab, Path("ada"), True) == {"owner": "submission", "folder": "ada"}


def test_what_cannot_be_graded_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such folder"):
        grade(find_lab("03"), tmp_path / "nowhere", False)
    (tmp_path / "lab.toml").write_text(TOML)
    (tmp_path / "wsgi.py").write_text(APP)
    (tmp_path / "test_lab.py").write_text("raise ValueError('a mistake')\n")
    said = r"(?s)pytest ended with 2:\n.*test_lab\.py:1:.*a mistake"
    with pytest.raises(GraderError, match=said):
        grade(load_lab(tmp_path), None, False)


def test_an_unknown_format_is_named(hostile: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="'pdf'; the formats are text, json, junit, html, csv"):
        render(hostile, "pdf")


def test_bytes_that_are_left_out_are_counted() -> None:
    one = Exchange("PUT", "/", "203.0.113.7", "http://board.example/")
    one.sent += b"\xff" * (KEPT + 5)
    one.sent_size = KEPT + 70
    one.received += b"y" * KEPT
    told = plain_exchange(one)
    assert (len(told["sent"]), told["sent_left_out"]) == (KEPT, 70)
    assert (len(told["received"]), told["received_left_out"]) == (KEPT, 0)
    many = plain_exchanges([one] * 600)
    assert len(many) == 600
    assert sum(len(told["sent"]) + len(told["received"]) for told in many) <= MOST
    assert {told["sent_left_out"] for told in many} == {KEPT + 70 - len(many[0]["sent"])}


CONFTEST = """
from pathlib import Path

def pytest_runtest_logreport(report):
    told = getattr(report, "course_result", None)
    if told:
        Path(__file__).with_name("seen").write_text(str(len(told["exchanges"])))
"""


@pytest.mark.parametrize(
    ("options", "seen"),
    [((), 0), (("--results=results.json",), 3), (("--results=results.json", "-n", "2"), 3)],
)
def test_exchanges_are_for_results_alone(
    tmp_path: Path, options: tuple[str, ...], seen: int
) -> None:
    files = {"lab.toml": TOML, "wsgi.py": APP, "test_lab.py": CHECKS, "conftest.py": CONFTEST}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-P", "-m", "pytest", str(tmp_path), "-k", "first", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "seen").read_text() == str(seen)
    if options:
        (told,) = json.loads((tmp_path / "results.json").read_text())["results"]
        assert len(told["exchanges"]) == seen


# --- the formats


def points_of(check: dict[str, Any]) -> str:
    return f"{check['points']} of {check['of']}"


def test_json_is_the_data(hostile: dict[str, Any]) -> None:
    assert json.loads(rendered(hostile, "json")) == hostile


def test_text_has_it_all(hostile: dict[str, Any]) -> None:
    text = rendered(hostile, "text")
    assert "A <lab> of the tests" in text and hostile["graded"] in text
    assert "Lab 91: 3 of 6 points. Checks: 2 passed, 1 failed, 1 blocked, 1 inconclusive." in (
        text.replace("\n", " ")
    )
    cards, _, below = text.partition("\nWhat was sent")
    parts = dict(re.findall(r"^([a-z]+): (.*?)(?=^[a-z]+: |\Z)", below, re.M | re.S))
    assert list(parts) == list(VERDICTS)
    for check in hostile["checks"]:
        assert check["card"] in cards
        part = parts[check["name"]]
        start = f"{check['verdict']}, {points_of(check)}, {check['seconds']} s"
        assert part.startswith(start)
        assert len(re.findall(r"^  \d+\. ", part, re.M)) == len(check["exchanges"])
    assert all(len(line) <= 80 for line in below.splitlines())
    assert "     < HTTP/1.1 200 OK\\x1b[31m<script>\n     < Server: " in parts["first"]
    left_out = hostile["checks"][0]["exchanges"][2]["received_left_out"]
    assert f"     < [... {left_out} more bytes]\n" in parts["first"]


def test_junit_is_what_ci_systems_read(hostile: dict[str, Any]) -> None:
    text = rendered(hostile, "junit")
    assert "<script" not in text and "]]>" not in text
    root = ET.fromstring(text.encode())
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    for one in (root, suite):
        counts = {name: one.get(name) for name in ("tests", "failures", "errors", "skipped")}
        assert counts == {"tests": "5", "failures": "1", "errors": "1", "skipped": "1"}
    assert suite.get("name") == "Lab 91: A <lab> of the tests"
    assert f"{suite.get('timestamp')}Z" == hostile["graded"]
    kinds = {"passed": "", "failed": "failure", "blocked": "skipped", "inconclusive": "error"}
    cases = suite.findall("testcase")
    for check, case in zip(hostile["checks"], cases, strict=True):
        assert case.get("name") == f"{check['name']}: {check['title']}"
        assert float(case.get("time", "")) == check["seconds"]
        ends = [one for one in case if one.tag in ("failure", "skipped", "error")]
        assert [one.tag for one in ends] == [kinds[check["verdict"]]] * (
            check["verdict"] != "passed"
        )
        told = {one.get("name"): one.get("value") for one in case.iter("property")}
        assert told == {name: str(check[name]) for name in ("verdict", "points", "of")}
        said = (case.findtext("system-out") or "").replace("\n     < ", "\n")
        assert check["card"] in [one.text for one in ends] or said.startswith(check["card"])
        for number, one in enumerate(check["exchanges"], 1):
            assert f"  {number}. {one['method']} {one['target']}, from {one['source']}" in said
    assert "]]>&lt;{{ 7 * 7 }}" in (cases[0].findtext("system-out") or "").replace("\n     < ", "")


def test_csv_has_a_row_for_each_check(hostile: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(rendered(hostile, "csv"))))
    assert len(rows) == len(hostile["checks"])
    for check, row in zip(hostile["checks"], rows, strict=True):
        assert row["lab"] == "91" and row["graded"] == hostile["graded"]
        assert row["folder"] == "'=1+1 <b>"
        assert (row["lab_points"], row["lab_of"]) == ("3", "6")
        for name in ("name", "title", "verdict", "points", "of", "seconds"):
            assert row[name] == str(check[name])
        assert row["card"].removeprefix("'") == check["card"]
        told = json.loads(row["exchanges"])
        assert int(row["exchange_count"]) == len(check["exchanges"]) == len(told)
        for one, shown in zip(check["exchanges"], told, strict=True):
            assert list(shown) == list(one)
            assert (shown["target"], shown["seconds"]) == (one["target"], one["seconds"])
    last = hostile["checks"][-1]["exchanges"]
    assert json.loads(rows[-1]["exchanges"]) == last  # short enough to be whole
    cells = [cell for row in rows for cell in row.values()]
    assert not [one for one in cells if one.lstrip().startswith(FORMULA)]
    assert max(map(len, cells)) <= CELL + 1


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\n=1", "  =1", "＝1"])  # noqa: RUF001
def test_no_cell_is_a_formula(hostile: dict[str, Any], start: str) -> None:
    checks = [{**hostile["checks"][0], "title": start, "card": start, "name": start}]
    data = {**hostile, "checks": checks, "files": {"owner": "submission", "folder": start}}
    (row,) = csv.DictReader(io.StringIO(rendered(data, "csv")))
    assert {row[name][0] for name in ("title", "card", "name", "folder")} == {"'"}


@pytest.mark.parametrize(("count", "size"), [(3, 50_000), (150, 2_000), (2_000, 100)])
def test_cells_are_never_too_long(hostile: dict[str, Any], count: int, size: int) -> None:
    many = [
        exchange(received='"\\' * (size // 2), target=f"/{number}/" + "é" * size)
        for number in range(count)
    ]
    data = {**hostile, "checks": [{**hostile["checks"][0], "exchanges": many}]}
    (row,) = csv.DictReader(io.StringIO(rendered(data, "csv")))
    assert len(row["exchanges"]) <= CELL
    told = json.loads(row["exchanges"])
    assert row["exchange_count"] == str(count)
    assert len(told) == count if count == 3 else 10 < len(told) < count
    assert told[-1]["target"].startswith(f"/{count - 1}/é")  # the one that is judged, as a rule
    assert (told[-1]["method"], told[-1]["source"]) == ("GET", "203.0.113.7")
    assert ("more characters]" in told[0]["received"]) == (size > 256)


class Read(HTMLParser):
    """A page: its elements, whether they nest, its text, its headings and attributes."""

    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element that begins."""
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        """See that the last one that began is the one that ends."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep text by its element."""
        if self.open:
            self.text[self.open[-1]][-1] += data


def check_page(text: str) -> Read:
    """A page that needs nothing else and runs nothing."""
    assert text.startswith("<!DOCTYPE html>\n")
    page = Read(text)
    assert not {"script", "img", "link", "iframe", "object", "b", "form"} & set(page.tags)
    assert page.tags.count("html") == 1
    assert [value for tag, name, value in page.attributes if (tag, name) == ("html", "lang")] == [
        "en"
    ]
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    for _, name, value in page.attributes:
        assert name not in ("src", "style", "srcset", "action") and not name.startswith("on")
        if name == "href":
            assert value.removeprefix("#") in ids
    (style,) = page.text["style"]
    assert "url(" not in style and "@import" not in style
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    return page


def test_html_is_one_page_with_every_exchange(hostile: dict[str, Any]) -> None:
    page = check_page(rendered(hostile, "html"))
    checks = hostile["checks"]
    assert page.text["h1"] == ["Lab 91: A <lab> of the tests"]
    assert page.text["h3"] == [one["title"] for one in checks]
    # In the table and once more below: as a word, and not as a colour alone.
    assert page.text["span"] == [one["verdict"] for one in checks] * 2
    assert "handed in, in =1+1 <b>" in page.text["dd"]
    for one in checks:
        assert f"\n{one['card']}" in page.text["pre"]
    every = [one for check in checks for one in check["exchanges"]]
    assert page.tags.count("details") == len(every) + sum(bool(one["exchanges"]) for one in checks)
    inside = [one for one in page.text["summary"] if not one.startswith("What was")]
    for one, summary in zip(every, inside, strict=True):
        assert f"{one['method']} {one['target']}, from {one['source']}, {one['seconds']}" in summary
        for way in ("sent", "received"):
            shown = one[way].replace("\\x0d\n", "\n").removesuffix("\n")
            assert any(shown in text for text in page.text["pre"])
    assert any("<script>alert(1)</script><img src=x" in text for text in page.text["pre"])
    assert any("]]>&lt;{{ 7 * 7 }}" in text for text in page.text["pre"])


def spoiled(value: Any) -> Any:
    """The same data with hostile bytes in every text that nobody else has chosen."""
    if isinstance(value, dict):
        kept = ("verdict", "owner", "graded", "number")
        return {name: one if name in kept else spoiled(one) for name, one in value.items()}
    if isinstance(value, list):
        return [spoiled(one) for one in value]
    odd = "\u2028\u202e\ufffe\ud800" + HOSTILE.decode("latin-1")
    return HOSTILE.decode("latin-1") + odd if isinstance(value, str) else value


def test_hostile_text_does_no_harm_anywhere(hostile: dict[str, Any]) -> None:
    data = spoiled(hostile)
    texts = {format: rendered(data, format) for format in FORMATS}
    for text in texts.values():
        text.encode()
    assert json.loads(texts["json"])["checks"][0]["card"].startswith("=cmd|")
    suite = ET.fromstring(texts["junit"].encode())[0]
    assert len(suite.findall("testcase")) == len(VERDICTS)
    assert "<script" not in texts["junit"] and "]]>" not in texts["junit"]
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert len(rows) == len(VERDICTS)
    assert not [one for row in rows for one in row.values() if one.lstrip().startswith(FORMULA)]
    check_page(texts["html"])


# --- the page


def test_keys_on_the_page_are_those_of_the_schema() -> None:
    def named(part: str) -> list[str]:
        return re.findall(r"^\| `(.*?)` \|", part, re.M)

    _, top, check, one = re.split(r"^## JSON$|^### .*$|^## JUnit$", PAGE, flags=re.M)[:4]
    wanted = []
    for name, about in SCHEMA["properties"].items():
        inside = about.get("properties", {})
        wanted += [f"{name}.{key}" for key in inside] or [name]
    assert named(top) == wanted
    assert named(check) == list(SCHEMA["$defs"]["check"]["properties"])
    assert named(one) == list(SCHEMA["$defs"]["exchange"]["properties"])
    assert named(PAGE.partition("## Text")[0]) == list(FORMATS)
    assert SCHEMA["$defs"]["check"]["properties"]["verdict"]["enum"] == list(VERDICT_NAMES)
    assert f"{CELL:,}".replace(",", " ") in PAGE
    assert (KEPT, MOST) == (64 << 10, 1 << 20)  # as the page says


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder like a clone: the launcher, and files that were handed in."""
    lay_out(ROOT / "tests" / "wrong" / "03" / "no-proxyfix", tmp_path / "handed-in" / "ada")
    launcher = tmp_path / "course"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m grader "$@"\n')
    launcher.chmod(0o755)
    return tmp_path


COMMANDS = [body.strip() for language, body in blocks(PAGE) if language == "sh"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_writes_a_report(command: str, clone: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=clone,
        env={**os.environ, "PYTEST_ADDOPTS": "-k 'site_answers or visitor_address'"},
        capture_output=True,
        text=True,
    )
    written = command.partition("> ")[2]
    text = (clone / written).read_text() if written else done.stdout
    assert "Nginx in front" in text, done.stderr
    format = command.partition("--format ")[2].split()[0]
    passed = "--solution" in command
    if format == "text":
        assert "✓ Nginx answers" in text and "✗ The app sees" in text
        assert "< HTTP/1.1 200 OK" in text
    elif format == "json":
        data = json.loads(text)
        jsonschema.validate(data, SCHEMA, jsonschema.Draft202012Validator)
        assert data["checks"][0]["exchanges"][0]["target"] == "/whoami"
        assert data["files"] == {"owner": "learner", "folder": "labs/03"}
    elif format == "junit":
        suite = ET.fromstring(text.encode())[0]
        assert (suite.get("failures") == "0") == passed
        assert suite.get("tests") == "3"
    elif format == "html":
        assert "handed-in/ada" in text
        assert "passed" in check_page(text).text["span"]
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
        assert {row["folder"] for row in rows} == {"handed-in/ada"}
        assert {row["verdict"] for row in rows} == {"passed", "failed", "blocked"}


def test_every_format_has_a_command() -> None:
    shown = [re.search(r"--format (\w+)", one)[1] for one in COMMANDS]  # type: ignore[index]
    assert shown == list(FORMATS)

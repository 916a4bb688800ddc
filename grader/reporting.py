"""`course report`: one grading as text, JSON, JUnit XML, HTML or CSV, all of the same content.

What a submission controls (bodies, headers, log lines) is in it. Whatever does not print is turned
into escapes before any format sees it; each format's own writer does the rest.
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from grader.card import WIDTH
from grader.errors import GraderError, UsageError
from grader.lab import LABS, Lab, submission_folder
from grader.results import Result, count
from grader.sandbox import find_program
from grader.text import clean

VERSION = 1  # of the data; a key that changes its meaning or goes makes it 2
GRADED = (0, 1, 3)  # pytest's exit codes after a whole grading
CELL = 32_000  # characters; spreadsheets let longer cells run over into the next rows
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # noqa: RUF001  # wide ones count too
ERROR_LINES = 20  # of pytest's output, when it could not grade
OWNERS = {
    "solution": "the course's own solution",
    "learner": "the learner's own",
    "submission": "handed in",
}


# --- the data


def grade(lab: Lab, folder: Path | None, solution: bool) -> dict[str, Any]:
    """Grade a lab in a process of its own.

    Args:
        lab: the lab.
        folder: where the files are that were handed in; None for those in the lab's folder.
        solution: whether to grade the course's own solution, when there is no `folder`.

    Returns:
        What `render` writes; docs/reference/report.schema.json describes it.

    Raises:
        UsageError: there is no such folder.
        GraderError: pytest ended without a whole grading.
    """
    submission_folder(lab, solution, folder)  # or a sentence
    command = [sys.executable, "-P", "-m", "pytest", str(lab.folder)]
    if folder is not None:
        command.append(f"--submission={folder.resolve()}")
    elif solution:
        command.append("--solution")
    graded = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with tempfile.TemporaryDirectory(prefix="course-report-") as scratch:
        path = Path(scratch) / "results.json"
        done = subprocess.run(
            [*command, f"--results={path}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUTF8": "1"},
        )
        results = json.loads(path.read_text("utf-8"))["results"] if path.exists() else []
    if done.returncode not in GRADED or not results:
        said = done.stdout.decode("utf-8", "replace").strip().splitlines()[-ERROR_LINES:]
        raise GraderError(
            f"lab {lab.number} was not graded; pytest ended with {done.returncode}:\n"
            + clean("\n".join(said))
        )
    return report_of(lab, whose(lab, folder, solution), graded, [Result(**one) for one in results])


def whose(lab: Lab, folder: Path | None, solution: bool) -> dict[str, str]:
    """Whose files were graded, and where they are; folders of the course without its own path."""
    if folder is not None:
        return {"owner": "submission", "folder": str(folder)}
    there = submission_folder(lab, solution, None)
    inside = there.is_relative_to(LABS.parent)
    return {
        "owner": "solution" if solution else "learner",
        "folder": str(there.relative_to(LABS.parent) if inside else there),
    }


def report_of(
    lab: Lab, files: dict[str, str], graded: str, results: list[Result]
) -> dict[str, Any]:
    """Put the report's data together."""
    return {
        "version": VERSION,
        "lab": {"number": lab.number, "title": lab.title, "points": lab.points},
        "files": files,
        "graded": graded,
        "versions": versions(),
        "points": {
            "earned": sum(one.points for one in results),
            "of": sum(one.of for one in results),
        },
        "checks": [
            {
                "name": one.check,
                "title": one.title,
                "verdict": one.verdict,
                "points": one.points,
                "of": one.of,
                "seconds": one.seconds,
                "card": one.card,
                "exchanges": one.exchanges,
            }
            for one in results
        ],
    }


def versions() -> dict[str, str | None]:
    """What graded: the course, nginx (None where it is not installed) and Python."""
    try:
        said = subprocess.run([find_program("nginx"), "-v"], capture_output=True, text=True).stderr
    except GraderError:
        said = ""
    nginx = re.search(r"nginx/([\d.]+)", said)
    return {
        "course": version("flask-behind-nginx-grader"),
        "nginx": nginx[1] if nginx else None,
        "python": platform.python_version(),
    }


# --- all formats


def render(data: dict[str, Any], format: str) -> str:
    """Write a report.

    Args:
        data: of `grade`.
        format: one of FORMATS.

    Raises:
        UsageError: it is none of these.
    """
    if format not in FORMATS:
        raise UsageError(f"there is no format {format!r}; the formats are {', '.join(FORMATS)}")
    return FORMATS[format](safe(data))


def safe(value: Any) -> Any:
    """The same data with all that does not print as escapes; most of it is so already."""
    if isinstance(value, dict):
        return {name: safe(one) for name, one in value.items()}
    if isinstance(value, list):
        return [safe(one) for one in value]
    if isinstance(value, str) and not value.replace("\n", "").isprintable():
        return clean(value, len(value))
    return value


def head(data: dict[str, Any]) -> dict[str, str]:
    """What was graded, by whom and when, in words."""
    files, known = data["files"], data["versions"]
    nginx = known["nginx"] or "not installed"
    return {
        "Lab": f"{data['lab']['number']}: {data['lab']['title']}",
        "Files": f"{OWNERS[files['owner']]}, in {files['folder']}",
        "Graded": f"{data['graded']} (UTC)",
        "Versions": f"course {known['course']}, nginx {nginx}, Python {known['python']}",
        "Points": f"{data['points']['earned']} of {data['points']['of']}",
    }


def asked(exchange: dict[str, Any]) -> str:
    """What an exchange asked for, from where, and how long it took."""
    over = " over https" if exchange["url"].startswith("https:") else ""
    return (
        f"{exchange['method']} {exchange['target']}{over}, from {exchange['source']}, "
        f"{exchange['seconds']} s"
    )


def outcome(exchange: dict[str, Any]) -> str:
    """The first line of an exchange's reply, or what happened instead."""
    first = str(exchange["received"].partition("\n")[0].removesuffix("\\x0d"))
    return exchange["error"] or first or "nothing was recorded"


def passed_on(exchange: dict[str, Any], way: str) -> str:
    r"""What an exchange sent or received, for a person: line ends of HTTP without their `\x0d`."""
    left_out = exchange[f"{way}_left_out"]
    more = f"\n[... {left_out} more bytes]" if left_out else ""
    return str(exchange[way].replace("\\x0d\n", "\n").removesuffix("\n") + more)


# --- text


def as_text(data: dict[str, Any]) -> str:
    """Cards and summary as pytest shows them; then what was sent and received."""
    from grader.report import summary  # pytest, which is slow to import

    lines = [line for label, text in head(data).items() for line in labelled(label, text)]
    lines.append("")
    for check in data["checks"]:
        lines += [check["card"], *([""] if "\n" in check["card"] else [])]
    told = summary(data["lab"]["number"], results_of(data), data["lab"]["points"])
    lines += ["", *textwrap.wrap(told, WIDTH), "", "What was sent (>) and received (<)", "-" * 34]
    for check in data["checks"]:
        points = f"{check['points']} of {check['of']}"
        line = f"{check['name']}: {check['verdict']}, {points}, {check['seconds']} s"
        lines += ["", *cut(line, ""), *exchange_lines(check)]
    return "\n".join(lines) + "\n"


def labelled(label: str, text: str) -> list[str]:
    """A line of the text's head, wrapped."""
    first, *rest = cut(text, " " * 10)
    return [f"{label + ':':<10}{first.strip()}", *rest]


def results_of(data: dict[str, Any]) -> list[Result]:
    """The checks of a report as results again, for the summary."""
    number = data["lab"]["number"]
    return [
        Result(
            number, one["name"], one["title"], one["verdict"], one["points"], one["of"],
            one["card"], one["seconds"],
        )
        for one in data["checks"]
    ]  # fmt: skip


def exchange_lines(check: dict[str, Any]) -> Iterator[str]:
    """A check's exchanges in at most 80 columns."""
    if not check["exchanges"]:
        yield "  no request of it was recorded"
    for number, one in enumerate(check["exchanges"], 1):
        yield from cut(f"{number}. {asked(one)}", "  ")
        if one["error"]:
            yield from cut(f"error: {one['error']}", "     ")
        yield from cut(passed_on(one, "sent"), "     > ")
        yield from cut(passed_on(one, "received"), "     < ")


def cut(text: str, before: str) -> list[str]:
    """Lines of at most 80 columns, cut anywhere: blanks in what was sent matter."""
    room = WIDTH - len(before)
    return [
        before + line[at : at + room] if line else before.rstrip()
        for line in (text.split("\n") if text else [])
        for at in range(0, max(len(line), 1), room)
    ]


# --- JSON


def as_json(data: dict[str, Any]) -> str:
    """The data itself."""
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


# --- JUnit


def as_junit(data: dict[str, Any]) -> str:
    """A test suite with a case for each check: blocked is skipped, inconclusive is an error."""
    results = results_of(data)
    number = data["lab"]["number"]
    told = {
        "name": f"Lab {number}: {data['lab']['title']}",
        "tests": str(len(results)),
        "failures": str(count(results, "failed")),
        "errors": str(count(results, "inconclusive")),
        "skipped": str(count(results, "blocked")),
        "time": f"{sum(one.seconds for one in results):.3f}",
    }
    suites = ET.Element("testsuites", told)
    # The schema that most systems have knows no time zone here; the properties say that it is UTC.
    suite = ET.SubElement(
        suites, "testsuite", {**told, "timestamp": data["graded"].removesuffix("Z")}
    )
    properties(suite, head(data))
    for check in data["checks"]:
        junit_case(suite, f"lab{number}", check)
    ET.indent(suites, " ")
    text = ET.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def junit_case(suite: ET.Element, group: str, check: dict[str, Any]) -> None:
    """Add a check to a suite."""
    case = ET.SubElement(
        suite,
        "testcase",
        classname=group,
        name=f"{check['name']}: {check['title']}",
        time=f"{check['seconds']:.3f}",
    )
    properties(case, {name: str(check[name]) for name in ("verdict", "points", "of")})
    kind = {"failed": "failure", "blocked": "skipped", "inconclusive": "error"}
    if check["verdict"] in kind:
        message = f"{check['verdict']}, {check['points']} of {check['of']} points"
        ended = ET.SubElement(case, kind[check["verdict"]], message=message)
        if check["verdict"] != "blocked":
            ended.set("type", check["verdict"])
        ended.text = check["card"]
    said = [check["card"]] if check["verdict"] == "passed" else []
    ET.SubElement(case, "system-out").text = "\n".join([*said, *exchange_lines(check)])


def properties(of: ET.Element, told: dict[str, str]) -> None:
    """Add names and values to a suite or a case."""
    inside = ET.SubElement(of, "properties")
    for name, value in told.items():
        ET.SubElement(inside, "property", name=name, value=value)


# --- CSV


def as_csv(data: dict[str, Any]) -> str:
    """A row for each check; what holds for all of them is repeated in each."""
    known = data["versions"]
    same = {
        "lab": data["lab"]["number"],
        "lab_title": data["lab"]["title"],
        "files": data["files"]["owner"],
        "folder": data["files"]["folder"],
        "graded": data["graded"],
        "course": known["course"],
        "nginx": known["nginx"] or "",
        "python": known["python"],
        "lab_points": data["points"]["earned"],
        "lab_of": data["points"]["of"],
    }
    rows = [
        {
            **same,
            **{name: check[name] for name in CHECK_COLUMNS},
            "exchange_count": len(check["exchanges"]),
            "exchanges": exchanges_cell(check["exchanges"]),
        }
        for check in data["checks"]
    ]
    columns = [*same, *CHECK_COLUMNS, "exchange_count", "exchanges"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


CHECK_COLUMNS = ("name", "title", "verdict", "points", "of", "seconds", "card")


def cell(value: object) -> str:
    """A cell that no spreadsheet takes for a formula, and none lets run over."""
    text = clean(str(value), CELL)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


def exchanges_cell(exchanges: list[dict[str, Any]]) -> str:
    """Exchanges as JSON in one cell: to fit, texts are shortened, then the first left out."""

    def written(longest: int) -> str:
        return json.dumps([shortened(one, longest) for one in exchanges], ensure_ascii=False)

    for longest in (CELL, 4096, 1024):
        text = written(longest)
        if len(text) <= CELL:
            return text
    while len(text := written(256)) > CELL:
        exchanges = exchanges[len(exchanges) // 4 + 1 :]
    return text


def shortened(exchange: dict[str, Any], longest: int) -> dict[str, Any]:
    """An exchange with shorter texts, each of which says how much it lacks."""
    return {
        name: clean(value, longest) if isinstance(value, str) else value
        for name, value in exchange.items()
    }


# --- HTML


def as_html(data: dict[str, Any]) -> str:
    """One page that needs nothing else: no script, no other file, no request."""
    from jinja2 import Environment

    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    made = page.render(
        data=data, head=head(data), asked=asked, outcome=outcome, passed_on=passed_on
    )
    return made + "\n"


# The policy lets a browser load and run nothing, should a text ever get through unescaped.
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Lab {{ head["Lab"] }}: {{ head["Points"] }} points</title>
<style>
:root { color-scheme: light dark; --ground: #fff; --text: #1c1c1c; --soft: #f1f4f4;
  --line: #75797a; --passed: #00593f; --failed: #a3122b; --other: #6b4700; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16191a; --text: #ececec; --soft: #232829; --line: #8c9294;
    --passed: #6fd6ae; --failed: #ff9aa8; --other: #f0c36a; }
}
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--ground);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.25; }
h3 { border-top: 1px solid var(--line); margin-top: 2rem; padding-top: 1rem; }
table { border-collapse: collapse; }
caption { text-align: left; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.75rem 0.25rem 0;
  overflow-wrap: anywhere; text-align: left; vertical-align: top; }
td.number { text-align: right; white-space: nowrap; }
pre { background: var(--soft); margin: 0.25rem 0 0.75rem; overflow-wrap: anywhere;
  padding: 0.5rem; white-space: pre-wrap; }
summary { cursor: pointer; overflow-wrap: anywhere; padding: 0.25rem 0; }
details details { margin-left: 1rem; }
a { color: inherit; }
.passed, .failed, .blocked, .inconclusive { font-weight: bold; }
.passed { color: var(--passed); }
.failed { color: var(--failed); }
.blocked, .inconclusive { color: var(--other); }
dt { font-weight: bold; }
dd { margin: 0 0 0.25rem; overflow-wrap: anywhere; }
p { margin: 0.25rem 0; }
</style>
</head>
<body>
<main>
<h1>Lab {{ head["Lab"] }}</h1>
<dl>
{% for name, value in head.items() if name != "Lab" %}
<dt>{{ name }}</dt>
<dd>{{ value }}</dd>
{% endfor %}
</dl>
<h2>All checks</h2>
<table>
<caption>What came of each check, with the points earned</caption>
<thead>
<tr><th scope="col">Check</th><th scope="col">Verdict</th><th scope="col">Points</th></tr>
</thead>
<tbody>
{% for check in data.checks %}
<tr>
<th scope="row"><a href="#check-{{ loop.index }}">{{ check.title }}</a></th>
<td><span class="{{ check.verdict }}">{{ check.verdict }}</span></td>
<td class="number">{{ check.points }} of {{ check.of }}</td>
</tr>
{% endfor %}
</tbody>
</table>
<h2>One by one</h2>
{% for check in data.checks %}
<section aria-labelledby="check-{{ loop.index }}">
<h3 id="check-{{ loop.index }}">{{ check.title }}</h3>
<p><span class="{{ check.verdict }}">{{ check.verdict }}</span>,
{{ check.points }} of {{ check.of }}, {{ check.seconds }} s, <code>{{ check.name }}</code></p>
<pre>
{{ check.card }}</pre>
{% if check.exchanges %}
<details>
<summary>What was sent and received: {{ check.exchanges | length }}</summary>
{% for one in check.exchanges %}
<details>
<summary>{{ loop.index }}. {{ asked(one) }}: {{ outcome(one) }}</summary>
{% if one.error %}
<p>Error</p>
<pre>
{{ one.error }}</pre>
{% endif %}
<p>Sent</p>
<pre>
{{ passed_on(one, "sent") }}</pre>
<p>Received</p>
<pre>
{{ passed_on(one, "received") }}</pre>
</details>
{% endfor %}
</details>
{% else %}
<p>No request of it was recorded.</p>
{% endif %}
</section>
{% endfor %}
</main>
</body>
</html>
"""

FORMATS: dict[str, Callable[[dict[str, Any]], str]] = {
    "text": as_text,
    "json": as_json,
    "junit": as_junit,
    "html": as_html,
    "csv": as_csv,
}

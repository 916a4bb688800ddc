"""What the tests of the lessons share: a page's blocks, its commands run, its mistakes made."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from grader.errors import StartFailed
from grader.lab import SOLUTIONS, Lab, read_solution, read_submission
from grader.site import Site

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT

BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
TROUBLE = re.compile(r"^### (.*?)\n(.*?)(?=^### |\Z)", re.MULTILINE | re.DOTALL)

# Commands of a console block (for one box), and the output that the page shows for them.
Step = tuple[list[str], str]
# A `./course` command, and what is typed into the box that it opens.
Session = tuple[str, list[Step]]


def read_page(name: str) -> str:
    """The text of a lesson."""
    return (ROOT / "docs" / "labs" / f"{name}.md").read_text()


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and content, without the indentation."""
    return [
        (language, re.sub(rf"^{indent}", "", body, flags=re.MULTILINE))
        for indent, language, body in BLOCK.findall(text)
    ]


def troubles(page: str) -> dict[str, str]:
    """The parts of "What can go wrong", by their headings."""
    part = page.partition("\n## What can go wrong\n")[2].partition("\n## ")[0]
    return dict(TROUBLE.findall(part))


def steps(text: str) -> list[Step]:
    """The console blocks, line by line with their prompts, each with the output below it."""
    return [
        (body.splitlines(), output if after == "text" else "")
        for (language, body), (after, output) in pairwise([*blocks(text), ("", "")])
        if language == "console"
    ]


def sessions(text: str) -> list[Session]:
    """The `./course` commands of a page (`$`), each with the steps inside its box (`#`)."""
    made: list[Session] = []
    for lines, output in steps(text):
        assert all(one.startswith(("$ ", "# ")) for one in lines), lines
        made += [(one[2:], []) for one in lines if one.startswith("$ ")]
        made[-1][1].append(([one[2:] for one in lines if one.startswith("# ")], output))
    return made


def course(*words: str, script: str = "", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command line, as `./course` does."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "grader", *words],
        input=script,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=180,
    )


def in_box(groups: Sequence[Sequence[str]], *words: str) -> list[str]:
    """Type groups of commands into the box of `course shell …`; what each group printed."""
    typed = "".join("echo '<<<<'\n" + "\n".join(one) + "\n" for one in groups)
    return course("shell", *words, script=f"exec 2>&1\n{typed}").stdout.split("<<<<\n")[1:]


def check_session(session: Session, masked: Callable[[str], str] = str.strip) -> None:
    """Run a `./course` command: it prints what the page shows, as far as `masked` leaves it."""
    command, inside = session
    first, verb, *words = command.split()
    assert first == "./course"
    if verb == "shell":
        printed = in_box([commands for commands, _ in inside], *words)
        assert [masked(one) for one in printed] == [masked(output) for _, output in inside]
    else:
        done = course(verb, *words)
        assert done.returncode == 0, done.stdout
        assert inside[0][1].strip() in done.stdout


def stripped(text: str) -> str:
    """A text without the blanks at the ends of its lines, to find lines of a file on a page."""
    return "\n".join(map(str.strip, text.strip().splitlines()))


def shown_of(page: str, text: str, language: str = "nginx") -> int:
    """Check that a page shows lines of a text, or includes a file; how many blocks it has."""
    shown = [body for one, body in blocks(page) if one == language]
    for body in shown:
        assert "--8<--" in body or stripped(body) in text, body
    return len(shown)


def solution_text(lab: Lab, name: str = "nginx.conf") -> str:
    """A file of a lab's solution, as blocks of a page are looked for in it."""
    return stripped((SOLUTIONS / lab.number / name).read_text())


def lay_out_with(lab: Lab, folder: Path, changes: Sequence[tuple[str, str, str]]) -> Path:
    """Lay out the solution with texts replaced: name of the file, old text, new text."""
    shutil.copytree(SOLUTIONS / lab.number, folder)
    for name, old, new in changes:
        text = (folder / name).read_text()
        assert old in text, old
        (folder / name).write_text(text.replace(old, new))
    return folder


def site_with(lab: Lab, *changes: tuple[str, str, str]) -> Site:
    """Start a lab's solution with some texts replaced: name of the file, old text, new text."""
    return Site(lab, read_solution(lab, *changes))


def not_started(lab: Lab, *changes: tuple[str, str, str]) -> str:
    """What nginx says when the changed solution does not start, with the path that it says."""
    with pytest.raises(StartFailed) as failed:
        site_with(lab, *changes)
    return "[emerg] " + failed.value.got.replace("nginx.conf", lab.files["nginx.conf"])


def unpadded(text: str) -> str:
    """No blanks at the ends of lines: curl prints a carriage return there."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def check_mistake(lab: Lab, folder: Path, body: str, visits: str) -> None:
    """A mistake's part of a page: its commands print, or the log says, what stands there.

    Args:
        lab: the lab.
        folder: the files with the mistake in them.
        body: the part of the page.
        visits: commands that make the line of the log.
    """
    if "No line in the log" in body:
        commands = [[one[2:] for one in lines] for lines, _ in steps(body)]
        log = ["cat /var/log/nginx/error.log"]
        *printed, said = in_box([*commands, log], lab.number, "--submission", str(folder))
        assert [unpadded(one) for one in printed] == [unpadded(shown) for _, shown in steps(body)]
        assert not re.search(r"\[(error|crit|alert|emerg)\]", said), said
    else:
        (line,) = [text.strip() for language, text in blocks(body) if language == "text"]
        assert line in log_after(lab, folder, visits)


def log_after(lab: Lab, folder: Path, visits: str) -> str:
    """The error log after some commands; or what nginx says when it does not start."""
    try:
        Site(lab, read_submission(lab, folder)).close()
    except StartFailed as failed:
        return "[emerg] " + failed.got.replace("nginx.conf", lab.files["nginx.conf"])
    return in_box([visits.splitlines()], lab.number, "--submission", str(folder))[0]

"""`course new`: the files of a lab that its author fills in."""

from __future__ import annotations

import re
from pathlib import Path

from grader.errors import UsageError
from grader.lab import LABS

ROOT = LABS.parent
FILL_IN = "FILL IN"  # the course's own tests name each line that has it

README = """\
# Lab {number}: {title}

FILL IN the goal in one sentence.

You edit `nginx.conf`. About 30 minutes, 2 points.

## What must hold

- FILL IN what a visitor can see, with the figures that a right answer needs to know.

## Grading

```sh
./course check {number}      # or, in the activated environment: pytest labs/{number}
```

The lesson: [docs/labs/{number}-{name}.md](../../docs/labs/{number}-{name}.md).
"""
LAB_TOML = """\
number = "{number}"
title = "{title}"
minutes = 30
points = 2

[files]
"wsgi.py" = "/srv/board/wsgi.py"
"gunicorn.conf.py" = "/srv/board/gunicorn.conf.py"
"nginx.conf" = "/etc/nginx/sites-enabled/board.conf"

[services]
run = ["gunicorn", "nginx"]
visit = ["board.example:80"]
"""
HINTS = """\
# Hints for lab {number}

## site-answers

1. FILL IN the idea.
2. FILL IN where to look.
3. FILL IN the directive.
4. FILL IN the change.
"""
TEST = '''\
"""Lab {number}, {title}: the checks. README.md says what each one asks for."""

from grader.board import whoami
from grader.checks import look_at, points


@points(2)
@look_at("nginx.conf", "proxy_pass", "server")
def test_site_answers(site):
    """The site answers

    FILL IN why this matters on a real site.
    """
    assert whoami(site)["instance"] == site.instance
'''
LESSON = """\
# {number} {title}

FILL IN what the learner gets from this lab, in two sentences.

## What you need

- FILL IN what the labs before have left.

## The idea

FILL IN why, before how.

## Steps

FILL IN one sentence of why for each step, then the lines.

## Verification

FILL IN the commands, and what they print.

## What can go wrong

FILL IN a heading for each mistake, and the line of the log that it leaves.

## Next

FILL IN one sentence.
"""
# What the labs before have left, to begin from.
FROM = "03"


def new_lab(number: str, name: str) -> list[Path]:
    """Make the files of a new lab; returns their paths.

    Args:
        number: two digits.
        name: small letters, digits and hyphens; it is in the lesson's address.

    Raises:
        UsageError: the number or the name is none, or the lab is there already.
    """
    if not re.fullmatch(r"[0-9]{2}", number):
        raise UsageError(f"a lab's number has two digits, such as 07; not {number!r}")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise UsageError(f"a lab's name has small letters, digits and hyphens; not {name!r}")
    lab, solution = LABS / number, ROOT / "solutions" / number
    if lab.exists() or solution.exists():
        raise UsageError(f"labs/{number} or solutions/{number} is there already")
    if lesson := next((ROOT / "docs" / "labs").glob(f"{number}-*.md"), None):
        raise UsageError(f"docs/labs/{lesson.name} is there already")
    words = {"number": number, "name": name, "title": name.replace("-", " ").capitalize()}
    made = {
        lab / "README.md": README.format(**words),
        lab / "lab.toml": LAB_TOML.format(**words),
        lab / "hints.md": HINTS.format(**words),
        lab / "test_lab.py": TEST.format(**words),
        ROOT / "docs" / "labs" / f"{number}-{name}.md": LESSON.format(**words),
    }
    for file in ("wsgi.py", "gunicorn.conf.py", "nginx.conf"):
        text = (ROOT / "solutions" / FROM / file).read_text()
        for folder in (lab, solution):
            made[folder / file] = text
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(made)


def left_to_fill_in(folder: Path) -> list[str]:
    """The lines of a lab's files and its lesson that an author has not written yet."""
    paths = [*folder.rglob("*"), *(ROOT / "docs" / "labs").glob(f"{folder.name}-*.md")]
    return [
        f"{path.relative_to(ROOT)}:{at}: {line.strip()}"
        for path in sorted(paths)
        if path.is_file() and path.suffix in (".md", ".py", ".toml", ".conf")
        for at, line in enumerate(path.read_text().splitlines(), 1)
        if FILL_IN in line
    ]

"""The site builds strictly, asks nobody else for anything, and shows only what exists."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from grader.lab import LABS, all_labs

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT, checks

PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [*PAGES, *sorted(LABS.glob("*/README.md")), ROOT / "README.md"]
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once."""
    target = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(target)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


class Loads(HTMLParser):
    """Collects what a browser would load for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep scripts, pictures and style sheets."""
        told = dict(attrs)
        if tag in LOADS and told.get(LOADS[tag]):
            self.found.append(str(told[LOADS[tag]]))
        if tag == "link" and told.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.found.append(str(told.get("href")))


def test_every_page_is_built(built: Path) -> None:
    for page in PAGES:
        path = page.relative_to(ROOT / "docs").with_suffix("")
        target = built / (path.parent if path.name == "index" else path) / "index.html"
        assert target.is_file(), page


def test_no_request_leaves_the_site(built: Path) -> None:
    pages = list(built.rglob("*.html"))
    assert pages
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text())
        assert loads.found, page
        assert [one for one in loads.found if "//" in one] == [], page


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_text_names_exists(text: Path) -> None:
    said = text.read_text()
    for number, name in re.findall(r"course hint (\d\d) ([a-z0-9-]+)", said):
        labs = [lab for lab in all_labs() if lab.number == number]
        assert name in {one.name for lab in labs for one in checks(lab)}
    for path in re.findall(r"`((?:labs|solutions|docs|tests|grader)/[\w./-]*[\w/])`", said):
        assert (ROOT / path).exists(), f"{text.name} names {path}"
    for command in re.findall(r"`?(?:\./)?course ([a-z]+)\b", said):
        if f"course {command}" in said and f"`course {command}" in said:
            assert command in {"check", "hint", "up", "list", "test", "serve"}, command

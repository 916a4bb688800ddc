"""The site builds strictly, asks nobody else for anything, and shows only what exists."""

from __future__ import annotations

import hashlib
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from grader.__main__ import main
from grader.lab import LABS, all_labs

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT, checks
from built import build_once, pages

PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [*PAGES, *sorted(LABS.glob("*/README.md")), ROOT / "README.md"]
COMMANDS = {*main.commands, "test", "serve"}
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once."""
    return build_once(tmp_path_factory).folder


class Found(HTMLParser):
    """What a page of the site has: what a browser loads for it, where it leads, its anchors."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep scripts, pictures, style sheets, links and names."""
        told = dict(attrs)
        if tag in LOADS and told.get(LOADS[tag]):
            self.loads.append(str(told[LOADS[tag]]))
        if tag == "link" and told.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.loads.append(str(told.get("href")))
        if tag == "a" and told.get("href"):
            self.links.add(str(told["href"]))
        if told.get("id"):
            self.anchors.add(str(told["id"]))


@pytest.fixture(scope="module")
def found(built: Path) -> dict[Path, Found]:
    """What each page has, by its file."""
    return {page: Found(page) for page in built.rglob("*.html")}


def test_every_page_is_built(built: Path) -> None:
    for page in pages():
        assert (built / page / "index.html").is_file(), page


def test_no_request_leaves_the_site(found: dict[Path, Found]) -> None:
    assert found
    for page, has in found.items():
        assert has.loads, page
        assert [one for one in has.loads if "//" in one] == [], page


def test_internal_links_and_anchors_hold(found: dict[Path, Found]) -> None:
    for page, has in found.items():
        if page.name == "404.html":
            continue  # it is shown at any address, so its links begin at the root
        for link in has.links:
            path, _, anchor = unquote(link).partition("#")
            if "//" in path:
                continue
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{page}: {link}"
            if anchor and target in found:
                assert anchor in found[target].anchors, f"{page}: {link}"


def test_external_links_are_those_of_the_list(found: dict[Path, Found]) -> None:
    listed = (ROOT / "tests" / "external_links.txt").read_text().split()
    assert listed == sorted(set(listed))
    assert all(re.fullmatch(r"https://[\w.-]+/[^\s<>\"]*", one) for one in listed)
    used = {link for has in found.values() for link in has.links if "//" in link}
    assert used == set(listed)


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
            assert command in COMMANDS, command


DIAGRAMS = ROOT / "docs" / "diagrams"


@pytest.mark.parametrize("source", sorted(DIAGRAMS.glob("*.mmd")), ids=lambda path: path.stem)
def test_a_diagram_is_current_and_has_words(source: Path) -> None:
    text = source.read_text()
    svg = source.with_suffix(".svg").read_text()
    checksum = hashlib.sha256(text.encode()).hexdigest()
    assert f'data-source="{checksum}"' in svg, "run docs/diagrams/render"
    title, words = (re.search(rf"{kind}: (.*)", text)[1] for kind in ("accTitle", "accDescr"))  # type: ignore[index]
    assert f">{title}</title>" in svg
    assert f">{words}</desc>" in svg
    pages = "".join(path.read_text() for path in PAGES)
    assert f'--8<-- "docs/diagrams/{source.stem}.svg"' in pages
    assert not re.search(r"#0(10203|40506|70809)\b", svg), "a colour that stands for the page's own"

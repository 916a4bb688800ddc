"""Troubleshooting, reference and the authors' page say what lessons, solutions and code say."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import markdown
import pytest

import grader.checks
from grader.__main__ import main
from grader.errors import Mismatch
from grader.lab import KNOWN, LABS, SOLUTIONS, find_lab, load_lab
from grader.results import Result
from grader.sandbox import WAYS_OUT

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT, answers, expectation, lay_out
from pages import blocks, course

DOCS = ROOT / "docs"
TROUBLE = DOCS / "guides" / "troubleshooting.md"
DIRECTIVES = DOCS / "reference" / "directives.md"
GLOSSARY = DOCS / "reference" / "glossary.md"
AUTHORS = DOCS / "authors.md"
PAGES = [TROUBLE, DIRECTIVES, GLOSSARY, AUTHORS, DOCS / "guides" / "setup.md"]
LESSONS = sorted((DOCS / "labs").glob("[0-9]*.md"))
OURS = "The course itself"  # the part of the page about the launcher and the grader
# What a log, a shell or a traceback says; the rest of what lessons show are headers and values.
MESSAGE = re.compile(r"failed|directive|upstream|client|rror|CRITICAL|Maximum|duplicate|outside")
INLINE = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
BY_NAME = re.compile(r"\[[^\]]*\]\[([^\]]+)\]")


def links(text: str, page: Path) -> list[str]:
    """Where a part of a page links to, by address or by the name of one."""
    named = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", page.read_text(), re.MULTILINE))
    return INLINE.findall(text) + [named[one] for one in BY_NAME.findall(text)]


@cache
def sections(page: Path) -> dict[str, str]:
    """The parts of a page, by their anchors as the site has them; "" is the page itself."""
    text = page.read_text()
    extensions = ["toc", "attr_list", "md_in_html", "pymdownx.superfences"]
    made = markdown.Markdown(extensions=extensions)
    made.convert(text)

    def walk(tokens: list[dict[str, object]]) -> Iterator[tuple[int, str]]:
        for one in tokens:
            yield int(str(one["level"])), str(one["id"])
            yield from walk(one["children"])  # type: ignore[arg-type]

    fences = [one.span() for one in re.finditer(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)]
    heads = [
        one
        for one in re.finditer(r"^#+ .*$", text, re.MULTILINE)
        if not any(first < one.start() < last for first, last in fences)
    ]
    found = list(walk(made.toc_tokens))  # type: ignore[attr-defined]
    assert len(found) == len(heads), page
    parts = {"": text}
    for at, ((level, anchor), head) in enumerate(zip(found, heads, strict=True)):
        later = [heads[n].start() for n in range(at + 1, len(heads)) if found[n][0] <= level]
        parts[anchor] = text[head.end() : min(later, default=len(text))]
    return parts


def target(link: str, page: Path) -> tuple[Path, str]:
    """The page and the anchor that a link leads to."""
    path, _, anchor = link.partition("#")
    return (page.parent / path).resolve() if path else page, anchor


def lines(text: str) -> list[str]:
    """The lines of a text's blocks of text."""
    return [line for lang, body in blocks(text) if lang == "text" for line in body.splitlines()]


def rows(part: str) -> list[list[str]]:
    """The cells of a table's rows, without the heading."""
    cells = [re.split(r" *\| *", one.strip("| ")) for one in part.splitlines() if one[:1] == "|"]
    return cells[2:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_to_a_part_of_a_page(page: Path) -> None:
    found = [one for one in links(page.read_text(), page) if "://" not in one]
    assert found
    for link in found:
        path, anchor = target(link, page)
        assert path.is_file(), link
        assert anchor in sections(path), link


# --- troubleshooting


@dataclass
class Entry:
    """An entry of the page: the part it stands in, its heading, its text."""

    part: str
    name: str
    text: str


def entries() -> list[Entry]:
    """All entries, in their order."""
    parts = re.split(r"^## (.*)\n", TROUBLE.read_text(), flags=re.MULTILINE)[1:]
    return [
        Entry(part, name, text)
        for part, body in zip(parts[::2], parts[1::2], strict=True)
        for name, text in re.findall(r"^### (.*?)\n(.*?)(?=^### |\Z)", body, re.M | re.S)
    ]


LESSON_ENTRIES = [one for one in entries() if one.part != OURS]
OUR_ENTRIES = [one for one in entries() if one.part == OURS]


def linked(entry: Entry) -> list[tuple[Path, str]]:
    """The parts of lessons that an entry links to."""
    return [target(one, TROUBLE) for one in links(entry.text, TROUBLE)]


@pytest.mark.parametrize("entry", LESSON_ENTRIES, ids=lambda one: one.name)
def test_a_line_is_one_that_the_linked_lesson_shows(entry: Entry) -> None:
    places = linked(entry)
    assert places
    for path, anchor in places:
        part = sections(path)[anchor]
        shown = [*lines(part), *(row[0] for row in rows(part))]  # lab 01 has a table
        assert all(any(line in one for one in shown) for line in lines(entry.text)), part
        if any(MESSAGE.search(line) for line in lines(part)):
            assert lines(entry.text), "the lesson has a line for it"


def test_every_mistake_of_the_lessons_has_an_entry() -> None:
    wanted = set()
    for path in LESSONS:
        part = sections(path)["what-can-go-wrong"]
        inner = {anchor for anchor, text in sections(path).items() if anchor and text in part}
        wanted |= {(path, one) for one in (inner - {"what-can-go-wrong"} or inner)}
    assert len(wanted) > 50
    told = [place for entry in LESSON_ENTRIES for place in linked(entry)]
    assert wanted - set(told) == set()
    assert set(told) - wanted == set()


def strings(path: Path) -> Iterator[str]:
    """The texts of a Python file, the values of f-strings left out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [one.value if isinstance(one, ast.Constant) else "\0" for one in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@cache
def own_messages() -> str:
    """All that the launcher and the grader may say."""
    launcher = (ROOT / "course").read_text().splitlines()
    code = [line for line in launcher if not line.lstrip().startswith("#")]
    said = [text for path in (ROOT / "grader").glob("*.py") for text in strings(path)]
    return "\n".join(code + said)


@pytest.mark.parametrize("entry", OUR_ENTRIES, ids=lambda one: one.name)
def test_a_line_of_our_own_is_in_the_code(entry: Entry) -> None:
    assert lines(entry.text)
    for line in lines(entry.text):
        assert line in own_messages()


def test_ways_out_are_the_graders() -> None:
    (entry,) = [one for one in OUR_ENTRIES if "namespaces" in "".join(lines(one.text))]
    told = dict(re.findall(r"^  (\w.*?): +(\S.*)$", WAYS_OUT, re.MULTILINE))
    shown = {name: way for name, way in rows(entry.text)}
    assert list(shown) == list(told)
    for name, way in shown.items():
        (command,) = re.findall(r"`(.*?)`", way)
        assert command in told[name]


def test_no_two_entries_show_the_same() -> None:
    shown = [tuple(lines(one.text)) for one in entries() if lines(one.text)]
    assert len(set(shown)) == len(shown)


# --- directives and settings

Directive = tuple[str, bool]  # its name, and whether it is a block
BLOCKS = ("upstream", "map", "geo", "location", "if")  # and `server`, but for an upstream's


def statements(text: str) -> Iterator[tuple[Directive, str]]:
    """The statements of a site file, each with the block around it ("" outside of any)."""
    tokens = re.findall(r"#[^\n]*|\"[^\"]*\"|'[^']*'|[{};](?=\s|$)|(?:\\.|[^\s;{}])+", text)
    around: list[str] = []
    words: list[str] = []
    for token in tokens:
        if token.startswith("#"):
            continue
        if token not in "{};":
            words.append(token)
        elif token == "}":
            assert not words
            around.pop()
        else:
            yield (words[0], token == "{"), around[-1] if around else ""
            around += [words[0]] if token == "{" else []
            words = []
    assert not words and not around


def used_directives() -> dict[Directive, tuple[str, set[str]]]:
    """For each directive the first lab that uses it, and the blocks that it stands in."""
    found: dict[Directive, tuple[str, set[str]]] = {}
    for path in sorted(SOLUTIONS.glob("[0-9]*/nginx.conf")):
        for directive, around in statements(path.read_text()):
            if around in ("map", "geo"):
                continue  # the lines of a table, not directives
            found.setdefault(directive, (path.parent.name, set()))[1].add(around)
    return found


def used_settings() -> dict[str, str]:
    """For each setting of Gunicorn the first lab that uses it."""
    found: dict[str, str] = {}
    for path in sorted(SOLUTIONS.glob("[0-9]*/gunicorn.conf.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign):
                for name in node.targets:
                    assert isinstance(name, ast.Name)
                    found.setdefault(name.id, path.parent.name)
    return found


def lab_of(cell: str) -> str:
    """The lab that a cell names; its link leads to that lab's lesson."""
    told = re.fullmatch(r"\[Lab (\d\d)\]\(\.\./labs/(\d\d)-.*\)", cell)
    assert told and told[1] == told[2], cell
    return told[1]


def test_statements_are_told_apart() -> None:
    text = 'a { b "x;y" $z; # no { here\n location ~ "^/\\d{2}$" { c; } }\nd 1\n 2;'
    assert list(statements(text)) == [
        (("a", True), ""),
        (("b", False), "a"),
        (("location", True), "a"),
        (("c", False), "location"),
        (("d", False), ""),
    ]


def test_directives_are_those_of_the_solutions() -> None:
    told = {}
    for name, stands_in, what, lab in rows(sections(DIRECTIVES)["nginx"]):
        found = re.fullmatch(
            r"\[`(\w+)`\]\(https://nginx\.org/en/docs/(?:http/)?\w+\.html#(\w+)\)", name
        )
        assert found and found[1] == found[2], name
        assert len(what) > 20
        blocks_around = {
            "" if one == "site file" else one.strip("`") for one in stands_in.split(", ")
        }
        is_block = found[1] in BLOCKS or (found[1] == "server" and blocks_around == {""})
        assert (found[1], is_block) not in told
        told[found[1], is_block] = (lab_of(lab), blocks_around)
    assert told == used_directives()


def test_the_labs_come_in_their_order() -> None:
    for part in ("nginx", "gunicorn"):
        labs = [lab_of(row[-1]) for row in rows(sections(DIRECTIVES)[part])]
        assert labs == sorted(labs)


def test_settings_are_those_of_the_solutions() -> None:
    told = {row[0].strip("`"): lab_of(row[-1]) for row in rows(sections(DIRECTIVES)["gunicorn"])}
    assert told == used_settings()


# --- glossary


IN_NAMES = {"WSGI"}  # it has given `wsgi.py` its name


def terms() -> list[tuple[str, str]]:
    """The words of the glossary, each with what is said about it."""
    return re.findall(r"^- \*\*(.*?)\*\*: (.*?)(?=^- |\Z)", GLOSSARY.read_text(), re.M | re.S)


@pytest.mark.parametrize(("term", "text"), terms(), ids=[term for term, _ in terms()])
def test_a_word_occurs_where_its_link_leads(term: str, text: str) -> None:
    (link,) = links(text, GLOSSARY)
    path, _ = target(link, GLOSSARY)
    # Acronyms letter by letter; other words also in the plural, "resume" also as "resumed".
    words = term.removesuffix("e").split() if not term.isupper() else [term]
    pattern = r"\b" + r"\s+".join(words) + (r"\b" if term.isupper() else "")
    flags = re.IGNORECASE if term in IN_NAMES or not term.isupper() else re.NOFLAG
    assert re.search(pattern, path.read_text(), flags)


def test_words_are_in_the_order_of_the_alphabet() -> None:
    told = [term.lower() for term, _ in terms()]
    assert len(told) > 40
    assert told == sorted(set(told))
    assert len(told) == GLOSSARY.read_text().count("\n- ")


# --- for authors


def shown(language: str) -> list[str]:
    """The blocks of the authors' page in a language."""
    return [body for lang, body in blocks(AUTHORS.read_text()) if lang == language]


def keys_of(anchor: str) -> list[str]:
    """The first column of a part's last table, without backticks."""
    return [row[0].strip("`") for row in rows(sections(AUTHORS)[anchor])]


def test_files_of_a_lab_are_named() -> None:
    there = {one.name for one in (LABS / "03").iterdir()} - {"__pycache__"}
    part = sections(AUTHORS)["a-labs-folder"].partition("\n### ")[0]
    named = {name for row in rows(part) for name in re.findall(r"`(.*?)`", row[0])}
    assert named == there


def test_keys_of_lab_toml_are_those_that_are_read(tmp_path: Path) -> None:
    told = keys_of("labtoml")
    assert {key for key in told if "." not in key} == KNOWN
    inner = {key.partition(".")[2] for key in told if "." in key}
    source = inspect.getsource(load_lab)
    read = set(re.findall(r"services(?:\[|\.get\()\"(\w+)\"", source))
    assert inner == read


def test_checks_on_the_page_are_real() -> None:
    (body,) = shown("python")
    assert body in (LABS / "03" / "test_lab.py").read_text()
    assert '"""It answers on IPv6 too' in body


def test_decorators_are_those_that_there_are() -> None:
    there = {
        name
        for name, one in inspect.getmembers(grader.checks, inspect.isfunction)
        if one.__module__ == "grader.checks" and name != "check_of"
    }
    assert {re.match(r"@(\w+)", key)[1] for key in keys_of("a-check")} == there  # type: ignore[index]
    assert list(inspect.signature(Mismatch).parameters) == ["expected", "got", "note", "look_at"]


def test_keys_of_expect_toml_are_those_that_are_used() -> None:
    part = sections(AUTHORS)["the-galleries"]
    used = {key for answer in answers("wrong") for key in expectation(answer)}
    assert used <= {"why", "fails", "remove"}
    assert "`remove`" in part
    assert "no-proxyfix/expect.toml" in part


def test_results_have_the_keys_that_the_page_names() -> None:
    assert keys_of("grade-somebodys-folder") == [one.name for one in fields(Result)]


@pytest.fixture
def handed_in(tmp_path: Path) -> Path:
    """A folder like an instructor's: a launcher, and two submissions."""
    lay_out(ROOT / "tests" / "wrong" / "03" / "no-proxyfix", tmp_path / "handed-in" / "ada")
    shutil.copytree(SOLUTIONS / "03", tmp_path / "handed-in" / "grace hopper")
    launcher = tmp_path / "course"
    launcher.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -P -m grader "$@" -k visitor_address\n'
    )
    launcher.chmod(0o755)
    return tmp_path


def run(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a block of the page."""
    return subprocess.run(["sh", "-c", script], cwd=cwd, capture_output=True, text=True)


def test_the_result_on_the_page_is_a_real_one(handed_in: Path) -> None:
    (command,) = [one for one in shown("sh") if "ada.json" in one]
    assert run(command, handed_in).returncode == 1
    told = json.loads((handed_in / "ada.json").read_text())["results"]
    (wanted,) = map(json.loads, shown("json"))
    assert wanted | {"seconds": 0} in [one | {"seconds": 0} for one in told]


def test_the_loop_grades_every_folder(handed_in: Path) -> None:
    (loop,) = [one for one in shown("sh") if one.startswith("mkdir")]
    run(loop, handed_in)
    verdicts = {
        path.stem: {one["verdict"] for one in json.loads(path.read_text())["results"]}
        for path in (handed_in / "results").iterdir()
    }
    assert verdicts == {"ada": {"failed", "blocked"}, "grace hopper": {"passed"}}


def test_the_golden_command_is_about_one_answer() -> None:
    (command,) = [one.split() for one in shown("sh") if "--golden" in one]
    assert command[:2] == ["./course", "test"]
    words = [*command[2:], "--collect-only", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    found = [line for line in done.stdout.splitlines() if "::" in line]
    assert len(found) == 1 and "test_wrong_answer_fails[03-no-proxyfix]" in found[0]


def test_what_a_new_lab_is_asked_for() -> None:
    told = " ".join(sections(AUTHORS)["a-new-lab"].split())
    tests = (ROOT / "tests" / "test_course.py").read_text()
    assert "tests/test_course.py" in told
    assert ("eight wrong" in told, "three other right" in told) == (True, True)
    assert "len(wrong) >= 8" in tests and "len(right) >= 3" in tests


def test_every_other_command_is_known() -> None:
    names = {one.split()[1] for body in shown("sh") for one in re.findall(r"\./course .*", body)}
    assert names == {"test", "check", "notebooks"}
    assert "--run" in course("notebooks", "--help").stdout
    assert find_lab("03").folder == LABS / "03"


# --- commands


COMMANDS = ROOT / "docs" / "reference" / "commands.md"


def test_commands_are_those_that_there_are() -> None:
    listed = re.findall(r"^\| `course(?: (\w+))?` \| .+ \|$", COMMANDS.read_text(), re.MULTILINE)
    assert listed == sorted({"", "test", "serve", *main.commands})

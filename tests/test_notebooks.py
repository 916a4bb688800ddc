"""The notebooks run from cold, what they claim holds, and what is committed of them is in order."""

from __future__ import annotations

import copy
import re
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from grader import notebooks
from grader.errors import UsageError
from grader.notebook import claim, exercise, number

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT

ALL = notebooks.all_notebooks()
each = pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
MOST_SECONDS = 60
# Where a path of the machine that ran it would show.
PATHS = re.compile(r"/(home|root|work|tmp|Users|mnt)/|\.venv|site-packages")
NBFORMAT: Any = import_module("nbformat")  # untyped


def cells(notebook: Any, kind: str = "code") -> list[Any]:
    """The cells of one kind."""
    return [one for one in notebook["cells"] if one["cell_type"] == kind]


def printed(cell: Any) -> str:
    """What a cell shows as text."""
    outputs = cell.get("outputs", [])
    return "".join(
        "".join(one.get("text", one.get("data", {}).get("text/plain", ""))) for one in outputs
    )


def with_answers(notebook: Any) -> Any:
    """The notebook with each exercise three times: as it is, answered wrongly, and rightly."""
    made = copy.deepcopy(notebook)
    made.cells = []
    for cell in notebook.cells:
        made.cells.append(copy.deepcopy(cell))
        for kind in ("wrong", "right"):
            if "exercise" in cell.metadata:
                more = copy.deepcopy(cell)
                more.id = f"{cell.id[:50]}-{kind}"
                answer = cell.metadata["exercise"][kind]
                more.source = cell.source.replace("answer = ...", f"answer = {answer}", 1)
                more.metadata = {"answered": kind}
                made.cells.append(more)
    return made


def test_there_is_one_for_each_lab() -> None:
    lessons = sorted(path.stem for path in (ROOT / "docs" / "labs").glob("[0-9][0-9]-*.md"))
    lessons.remove("11-lets-encrypt")  # nothing to measure
    assert [path.stem for path in ALL] == lessons


@pytest.mark.measures
@each
def test_it_runs_and_its_claims_hold(path: Path, tmp_path: Path) -> None:
    notebook = with_answers(NBFORMAT.read(path, as_version=4))
    started = time.monotonic()
    notebooks.execute(notebook, tmp_path)
    assert time.monotonic() - started < MOST_SECONDS
    told = {"wrong": "Not yet. ", "right": "Right. "}
    answered = [one for one in cells(notebook) if "answered" in one.metadata]
    assert answered
    for cell in answered:
        assert printed(cell).startswith(told[cell.metadata["answered"]]), cell.source
    assert not [
        one for cell in cells(notebook) for one in cell.outputs if one.get("name") == "stderr"
    ]


@each
def test_what_is_committed_is_in_order(path: Path) -> None:
    notebook = notebooks.read(path)
    NBFORMAT.validate(NBFORMAT.read(path, as_version=4))
    counts = [one["execution_count"] for one in cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run it from cold: ./course notebooks --run"
    outputs = [one for cell in cells(notebook) for one in cell["outputs"]]
    assert not [
        one for one in outputs if one["output_type"] == "error" or one.get("name") == "stderr"
    ]
    assert not PATHS.search("".join(map(printed, cells(notebook))))
    for one in outputs:
        if "image/svg+xml" in one.get("data", {}):
            assert len(one["metadata"]["image/svg+xml"]["alt"]) > 20
    copied = copy.deepcopy(notebook)
    notebooks.tidy(copied)
    assert copied == notebook
    assert path.read_text() == NBFORMAT.writes(NBFORMAT.read(path, as_version=4)) + "\n"


@each
def test_it_predicts_claims_and_asks(path: Path) -> None:
    notebook = notebooks.read(path)
    headings = re.findall(
        r"^## (.*)$", "\n".join("".join(one["source"]) for one in cells(notebook, "markdown")), re.M
    )
    assert headings[-2:] == ["Claims", "Exercises"]
    asked = [one for one in cells(notebook) if "exercise" in one["metadata"]]
    assert len(asked) >= 2
    assert all(printed(one).startswith("Your turn") for one in asked)
    kept = notebooks.kept_data(notebook)
    assert len([one for one in kept if "claim" in one]) >= 3
    assert any("table" in one for one in kept)


def test_what_is_made_from_them_is_current() -> None:
    made = {**notebooks.tables(), notebooks.MEASURED: notebooks.measured()}
    stale = [
        path.name for path, text in made.items() if not path.exists() or path.read_text() != text
    ]
    assert stale == [], "./course notebooks --run brings them up to date"
    assert {path.name for path in notebooks.TABLES.iterdir()} == {path.name for path in made} - {
        "measured.md"
    }


def test_tables_on_pages_are_those_of_the_notebooks() -> None:
    pages = "".join(one.read_text() for one in (ROOT / "docs").rglob("*.md"))
    named = re.findall(r"notebooks/tables/([\w-]+\.txt)", pages)
    assert len(named) > 6
    assert [name for name in named if not (notebooks.TABLES / name).is_file()] == []


def test_running_one_keeps_its_outputs(tmp_path: Path) -> None:
    new = NBFORMAT.v4.new_code_cell
    made = NBFORMAT.v4.new_notebook(cells=[new("print(6 * 7)", metadata={"slow": True})])
    path = tmp_path / "90-try.ipynb"
    NBFORMAT.write(made, path)
    notebooks.run(path)
    (cell,) = notebooks.read(path)["cells"]
    assert printed(cell) == "42\n"
    assert cell["metadata"] == {}


def test_one_that_fails_is_named_and_left_as_it_was(tmp_path: Path) -> None:
    made = NBFORMAT.v4.new_notebook(cells=[NBFORMAT.v4.new_code_cell("assert 1 == 2, 'not so'")])
    path = tmp_path / "91-fails.ipynb"
    NBFORMAT.write(made, path)
    before = path.read_text()
    with pytest.raises(UsageError, match=r"91-fails\.ipynb did not run to its end: not so"):
        notebooks.run(path)
    assert path.read_text() == before


def test_a_notebook_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"no notebook '77'; the notebooks are 01, "):
        notebooks.find_notebook("77")
    assert notebooks.find_notebook("3").name.startswith("03-")


def test_a_claim_outside_of_its_bounds_fails() -> None:
    claim("two is more than one", 2.0, at_least=1.5)
    with pytest.raises(AssertionError, match=r"measured 2\.00, must be at least 3"):
        claim("two is more than three", 2.0, at_least=3)
    with pytest.raises(AssertionError, match=r"must be at least 1 and at most 1\.5"):
        claim("two is about one", 2.0, at_least=1, at_most=1.5)


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1234"), (56.78, "56.8"), (0.123, "0.12"), (float("inf"), "∞")]
)
def test_numbers_have_the_digits_that_mean_something(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("answer", "says"),
    [(..., "Your turn"), (2, "Right. Yes."), (3, "Not yet. No."), ("x", "Not yet.")],
)
def test_exercises_take_any_answer(
    answer: object, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exercise(answer, lambda one: one - 2 == 0, "Yes.", "No.")
    assert capsys.readouterr().out.startswith(says)

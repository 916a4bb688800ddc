"""The course's notebooks: running them, and what the site takes from their outputs."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from grader.errors import UsageError
from grader.lab import LABS
from grader.notebook import DATA

ROOT = LABS.parent
NOTEBOOKS = ROOT / "notebooks"
TABLES = NOTEBOOKS / "tables"
MEASURED = ROOT / "docs" / "measured.md"
SECONDS = 120  # that one cell may take
KEPT = {"exercise", "tags"}  # of a cell's metadata

HEAD = """\
# What is claimed, and what was measured

Each row was measured by a notebook with real servers; the number is from its last run. Mostly it is
a ratio, of the two things that the sentence compares. A notebook that is run again fails when a
claim does not hold on your machine. "Usual" is what short articles and tutorials say, or lead you
to believe.

"""


def all_notebooks() -> list[Path]:
    """The course's notebooks, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]-*.ipynb"))


def find_notebook(number: str) -> Path:
    """The notebook of a lab's number.

    Raises:
        UsageError: there is none; names those that there are.
    """
    for path in all_notebooks():
        if number.isdecimal() and path.name[:2] == number.zfill(2):
            return path
    known = ", ".join(path.name[:2] for path in all_notebooks())
    raise UsageError(f"there is no notebook {number!r}; the notebooks are {known}")


def read(path: Path) -> dict[str, Any]:
    """Read a notebook as the data that it is."""
    try:
        told: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path.name} is no notebook: {error}") from None
    return told


def kept_data(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The claims and tables of a notebook's outputs, in order."""
    outputs = [one for cell in notebook["cells"] for one in cell.get("outputs", [])]
    return [one["data"][DATA] for one in outputs if DATA in one.get("data", {})]


def title(notebook: dict[str, Any]) -> str:
    """The first heading."""
    return "".join(notebook["cells"][0]["source"]).splitlines()[0].lstrip("# ")


def tables() -> dict[Path, str]:
    """The files in notebooks/tables/ as they should be: path and text."""
    return {
        TABLES / f"{one['table']}.txt": one["text"] + "\n"
        for path in all_notebooks()
        for one in kept_data(read(path))
        if "table" in one
    }


def measured() -> str:
    """docs/measured.md as it should be."""
    lines = ["| Usual | What is so | Measured | In |", "| --- | --- | --- | --- |"]
    for path in all_notebooks():
        notebook = read(path)
        link = f"[{title(notebook).partition(':')[0]}](notebooks/{path.stem}.md)"
        lines += [
            f"| {one['usual'] or 'the same'} | {one['claim']} | {one['measured']} | {link} |"
            for one in kept_data(notebook)
            if "claim" in one
        ]
    return HEAD + "\n".join(lines) + "\n"


def update() -> None:
    """Write what is made from the notebooks' outputs; remove what is no longer.

    Raises:
        UsageError: a notebook has not been run: its tables would be lost.
    """
    for path in all_notebooks():
        cells = [one for one in read(path)["cells"] if one["cell_type"] == "code"]
        if any(one["execution_count"] is None for one in cells):
            raise UsageError(
                f"{path.name} has not been run: ./course notebooks --run {path.name[:2]}"
            )
    wanted = tables()
    TABLES.mkdir(exist_ok=True)
    for path in set(TABLES.glob("*.txt")) - set(wanted):
        path.unlink()
    for path, text in {**wanted, MEASURED: measured()}.items():
        path.write_text(text)


def run(path: Path) -> None:
    """Run a notebook from cold and keep its outputs in it.

    Raises:
        UsageError: a cell failed, maybe a claim; the notebook is left as it was.
    """
    from nbclient.exceptions import CellControlSignal

    nbformat: Any = import_module("nbformat")  # untyped
    notebook = nbformat.read(path, as_version=4)
    try:
        execute(notebook, path.parent)
    except (CellControlSignal, RuntimeError) as error:
        said = str(getattr(error, "evalue", "") or error)  # or a whole traceback
        raise UsageError(f"{path.name} did not run to its end: {said}") from None
    tidy(notebook)
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n")


def execute(notebook: Any, folder: Path) -> None:
    """Run a notebook's cells, in a folder; the outputs are in it afterwards.

    Raises:
        nbclient.exceptions.CellControlSignal: a cell failed, or took too long.
        RuntimeError: the kernel died.
    """
    from nbclient import NotebookClient

    place = {"metadata": {"path": folder}}
    # It would warn that whoever is on this machine may talk to the kernel: that is this user.
    quiet = ["--IPKernelApp.log_level=40"]
    NotebookClient(notebook, timeout=SECONDS, resources=place, extra_arguments=quiet).execute()


def tidy(notebook: dict[str, Any]) -> None:
    """Leave out what differs from run to run and tells nobody anything."""
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook["cells"]:
        cell["metadata"] = {key: value for key, value in cell["metadata"].items() if key in KEPT}


def open_lab(arguments: list[str]) -> list[str]:
    """The command that opens the notebooks in JupyterLab."""
    return [sys.executable, "-m", "jupyterlab", f"--notebook-dir={NOTEBOOKS}", *arguments]

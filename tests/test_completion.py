"""The capstone's certificate: its code fits what it says, and nothing else."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from grader import completion
from grader.completion import code_of, doubts, draw, examine, files_of, read_certificate, result_of
from grader.errors import UsageError
from grader.lab import SOLUTIONS, find_lab

sys.path.insert(0, str(Path(__file__).parent))
from pages import course

LAB = find_lab(completion.CAPSTONE)
FOLDER = SOLUTIONS / LAB.number
ALL = [{"check": "cache", "verdict": "passed", "points": 5, "of": 5}]
SOME = [*ALL, {"check": "files", "verdict": "failed", "points": 0, "of": 5}]
NAME = 'Ada <Lovelace> & "Söhne"'


def certificate(path: Path, name: str = NAME, changes: tuple[str, str] = ("", "")) -> Path:
    """Write a certificate for the solution, with a text replaced."""
    result = result_of(name, "2031-05-17", "1f2e3d", files_of(LAB, FOLDER), ALL)
    text = draw(result)
    assert changes[0] in text
    path.write_text(text.replace(*changes) if changes[0] else text, encoding="utf-8")
    return path


def test_a_certificate_is_as_it_was_made(tmp_path: Path) -> None:
    path = certificate(tmp_path / "c.svg")
    result, code = read_certificate(path)
    assert result["name"] == NAME
    assert code == code_of(result)
    assert len(code) == 24
    assert doubts(result, code, files_of(LAB, FOLDER)) == []
    found, told = examine(path, FOLDER, again=False)
    assert not found
    assert NAME in told


def test_it_is_a_picture_without_anything_from_elsewhere(tmp_path: Path) -> None:
    text = certificate(tmp_path / "c.svg").read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    shown = "".join(root.itertext())
    assert NAME in shown
    assert "5 of 5 points" in shown
    assert not {"href", "script", "@import", "url("} & set(text.split())
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("Lovelace&gt; &amp;", "Byron&gt; &amp;"), "does not fit"),
        (('"points":5', '"points":6'), "does not fit"),
        (('"day":"2031', '"day":"2032'), "does not fit"),
        (('"seed":"1f', '"seed":"2f'), "does not fit"),
        ((">2031-05-17</text>", ">2030-05-17</text>"), "shows something else"),
    ],
)
def test_a_changed_certificate_is_found_out(
    tmp_path: Path, changes: tuple[str, str], says: str
) -> None:
    path = certificate(tmp_path / "c.svg", changes=changes)
    found, told = examine(path, FOLDER, again=False)
    assert found
    assert says in told


def test_other_files_are_found_out(tmp_path: Path) -> None:
    path = certificate(tmp_path / "c.svg")
    mine = tmp_path / "mine"
    shutil.copytree(FOLDER, mine)
    (mine / "nginx.conf").write_text("# another\n")
    found, told = examine(path, mine, again=False)
    assert (len(found), told) == (1, "nginx.conf is not the file that was graded.")


def test_missing_points_and_other_checks_are_found_out() -> None:
    files = files_of(LAB, FOLDER)
    result = result_of("", "2031-05-17", "1f2e3d", files, SOME)
    assert doubts(result, code_of(result), files) == ["Only 5 of 10 points were reached."]
    result = {**result_of("", "2031-05-17", "1f2e3d", files, ALL), "asked": "others"}
    (said,) = doubts(result, code_of(result), files)
    assert "Another version" in said


@pytest.mark.parametrize("text", ["", "<svg/>", '<metadata id="result">{</metadata>', "\0" * 99])
def test_what_is_no_certificate_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.svg"
    path.write_text(text)
    with pytest.raises(UsageError, match="is no certificate"):
        read_certificate(path)
    with pytest.raises(UsageError, match="No such file"):
        read_certificate(tmp_path / "none.svg")


def test_the_commands(tmp_path: Path) -> None:
    path = certificate(tmp_path / "c.svg")
    done = course("verify", str(path), "--submission", str(FOLDER))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("these are the files that were graded.\n")
    done = course("verify", str(path), "--submission", str(LAB.folder))
    assert done.returncode == 1
    assert "is not the file" in done.stdout
    done = course("certificate", "--submission", str(LAB.folder), "--out", str(tmp_path / "d.svg"))
    assert done.returncode == 1
    assert "0 of 78 points" in done.stderr
    assert not (tmp_path / "d.svg").exists()

"""What is drawn is the same for a seed, and what is borrowed is the earlier lab's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grader.borrow import ask_again, checks_of
from grader.errors import Mismatch
from grader.lab import find_lab
from grader.site import Site
from grader.variation import VARIABLE, Draw, drawn, seed

sys.path.insert(0, str(Path(__file__).parent))
from pages import site_with


@pytest.fixture(autouse=True)
def known_seed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, "a seed")
    seed.cache_clear()
    yield
    seed.cache_clear()


def some(draw: Draw) -> list[object]:
    return [draw.word(), draw.fingerprint(), draw.text(50), draw.address(), draw.address(6)]


def test_the_same_seed_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    first = some(Draw("files"))
    assert some(Draw("files")) == first
    assert some(Draw("names")) != first, "each check has draws of its own"
    monkeypatch.setenv(VARIABLE, "another")
    seed.cache_clear()
    assert some(Draw("files")) != first


def test_without_a_seed_there_is_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    seed.cache_clear()
    assert len(seed()) == 6
    assert seed() == seed()


def test_draws_are_of_use() -> None:
    draw = Draw("shape")
    assert len(draw.text(1234)) == 1234
    assert len(draw.fingerprint()) == 8
    assert draw.address().startswith("203.0.113.")
    assert draw.address(6).startswith("2001:db8::")


def test_a_mismatch_names_the_seed() -> None:
    with pytest.raises(Mismatch) as failed, drawn("15", "files"):
        raise Mismatch("this", "that", "A note.", [("nginx.conf", "root")])
    assert failed.value.note.startswith("A note.\nDrawn with the seed a seed;")
    assert failed.value.look_at == [("nginx.conf", "root")]


@pytest.fixture(scope="module")
def solution() -> Iterator[Site]:
    with site_with(find_lab("15")) as site:
        yield site


def test_a_borrowed_check_is_the_labs_own(solution: Site) -> None:
    assert Path(str(checks_of("04").__file__)) == find_lab("04").folder / "test_lab.py"
    ask_again(solution, "04", "types", "ranges")
    assert solution.exchanges[-1].url.startswith("https://board.example")


def test_a_borrowed_check_says_whose_it_is(solution: Site) -> None:
    with pytest.raises(Mismatch) as failed:
        ask_again(solution, "03", "methods-and-bodies")  # this site allows three methods
    assert "Lab 03: Methods, headers and bodies up to 1 MB pass." in failed.value.note
    assert ("nginx.conf", "limit_except") in failed.value.look_at


def test_patient_visitors_wait_for_their_log_in(solution: Site) -> None:
    for _ in range(9):  # more than a burst of log-ins
        ask_again(solution, "06", "cookie", secure=False)

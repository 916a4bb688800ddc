"""Options of the course's own tests."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

pytest.register_assert_rewrite("pages")  # says how what a command printed differs

# The tests' own gradings are nobody's progress.
STATE = tempfile.TemporaryDirectory(prefix="course-tests-")  # gone with this process
os.environ["COURSE_STATE"] = STATE.name
os.environ.pop("COURSE_COMMAND", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let commands rewrite the golden cards, leave most wrong answers out, or nothing at all."""
    parser.addoption("--golden", action="store_true", help="rewrite tests/wrong/*/*/card.txt")
    parser.addoption(
        "--short",
        action="store_true",
        help="grade seven wrong answers and a right one of each lab; leave out what is marked slow",
    )
    parser.addoption(
        "--thorough", action="store_true", help="grade wrong answers with every single check"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes long; leave out what says little more, where that was asked for."""
    # A whole server, for many tests in turn: at the end, all other processes would wait for it.
    items.sort(key=lambda one: one.path.name != "test_server.py")
    if not config.getoption("short"):
        return
    sys.path.insert(0, str(Path(__file__).parent))
    from answers import few  # reads where the state is

    kinds = ("test_wrong_answer_fails[", "test_other_right_answer_passes[")
    graded = [one for one in items if one.name.startswith(kinds)]
    kept = few([one.callspec.params["answer"] for one in graded])
    left_out = [one for one in graded if one.callspec.params["answer"] not in kept]
    left_out += [one for one in items if one.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [one for one in items if one not in left_out]

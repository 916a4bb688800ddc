"""Options of the course's own tests."""

from __future__ import annotations

import os
import tempfile

import pytest

pytest.register_assert_rewrite("pages")  # says how what a command printed differs

# The tests' own gradings are nobody's progress.
STATE = tempfile.TemporaryDirectory(prefix="course-tests-")  # gone with this process
os.environ["COURSE_STATE"] = STATE.name
os.environ.pop("COURSE_COMMAND", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let one command rewrite the golden cards, and one leave nothing out."""
    parser.addoption("--golden", action="store_true", help="rewrite tests/wrong/*/*/card.txt")
    parser.addoption(
        "--thorough", action="store_true", help="grade wrong answers with every single check"
    )

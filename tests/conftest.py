"""Options of the course's own tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let one command rewrite the golden cards."""
    parser.addoption("--golden", action="store_true", help="rewrite tests/wrong/*/*/card.txt")

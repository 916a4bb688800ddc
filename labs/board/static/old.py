"""An old copy of a module that somebody left here. No visitor should ever read source code."""

ANSWER = 42

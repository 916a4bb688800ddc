"""A copy of the course for tests that edit its labs, with its own memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from answers import ROOT
from grader.lab import all_labs
from grader.starters import given


class Clone:
    """The course in a folder of a test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("grader", "labs", "solutions"):
            shutil.copytree(ROOT / name, folder / name, symlinks=True)
        shutil.copy(ROOT / "pyproject.toml", folder)
        (folder / "docs" / "labs").mkdir(parents=True)
        for lab in all_labs():  # whatever has been edited here
            for name in lab.files:
                (folder / "labs" / lab.number / name).write_bytes(given(lab, name))

    @property
    def environment(self) -> dict[str, str]:
        """What makes Python use the copy's grader and memory."""
        state = str(self.folder / ".course")
        return {**os.environ, "PYTHONPATH": str(self.folder), "COURSE_STATE": state}

    def command(self, *words: str) -> list[str]:
        """The command line of `course` in this copy."""
        return [sys.executable, "-P", "-m", "grader", *words]

    def course(self, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run `course` to its end."""
        return subprocess.run(
            self.command(*words),
            env=self.environment,
            input=typed,
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=120,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `course` and do not wait; its output comes line by line."""
        return subprocess.Popen(
            self.command(*words),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
        )

    def solve(self, number: str, *names: str) -> None:
        """Put the solution's files into a lab, or some of them."""
        for path in (self.folder / "solutions" / number).iterdir():
            if path.is_file() and (not names or path.name in names):
                shutil.copy(path, self.folder / "labs" / number)

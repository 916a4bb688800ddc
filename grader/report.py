"""What a grading looks like on the terminal."""

from __future__ import annotations

from typing import Any

import pytest
from _pytest.terminal import TerminalReporter

from grader.results import Result, count
from grader.text import COURSE

COLOURS = {"passed": {"green": True}, "failed": {"red": True}}


class LabReporter(TerminalReporter):  # type: ignore[misc]  # final, yet every such plugin does it
    """pytest's reporter, less its dots and tracebacks: a line per check, a card per failure."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config)
        self.results: dict[str, list[Result]] = {}
        self.labs: dict[str, dict[str, Any]] = {}
        # Side by side, the lines of several labs would mix: then they wait for the end.
        self.wait = config.getoption("dist", "no") != "no"
        self.whose = whose_files(config)
        self.said_last = ""  # what the blocked check before this one needs

    @property
    def showheader(self) -> bool:
        """Print no header: versions and plugins say nothing to a learner."""
        return False

    def pytest_collection(self) -> None:
        """Print nothing while collecting."""

    def report_collect(self, final: bool = False) -> None:
        """Print nothing while collecting."""

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        """Print nothing before a check is done."""

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Print no progress."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print a check's line or card."""
        told = getattr(report, "course_result", None)
        if told is None:
            if report.failed:
                self._add_stats("error", [report])
                self.write_line(f"! {report.nodeid}\n{report.longreprtext}")
            return
        result = Result(**told)
        if result.lab not in self.results:
            self.labs[result.lab] = report.course_lab
            if not self.wait:
                self.show_title(result.lab)
        self.results.setdefault(result.lab, []).append(result)
        self._add_stats(result.verdict, [report])
        if not self.wait:
            self.show(result)

    def show_title(self, lab: str) -> None:
        """Print a lab's heading."""
        self.write_line(f"Lab {lab}: {self.labs[lab]['title']}\n")

    def show(self, result: Result) -> None:
        """Print a check's line or card."""
        colour = COLOURS.get(result.verdict, {"yellow": True})
        head, _, rest = result.card.partition("\n")
        if result.verdict == "blocked":
            # Where nothing starts, all is blocked by the same: said once.
            rest = "" if rest == self.said_last else rest
            self.said_last = rest or self.said_last
        else:
            self.said_last = ""
        self.write_line(head, **colour)
        if rest:
            self.write_line(f"{rest}\n")

    def _report_keyboardinterrupt(self) -> None:
        """Say in a line that the user has ended it; pytest calls this for its own stops too."""
        memo = self._keyboardinterrupt_memo
        if memo is not None and memo.reprcrash and "KeyboardInterrupt" in memo.reprcrash.message:
            self.write_line("\nStopped: what is missing above was not checked.", yellow=True)

    def summary_warnings(self) -> None:
        """Print no warnings: they are about the checks, not about the learner's files."""

    def summary_failures(self) -> None:
        """Print nothing: the cards are there already."""

    def summary_errors(self) -> None:
        """Print checks that could not be read; other errors were printed when they came."""
        for report in self.getreports("error"):
            if isinstance(report, pytest.CollectReport):
                self.write_line(f"! {report.nodeid}\n{report.longreprtext}")

    def short_test_summary(self) -> None:
        """Print nothing: the cards are there already."""

    def summary_stats(self) -> None:
        """Print one line for each lab, and what to do next."""
        if not self.results and not self.stats:
            self.write_line(f"No check was run: none is called so. Their names: {COURSE} hint NN")
        for lab, results in sorted(self.results.items()):
            if self.wait:
                self.show_title(lab)
                for result in results:
                    self.show(result)
            self.write_line("")
            self.write_line(summary(lab, results, self.labs[lab]["points"]))
            points = self.labs[lab]["points"]
            self.write_line(next_step(lab, results, points, self.whose))


def summary(lab: str, results: list[Result], points: int) -> str:
    """One line: points, and how many checks came out how.

    Args:
        lab: its number.
        results: of the checks that were run.
        points: of all its checks; more than the results' when some were left out.
    """
    earned = sum(one.points for one in results)
    counts = [f"{count(results, 'passed')} passed", f"{count(results, 'failed')} failed"]
    counts.append(f"{count(results, 'blocked')} blocked")
    if count(results, "inconclusive"):
        counts.append(f"{count(results, 'inconclusive')} inconclusive")
    total = sum(one.of for one in results)
    part = f" (of a part; the lab has {points})" if total < points else ""
    return f"Lab {lab}: {earned} of {total} points{part}. Checks: {', '.join(counts)}."


def whose_files(config: pytest.Config) -> str:
    """Whose files are graded: the learner's `own`, `others`, or the server's (`live`)."""
    if config.getoption("live"):
        return "live"
    return "others" if config.getoption("submission") or config.getoption("solution") else "own"


def next_step(lab: str, results: list[Result], points: int, whose: str) -> str:
    """What to do now.

    Args:
        lab: its number.
        results: of the checks that were run.
        points: of all its checks.
        whose: files they are, as of `whose_files`.
    """
    failed = next((one for one in results if one.verdict == "failed"), None)
    if failed:
        return f"Next: mend the first ✗ above; stuck? {COURSE} hint {lab} {failed.check}"
    if count(results, "inconclusive") and whose == "live":
        return f"What cannot be checked on a server, a box shows: {COURSE} check {lab}"
    if results and count(results, "inconclusive") == len(results):
        return f"What to do about it stands above. The other labs need not wait: {COURSE} next"
    if count(results, "inconclusive"):
        return "Next: run it again; a check could not find out, which is not your fault."
    if sum(one.of for one in results) < points:
        return f"Next: grade all of it: {COURSE} check {lab}"
    if whose == "live":
        return f"The server holds what lab {lab} asks for. Next: {COURSE} next"
    if whose == "others":
        return f"These were not your own files. Next: {COURSE} next"
    return f"Next: read the lesson of lab {lab} once more beside your files, then: {COURSE} next"

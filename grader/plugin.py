"""The pytest plugin: runs the checks of a lab folder, gives verdicts, prints cards.

A test file beside a lab.toml is a lab's; every other test is left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from grader.card import head_line, remember, render
from grader.checks import Check, check_of
from grader.errors import CourseError, GraderError, Mismatch, StartFailed, UsageError
from grader.lab import LABS, SOLUTIONS, Lab, load_lab
from grader.machine import File
from grader.progress import keep
from grader.report import LabReporter, whose_files
from grader.results import Result, plain_exchanges
from grader.site import Site
from grader.sites import Sites
from grader.text import clean
from grader.variation import VARIABLE, seed

if TYPE_CHECKING:
    from grader.client import Exchange

LEARNERS = (AssertionError, StartFailed, OSError)  # what requests raises is an OSError too
LOUD = re.compile(r"\[(error|crit|alert|emerg)\]")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say where the files to grade are."""
    group = parser.getgroup("lab", "grading a lab")
    group.addoption("--submission", metavar="DIR", help="grade the files of this folder instead")
    group.addoption("--solution", action="store_true", help="grade the course's own solution")
    group.addoption("--live", action="store_true", help="grade the server that this machine is")
    group.addoption("--yes", action="store_true", help="with --live: do not ask before")
    group.addoption("--results", metavar="FILE", help="write the results as JSON")
    group.addoption("--seed", help="draw the same again: lab 15's cards say with which seed")


def asked_folders(config: pytest.Config) -> list[Path]:
    """The lab folders that this run is about; none when it is about anything else too."""
    here = config.invocation_params.dir
    found: list[Path] = []
    for one in config.args:
        path = Path(os.path.abspath(here / one.split("::")[0]))  # links stay, as pytest has it
        folder = path.parent if path.suffix == ".py" else path
        inside = [*folder.glob("*/lab.toml"), *folder.glob("lab.toml")]
        if not inside or (folder / "pyproject.toml").exists():
            return []
        found += [told.parent for told in inside]
    return found


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Take the terminal over when only labs are graded."""
    folders = asked_folders(config)
    if not folders:
        return
    if config.getoption("seed"):
        os.environ[VARIABLE] = config.getoption("seed")  # xdist's workers get it too
    wanted = config.getoption("results")
    if wanted and not Path(wanted).absolute().parent.is_dir():
        raise pytest.UsageError(f"--results {wanted}: there is no such folder")
    if config.getoption("live"):
        agree_to_live(config, folders)
    # Two labs' test_lab.py are two modules, wherever the folders lie.
    config.option.importmode = "importlib"
    config.pluginmanager.register(Grading(config, folders), "grader-run")
    standard = config.pluginmanager.getplugin("terminalreporter")
    if standard is not None and config.option.verbose == 0:
        config.pluginmanager.unregister(standard)
        config.pluginmanager.register(LabReporter(config), "terminalreporter")


def agree_to_live(config: pytest.Config, folders: list[Path]) -> None:
    """See that a live grading can be made, and that the user wants it.

    Raises:
        pytest.UsageError: it cannot; says why.
        pytest.exit.Exception: the user does not.
    """
    import click

    from grader import live

    capture = config.pluginmanager.getplugin("capturemanager")
    try:
        if len(folders) != 1:
            raise UsageError("--live grades one lab: name it")
        lab = load_lab(folders[0])
        others = config.getoption("submission") or config.getoption("solution")
        if others and not lab.systemd:
            raise UsageError("--live grades the files that are deployed on this machine")
        if in_parallel(config):
            raise UsageError("--live: there is one server, so no two checks can run at a time")
        live.refuse_without_units(lab)
        if config.getoption("yes") or config.option.collectonly:
            return
        with capture.global_and_fixture_disabled():
            if not sys.stdin.isatty():
                raise UsageError("--live disturbs the server. If you want that, say --yes too")
            if not click.confirm(f"{live.warning(lab)}\nGo on?"):
                pytest.exit("nothing was done", returncode=2)
    except CourseError as error:
        raise pytest.UsageError(str(error)) from None


class Run:
    """One check being run: in the main thread, or ahead of its turn in a thread of its own."""

    def __init__(self, item: pytest.Function, sites: Sites) -> None:
        self.item = item
        self.check = check_of(item.function)
        self.sites = sites
        self.made: list[Site] = []
        self.exchanges: list[Exchange] = []
        self.log_start = 0
        self.files: list[File] = []
        self.front: tuple[str, int | str] | None = None
        self.log = ""
        self.error: BaseException | None = None
        self.seconds = 0.0
        self._thread: threading.Thread | None = None

    def make_site(self, **options: Any) -> Site:
        """The `make_site` fixture of a check."""
        site = self.sites.make(**options)
        self.made.append(site)
        return site

    def arguments(self) -> dict[str, Any]:
        """What the check's function asks for by name."""
        made: dict[str, Any] = {}
        for name in self.item._fixtureinfo.argnames:
            if name == "make_site":
                made[name] = self.make_site
            elif name == "site":
                made[name] = self.make_site() if self.check.alone else self.sites.common()
            else:
                raise GraderError(f"the check asks for {name!r}, which no lab has")
        return made

    def run(self) -> None:
        """Run the check; keep how it ended."""
        started = time.monotonic()
        try:
            arguments = self.arguments()
            site = arguments.get("site")
            if site is not None:
                site.exchanges.clear()
                self.log_start = len(site.error_log())
            self.item.function(**arguments)
        except BaseException as error:
            self.error = error
        self.seconds = time.monotonic() - started

    def ahead(self) -> None:
        """Start running now, beside the other checks."""
        self._thread = threading.Thread(target=self._run_and_close, daemon=True)
        self._thread.start()

    def _run_and_close(self) -> None:
        self.run()
        self.keep()
        self.sites.close(self.made)

    def finish(self) -> None:
        """Run now, or wait for the thread that does."""
        if self._thread is None:
            self._run_and_close()
        else:
            self._thread.join()

    def keep(self) -> None:
        """Keep what card and report need while the box is still there."""
        sites = self.made or ([self.sites.shared] if self.sites.shared else [])
        # Those that were placed: the folder's may have been saved again meanwhile.
        self.files = sites[-1].files if sites else self.sites.placed
        if not sites or isinstance(self.error, StartFailed):
            return
        site = sites[-1]
        self.exchanges = list(site.exchanges)
        if self.error is None:
            return
        # The session may end, and its boxes with it, while a check is still at it.
        with contextlib.suppress(GraderError, OSError, ValueError):
            if isinstance(self.error, Mismatch):
                self.error.note = " ".join(filter(None, [self.error.note, *site.notes()]))
            self.front = site.front
            if self.exchanges:
                self.log = log_line(site.error_log()[self.log_start :], self.exchanges[-1])

    def all_exchanges(self) -> list[dict[str, Any]]:
        """For the report: those of all its sites, where the card needs the last site's alone."""
        if not self.made:
            return plain_exchanges(self.exchanges)
        return plain_exchanges([one for site in self.made for one in list(site.exchanges)])


def log_line(text: str, exchange: Exchange) -> str:
    """The last line of nginx's error log about a request; "" when nothing went wrong with it."""
    asked = f'request: "{exchange.method} {exchange.target} '
    loud = [line for line in text.splitlines() if asked in line and LOUD.search(line)]
    host = f'host: "{exchange.headers.get("Host", "")}"'
    wanted = [line for line in loud if host in line] or loud
    return clean(wanted[-1], 600) if wanted else ""


class Grading:
    """One pytest run over lab folders."""

    def __init__(self, config: pytest.Config, folders: list[Path]) -> None:
        self.config = config
        self.folders = folders
        self.sites: dict[Path, Sites] = {}
        self.runs: dict[str, Run] = {}
        self.verdicts: dict[tuple[Path, str], str] = {}
        self.results: list[Result] = []
        self.current: Path | None = None
        self.problem = ""  # when the sites were ended

    # --- collecting

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Start the site of a single lab now: programs take as long to start as pytest does."""
        # Workers of xdist share labs out later; this process then only hands them out.
        config = self.config
        if len(self.folders) == 1 and not (config.option.collectonly or in_parallel(config)):
            with contextlib.suppress(CourseError, pytest.UsageError):  # told when collected
                self.sites_of(self.folders[0]).start_early()

    def sites_of(self, folder: Path) -> Sites:
        """The manager of a lab's boxes, made when first needed.

        Raises:
            CourseError: lab.toml is wrong.
        """
        if folder not in self.sites:
            lab = load_lab(folder)
            self.sites[folder] = self.make_sites(lab)
        return self.sites[folder]

    def make_sites(self, lab: Lab) -> Sites:
        """The manager of a lab's boxes, or of the server that this machine is."""
        if lab.systemd:
            from grader import systemd

            kind = systemd.SystemdLiveSites if self.config.getoption("live") else None
            return (kind or systemd.ContainerSites)(lab, self.submission(lab))
        if self.config.getoption("live"):
            from grader.live import LiveSites

            return LiveSites(lab, lab.folder)
        return Sites(lab, self.submission(lab))

    def submission(self, lab: Lab) -> Path:
        """The folder whose files are graded."""
        given = self.config.getoption("submission")
        if given:
            folder = Path(self.config.invocation_params.dir, given)
            if not folder.is_dir():
                raise pytest.UsageError(f"--submission {given}: there is no such folder")
            return folder
        return SOLUTIONS / lab.number if self.config.getoption("solution") else lab.folder

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Make the boxes' managers; name the first check of each lab."""
        try:
            for item in items:
                if (item.path.parent / "lab.toml").is_file():
                    self.sites_of(item.path.parent)
        except CourseError as error:
            raise pytest.UsageError(str(error)) from None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Get ready to run the checks that were chosen."""
        if session.config.option.collectonly or is_controller(session.config):
            return
        for item in session.items:
            sites = self.sites.get(item.path.parent)
            if sites and isinstance(item, pytest.Function):
                self.runs[item.nodeid] = Run(item, sites)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Keep a lab's checks together: they share a site, and some need others."""
        from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

        return LoadFileScheduling(config, log)

    @pytest.hookimpl(tryfirst=True)
    def pytest_assertrepr_compare(self, op: str, left: object, right: object) -> list[str] | None:
        """Keep both sides of a failed comparison whole: pytest would shorten them."""
        return [remember(op, left, right)]

    # --- running

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Run a check, unless what it needs did not pass."""
        run = self.runs.get(pyfuncitem.nodeid)
        if run is None:
            return None
        self.begin(pyfuncitem.path.parent)
        blocked_by = self.blocker(run)
        if blocked_by:
            pyfuncitem.user_properties.append(("blocked", blocked_by))
            pytest.skip(blocked_by)
        run.finish()
        if run.error is not None:
            raise run.error
        return True

    def begin(self, folder: Path) -> None:
        """At a lab's first check: end the lab before, start what has a box of its own."""
        if self.current == folder:
            return
        if self.current:
            self.sites[self.current].close()
        self.current = folder
        for run in self.runs.values():
            in_turn = run.sites.in_turn
            if run.check.alone and not in_turn and run.item.path.parent == folder:
                run.ahead()

    def blocker(self, run: Run) -> str:
        """The title of a check that this one needs and that did not pass; "" when there is none."""
        folder = run.item.path.parent
        if run.sites.nowhere:
            return ""
        first = first_check(run.item)
        needed = [*run.check.needs, *([first.name] if first.name != run.check.name else [])]
        for name in needed:
            if self.verdicts.get((folder, name), "passed") != "passed":
                return title_of(run.item, name)
        if run.sites.failed and self.verdicts:
            return "The site starts"
        return ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Turn a check's end into one of the four verdicts, and its card."""
        report = yield
        run = self.runs.get(item.nodeid)
        if run is None or report.when != "call":
            return report
        verdict = self.verdict(report, call)
        folder = item.path.parent
        self.verdicts[folder, run.check.name] = verdict
        earned = run.check.points if verdict == "passed" else 0
        card = self.card(run, verdict, item)
        lab = run.sites.lab
        result = Result(
            lab.number, run.check.name, run.check.title, verdict, earned, run.check.points, card,
            round(run.seconds, 3), run.all_exchanges() if self.config.getoption("results") else [],
        )  # fmt: skip
        report.course_result = result.as_dict()  # type: ignore[attr-defined]
        report.course_lab = {"title": lab.title, "points": lab.points}  # type: ignore[attr-defined]
        if verdict != "blocked":
            report.longrepr = card if verdict != "passed" else None
        return report

    def verdict(self, report: pytest.TestReport, call: pytest.CallInfo[Any]) -> str:
        """Decide whose fault it is."""
        if call.excinfo is None:
            return "passed"
        if report.skipped:
            return "blocked"
        error = call.excinfo.value
        if isinstance(error, LEARNERS) and not isinstance(error, GraderError):
            return "failed"
        return "inconclusive"

    def card(self, run: Run, verdict: str, item: pytest.Item) -> str:
        """Write what is shown for a check."""
        if verdict == "passed":
            return head_line(verdict, run.check, run.check.points)
        blocked_by = dict(item.user_properties).get("blocked", "")
        return render(
            verdict,
            run.check,
            run.sites.lab,
            error=run.error,
            exchange=run.exchanges[-1] if run.exchanges else None,
            files=run.files or readable(run.sites),
            front=run.front,
            log=run.log,
            blocked_by=str(blocked_by),
        )

    # --- ending

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the results; with xdist they come from the workers."""
        told = getattr(report, "course_result", None)
        if told:
            self.results.append(Result(**told))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """End all boxes; say with the exit code whose fault a failure is."""
        for sites in self.sites.values():
            try:
                sites.close()
            except GraderError as error:
                self.problem = str(error)
        verdicts = [one.verdict for one in self.results]
        if ("inconclusive" in verdicts and "failed" not in verdicts) or self.problem:
            session.exitstatus = 3
        if is_worker(self.config):
            return
        keep([one for one in self.results if one.lab in self.own_labs()])
        wanted = self.config.getoption("results")
        if wanted:
            told = [one.as_dict() for one in self.results]
            text = json.dumps({"results": told}, indent=1, ensure_ascii=False)
            Path(wanted).write_text(text, encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say with which seed something was drawn, and what could not be put back."""
        if seed.cache_info().currsize:
            terminalreporter.write_line(f"\nDrawn with the seed {seed()}.")
        if self.problem:
            terminalreporter.write_line(f"\nThe server is not as it was:\n{self.problem}", red=True)

    def own_labs(self) -> set[str]:
        """The labs that were graded with the learner's own files: these gradings are progress."""
        if whose_files(self.config) != "own":
            return set()
        return {folder.name for folder in self.folders if folder.resolve().parent == LABS}


def is_controller(config: pytest.Config) -> bool:
    """Tell whether this process only hands the checks to xdist's workers."""
    return in_parallel(config) and not is_worker(config)


def is_worker(config: pytest.Config) -> bool:
    """Tell whether xdist hands this process some of the checks."""
    return hasattr(config, "workerinput")


def in_parallel(config: pytest.Config) -> bool:
    """Tell whether xdist shares the checks out to several processes."""
    return bool(config.getoption("tx", None)) or is_worker(config)


def readable(sites: Sites) -> list[File]:
    """The learner's files, if they can be read."""
    try:
        return sites.files()
    except StartFailed:
        return []


def checks_in(item: pytest.Function) -> list[Check]:
    """All checks of an item's file, in their order."""
    module = item.module
    found: list[Callable[..., Any]] = [
        value
        for name, value in vars(module).items()
        if name.startswith("test_") and callable(value)
    ]
    return [check_of(one) for one in found]


def first_check(item: pytest.Function) -> Check:
    """The first check of an item's file: that the site starts at all."""
    return checks_in(item)[0]


def title_of(item: pytest.Function, name: str) -> str:
    """The title of a check of the same file."""
    return next((one.title for one in checks_in(item) if one.name == name), name)


@pytest.fixture
def site() -> None:
    """The learner's site, running; the plugin hands it to a check."""


@pytest.fixture
def make_site() -> None:
    """A function that starts another site; the plugin hands it to a check."""

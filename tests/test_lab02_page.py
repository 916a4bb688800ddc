"""Lab 02's page: every command on it is run, every output, log line and claim is real."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grader.errors import StartFailed
from grader.lab import SOLUTIONS, find_lab, read_solution
from grader.machine import File
from grader.site import Site, wait_for

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT
from pages import blocks, check_session, in_box, read_page, sessions, troubles

PAGE = read_page("02-gunicorn")
LAB = find_lab("02")
TROUBLES = troubles(PAGE)
SNIPPET = re.compile(r'--8<-- "([^":]+):(\d+):(\d+)"')
ELSEWHERE = {"./course check 02"}  # what other tests run
GUNICORN = ["gunicorn", "--config", "gunicorn.conf.py"]


def masked(text: str) -> str:
    """Leave out what differs from run to run: process ids, counts of requests, milliseconds."""
    for pattern, replacement in [
        (r'"pid":\d+', '"pid":N'),
        (r"\b(worker|master|it is) \d+", r"\1 N"),
        (r"^\d+ is gone", "N is gone"),
        (r"^ *\d+ (?=\"pid\")", "N "),
        (r" 2\d 7\d\dms$", " BYTES MSms"),
        (r"\(pid:\d+\)", "(pid:N)"),
        (r"^\[\d{4}-[^\]]*\] \[\d+\] ", ""),
    ]:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text.strip()


@pytest.mark.parametrize("number", range(len(sessions(PAGE))))
def test_commands_print_what_the_page_shows(number: int) -> None:
    command, steps = sessions(PAGE)[number]
    counts = [at for at, (inside, _) in enumerate(steps) if any("uniq -c" in one for one in inside)]
    if not counts:
        check_session((command, steps), masked)
        return
    printed = [masked(one) for one in in_box([inside for inside, _ in steps], *command.split()[2:])]
    for at, (_, output) in enumerate(steps):
        if at in counts:  # as many lines as there were workers, which is left to chance
            assert set(printed[at].splitlines()) == {'N "pid":N'}
            assert len(printed[at].splitlines()) >= 4
        else:
            assert printed[at] == masked(output)
    assert len(printed) == len(steps)


def test_every_other_command_is_run_elsewhere() -> None:
    assert {language for language, _ in blocks(PAGE)} == {"console", "text", "python", "sh"}
    for language, body in blocks(PAGE):
        if language == "sh":
            assert set(body.splitlines()) <= ELSEWHERE


def test_snippets_are_whole_paragraphs_of_the_solution() -> None:
    covered = []
    for name, first, last in SNIPPET.findall(PAGE):
        assert name == "solutions/02/gunicorn.conf.py"
        covered += range(int(first), int(last) + 1)
        lines = ["", *(ROOT / name).read_text().splitlines(), ""]
        assert lines[int(first) - 1] == lines[int(last) + 1] == ""
        assert lines[int(first)].startswith("#")
    lines = (ROOT / "solutions/02/gunicorn.conf.py").read_text().splitlines()
    missing = [line for at, line in enumerate(lines, 1) if line and at not in covered]
    assert missing == lines[:1]  # its docstring


def site_with(more: str = "", *, without: str = "", **options: object) -> Site:
    """The solution, with something added to its file, and the line of one setting taken out."""
    text = (SOLUTIONS / "02" / "gunicorn.conf.py").read_text()
    changed = text + more
    if without:
        changed, found = re.subn(rf"^{without} = .*\n", "", changed, flags=re.MULTILINE)
        assert found == 1
    files = read_solution(LAB, ("gunicorn.conf.py", text, changed))
    return Site(LAB, files, **options)  # type: ignore[arg-type]


def second_gunicorn(site: Site, *more: str, until: str, cwd: str = "/srv/board", key: str) -> str:
    """Start one more Gunicorn in a site's box; what it says, once it has said a certain thing."""
    env = {"BOARD_SECRET_KEY": key} if key else {}
    site.box.spawn("second", [*GUNICORN[:2], "/srv/board/gunicorn.conf.py", *more], env, cwd)
    found = wait_for(lambda: until in site.box.log("second", "stderr"), 15)
    said = site.box.log("second", "stderr")
    assert found, said
    return said


def timed_out() -> str:
    """A sync worker with a slow page."""
    sync = "\nworkers, threads, worker_class, timeout = 2, 1, 'sync', 1\n"
    with site_with(sync) as site:
        assert site.get("/slow?seconds=3").status_code == 500
        gunicorn = site.service("gunicorn")
        line = wait_for(lambda: re.search(r"/slow.* 500 0 (\d+)ms", gunicorn.log("stdout")), 5)
        assert line
        assert int(line[1]) < 1000  # and not the time that the visitor waited
        return gunicorn.log()


def killed() -> str:
    """A worker that is killed while it has a request."""
    with site_with("workers = 1") as site:
        gunicorn = site.service("gunicorn")
        with site.connect(None) as slow:
            slow.sendall(b"GET /slow?seconds=9 HTTP/1.0\r\n\r\n")
            site.wait_read([slow])
            gunicorn.signal(9, gunicorn.workers())
            assert slow.recv(100) == b""
        assert site.get("/whoami").status_code == 200
        return gunicorn.log()


def taken() -> str:
    """A second Gunicorn on the same address."""
    with site_with() as site:
        return second_gunicorn(site, "wsgi:app", until="Connection in use", key="x")


def no_key() -> str:
    """Gunicorn without the environment that the app needs."""
    with site_with() as site:
        return second_gunicorn(
            site, "--bind=127.0.0.1:8001", "wsgi:app", until="exited with code 3", key=""
        )


def wrong_folder() -> str:
    """Gunicorn, started elsewhere; and the cure."""
    with site_with() as site:
        other = ("--bind=127.0.0.1:8001", "wsgi:app")
        cured = ("--bind=127.0.0.1:8002", "--chdir=/srv/board", "wsgi:app")
        said = second_gunicorn(site, *other, until="exited with code 3", cwd="/", key="x")
        site.box.spawn(
            "third",
            ["gunicorn", "--config=/srv/board/gunicorn.conf.py", *cured],
            {"BOARD_SECRET_KEY": "x"},
            "/",
        )
        assert wait_for(lambda: any(one.port == 8002 for one in site.listeners()), 15)
        return said


def log_folder() -> str:
    """A log file in a folder that is not there."""
    with pytest.raises(StartFailed) as failed:
        site_with("\naccesslog = '/var/log/gunicorn/access.log'\n")
    return failed.value.got


def nothing_done() -> str:
    """`worker = 2` starts one worker, and says nothing about it."""
    with site_with("\nworker = 2\n", without="workers") as site:
        gunicorn = site.service("gunicorn")
        assert not wait_for(lambda: len(gunicorn.workers()) > 1, 1)
        assert "worker = " not in gunicorn.log()
    return ""


def ends_at_reload() -> str:
    """A configuration that can run once only; --check-config is content with the solution."""
    with site_with("\nimport os\n\nos.mkdir('/dev/shm/board')\n") as site:
        gunicorn = site.service("gunicorn")
        gunicorn.reload()
        assert gunicorn.wait_end(10) == 1
        said = gunicorn.log()
    with site_with(start=False) as site:
        words = re.search(r"`(gunicorn --config[^`]*--check-config[^`]*)`", PAGE)
        assert words
        for key, code in (("x", 0), ("", 1)):
            site.box.spawn("gunicorn", words[1].split(), {"BOARD_SECRET_KEY": key}, "/srv/board")
            assert site.service("gunicorn").wait_end(20) == code
    return said


def old_version() -> str:
    """A new version of the app, a reload, and who answers."""
    new = b"def app(environ, start):\n    start('200 OK', [])\n    return [b'new version']\n"
    for more, is_new in (("", True), ("\npreload_app = True\n", False)):
        with site_with(more) as site:
            gunicorn = site.service("gunicorn")
            before = set(gunicorn.workers())
            site.box.write(File("/srv/board/wsgi.py", new))
            gunicorn.reload()
            assert wait_for(lambda g=gunicorn, b=before: not b & set(g.workers()), 10)
            assert (site.get("/whoami").text == "new version") is is_new
    return ""


MISTAKES: dict[str, Callable[[], str]] = {
    "Slow pages end with status 500": timed_out,
    "A worker disappears in the middle of an answer": killed,
    "Gunicorn does not start: the address is taken": taken,
    "Gunicorn does not start: the worker failed to boot": no_key,
    "Gunicorn does not start: no module named wsgi": wrong_folder,
    "Gunicorn does not start: the log is not writable": log_folder,
    "A setting does nothing": nothing_done,
    "A reload ends Gunicorn": ends_at_reload,
    "After a reload the old version still shows": old_version,
}


@pytest.mark.parametrize("heading", TROUBLES)
def test_mistakes_leave_the_line_that_the_page_shows(heading: str) -> None:
    log = masked(MISTAKES[heading]())
    told = blocks(TROUBLES[heading])
    commands = any(language == "console" for language, _ in told)
    shown = [] if commands else [line for _, body in told for line in masked(body).splitlines()]
    assert all(line in log for line in shown), log
    assert shown or not log


def test_all_mistakes_are_on_the_page() -> None:
    assert list(MISTAKES) == list(TROUBLES)


def test_a_worker_with_threads_beats_while_a_page_hangs() -> None:
    more = "\nworkers, threads, timeout, graceful_timeout = 1, 2, 1, 1\n"
    with site_with(more) as site, site.connect(None) as hanging:
        gunicorn = site.service("gunicorn")
        hanging.sendall(b"GET /hang HTTP/1.0\r\n\r\n")
        site.wait_read([hanging])
        worker = gunicorn.workers()
        assert not wait_for(lambda: gunicorn.workers() != worker, 4)
        assert site.get("/whoami").json()["pid"] == worker[0]

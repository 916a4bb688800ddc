"""`course watch` grades on every save and leaves nothing; `course up` forwards ports and logs."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from clones import Clone
from inside import processes_with, wait_until

ASK = b"GET %s HTTP/1.1\r\nHost: board.example\r\nConnection: close\r\n\r\n"
SECONDS = 90  # that a command may take in all
ALL_POINTS = "Lab 03: 35 of 35 points. Checks: 19 passed, 0 failed, 0 blocked."


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "course")


class Running:
    """A `course` command that runs until it is ended."""

    def __init__(self, clone: Clone, *words: str) -> None:
        self.process = clone.start(*words)
        self.limit = threading.Timer(SECONDS, self.process.kill)  # then its output ends
        self.limit.start()
        assert self.process.stdout
        self.lines = self.process.stdout

    def line(self, pattern: str) -> str:
        """The next line that has a pattern; others are passed over."""
        passed = []
        for line in self.lines:
            passed.append(line)
            if re.search(pattern, line):
                return line.rstrip()
        raise AssertionError(f"it ended: {''.join(passed)}")

    def end(self, number: int = signal.SIGINT) -> str:
        """End it with a signal; the rest of what it prints."""
        self.process.send_signal(number)
        rest = self.lines.read()
        self.process.wait(20)
        return rest


@pytest.fixture
def started(clone: Clone) -> Iterator[list[Running]]:
    """A list for what a test starts; all is ended after it."""
    made: list[Running] = []
    yield made
    for one in made:
        one.limit.cancel()
        one.process.kill()
        one.process.wait()
        one.lines.close()


def boxes_of(pid: int) -> list[str]:
    """The boxes that a process has started."""
    told = subprocess.run(["pgrep", "-P", str(pid), "bwrap"], capture_output=True, text=True)
    return told.stdout.split()


def test_watch_grades_each_save_and_goes_on(clone: Clone, started: list[Running]) -> None:
    clone.solve("03")
    conf = clone.folder / "labs" / "03" / "nginx.conf"
    right = conf.read_text()
    wrong = right.replace("X-Forwarded-Proto $scheme", "X-Forwarded-Proto https")
    conf.write_text(wrong)
    running = Running(clone, "watch", "03")
    started.append(running)
    running.line(r"grading lab 03")
    first = running.line(r"^Lab 03: \d+ of 35 points")
    # What a save changes is graded: Nginx's file in a box that is warm, a broken one, the app's.
    broken = False  # then no box waits
    for text, verdict in (
        (wrong + "# more\n", re.escape(first)),
        (right.replace("listen 80;", "listen 80"), r"^Lab 03: 0 of 35 points"),
        (wrong, re.escape(first)),
    ):
        if not broken:
            wait_until(lambda: boxes_of(running.process.pid), "the next box")
        broken = "listen 80\n" in text
        conf.write_text(text)
        running.line(r"nginx\.conf saved: grading lab 03")
        running.line(verdict)
    app = clone.folder / "labs" / "03" / "wsgi.py"
    app.write_text(app.read_text().replace("x_for=1", "x_for=0"))
    running.line(r"wsgi\.py saved")
    assert running.line(r"^Lab 03: \d+ of 35 points") != first
    clone.solve("03")
    running.line(re.escape(ALL_POINTS))
    running.line("Lab 03 has passed. Now watching lab 04")
    clone.solve("04", "nginx.conf")
    running.line("grading lab 04")
    running.end()
    assert running.process.returncode == 0


def test_watch_verdicts_are_those_of_check(clone: Clone, started: list[Running]) -> None:
    """A warm box and a cold one give the same cards."""
    clone.solve("03", "wsgi.py")
    cold = clone.course("check", "03").stdout
    running = Running(clone, "watch", "03")
    started.append(running)
    running.line(r"^Lab 03: ")
    conf = clone.folder / "labs" / "03" / "nginx.conf"
    wait_until(lambda: boxes_of(running.process.pid), "the next box")
    conf.write_text(conf.read_text())
    running.line(r"nginx\.conf saved")
    warm = []
    for line in running.lines:
        warm.append(line)
        if line.startswith("Lab 03: ") and "points" in line:
            break
    titles = [line for line in cold.splitlines() if line.startswith(("✓", "✗", "-"))]
    assert [
        line for line in "".join(warm).splitlines() if line.startswith(("✓", "✗", "-"))
    ] == titles
    assert len(titles) == 19


def test_a_part_of_a_lab_is_no_reason_to_go_on(clone: Clone, started: list[Running]) -> None:
    clone.solve("03", "wsgi.py")
    running = Running(clone, "watch", "03", "-k", "site_answers")
    started.append(running)
    running.line("Lab 03: 2 of 2 points")
    for _ in range(2):
        wait_until(lambda: boxes_of(running.process.pid), "the next box")
        conf = clone.folder / "labs" / "03" / "nginx.conf"
        conf.write_text(conf.read_text())
        running.line("nginx.conf saved: grading lab 03")
        running.line("Lab 03: 2 of 2 points")
    assert clone.course("watch", "03", "--solution").returncode == 2


def test_ctrl_c_in_a_terminal_leaves_no_box(clone: Clone) -> None:
    """It goes to all processes of the terminal's group, at whatever moment."""
    for step in range(12):
        running = subprocess.Popen(
            [sys.executable, "-m", "pytest", "labs/01"],
            env=clone.environment,
            cwd=clone.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(0.15 + step * 0.02)  # the moment itself
        os.killpg(running.pid, signal.SIGINT)
        running.wait(30)
    mine = str(clone.folder)
    wait_until(lambda: not processes_with(f"{mine}/grader/init.py"), "the end of all boxes")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_watch_leaves_nothing(number: int, clone: Clone, started: list[Running]) -> None:
    running = Running(clone, "watch", "03")
    started.append(running)
    running.line(r"^Lab 03: ")
    wait_until(lambda: boxes_of(running.process.pid), "the next box")
    (box,) = boxes_of(running.process.pid)
    rest = running.end(number)
    assert "Traceback" not in rest
    wait_until(lambda: not Path(f"/proc/{box}").exists(), "the end of the box")


def test_up_forwards_a_port_and_follows_the_logs(clone: Clone, started: list[Running]) -> None:
    running = Running(clone, "up", "06", "--solution")
    started.append(running)
    secure = re.search(r"--cacert (.*?) .*?board\.example:(\d+):", running.line("Over TLS: "))
    plain = re.search(r":(\d+):", running.line("By its own name: "))
    assert secure and plain
    running.line("Ctrl-C ends it")
    with socket.create_connection(("127.0.0.1", int(plain[1]))) as visitor:
        visitor.sendall(ASK % b"/hello")
        assert visitor.recv(100).startswith(b"HTTP/1.1 301 ")
    context = ssl.create_default_context(cafile=secure[1])
    with (
        socket.create_connection(("127.0.0.1", int(secure[2]))) as raw,
        context.wrap_socket(raw, server_hostname="board.example") as visitor,
    ):
        visitor.sendall(ASK % b"/whoami")
        assert visitor.recv(100).startswith(b"HTTP/1.1 200 ")
    running.line(r'nginx access: 203\.0\.113\.7 .*"GET /whoami')
    assert "Traceback" not in running.end(signal.SIGTERM)
    assert running.process.returncode == 0


def test_up_says_what_does_not_start(clone: Clone, started: list[Running]) -> None:
    (clone.folder / "labs" / "03" / "nginx.conf").write_text("server {\n")
    running = Running(clone, "up", "03")
    started.append(running)
    running.line("nginx did not start")
    running.line("unexpected end of file")
    running.end()


def test_up_names_a_port_that_is_taken(clone: Clone, started: list[Running]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = clone.course("up", "01", "--solution", "--port", str(port))
    assert done.returncode == 2
    assert f"port {port} of this machine: Address already in use" in done.stderr
    running = Running(clone, "up", "01", "--solution", "--port", str(port))
    started.append(running)
    running.line("In a browser")
    with urllib.request.urlopen(f"http://localhost:{port}/healthz", timeout=10) as reply:
        assert reply.status == 200
    running.end()

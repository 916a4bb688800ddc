"""What tests do with a server of the course: put files on it, deploy, grade it live."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from answers import Graded
from container import APART, CLONE, Container

RESULTS = "/run/results.json"


def place(server: Container, source: Path, target: str) -> None:
    """Copy a file of this machine to a path of the server."""
    data = base64.b64encode(source.read_bytes()).decode()
    server.run(["sh", "-euc", 'base64 -d >"$1"', "sh", target], typed=data)


def place_submission(server: Container, folder: Path) -> str:
    """Copy a folder with a lab's files to the server; where it is there."""
    target = f"/run/submissions/{folder.name}"
    server.run(["mkdir", "-p", target])
    for path in folder.iterdir():
        place(server, path, f"{target}/{path.name}")
    return target


def course(server: Container, *arguments: str) -> tuple[int, str]:
    """Run the course's command line as root; its exit code and all that it printed."""
    command = [f"{CLONE}/course", *arguments]
    done = server.run(command, env={**APART, "COURSE_STATE": "/run/course-state"}, check=False)
    return done.returncode, done.stdout


def grade_live(server: Container, lab: str, *options: str) -> Graded:
    """Grade a lab live."""
    server.run(["rm", "-f", RESULTS])
    code, output = course(server, "check", lab, "--live", "--yes", f"--results={RESULTS}", *options)
    told = server.run(["cat", RESULTS], check=False)
    results = json.loads(told.stdout)["results"] if told.returncode == 0 else []
    return Graded({one["check"]: one for one in results}, code, output)

"""The root trees that containers are booted on: a bare Debian, and a server of the course.

The bare one is made by `tests/vm/rootfs`, of packages from where this machine's own apt gets them.
The server is a copy of it that vagrant/provision has prepared, as it prepares a virtual machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grader.container import Container, ContainerError, booted, cannot
from grader.errors import NotAllowed
from grader.text import COURSE

ROOT = Path(__file__).resolve().parent.parent
BARE = Path("/var/tmp/course-rootfs")
SERVER = Path("/var/tmp/course-server")
STAMP = "etc/course-server-tree"
MAKER = ROOT / "tests" / "vm" / "rootfs"
PYTHON = "3.11"  # of Debian 12
WHEELS = Path("/var/tmp/course-wheels")
COURSE_THERE, WHEELS_THERE = "/mnt/course", "/mnt/wheels"
# What of vagrant/provision makes a server that serves the board; the course itself is not on it.
STEPS = ("packages", "app", "nginx", "finish")
# What a server tree is made of, besides the bare one.
SOURCES = (
    *("labs/board", "labs/15/site", "solutions/03", "vagrant/provision", "requirements.txt"),
    "grader/tree.py",
)
NOT_COPIED = ("./boot/*", "./usr/lib/modules/*")  # a container has the kernel of this machine
MAKE_SECONDS = 600.0


def missing() -> str:
    """Why no container can be booted here; "" when one can."""
    return cannot() or (
        "" if (BARE / "etc" / "course-rootfs").is_file() else f"there is no root tree in {BARE}"
    )


def make() -> None:
    """Make both trees, or bring them up to date.

    Raises:
        NotAllowed: this machine lacks what it takes; says what.
        ContainerError: it did not work, with the tool's own words.
    """
    lacks = cannot()
    if not lacks and shutil.which("mmdebstrap") is None:
        lacks = "mmdebstrap is missing:  apt-get install mmdebstrap"
    if lacks:
        raise NotAllowed(f"no root tree can be made here: {lacks}")
    if subprocess.run([MAKER, BARE], stdin=subprocess.DEVNULL).returncode:
        raise ContainerError(f"the root tree was not made; see above, and {MAKER}")
    server()


def server() -> Path:
    """The tree of a prepared server; made anew when the bare one or the course has changed.

    Raises:
        NotAllowed: there is no bare one.
        ContainerError: preparing failed.
    """
    lacks = missing()
    if lacks:
        raise NotAllowed(f"{lacks}; to make one:  sudo {COURSE} tree")
    wanted = stamp()
    with locked(SERVER.with_name(f"{SERVER.name}.lock")):
        if written(SERVER / STAMP) != wanted:
            print(f"course: preparing {SERVER}, which takes a quarter of a minute", file=sys.stderr)
            new = SERVER.with_name(f"{SERVER.name}.new")
            remove(new)
            copy(BARE, new)
            prepare(new)
            (new / STAMP).write_text(wanted)
            old = SERVER.with_name(f"{SERVER.name}.old")
            remove(old)
            if SERVER.exists():
                SERVER.rename(old)  # a container may still run on it
            new.rename(SERVER)
    return SERVER


def stamp() -> str:
    """What the server tree is to be made of, as one checksum."""
    told = hashlib.sha256(written(BARE / "etc" / "course-rootfs").encode())
    for source in SOURCES:
        top = ROOT / source
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if "__pycache__" in path.parts:
                continue
            told.update(str(path.relative_to(ROOT)).encode("utf-8", "surrogateescape"))
            if path.is_symlink():
                told.update(os.readlink(path).encode())
            elif path.is_file():
                told.update(path.read_bytes())
    return told.hexdigest()


def written(path: Path) -> str:
    """What a file says; "" when there is none."""
    return path.read_text() if path.is_file() else ""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove(tree: Path) -> None:
    """Remove a tree; nothing that is mounted in it."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", tree], check=True)


def copy(source: Path, target: Path) -> None:
    """Copy a tree, with owners and links, less what no container needs."""
    target.mkdir(mode=0o755)
    left_out = " ".join(f"--exclude='{one}'" for one in NOT_COPIED)
    script = f'tar -C "$1" {left_out} -c . | tar -C "$2" -x'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script, "bash", source, target],
        capture_output=True,
        text=True,
        timeout=MAKE_SECONDS,
    )
    if done.returncode:
        raise ContainerError(f"{source} could not be copied: {done.stderr}")


def prepare(tree: Path) -> None:
    """Let the provisioning make a server of a bare tree, and stop it in good order."""
    binds = {ROOT: COURSE_THERE, wheels(): WHEELS_THERE}
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS_THERE}
    with booted(tree, binds=binds, keep=True) as container:
        for step in STEPS:
            script = f"{COURSE_THERE}/vagrant/provision/{step}.sh"
            container.run(["bash", script, COURSE_THERE], env=env, seconds=MAKE_SECONDS)
        # The unit is the learner's to write; without one, all boots faster.
        container.sh("systemctl disable --now -q board && rm /etc/systemd/system/board.service")


def wheels() -> Path:
    """A folder with the packages of requirements.txt as wheels, downloaded on first use.

    Raises:
        ContainerError: they could not be downloaded.
    """
    pins = ROOT / "requirements.txt"
    made = WHEELS / hashlib.sha256(pins.read_bytes()).hexdigest()[:16]
    WHEELS.mkdir(exist_ok=True)
    with locked(WHEELS / "lock"):  # two gradings may need them at the same moment
        if not made.is_dir():
            with tempfile.TemporaryDirectory(dir=WHEELS) as folder:
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
                # For the Python of the root tree, whichever this one is.
                command += ["--only-binary=:all:", f"--python-version={PYTHON}"]
                command += ["-r", str(pins), "-d", f"{folder}/made"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=300)
                if done.returncode:
                    raise ContainerError(f"pip could not download the wheels:\n{done.stderr}")
                Path(folder, "made").rename(made)
    return made


__all__ = ["BARE", "SERVER", "Container", "make", "missing", "server", "wheels"]

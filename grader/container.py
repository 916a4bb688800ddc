"""A booted machine: a systemd container on a copy of a root tree, gone when it is over.

What is written goes to memory (`--volatile=overlay`): the tree stays as it was, and several
containers may use it at once. The container has a network of its own, with no way out.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from grader.errors import GraderError

Seen = TypeVar("Seen")

NSPAWN = "systemd-nspawn"
# Mounts, names, memory, network, processes and cgroups are its own; and its root, and its "/".
NAMESPACES = ["-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]

PREFIX = "course-container-"
PROPAGATED = Path("/run/systemd/nspawn/propagate")
OLD = 7200.0  # seconds; no container lives that long
BOOT_SECONDS = 60.0  # it takes one on an idle machine
STOP_SECONDS = 30.0
RUN_SECONDS = 120.0
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


# The kernel ends a container with the *thread* that started it (see `start`); this one stays.
STARTER = ThreadPoolExecutor(1, thread_name_prefix="containers")


class ContainerError(GraderError):
    """It did not boot, or did not stop; with the end of what it printed."""


def cannot() -> str:
    """Why no container can be booted on this machine, whatever the tree; "" when one can."""
    if os.geteuid():
        return "a systemd container needs root"
    for program, package in (
        (NSPAWN, "systemd-container"),
        ("nsenter", "util-linux"),
        ("setpriv", "util-linux"),
    ):
        if shutil.which(program) is None:
            return f"{program} is missing:  apt-get install {package}"
    return ""


@dataclass(frozen=True)
class Container:
    """A container that has booted.

    Attributes:
        name: of the machine, different for each.
        init: the process id, outside, of its first process.
    """

    name: str
    init: int

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
        typed: str = "",
        seconds: float = RUN_SECONDS,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside, to its end; stdout and stderr come together in `stdout`.

        Args:
            argv: the program and its arguments.
            user: whom it runs as; not root: with that user's home and /etc/environment, as after
                a login.
            cwd: where.
            env: further variables.
            typed: what it reads from standard input.
            seconds: after which it is killed; its status is then 124 or 137.
            check: whether any other end than with status 0 is an error.

        Raises:
            ContainerError: it failed; with what it printed.
        """
        command = [*self.inside(), "timeout", "--kill-after=5", f"{seconds:g}"]
        if user != "root":
            # -: PAM reads /etc/environment, and the profile is the user's.
            given = [f"{name}={value}" for name, value in (env or {}).items()]
            script = 'cd -- "$1" && shift && exec env -- "$@"'
            command += ["su", "-", user, "-c", script, "--", "sh", cwd, *given, *argv]
        else:
            command += ["env", "--chdir", cwd, "--", *argv]
        try:
            done = subprocess.run(
                command,
                env={**ENVIRONMENT, **(env or {})},
                input=typed,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=seconds + 15,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ContainerError(f"{argv} did not end:\n{error.stdout!r}") from None
        if check and done.returncode:
            raise ContainerError(f"{argv} ended with {done.returncode}:\n{done.stdout}")
        return done

    def sh(self, script: str, **options: Any) -> str:
        """Run a shell script inside as root; returns what it printed."""
        return self.run(["sh", "-euc", script], **options).stdout

    def inside(self) -> list[str]:
        """The beginning of a command line that runs a program inside."""
        return ["nsenter", "-t", str(self.init), *NAMESPACES, "--"]


@contextmanager
def booted(
    root: Path, *, binds: Mapping[Path, str] | None = None, keep: bool = False, gently: bool = True
) -> Iterator[Container]:
    """Boot a container on a root tree, and stop it at the end.

    Args:
        root: the tree; it is not changed, unless `keep`.
        binds: folders of this machine to show inside, read-only, by their paths there.
        keep: whether what is written inside goes to the tree.
        gently: whether its services are stopped at the end; else all is over at once.

    Raises:
        ContainerError: it did not boot in time.
    """
    sweep()
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        name = Path(folder).name.replace("_", "-").rstrip("-")  # as a host may be called
        console = Path(folder, "console")
        with own_cgroups(name) as cgroups, console.open("wb") as printed:
            begun = STARTER.submit(start, root, name, cgroups, binds or {}, printed, keep)
            nspawn = begun.result()
            try:
                init = wait(lambda: first_process(nspawn), nspawn, console, "its first process")
                container = Container(name, init)
                wait(lambda: is_up(container), nspawn, console, "the end of the boot")
                # In a container parts of /proc are covered, and the kernel then lets nobody mount
                # another one. A whole one somewhere, for root alone, lets bubblewrap make boxes.
                container.sh(
                    "mkdir -m 700 /run/whole && mkdir /run/whole/proc"
                    " && mount -t proc proc /run/whole/proc"
                )
                yield container
            finally:
                stop(nspawn, gently)
                with suppress(OSError):  # nspawn leaves it there
                    (PROPAGATED / name).rmdir()


def sweep() -> None:
    """Remove what a grader that was killed has left long ago: empty cgroups and folders."""
    for mount in [*hierarchies(), Path(tempfile.gettempdir())]:
        for path in mount.glob(f"{PREFIX}*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > OLD:
                    (path / "console").unlink(missing_ok=True)
                    for one in sorted(path.rglob("*/"), reverse=True):
                        one.rmdir()  # fails where a process is
                    path.rmdir()


def start(
    root: Path,
    name: str,
    cgroups: Sequence[Path],
    binds: Mapping[Path, str],
    printed: IO[bytes],
    keep: bool,
) -> subprocess.Popen[bytes]:
    """Start nspawn; it dies with the thread that calls this, and the container with it."""
    command = [NSPAWN, "--quiet", f"--directory={root}", f"--machine={name}"]
    command += [] if keep else ["--volatile=overlay"]
    command += ["--boot", "--private-network", "--resolv-conf=off", "--console=pipe"]
    if cgroups:
        command += ["--register=no", "--keep-unit"]
    for source, target in binds.items():
        command += [f"--bind-ro={source}:{target}"]
    script = 'for one in $1; do echo $$ >"$one/cgroup.procs"; done; shift; exec "$@"'
    first = ["setpriv", "--pdeathsig", "KILL", "sh", "-euc", script, "sh"]
    # nspawn does not take the container with it when it is killed. In a process namespace of its
    # own it does: the kernel ends all of one together.
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return subprocess.Popen(
        [*first, " ".join(map(str, cgroups)), *alone, *command],
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is the test's
    )


@contextmanager
def own_cgroups(name: str) -> Iterator[list[Path]]:
    """Cgroups for one container, where no systemd of this machine makes them.

    nspawn makes `payload` and `supervisor` below the cgroup that it is in, and leaves them there: a
    second container would find them taken.
    """
    made: list[Path] = []
    if not Path("/run/systemd/system").exists():
        made = [mount / name for mount in hierarchies()]
    try:
        for path in made:
            path.mkdir()
        yield made
    finally:
        for path in made:
            remove_cgroup(path)


def hierarchies() -> list[Path]:
    """Where the cgroup trees are mounted that systemd uses: version 2's, and version 1's own."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found.append(Path(where))
    return found


def remove_cgroup(path: Path) -> None:
    """Remove a cgroup and those below it; waits for processes that are just ending."""
    end = time.monotonic() + STOP_SECONDS
    while path.exists():
        for one in sorted(path.rglob("*/"), reverse=True):
            with suppress(OSError):
                one.rmdir()
        with suppress(OSError):
            path.rmdir()
        if time.monotonic() > end:
            raise ContainerError(f"{path} is not empty")
        time.sleep(0.02)


def first_process(nspawn: subprocess.Popen[bytes]) -> int:
    """The container's first process, seen from outside; 0 while there is none."""
    seen = [nspawn.pid]
    for process in seen:
        with suppress(OSError):
            status = Path(f"/proc/{process}/status").read_text()
            numbers = status.partition("\nNSpid:")[2].partition("\n")[0].split()
            name = Path(f"/proc/{process}/comm").read_text().strip()
            if len(numbers) == 3 and numbers[2] == "1" and name == "systemd":
                return process
            children = Path(f"/proc/{process}/task/{process}/children").read_text()
            seen += map(int, children.split())
    return 0


def is_up(container: Container) -> bool:
    """Whether all that starts at boot has started."""
    asked = container.run(["systemctl", "is-system-running"], seconds=10, check=False)
    return asked.stdout.strip() in ("running", "degraded")


def wait(
    look: Callable[[], Seen], nspawn: subprocess.Popen[bytes], console: Path, what: str
) -> Seen:
    """Look until something true is seen."""
    end = time.monotonic() + BOOT_SECONDS
    while not (seen := look()):
        if nspawn.poll() is not None or time.monotonic() > end:
            said = console.read_text(errors="replace")[-2000:]
            raise ContainerError(f"waited in vain for {what}; it printed:\n{said}")
        time.sleep(0.05)
    return seen


def stop(nspawn: subprocess.Popen[bytes], gently: bool) -> None:
    """Shut the container down; kill it when that takes too long, or at once."""
    init = first_process(nspawn) if gently else 0
    if init:
        with suppress(ProcessLookupError):
            os.kill(init, signal.SIGRTMIN + 4)
    else:
        nspawn.kill()
    try:
        nspawn.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        nspawn.kill()
        nspawn.wait()

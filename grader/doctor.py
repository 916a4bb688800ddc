"""`course doctor`: whether this machine has what the course needs, and how to repair what it lacks.

Each requirement is examined by a small function of its own. One that cannot find out says so as a
finding: nothing here ends in a traceback. What is shown may be pasted into an issue, so no path of
the user's home is in it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from grader.errors import GraderError, StartFailed
from grader.lab import LABS, STATE, all_labs, odd_encoding, read_file
from grader.sandbox import PROGRAMS, WAYS_OUT, Box, find_program, search_path
from grader.text import COURSE, clean

State = Literal["ok", "missing", "warning"]

PROJECT = "flask-behind-nginx-grader"
CLONE = LABS.parent
REQUIREMENTS = CLONE / "requirements.txt"
OLDEST_PYTHON = (3, 11)
ROOM = 500_000_000  # bytes; a wide bound
SECONDS = 10.0  # that a program may take to tell its version
SETTLE = 1.0  # seconds in which the box of a grading that has just ended is gone by itself
WIDTH = 80
LONGEST = 300  # characters of what something else says

GRADING = "grading"
KEEPING = "keeping your answers, hints and progress"
BY_HAND = "trying a site by hand"
EXTRA = "tests and notebooks"
SINGLE = "single labs"

# Program, what it is needed for, how it tells its version.
NEEDED = [
    ("nginx", GRADING, "-v"),
    ("bwrap", GRADING, "--version"),
    ("ip", GRADING, "-V"),
    ("unshare", GRADING, "--version"),
    ("curl", BY_HAND, "--version"),
    ("openssl", BY_HAND, "version"),
    ("nsenter", BY_HAND, "--version"),
    ("wrk", EXTRA, "-v"),
    ("h2load", EXTRA, "--version"),
    ("chromium", EXTRA, "--version"),
]
OF_THE_BOX = ["bwrap", "ip", "unshare"]  # what has to be there before one can be tried
OUTSIDE = {"bwrap", "nsenter", "chromium"}  # what never runs inside a box

# Modules of nginx: those that are built in when asked for, and those that are unless left out.
MODULES = [
    "http_ssl",
    "http_v2",
    "http_gzip_static",
    "http_realip",
    "http_stub_status",
    "http_auth_request",
]
BUILT_IN = ["http_gzip", "http_limit_req", "http_map", "http_proxy", "http_rewrite"]

# Settings that forbid namespaces: the file in /proc/sys, its forbidding value, the way out.
SETTINGS = [
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "sudo sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    ("user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"),
]
USED_UP = ("user.max_user_namespaces are in use already", SETTINGS[-1][2])
CONTAINERS = [".dockerenv", "run/.containerenv", "run/systemd/container"]
CONTAINER_WAY = "start the container with --security-opt seccomp=unconfined, or use the Vagrant VM"
TRY_AGAIN = "run ./course doctor again; if it stays so, report it with all of this text"
UNKNOWN_WAY = "docs/guides/troubleshooting.md, under Namespaces are forbidden, names the ways out"

VENV = os.environ.get("COURSE_VENV") or ".venv"
BRING_BACK = f"rm -rf {VENV} && ./course doctor"
ENCODINGS = {
    b"\xff\xfe": "iconv -f UTF-16 -t UTF-8 {0} > {0}.new && mv {0}.new {0}",
    b"\xfe\xff": "iconv -f UTF-16 -t UTF-8 {0} > {0}.new && mv {0}.new {0}",
    b"\xef\xbb\xbf": r"sed -i '1s/^\xef\xbb\xbf//' {0}",
}


@dataclass(frozen=True)
class Finding:
    """What was found about one requirement.

    Attributes:
        name: the requirement.
        state: "missing" is not there, "warning" may become a trouble.
        found: what is there, in a few words.
        repair: the command that helps, or what to do; a line for each way. "" when nothing is to be
            done.
        needed_for: what cannot be done without it; "" means everything.
    """

    name: str
    state: State
    found: str
    repair: str = ""
    needed_for: str = ""


# --- The whole ----------------------------------------------------------------------------------


def examine() -> list[Finding]:
    """Examine the machine and the clone; changes neither. It takes about a second."""
    program = {name: partial(find, name, use, ask) for name, use, ask in NEEDED}
    probes: list[tuple[str, str, Callable[[], Finding | list[Finding]]]] = [
        ("Python", GRADING, python),
        ("Python packages", GRADING, packages),
        *((name, use, program[name]) for name, use, _ in NEEDED if use == GRADING),
        ("nginx modules", GRADING, modules),
        ("namespaces", GRADING, namespaces),
        ("stale boxes", GRADING, stale_boxes),
        ("room in the clone", GRADING, partial(room, "room in the clone", CLONE)),
        ("room for temporary files", GRADING, temporary_room),
        ("your files", GRADING, learner_files),
        ("write access", KEEPING, writable),
        *((name, use, program[name]) for name, use, _ in NEEDED if use != GRADING),
    ]
    for file in sorted(LABS.glob("[0-9][0-9]/packages")):
        probes.append((f"lab {file.parent.name}", SINGLE, partial(of_a_lab, file.parent)))
    findings: list[Finding] = []
    for name, use, probe in probes:
        findings += guarded(name, use, probe)
    return findings


def guarded(
    name: str, needed_for: str, probe: Callable[[], Finding | list[Finding]]
) -> list[Finding]:
    """What a probe finds; that it failed is a finding too."""
    try:
        found = probe()
    except Exception as error:
        said = shareable(f"could not be examined: {type(error).__name__}: {error}")
        return [Finding(name, "warning", said, needed_for=needed_for)]
    return found if isinstance(found, list) else [found]


def healthy(findings: Iterable[Finding]) -> bool:
    """Tell whether nothing is missing that grading needs."""
    return not any(one.state == "missing" and one.needed_for in ("", GRADING) for one in findings)


# --- Programs -----------------------------------------------------------------------------------


def find(name: str, needed_for: str, ask: str) -> Finding:
    """Find a program, and ask it for its version."""
    try:
        path = find_program(name)
    except GraderError:
        return Finding(name, "missing", "not found", install(name), needed_for)
    shown = shareable(path)
    if name not in OUTSIDE and shutil.which(name, path=search_path()) is None:
        text = f"{shown}, which a box does not see: it sees /usr, and nothing of /opt or /snap"
        return Finding(name, "missing", text, install(name), needed_for)
    try:
        said = output([path, ask])
    except (OSError, subprocess.SubprocessError) as error:
        text = f"{shown}, which does not run: {first_line(str(error))}"
        return Finding(name, "missing", text, install(name), needed_for)
    version = re.search(r"\d+\.\d+[\w.]*", said)
    if version is None:
        text = f"{shown}, which does not tell its version; it says: {first_line(said)}"
        return Finding(name, "warning", text, install(name), needed_for)
    return Finding(name, "ok", f"{shareable(version[0])} ({shown})", needed_for=needed_for)


def of_a_lab(folder: Path) -> Finding:
    """Whether the programs are here that one lab alone needs; its folder names them."""
    name = f"lab {folder.name}"
    programs = [line.partition(":")[0] for line in (folder / "packages").read_text().split()]
    lacking = [one for one in programs if gone(one)]
    if not lacking:
        return Finding(name, "ok", ", ".join(programs), needed_for=SINGLE)
    way = f"{COURSE} check {folder.name} installs what it needs"
    return Finding(name, "missing", f"{', '.join(lacking)} not found", way, SINGLE)


def install(name: str) -> str:
    """What installs a program on this machine."""
    package = PROGRAMS.get(name, name)
    if shutil.which("apt-get") is None:
        return f"install {name} your system's own way (Debian's package is called {package})"
    return f"{as_root()}apt-get install {package}"


def as_root() -> str:
    """What stands before a command that needs root's rights."""
    return "sudo " if os.geteuid() else ""


def output(command: Sequence[str]) -> str:
    """What a program prints when it is asked for its version.

    Raises:
        OSError: it does not run.
        subprocess.SubprocessError: it is killed, or takes too long.
    """
    done = subprocess.run(
        command,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C"},
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=SECONDS,
    )
    said = f"{done.stdout}\n{done.stderr}".strip()
    # wrk ends with 1 when all is well; a program that lacks a library, with 127.
    if done.returncode in (126, 127) or done.returncode < 0:
        raise OSError(said or f"it ended with status {done.returncode}")
    return said


def modules() -> Finding:
    """Whether this nginx has the modules that the labs use."""
    name = "nginx modules"
    if gone("nginx"):
        return Finding(name, "missing", "not found: nginx is missing", install("nginx"), GRADING)
    path = find_program("nginx")
    said = output([path, "-V"])
    if "configure arguments:" not in said:
        text = f"nginx -V does not name them; it says: {first_line(said)}"
        return Finding(name, "warning", text, install("nginx"), GRADING)
    lacking = missing_modules(said)
    if not lacking:
        return Finding(name, "ok", ", ".join(MODULES), needed_for=GRADING)
    text = f"{shareable(path)} has no {', '.join(lacking)}; Debian's package has all of them"
    return Finding(name, "missing", text, install("nginx"), GRADING)


def missing_modules(said: str) -> list[str]:
    """The modules that the labs use and `nginx -V` does not have; a dynamic one is not loaded."""
    options = set(said.split())
    asked = [one for one in MODULES if f"--with-{one}_module" not in options]
    return asked + [one for one in BUILT_IN if f"--without-{one}_module" in options]


# --- Namespaces, and what is left of boxes ------------------------------------------------------


def namespaces(root: Path = Path("/")) -> Finding:
    """Whether a box really starts; if not, what of this machine forbids it."""
    name = "namespaces"
    lacking = [one for one in OF_THE_BOX if gone(one)]
    if lacking:
        text = f"a box could not be tried: {', '.join(lacking)} not found"
        return Finding(name, "missing", text, "\n".join(map(install, lacking)), GRADING)
    try:
        with Box():
            return Finding(name, "ok", "a box starts", needed_for=GRADING)
    except Exception as error:  # whatever it is, grading would end with it too
        said = str(error) or repr(error)
    head = WAYS_OUT.splitlines()[0]
    if not said.startswith(head):
        text = f"a box does not start: {first_line(said)}"
        return Finding(name, "missing", text, TRY_AGAIN, GRADING)
    causes = [USED_UP] if "namespaces exceeded" in said else forbidding(root)
    words = [cause for cause, _ in causes] or ["no setting that the course knows explains it"]
    said = first_line(said.removeprefix(head))
    text = f"forbidden: {'; '.join(words)}. bubblewrap says: {said}"
    repair = "\n".join(way for _, way in causes) or UNKNOWN_WAY
    return Finding(name, "missing", text, repair, GRADING)


def gone(program: str) -> bool:
    """Tell whether a program cannot be found."""
    try:
        find_program(program)
    except GraderError:
        return True
    return False


def forbidding(root: Path = Path("/")) -> list[tuple[str, str]]:
    """What forbids namespaces here, each with its way out.

    Args:
        root: where /proc and the marks of a container are.
    """
    found = []
    for path, value, way in SETTINGS:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if (root / "proc/sys" / path).read_text().strip() == value:
                found.append((f"{path.replace('/', '.')} is {value}", way))
    if any((root / one).exists() for one in CONTAINERS):
        found.append(("this is a container", CONTAINER_WAY))
    return found


def stale_boxes(proc: Path = Path("/proc"), settle: float = SETTLE) -> Finding:
    """Whether there are boxes of this user that outlived their grading."""
    stale = find_stale(proc, os.getuid())
    if stale:
        # The kernel may be about to end them.
        time.sleep(settle)
        stale = [pid for pid in find_stale(proc, os.getuid()) if pid in stale]
    if not stale:
        return Finding("stale boxes", "ok", "none", needed_for=GRADING)
    pids = " ".join(map(str, stale))
    text = f"processes of boxes whose grading is gone: {pids}"
    # The first process of a box obeys no gentler signal.
    return Finding("stale boxes", "warning", text, f"kill -KILL {pids}", GRADING)


def find_stale(proc: Path, user: int) -> list[int]:
    """The processes of a user's boxes whose grader is gone, in order.

    Args:
        proc: the process file system.
        user: whose.
    """
    parents = box_processes(proc, user)
    stale = []
    for pid, parent in parents.items():
        while parent in parents:
            parent = parents[parent]
        if not may_be_grader(proc / str(parent), user):
            stale.append(pid)
    return sorted(stale)


def box_processes(proc: Path, user: int) -> dict[int, int]:
    """The processes that make a user's boxes, each with its parent."""
    found = {}
    for folder in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError, KeyError, ValueError):
            words = (folder / "cmdline").read_text(errors="replace").split("\0")
            is_box = Path(words[0]).name.startswith(("bwrap", "python"))
            if is_box and "/course/init.py" in words:
                owner, parent = owner_and_parent(folder)
                if owner == user:
                    found[int(folder.name)] = parent
    return found


def owner_and_parent(process: Path) -> tuple[int, int]:
    """Whose a process is, and its parent.

    Raises:
        OSError: it is gone.
        KeyError: the kernel does not say.
    """
    lines = (process / "status").read_text(errors="replace").splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(status["Uid"].split()[0]), int(status["PPid"])


def may_be_grader(process: Path, user: int) -> bool:
    """Tell whether a process may be a grader, which is the same user's Python.

    A box whose grader is gone has become the child of the machine's first process, or of the
    user's session.
    """
    try:
        if owner_and_parent(process)[0] != user:
            return False
        return Path(os.readlink(process / "exe")).name.startswith("python")
    except PermissionError:
        return True  # it cannot be told, so nobody is told to kill it
    except (OSError, KeyError, ValueError):
        return False


# --- Python -------------------------------------------------------------------------------------


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Whether Python is new enough."""
    text = ".".join(map(str, version))
    if version >= OLDEST_PYTHON:
        return Finding("Python", "ok", text, needed_for=GRADING)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    way = f"put a python3 that is {oldest} or newer first in PATH, then: {BRING_BACK}"
    return Finding("Python", "missing", f"{text}, older than {oldest}", way, GRADING)


def packages(requirements: Path = REQUIREMENTS) -> Finding:
    """Whether the packages that grading needs are installed in the versions that were tested."""
    name = "Python packages"
    pinned = pins(requirements.read_text())
    here = {package: installed(package) for package in [*pinned, PROJECT]}
    absent = [package for package, version in here.items() if not version]
    other = [
        f"{package} {here[package]} instead of {version}"
        for package, version in pinned.items()
        if here[package] not in ("", version)
    ]
    if not absent and not other:
        text = f"all {len(pinned)} of requirements.txt, in its versions"
        return Finding(name, "ok", text, needed_for=GRADING)
    text = "; ".join([f"{one} is not installed" for one in absent] + other)
    return Finding(name, "missing" if absent else "warning", shareable(text), BRING_BACK, GRADING)


def pins(text: str) -> dict[str, str]:
    """The packages of a requirements file that pins every one, with their versions."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;#]+)", text, re.MULTILINE))


def installed(package: str) -> str:
    """The installed version of a package; "" when it is not installed."""
    try:
        return importlib.metadata.version(package) or ""
    except (importlib.metadata.PackageNotFoundError, KeyError):
        return ""


# --- The clone ----------------------------------------------------------------------------------


def temporary_room() -> Finding:
    """Whether there is room for temporary files (mostly in /tmp)."""
    return room("room for temporary files", Path(tempfile.gettempdir()))


def room(name: str, folder: Path, wanted: int = ROOM) -> Finding:
    """Whether a disk has room."""
    free = shutil.disk_usage(folder).free
    if free >= wanted:
        return Finding(name, "ok", f"{size(free)} free", needed_for=GRADING)
    text = f"{size(free)} free; {size(wanted)} would be comfortable"
    return Finding(name, "warning", text, "remove what you no longer need on that disk", GRADING)


def size(number: int) -> str:
    """A number of bytes in words."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def learner_files() -> list[Finding]:
    """Whether the files that the learner edits are there, and are plain text."""
    labs = all_labs()
    paths = [(lab.folder, name) for lab in labs for name in lab.files]
    odd = [one for folder, name in paths if (one := learner_file(folder, name))]
    text = f"all {len(paths)} of {len(labs)} labs are there, as plain text"
    return odd or [Finding("your files", "ok", text, needed_for=GRADING)]


def learner_file(folder: Path, name: str) -> Finding | None:
    """What is odd about one of the learner's files; None for nothing."""
    shown = shareable(f"labs/{folder.name}/{name}")
    try:
        data = read_file(folder, name)
    except StartFailed as failed:
        way = "put the file itself there, as plain text"
        if not (folder / name).is_symlink() and length(folder / name) == 0:
            way = f"{COURSE} reset {folder.name} {name}"  # nothing of the learner's is lost
        return Finding(shown, "warning", shareable(failed.got), way, GRADING)
    odd = odd_encoding(data)
    if not odd:
        return None
    way = "save it in your editor as UTF-8 with Unix line ends (LF)"
    starts = [way for start, way in ENCODINGS.items() if data.startswith(start)]
    if starts:
        way = starts[0].format(shown)
    elif "CRLF" in odd:
        way = rf"sed -i 's/\r$//' {shown}"
    return Finding(shown, "warning", odd, way, GRADING)


def length(path: Path) -> int:
    """How many bytes a file has; 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def writable(state: Path = STATE, clone: Path = CLONE) -> Finding:
    """Whether the course may write to its clone, and to what it keeps there."""
    name, use = "write access", KEEPING
    for folder, what in ((clone, "the clone"), (state, ".course")):
        # What is not there yet is made when something is to be kept.
        if not folder.exists():
            continue
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            text = f"{what} cannot be written to: {error.strerror or type(error).__name__}"
            way = (
                f'{as_root()}chown -R "$(id -un)" .course'
                if what == ".course"
                else "clone the course into a folder that you may write to"
            )
            return Finding(name, "missing", text, way, use)
    return Finding(name, "ok", "the clone can be written to", needed_for=use)


# --- Showing ------------------------------------------------------------------------------------


def shareable(text: str) -> str:
    """Make text that came from elsewhere safe to show, without the user's own paths."""
    text = re.sub(rf"{re.escape(str(CLONE))}(?![\w.-])", "(clone)", text)
    with contextlib.suppress(RuntimeError):  # this user has no home
        for path in {Path.home(), Path.home().resolve()} - {Path("/")}:
            # A name with a space in it is private as well: up to what ends a path in a message.
            text = re.sub(rf"{re.escape(str(path))}(?![\w.-])[^\n'\":;,)]*", "~/...", text)
    return clean(text, LONGEST)


def first_line(text: str) -> str:
    """The first line that is not empty, safe to show."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return shareable(lines[0]) if lines else "nothing"


def machine() -> dict[str, str | int]:
    """What an issue about the course should say of the machine; see `as_json`."""
    return {
        "course": installed(PROJECT) or "unknown",
        "system": clean(system(), LONGEST),
        "kernel": clean(platform.release(), LONGEST),
        "architecture": clean(platform.machine(), LONGEST),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    }


def system() -> str:
    """The name of the operating system."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError, UnicodeDecodeError):
        return f"unknown {platform.system()}"


def as_text(findings: Sequence[Finding]) -> str:
    """The findings for a person: plain words, no colour, the sum in the last sentence."""
    told = machine()
    cores = f"{told['cores']} core{'s' if told['cores'] != 1 else ''}"
    about = [f"Flask behind Nginx {told['course']}", told["system"], f"Linux {told['kernel']}"]
    about += [told["architecture"], cores, f"{size(int(told['memory']))} of memory"]
    lines = wrap(", ".join(map(str, about)))
    for use in dict.fromkeys(one.needed_for for one in findings):
        only = "" if use in ("", GRADING) else "only "
        lines += ["", f"Needed {only}for {use or 'everything'}:", ""]
        for one in findings:
            if one.needed_for == use:
                lines += wrap(f"{one.state:<9}{one.name}: {one.found}", indent=9)
                lines += [f"{'':9}Repair: {way}" for way in one.repair.splitlines()]
    return "\n".join([*lines, "", *wrap(in_a_sentence(findings))])


def wrap(text: str, indent: int = 0) -> list[str]:
    """Break a text into lines; a word that is longer than a line stays whole."""
    return textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def in_a_sentence(findings: Sequence[Finding]) -> str:
    """Sum up."""
    missing = [one for one in findings if one.state == "missing"]
    fatal = [one.name for one in missing if not healthy([one])]
    if fatal:
        return f"The labs cannot be graded here before this is repaired: {', '.join(fatal)}."
    warned = [one.name for one in findings if one.state == "warning"]
    notes = [f"worth a look: {', '.join(warned)}"] if warned else []
    for use in dict.fromkeys(one.needed_for for one in missing):
        names = [one.name for one in missing if one.needed_for == use]
        notes.append(f"missing for {use}: {', '.join(names)}")
    if not notes:
        return "Everything that the course needs is here."
    return f"The labs can be graded here; {'; '.join(notes)}."


def as_json(findings: Sequence[Finding]) -> str:
    """The findings for a program, as JSON.

    {"version": 1,                 of this form; it grows when something is renamed or removed
     "machine": {
       "course": "0.1.0",          version of the course, or "unknown"
       "system": "Debian …",       PRETTY_NAME of /etc/os-release
       "kernel": "6.1.0-…",
       "architecture": "x86_64",
       "cores": 2,                 that this process may use
       "memory": 8326000000},      bytes
     "findings": [{
       "name": "bwrap",            the requirement
       "state": "missing",         "ok", "missing" or "warning"
       "found": "not found",       what is there
       "repair": "sudo …",         a line for each way; "" when nothing is to be done
       "needed_for": "grading"}]}  what cannot be done without it; "" means everything
    """
    told = {"version": 1, "machine": machine(), "findings": [asdict(one) for one in findings]}
    return json.dumps(told, indent=2)

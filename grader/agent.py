"""Root's part of a grading under systemd: it stands where `grader.init` stands in a box.

A server that runs already is systemd's. This program, started as root by `grader.live`, talks to
the grader as `init` does, and answers the same requests: by systemd, by signals, by files. Each
thing that it changes it writes down first, below `HOME`, and puts back when the grader says so or
goes away, however it goes. What a killed agent left behind, the next one puts back.

Where the units themselves are the learner's, whole folders are covered by copies, which are taken
away again: what the learner's own programs do in them is never done to the server's.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from grader import init

HOME = Path("/run/course-live")
COPIES = Path("/var/lib/course-live")  # of covered folders; below /run nothing may be executed
DATABASE = "/var/lib/board/course-live.db"
DROP_IN = "90-course-live.conf"
SYSTEMD = Path("/run/systemd/system")  # what is here is gone at the next boot
START_SECONDS = 15.0
SYSTEMCTL_SECONDS = 100.0  # systemd itself gives a service 90 s to stop
MOST_LOGGED = 1 << 20  # bytes of a log in one answer
STATES = ("active", "activating", "reloading", "deactivating")
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Kept:
    """What a path was before it was written to: a copy's name, or "" when there was nothing."""

    path: str
    copy: str


@dataclass
class Undo:
    """All that was changed, as it must be put back; kept on disk from before each change on.

    Attributes:
        units: systemd's unit of each service.
        active: of these, those that ran.
        addresses: what `ip` was told to add.
        kernel: settings of the kernel, as they were.
        kept: the paths that were written to.
        folders: those that were made.
        own: whether the units are the learner's, of whom nothing may be known beforehand.
        covers: folders that are covered by a copy.
        aside: folders that were moved away, and are to be new ones.
    """

    units: dict[str, str] = field(default_factory=dict)
    active: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    kernel: dict[str, str] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    own: bool = False
    covers: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)

    def save(self) -> None:
        """Write it down."""
        new = HOME / "undo.new"
        new.write_text(json.dumps(asdict(self)))
        new.replace(HOME / "undo.json")


undo = Undo()
started: dict[str, str] = {}  # by service: systemd's name of the start that the grader asked for


def systemctl(*arguments: str, check: bool = True) -> str:
    """Run systemctl; what it printed.

    Raises:
        RuntimeError: it failed, and `check`.
    """
    done = subprocess.run(
        ["systemctl", *arguments],
        capture_output=True,
        text=True,
        timeout=SYSTEMCTL_SECONDS,
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode:
        raise RuntimeError(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def show(unit: str) -> dict[str, str]:
    """What systemd knows about a unit, by its own words."""
    wanted = "LoadState,ActiveState,SubState,MainPID,InvocationID,ExecMainStatus,ExecMainCode,Job"
    wanted += ",TriggeredBy"
    lines = systemctl("show", unit, "-p", wanted).splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def find_unit(one: init.Process, _found: dict[int, init.Process]) -> str | None:
    """Name the service of a process by its control group."""
    try:
        groups = Path(f"/proc/{one['pid']}/cgroup").read_text()
    except OSError:
        return None
    for name, unit in undo.units.items():
        if f"/{unit}\n" in groups or f"/{unit}/" in groups:
            return name
    return None


# --- begin and end ------------------------------------------------------------------------------


def do_begin(message: init.Message) -> init.Reply:
    """Get ready: the app's own environment for the grading, logs in files, visitors' addresses.

    Replies with `left`, whether an earlier grading had left something, `refused`, the addresses
    that this machine would not have, and `set`, whether the kernel's settings are as asked.
    """
    global undo
    left = HOME.exists()
    if left:
        with contextlib.suppress(FileNotFoundError):
            undo = read_undo()
        do_end({})
    units: dict[str, str] = message["units"]
    own = message.get("own", False)
    for unit in units.values():
        if not own and show(unit)["LoadState"] != "loaded":
            raise RuntimeError(f"systemd has no {unit}; prepare the server first")
    HOME.mkdir(mode=0o700)
    undo = Undo(dict(units), [one for one in units.values() if is_active(one)], own=own)
    undo.save()
    if own:
        for name in units:
            take_down(name)
        cover(message["covers"])
        for path in message["aside"]:
            move_aside(path)
    else:
        redirect(units)
    refused = add_addresses(message["addresses"])
    return {"left": left, "refused": refused, "set": set_kernel(message["kernel"])}


def redirect(units: dict[str, str]) -> None:
    """Give units the environment of the grading, and let them log into files."""
    for name, unit in units.items():
        folder = SYSTEMD / f"{unit}.d"
        folder.mkdir(parents=True, exist_ok=True)
        (HOME / f"{name}.env").touch(0o600)
        # Of two environment files the later one wins, and both win over Environment=.
        lines = ["[Service]", f"EnvironmentFile={HOME}/{name}.env"]
        lines += [f"StandardOutput=append:{HOME}/{name}.stdout"]
        lines += [f"StandardError=append:{HOME}/{name}.stderr"]
        (folder / DROP_IN).write_text("\n".join([*lines, ""]))
    systemctl("daemon-reload")


def cover(folders: list[str]) -> None:
    """Lay a copy over each of these folders."""
    for number, path in enumerate(folders):
        copy = COPIES / str(number)
        COPIES.mkdir(mode=0o711, exist_ok=True)
        subprocess.run(["cp", "--archive", "--", path, copy], check=True)
        undo.covers.append(path)
        undo.save()
        subprocess.run(["mount", "--bind", copy, path], check=True)


def move_aside(path: str) -> None:
    """Move a folder away: systemd may want to move the new one, which no cover allows."""
    COPIES.mkdir(mode=0o711, exist_ok=True)
    undo.aside.append(path)
    undo.save()
    os.rename(path, COPIES / f"aside-{len(undo.aside)}")


def move_back() -> None:
    """Put the folders back that were moved away."""
    for number, path in enumerate(undo.aside, 1):
        before = COPIES / f"aside-{number}"
        if before.exists():
            if os.path.islink(path):  # to a folder of systemd's own
                shutil.rmtree(os.path.realpath(path), ignore_errors=True)
                os.unlink(path)
            shutil.rmtree(path, ignore_errors=True)
            os.rename(before, path)
    undo.aside = []
    undo.save()


def uncover() -> None:
    """Take the copies away, with all that was done in them."""
    for path in reversed(undo.covers):
        subprocess.run(["umount", "--lazy", path], capture_output=True)
        shutil.rmtree(COPIES / str(undo.covers.index(path)), ignore_errors=True)
    undo.covers = []
    undo.save()


def read_undo() -> Undo:
    """What an agent that was killed had written down."""
    told = json.loads((HOME / "undo.json").read_text())
    return Undo(**{**told, "kept": [Kept(**one) for one in told["kept"]]})


def is_active(unit: str) -> bool:
    """Tell whether a unit runs, or is about to."""
    return show(unit)["ActiveState"] in STATES


def add_addresses(commands: list[str]) -> list[str]:
    """Give `ip` its commands, one by one; those that this machine refused.

    What is there already is neither added nor, later, removed.
    """
    refused = []
    for command in commands:
        undo.addresses.append(command)
        undo.save()
        done = subprocess.run(["ip", *command.split()], capture_output=True, text=True)
        if done.returncode:
            undo.addresses.remove(command)
            if "exists" not in done.stderr and "assigned" not in done.stderr:
                refused.append(command)
    undo.save()
    return refused


def set_kernel(settings: dict[str, str]) -> bool:
    """Change settings of the kernel (names as sysctl's, with /), if all of them may be changed."""
    before = {name: Path("/proc/sys", name).read_text().strip() for name in settings}
    undo.kernel = before
    undo.save()
    try:
        init.set_kernel(settings)
    except OSError:
        return False
    return True


def do_end(_message: init.Message) -> init.Reply:
    """Put everything back; replies with `problems`, what could not be."""
    problems: list[str] = []
    thaw()
    put_back()
    if undo.own:
        for name in undo.units:
            take_down(name)
        uncover()
        move_back()
        with contextlib.suppress(OSError):
            COPIES.rmdir()
    for unit in undo.units.values():
        with contextlib.suppress(OSError):
            (SYSTEMD / f"{unit}.d" / DROP_IN).unlink()
            (SYSTEMD / f"{unit}.d").rmdir()  # if it is ours alone
    systemctl("daemon-reload", check=False)
    for unit in undo.units.values():
        systemctl("stop", unit, check=False)
        systemctl("reset-failed", unit, check=False)
    remove_database()
    for unit in undo.units.values():
        if unit in undo.active:
            for one in [*show(unit).get("TriggeredBy", "").split(), unit]:
                systemctl("start", one, check=False)
            if not is_active(unit):
                problems.append(f"{unit} does not start again: see  journalctl -u {unit}")
    with contextlib.suppress(OSError):
        init.set_kernel(undo.kernel)
    for command in undo.addresses:
        gone = command.replace(" add ", " del ").replace(" nodad", "")
        subprocess.run(["ip", *gone.split()], capture_output=True)
    shutil.rmtree(HOME, ignore_errors=True)
    return {"problems": problems}


def do_reset(_message: init.Message) -> init.Reply:
    """Between two checks: files as they were, an empty database, no service running."""
    thaw()
    for name in undo.units:
        take_down(name)
    put_back()
    remove_database()
    if undo.own:
        covered = list(undo.covers)
        uncover()
        cover(covered)
        systemctl("daemon-reload")
    return {}


def remove_database() -> None:
    """Remove the database of the grading, and what SQLite and the app lay beside it."""
    for one in Path(DATABASE).parent.glob(f"{Path(DATABASE).name}*"):
        one.unlink(missing_ok=True)


# --- services -----------------------------------------------------------------------------------


def do_spawn(message: init.Message) -> init.Reply:
    """Start a service, or let it start anew with the environment given; replies with its pid."""
    name = message["name"]
    unit = undo.units[name]
    environment = "".join(f"{key}={json.dumps(v)}\n" for key, v in message["env"].items())
    known = HOME / f"{name}.env"
    changed = known.read_text() != environment
    known.write_text(environment)
    if changed:
        systemctl("stop", unit, check=False)
    systemctl("reset-failed", unit, check=False)
    before = show(unit)["InvocationID"]
    systemctl("start", "--no-block", unit)
    seen = wait_for_start(unit, before)
    started[name] = seen["InvocationID"]
    return {"pid": int(seen["MainPID"])}


def wait_for_start(unit: str, before: str) -> dict[str, str]:
    """Wait until a unit has the first process of a new start, or systemd has nothing to do for it.

    Args:
        unit: it has been told to start.
        before: systemd's name of the start before this one.
    """
    end = time.monotonic() + START_SECONDS
    while True:
        seen = show(unit)
        waiting = seen.get("Job", "0") not in ("", "0")
        new = seen["InvocationID"] != before and seen["MainPID"] != "0"
        if new or not waiting or time.monotonic() > end:
            return seen
        time.sleep(0.01)


def do_status(_message: init.Message) -> init.Reply:
    """Tell of each service whether the start that the grader asked for still runs."""
    told = {}
    for name, unit in undo.units.items():
        seen = show(unit)
        pid, status = int(seen["MainPID"]), None
        again = seen["InvocationID"] != started.get(name)
        resting = seen["ActiveState"] not in STATES or seen["SubState"] == "auto-restart"
        if again or resting:
            status = int(seen["ExecMainStatus"] or 0)
            if seen["ExecMainCode"] in ("2", "3", "killed", "dumped"):  # as of waitid()
                status = -status
        told[name] = {"pid": pid, "status": status, "killed_for": None}
    return {"services": told}


def take_down(name: str) -> None:
    """End a service at once, and keep systemd from starting it again."""
    unit = undo.units[name]
    seen = show(unit)
    for socket_unit in seen.get("TriggeredBy", "").split():
        systemctl("stop", socket_unit, check=False)
    systemctl("kill", "--signal=KILL", unit, check=False)
    systemctl("stop", unit, check=False)
    systemctl("reset-failed", unit, check=False)


def do_signal(message: init.Message) -> init.Reply:
    """Send a signal to processes of the services, or to all of one; to kill all takes it down."""
    number = message["signal"]
    if message.get("all") and number == signal.SIGKILL:
        take_down(message["service"])
        return {"sent": []}
    ours = {pid: one for pid, one in init.processes().items() if one["service"]}
    if "pids" in message:
        targets = [pid for pid in message["pids"] if pid in ours]
    else:
        targets = [pid for pid, one in ours.items() if one["service"] == message["service"]]
    for pid in targets:
        init.send(pid, number)
    return {"sent": targets}


def do_processes(message: init.Message) -> init.Reply:
    """List the processes of the services: a server has many others."""
    found = init.do_processes(message)["processes"]
    return {"processes": [one for one in found if one["service"]]}


def thaw() -> None:
    """Let go on what a check has stopped."""
    for pid in list(init.frozen):
        init.send(pid, signal.SIGCONT)


# --- programs -----------------------------------------------------------------------------------

runs: list[subprocess.Popen[bytes]] = []


def do_run(message: init.Message) -> init.Reply:
    """Start a program as root; replies with its number. It may take long: `ended` tells of it."""
    with (HOME / f"run-{len(runs)}").open("wb") as printed:
        one = subprocess.Popen(
            message["argv"],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": SEARCH, "HOME": "/root", "LANG": "C.UTF-8", "SYSTEMD_PAGER": ""},
            start_new_session=True,
        )
    runs.append(one)
    return {"number": len(runs) - 1}


def do_ended(message: init.Message) -> init.Reply:
    """Tell how a program ended, and the end of what it printed; no status while it runs."""
    number = message["number"]
    status = runs[number].poll()
    if status is None:
        return {"status": None}
    printed = (HOME / f"run-{number}").read_bytes()[-MOST_LOGGED:]
    return {"status": status, "data": base64.b64encode(printed).decode()}


def do_kill_run(message: init.Message) -> init.Reply:
    """End a program, and what it has started, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(runs[message["number"]].pid, signal.SIGKILL)
    return {}


# --- files --------------------------------------------------------------------------------------


def keep(path: str) -> None:
    """Before a path is written to: keep what it is, once."""
    if any(one.path == path for one in undo.kept):
        return
    copy = ""
    if os.path.lexists(path):
        copy = str(HOME / f"kept-{len(undo.kept)}")
        shutil.copy2(path, copy, follow_symlinks=False)
        seen = os.lstat(path)
        os.chown(copy, seen.st_uid, seen.st_gid, follow_symlinks=False)
    parent = os.path.dirname(path)
    missing = []
    while not os.path.isdir(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    undo.folders += reversed(missing)
    undo.kept.append(Kept(path, copy))
    undo.save()


def put_back() -> None:
    """Files as they were before the first check wrote to them."""
    for one in reversed(undo.kept):
        if one.copy:
            replace(one.copy, one.path)
        else:
            Path(one.path).unlink(missing_ok=True)
    for folder in reversed(undo.folders):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    undo.kept, undo.folders = [], []
    undo.save()


def replace(source: str, path: str) -> None:
    """Put a copy in the place of a file, with its mode and owner; nobody sees half of it."""
    beside = f"{path}.course-{os.getpid()}"
    shutil.copy2(source, beside, follow_symlinks=False)
    seen = os.lstat(source)
    os.chown(beside, seen.st_uid, seen.st_gid, follow_symlinks=False)
    os.rename(beside, path)


def do_write(message: init.Message) -> init.Reply:
    """Place files; they are put back."""
    for item in message["files"]:
        keep(item["path"])
    return init.do_write(message)


def do_link(message: init.Message) -> init.Reply:
    """Make a symbolic link; it is removed again."""
    keep(message["path"])
    return init.do_link(message)


def do_remove(message: init.Message) -> init.Reply:
    """Remove a file; it is put back."""
    keep(message["path"])
    return init.do_remove(message)


def do_read(message: init.Message) -> init.Reply:
    """Return the end of a file; here a link, as in sites-enabled, is followed."""
    return init.do_read({**message, "path": os.path.realpath(message["path"])})


def do_log(message: init.Message) -> init.Reply:
    """Return what a service printed on one stream since the grading began."""
    path = HOME / f"{message['name']}.{message['stream']}"
    if not path.exists():
        return {"data": "", "total": 0}
    with path.open("rb") as log:
        total = os.fstat(log.fileno()).st_size
        log.seek(max(message.get("start", 0), total - MOST_LOGGED))
        return {"data": base64.b64encode(log.read()).decode(), "total": total}


COMMANDS = {
    **{
        name: init.COMMANDS[name]
        for name in ("listeners", "connections", "unix", "size", "sockets")
    },
    **{name[3:]: value for name, value in globals().items() if name.startswith("do_")},
}


def main() -> None:
    """Serve the grader until it goes away, then put everything back."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of the conversation is what ends it
    init.OTHER_USER = False
    init.find_owner = find_unit
    if sys.argv[1].isdecimal():
        control = socket.socket(fileno=int(sys.argv[1]))
    else:
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        control.connect(sys.argv[1])
    try:
        while init.answer(control, COMMANDS):
            pass
    except OSError:
        pass  # the grader has gone away in the middle of an answer
    finally:
        if HOME.exists():
            do_end({})


if __name__ == "__main__":
    main()

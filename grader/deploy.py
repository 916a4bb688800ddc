"""`course deploy`: put a lab's files where a server wants them, and take them back.

Each deploy is written down, below `HOME`, before a file is touched: what it writes, and a copy of
what was there. A deploy that breaks off, or after which the site does not answer, is taken back.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from grader.errors import DeployFailed, GraderError, StartFailed, UsageError
from grader.lab import Lab, find_lab, read_submission
from grader.live import UNITS
from grader.machine import File
from grader.sandbox import ZONE
from grader.site import wait_for
from grader.text import COURSE, clean

HOME = Path("/var/lib/course-deploy")
MARKER = Path("/etc/board/course-server")  # made by vagrant/provision
LEDGER = Path("/etc/board/provisioned")  # so is this
ENVIRONMENT = Path("/etc/board/environment")
GUNICORN = "/opt/board/venv/bin/gunicorn"
APP_USER = "board"
LIVE = Path("/run/course-live")  # there while a live grading is under way
ANSWER_SECONDS = 20.0
RELOAD_SECONDS = 8.0
CHECK_SECONDS = 40.0
SYSTEMCTL_SECONDS = 120.0
BROKEN = 500  # a status from here on is no answer of a site that works
# In a mount namespace of its own: each folder is covered by its copy with the new files in it.
COVER = 'while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done; shift; exec "$@"'


@dataclass
class Written:
    """One file of a deploy: where, the SHA-256 of what was written, the copy of what was there."""

    path: str
    sha256: str
    before: str = ""


@dataclass
class Deploy:
    """One deploy, as it is written down; `whole` when it went through."""

    lab: str
    source: str
    when: str
    files: list[Written] = field(default_factory=list)
    whole: bool = False


@dataclass(frozen=True)
class Step:
    """What happens to one file: `new`, `same`, `replaced`, or `foreign`: no deploy wrote it."""

    file: File
    path: str  # links followed
    what: str


# --- what was deployed --------------------------------------------------------------------------


def history() -> list[Deploy]:
    """All deploys that have not been taken back, the last one last."""
    try:
        told = json.loads((HOME / "history.json").read_text())
    except FileNotFoundError:
        return []
    return [Deploy(**{**one, "files": [Written(**f) for f in one["files"]]}) for one in told]


def keep_history(deploys: Sequence[Deploy]) -> None:
    """Write the deploys down."""
    new = HOME / "history.new"
    new.write_text(json.dumps([asdict(one) for one in deploys], indent=1))
    new.replace(HOME / "history.json")


def digest(path: str) -> str:
    """The SHA-256 of a file; "" when there is none."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


@contextmanager
def alone() -> Iterator[None]:
    """Only one deploy at a time, and none during a live grading.

    Raises:
        UsageError: the user is not root, or a live grading is under way.
    """
    if os.geteuid():
        raise UsageError(f"this changes the server's files: sudo {COURSE} …")
    if LIVE.exists():
        raise UsageError("a live grading is under way, or was killed; run it again to its end")
    HOME.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- what is to be done -------------------------------------------------------------------------


def looks_like_course_server() -> str:
    """What this machine lacks to be a server of the course; "" when nothing."""
    if not Path("/run/systemd/system").is_dir():
        return "systemd does not run it"
    if not MARKER.exists():
        return f"it has no {MARKER}"
    if not Path(GUNICORN).exists():
        return f"it has no {GUNICORN}"
    return ""


def provisioned() -> dict[str, str]:
    """The SHA-256 of each file that the preparation of the server put there, by its path."""
    try:
        lines = LEDGER.read_text().splitlines()
    except OSError:
        return {}
    return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}


def plan(lab: Lab, folder: Path) -> list[Step]:
    """What a deploy of a folder would do.

    Raises:
        UsageError: the lab is not for a server, or a file cannot be read.
    """
    if lab.systemd:
        raise UsageError(f"lab {lab.number} brings units and a deploy of its own: see its README")
    other = next((one for one in lab.run if one not in UNITS), None)
    if other:
        raise UsageError(f"lab {lab.number} is not for a server: none has a service for {other}")
    try:
        files = read_submission(lab, folder)
    except StartFailed as failed:
        raise UsageError(f"{failed} {failed.note}".strip()) from None
    ours = {**provisioned(), **{one.path: one.sha256 for d in history() for one in d.files}}
    steps = []
    for one in files:
        path = os.path.realpath(one.path)
        now = digest(path)
        if now == hashlib.sha256(one.data).hexdigest():
            what = "same"
        elif not now:
            what = "new"
        else:
            what = "replaced" if ours.get(path) == now else "foreign"
        steps.append(Step(one, path, what))
    return steps


def as_text(step: Step) -> str:
    """A step, for people."""
    told = {
        "same": "stays as it is",
        "new": "is new",
        "replaced": "is replaced; a copy is kept",
        "foreign": "is replaced, and no deploy wrote it; a copy is kept",
    }
    return f"{step.path}  {told[step.what]}"


# --- checks before anything is touched ----------------------------------------------------------


def check_first(lab: Lab, steps: Sequence[Step]) -> None:
    """Have Nginx and Gunicorn read the new files, in a view of the file system that has them.

    Raises:
        DeployFailed: one of them refuses; with its own words.
    """
    with tempfile.TemporaryDirectory(prefix="course-deploy-") as folder:
        covers: list[str] = []
        parents = sorted({os.path.dirname(one.path) for one in steps if one.what != "same"})
        for number, parent in enumerate(parents):
            copy = Path(folder, str(number))
            if Path(parent).is_dir():
                shutil.copytree(parent, copy, symlinks=True)
                shutil.copystat(parent, copy)
            else:
                raise UsageError(f"there is no folder {parent}; vagrant/provision makes it")
            for one in steps:
                if os.path.dirname(one.path) == parent:
                    Path(copy, os.path.basename(one.path)).write_bytes(one.file.data)
            covers += [str(copy), parent]
        os.chmod(folder, 0o755)
        if "gunicorn" in lab.run:
            as_app = ["setpriv", f"--reuid={APP_USER}", f"--regid={APP_USER}", "--init-groups"]
            command = [GUNICORN, "--check-config", "--config", "gunicorn.conf.py", "wsgi:app"]
            in_home = ["env", "--chdir=/srv/board", *environment()]
            tried("Gunicorn", lab, covers, [*as_app, *in_home, *command])
        if "nginx" in lab.run:
            tried("Nginx", lab, covers, ["nginx", "-t"])


def environment() -> list[str]:
    """The app's variables on this server, as arguments of `env`; none if they are elsewhere."""
    if not ENVIRONMENT.exists():
        return []
    lines = [one.strip() for one in ENVIRONMENT.read_text().splitlines()]
    return [one.replace('"', "") for one in lines if "=" in one and not one.startswith("#")]


def tried(who: str, lab: Lab, covers: Sequence[str], command: Sequence[str]) -> None:
    """Run a program's own check under the covers.

    Raises:
        DeployFailed: it does not like what it reads.
    """
    unshare = ["unshare", "--mount", "--propagation=private", "sh", "-euc", COVER, "sh"]
    try:
        done = subprocess.run(
            [*unshare, *covers, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=CHECK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise DeployFailed(
            f"{who} did not come to an end reading the files within {CHECK_SECONDS:g} s."
            " Nothing was changed."
        ) from None
    if done.returncode:
        said = clean(lab.learner_names(done.stdout).strip())
        raise DeployFailed(f"{who} refuses the files. Nothing was changed. It says:\n{said}")


# --- doing it -----------------------------------------------------------------------------------


def deploy(lab: Lab, source: Path, steps: Sequence[Step]) -> None:
    """Write the files, let the services read them, and see that the site answers.

    Raises:
        DeployFailed: it does not; everything is as it was before.
        GraderError: not even that could be done.
    """
    number = len(history())
    copies = HOME / f"{number:04d}"
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir(mode=0o700)
    made = Deploy(lab.number, str(source), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    for step in steps:
        if step.what == "same":
            continue
        before = ""
        if step.what != "new":
            before = str(copies / str(len(made.files)))
            shutil.copy2(step.path, before)
            seen = os.stat(step.path)
            os.chown(before, seen.st_uid, seen.st_gid)
        made.files.append(Written(step.path, hashlib.sha256(step.file.data).hexdigest(), before))
    deploys = [*history(), made]
    keep_history(deploys)
    try:
        for step in steps:
            if step.what != "same":
                write(step.path, step.file.data, step.file.mode)
        bring_up(lab, [one.path for one in made.files])
    except DeployFailed as failed:
        take_back(lab, made)
        keep_history(deploys[:-1])
        raise DeployFailed(f"{failed}\nWhat was there before is back, and serves.") from None
    made.whole = True
    keep_history(deploys)


def write(path: str, data: bytes, mode: int) -> None:
    """Replace a file at once, so that nobody reads half of it."""
    beside = f"{path}.course-deploy"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "wb") as out:
        out.write(data)
        os.fchmod(out.fileno(), mode)
    os.rename(beside, path)


def take_back(lab: Lab, made: Deploy) -> None:
    """Undo a deploy's files, and let the services read what was there before.

    Raises:
        GraderError: the site does not answer with those either.
    """
    for one in made.files:
        if one.before:
            beside = f"{one.path}.course-deploy"
            shutil.copy2(one.before, beside)
            seen = os.stat(one.before)
            os.chown(beside, seen.st_uid, seen.st_gid)
            os.rename(beside, one.path)
        else:
            Path(one.path).unlink(missing_ok=True)
    try:
        bring_up(lab, [one.path for one in made.files])
    except DeployFailed as failed:
        raise GraderError(f"what was there before is back, but: {failed}") from None


def bring_up(lab: Lab, changed: Sequence[str]) -> None:
    """Let the services read the changed files, and wait for an answer.

    Raises:
        DeployFailed: there is none; with the last words of the service that is to blame.
    """
    of_nginx = [one for one in changed if one.startswith("/etc/nginx/")]
    if "gunicorn" in lab.run and (len(of_nginx) < len(changed) or not is_active("gunicorn")):
        act("restart", "gunicorn")
    if "nginx" in lab.run:
        if not is_active("nginx"):
            act("start", "nginx")
        elif of_nginx:
            before = children(main_process("nginx"))
            act("reload", "nginx")
            # Until then the old workers, with the old files, answer too.
            if not wait_for(lambda: all(map(takes_no_more, before)), RELOAD_SECONDS):
                # It went on with the old files: an address that they hold and the new ones want
                # otherwise, for one, takes a restart.
                act("restart", "nginx")
    seen = ""

    def answers() -> bool:
        nonlocal seen
        seen = answer(lab)
        return not seen

    if not wait_for(answers, ANSWER_SECONDS):
        last = "\n".join(said(name) for name in lab.run)
        raise DeployFailed(f"The site does not answer as it should: {seen}.\n{last}".rstrip())


def act(verb: str, name: str) -> None:
    """Have systemd do something to a service.

    Raises:
        DeployFailed: it could not; with the service's last words.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        systemctl("reset-failed", UNITS[name])
        if systemctl(verb, UNITS[name]).returncode == 0:
            return
    raise DeployFailed(f"systemctl {verb} {UNITS[name]} failed.\n{said(name)}".rstrip())


def systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemctl to its end."""
    return subprocess.run(
        ["systemctl", *arguments], capture_output=True, text=True, timeout=SYSTEMCTL_SECONDS
    )


def is_active(name: str) -> bool:
    """Tell whether a service runs."""
    return systemctl("is-active", "--quiet", UNITS[name]).returncode == 0


def main_process(name: str) -> int:
    """The process id of a service's first process; 0 when it has none."""
    return int(systemctl("show", UNITS[name], "-p", "MainPID", "--value").stdout.strip() or 0)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    with contextlib.suppress(OSError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []


def takes_no_more(worker: int) -> bool:
    """Tell whether a worker of Nginx is gone, or only ends what it has begun."""
    try:
        return b"shutting down" in Path(f"/proc/{worker}/cmdline").read_bytes()
    except OSError:
        return True


def said(name: str) -> str:
    """The last lines of a service in the journal that sound like trouble."""
    done = subprocess.run(
        ["journalctl", "-u", UNITS[name], "-n", "40", "-o", "cat", "--no-pager"],
        capture_output=True,
        text=True,
        errors="replace",
    )
    words = ("error", "emerg", "crit", "failed", "exception", "refused")
    lines = [one for one in done.stdout.splitlines() if any(w in one.lower() for w in words)]
    return clean("\n".join(f"  {name}: {one}" for one in lines[-4:]))


def answer(lab: Lab) -> str:
    """Ask the site for its home page, as a visitor on this machine; what is wrong, or ""."""
    try:
        status, location = ask(lab.visit, False)
        if 300 <= status < 400 and urlsplit(location).scheme == "https":
            status, _ = ask((f"{ZONE}:443",), True)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return f"status {status}" if status >= BROKEN else ""


def ask(doors: Sequence[str], tls: bool) -> tuple[int, str]:
    """GET / at the first door that opens; the status, and where it redirects to."""
    for door in doors:
        connection = http.client.HTTPConnection(ZONE, timeout=ANSWER_SECONDS / 2)
        try:
            connection.sock = reach(door, tls)
        except (ConnectionRefusedError, FileNotFoundError):
            if door == doors[-1]:
                raise
            continue
        with contextlib.closing(connection):
            connection.request("GET", "/", headers={"Host": ZONE, "Connection": "close"})
            reply = connection.getresponse()
            return reply.status, reply.headers.get("Location", "")
    raise ConnectionRefusedError("nobody listens")


def reach(door: str, tls: bool) -> socket.socket:
    """Connect to this machine at "host:port" or "unix:/path"."""
    if door.startswith("unix:"):
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(ANSWER_SECONDS / 2)
        made.connect(door[5:])
        return made
    made = socket.create_connection(("127.0.0.1", int(door.rpartition(":")[2])), ANSWER_SECONDS / 2)
    if not tls:
        return made
    context = ssl.create_default_context()
    context.check_hostname = False  # a new certificate's authority may be known to nobody yet
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(made, server_hostname=ZONE)


# --- taking it back -----------------------------------------------------------------------------


def changed_since(made: Deploy) -> list[str]:
    """The files of a deploy that somebody has changed after it."""
    return [one.path for one in made.files if digest(one.path) not in (one.sha256, "")]


def settle() -> str:
    """Take back a deploy that was killed in the middle; its lab's number, or "".

    Raises:
        GraderError: the site does not answer with what was there before.
    """
    deploys = history()
    if not deploys or deploys[-1].whole:
        return ""
    take_back(find_lab(deploys[-1].lab), deploys[-1])
    keep_history(deploys[:-1])
    return deploys[-1].lab


def undeploy() -> str:
    """Take the last deploy back; where files that were changed since are kept, or "".

    There must be one.

    Raises:
        GraderError: the site does not answer with what was there before.
    """
    deploys = history()
    made = deploys[-1]
    changed = changed_since(made)
    kept = ""
    if changed:
        kept = tempfile.mkdtemp(prefix="changed-", dir=HOME)
        for path in changed:
            shutil.copy2(path, kept)
    take_back(find_lab(made.lab), made)
    keep_history(deploys[:-1])
    shutil.rmtree(HOME / f"{len(deploys) - 1:04d}", ignore_errors=True)
    return kept

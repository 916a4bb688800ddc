"""Sites that systemd runs, with the learner's own units: in a container, or on a real server.

A lab that says `systemd = true` cannot be graded in a box: nothing there starts services, watches
over them and keeps their doors. A container with a systemd of its own is booted for each site,
where this process is root and a root tree is there (`grader.tree`); with --live it is the server
that this machine is, whose folders are covered by copies meanwhile (`grader.agent`).
"""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any

from grader import tree
from grader.container import booted
from grader.errors import GraderError, Mismatch, NotAllowed, Place, StartFailed
from grader.lab import Lab
from grader.live import UNITS, Ended, LiveServer, LiveSite, LiveSites
from grader.machine import File
from grader.services import LOG_LINE, NGINX_MESSAGE, NGINX_PLACE, start_seconds
from grader.site import Site, wait_for
from grader.sites import Sites
from grader.text import COURSE, clean

HOME = "/srv/board"
RELEASES = f"{HOME}/releases"
CURRENT = f"{HOME}/current"
FIRST = "1"  # the release that is there before any deploy
ENVIRONMENT = "/etc/board/environment"
DATABASE = "/var/lib/board/board.db"
SERVICE, SOCKET = "board.service", "board.socket"
PYTHON = "/usr/bin/python3"  # of the container, which has none of the course's packages
VERSION_HEADER = "X-Release"  # of every reply of a release
# A release is a folder with a wsgi.py; this is all that tells one from another.
WSGI = '''\
"""Release {name}."""

from werkzeug.middleware.proxy_fix import ProxyFix

from board import create_app

{before}app = create_app()
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)


@app.after_request
def name_the_release(response):
    response.headers["{header}"] = "{name}"
    return response
{after}'''
ELSEWHERE = """\
Lab {number} is about systemd, and no box has one: grade it in the virtual machine (`vagrant up`, \
docs/guides/vagrant.md), where `{course} check {number} --live` does it. As root it can be graded \
here too, in a container, once `{course} tree` has made its files; now {lacks}."""
NOT_HERE = "it needs a machine that systemd runs: `vagrant up`, see docs/guides/vagrant.md"
UNIT_PLACE = re.compile(r"^(\S+?):(\d+): ")
# Words in lines of the journal that tell of trouble; the same trouble again is not news.
LOUD = (
    *("rror", "ailed", "nvalid", "nknown", "ailure", "efus", "denied", "No such", "in use"),
    *("status=", "code=killed"),
)
IDLE = ("[INFO]", "Scheduled restart job", "Failed with result", "HaltServer")
EXCEPTION = re.compile(r"^[\w.]*(Error|Exception)\b")
# What follows from an exception, and what a visitor's request was; Nginx's date and numbers.
AFTERMATH = ("Reason: ", "Exception in worker", "Failed to start", "status=", "    ")
NGINX_SAYS = re.compile(r"(?m)^\S+ \S+ \[(?:error|crit)\] \S+ \*\d+ (.*?)(?:, client: .*)?$")
SIGSYS = "status=31/SYS"
SYSTEMCTL_SECONDS = 40.0
READY_SECONDS = 5.0  # for a word to systemd, from an app that answers
SHOWN = 6  # lines of the journal on a card
LookAt = list[tuple[str, str]]  # files, and texts of the likely line


# Containers that live at a time: their apps share this machine's memory and cores.
PLACES = threading.BoundedSemaphore(5)


class ContainerServer(LiveServer):
    """A server in a container, as a machine for a site.

    Raises:
        GraderError: it did not boot.
    """

    covers: Sequence[str] = ()  # all is gone with it
    aside: Sequence[str] = ()

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        binds = {tree.ROOT: tree.COURSE_THERE}
        try:
            self._container = self._stack.enter_context(
                booted(tree.server(), binds=binds, gently=False)
            )
            super().__init__()
        except BaseException:
            self._stack.close()
            raise

    def _start(self) -> socket.socket:
        control, inside = socket.socketpair()
        with inside:
            command = ["env", f"PYTHONPATH={tree.COURSE_THERE}", PYTHON, "-P", "-B"]
            command += ["-m", "grader.agent", str(inside.fileno())]
            self._agent = subprocess.Popen(
                [*self._container.inside(), *command],
                pass_fds=[inside.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        return control

    def sockets(self, family: int = 4, count: int = 1) -> list[socket.socket]:
        """Make TCP sockets that live in the container's network."""
        _, fds = self._ask("sockets", count, {"family": family, "count": count})
        return [socket.socket(fileno=fd) for fd in fds]

    def when_closed(self, call: Callable[[], object]) -> None:
        """Have something called when it is closed."""
        self._stack.callback(call)

    def close(self) -> None:
        """End the container, at once."""
        self._control.close()
        self._stack.close()
        if self._agent:
            self._agent.wait()


class SystemdSite(LiveSite):
    """A site whose services are the learner's own units. It is not started yet.

    Args:
        lab: the lab.
        files: the learner's.
        server: where to put them.
    """

    box: LiveServer

    def __init__(self, lab: Lab, files: Sequence[File], server: LiveServer) -> None:
        self._describe(lab, files)
        self.box = server
        self.small_buffers = server.small_buffers
        self._own_root = ""
        self._begun = ""  # where the journal ended then
        self._name_services(DATABASE, {})
        _, self._logged = server.grown("/var/log/nginx/error.log", 0)

    def _trust(self) -> None:
        """It speaks http alone."""

    # --- starting

    def start(self) -> None:
        """Do what the lab's README says that is done with the files.

        Raises:
            StartFailed: no visitor is answered then; with what systemd, Gunicorn or Nginx say.
        """
        self._front = None
        self.place()
        said = self.run("sh", "-c", START).output
        if not wait_for(self.serves, start_seconds()) or not wait_for(
            self.is_active, READY_SECONDS
        ):
            raise self.why_not(said)
        for name, service in self.services.items():
            service.pid = int(self.show(UNITS[name])["MainPID"])

    def place(self) -> None:
        """Put the learner's files, the first release and the environment in their places."""
        self._begun = self.now()
        self.run("sh", "-c", PREPARE)
        lines = {
            "BOARD_SECRET_KEY": self.key,
            "BOARD_DATABASE": DATABASE,
        }
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        self.box.write(File(ENVIRONMENT, text.encode(), 0o600), *self.files)
        self.release(FIRST)
        self.run("ln", "-sfn", f"releases/{FIRST}", CURRENT)

    def release(self, name: str, *, before: str = "", after: str = "") -> str:
        """Put a release beside the others; returns its name.

        Args:
            name: of its folder; visitors see it in the header X-Release.
            before: Python that runs before its app is made.
            after: Python that runs after that.
        """
        wsgi = WSGI.format(name=name, header=VERSION_HEADER, before=before, after=after)
        folder = f"{RELEASES}/{name}"
        self.run("sh", "-euc", 'mkdir -p "$1" && cp -r /srv/board/board "$1"', "sh", folder)
        self.box.write(File(f"{folder}/wsgi.py", wsgi.encode()))
        return name

    def serves(self) -> bool:
        """Tell whether a visitor gets the answer of an app that is a process of the service."""
        with contextlib.suppress(OSError, ValueError):
            reply = self.get("/whoami", timeout=5)
            self.exchanges.clear()
            return bool(reply.status_code == 200 and reply.json()["pid"] in self.pids())
        return False

    def is_active(self) -> bool:
        """Tell whether systemd takes the service for one that has started."""
        return self.show(SERVICE)["ActiveState"] == "active"

    def why_not(self, said: str) -> StartFailed:
        """Explain a site that does not answer, layer by layer."""
        names = self.lab.learner_names
        if not self.run("systemctl", "is-active", "nginx").output.startswith("active"):
            found = NGINX_MESSAGE.search(names(self.run("nginx", "-t").output))
            message = clean(found[1]) if found else "nginx does not run"
            at = NGINX_PLACE.search(message)
            place = Place(at[1], int(at[2])) if at and at[1] in self.lab.files else None
            return StartFailed("nginx", "Nginx starts", message, place or Place("nginx.conf"))
        state = self.show(SERVICE)
        active = state["ActiveState"]
        again = active != "failed" and int(state["NRestarts"]) > 1  # whatever it is at this moment
        journal = names(self.journal("_PID=1", "--grep=board|/etc/systemd/system"))
        own = names(self.journal(f"_SYSTEMD_UNIT={SERVICE}"))
        lines = [one for one in [*journal.splitlines(), *own.splitlines()] if is_loud(one)]
        place = None
        for one in lines:
            found = UNIT_PLACE.match(one)
            if found and found[1] in self.lab.files:
                place = place or Place(found[1], int(found[2]))
        # The same words at another time are the same trouble.
        told = list(dict.fromkeys(LOG_LINE.sub("", one) for one in lines))
        if any(EXCEPTION.match(one) for one in told):
            told = [one for one in told if not any(word in one for word in AFTERMATH)]
        shut = self.nginx_says() if active == "active" and not again else ""
        if shut:
            told.append(f"Nginx: {shut}")
        said = "\n".join(one for one in names(said).splitlines() if "Created symlink" not in one)
        shown = "\n".join(told[-SHOWN:]) or said.strip()
        now = "starts and ends, again and again" if again else f"is {active} ({state['Result']})"
        got = f"{SERVICE} {now}, {SOCKET} is "
        got += f"{self.show(SOCKET)['ActiveState']}\n{clean(shown)}"
        if active == "activating" and self.serves():
            expected = f"{SERVICE} is active"
            note = "The app answers, and systemd waits for a word that it does not say: see Type=."
            places: LookAt = [(SERVICE, "Type=")]
        else:
            expected = "a visitor on port 80 gets the app's answer"
            note, places = likely_cause(told, shut)
        return StartFailed("board", expected, got.strip(), place, note, places)

    def nginx_says(self) -> str:
        """The last error that Nginx has logged, without date and numbers; "" when there is none."""
        found: list[str] = NGINX_SAYS.findall(self.error_log())
        return clean(found[-1]) if found else ""

    def notes(self) -> list[str]:
        """What systemd has not understood in the learner's units, and so has ignored.

        A setting in the wrong section may be the cause of anything.
        """
        said = self.lab.learner_names(self.journal("_PID=1", "--grep=ignoring"))
        places = [(UNIT_PLACE.match(one), one) for one in dict.fromkeys(said.splitlines())]
        mine = [one for found, one in places if found and found[1] in self.lab.files]
        return [f"systemd: {clean(one)}" for one in mine]

    # --- what checks ask

    def run(self, *argv: str, seconds: float = 60.0) -> Ended:
        """Run a program on the server, as root."""
        return self.box.run(*argv, seconds=seconds)

    def systemctl(self, *argv: str) -> Ended:
        """Run systemctl; what hangs is given up, with status 124."""
        return self.run("timeout", f"{SYSTEMCTL_SECONDS:g}", "systemctl", *argv, seconds=120)

    def must(self, *argv: str, seconds: float = 60.0) -> str:
        """Run a program that has to work; what it printed.

        Raises:
            GraderError: it failed.
        """
        done = self.run(*argv, seconds=seconds)
        if done.status:
            raise GraderError(f"`{shlex.join(argv)}` failed: {done.output.strip()}")
        return done.output

    def show(self, unit: str) -> dict[str, str]:
        """All that systemd knows of a unit, by its own names."""
        lines = self.must("systemctl", "show", "--all", unit).splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def main_pid(self) -> int:
        """The process id of the service's first process; 0 when it does not run."""
        return int(self.must("systemctl", "show", SERVICE, "-p", "MainPID", "--value") or 0)

    def pids(self) -> list[int]:
        """The process ids of the service."""
        return [one["pid"] for one in self.service("gunicorn").processes()]

    def forgive(self) -> None:
        """Let systemd forget how often it was told to start the service: the checks do it often."""
        self.run("systemctl", "reset-failed", SERVICE)

    def now(self) -> str:
        """Where the journal ends now, for `journal`."""
        self.run("journalctl", "--sync")
        told = self.run("journalctl", "-q", "-n", "0", "--show-cursor").output
        return told.partition("-- cursor: ")[2].strip()

    def journal(self, *which: str, after: str = "") -> str:
        """The messages of the journal since this site was begun, without dates.

        Args:
            which: journalctl's own ways to choose.
            after: what `now` has said: only what came later.
        """
        self.run("journalctl", "--sync")
        # Not --after-cursor, which leaves out the first one that is chosen.
        since = [f"--cursor={after or self._begun}"] if after or self._begun else []
        return self.run("journalctl", *since, "-o", "cat", "--no-pager", "-q", *which).output

    def deploy(self, name: str, seconds: float = 60.0) -> Ended:
        """Run the learner's deploy.sh for a release.

        Raises:
            Mismatch: it does not come to an end.
        """
        self.forgive()
        # As from a terminal: what runs the checks here ignores these signals, and so would all that
        # the script starts; what it tells to end would not.
        limit = ["env", "--default-signal=HUP,INT,TERM"]
        limit += ["timeout", "--kill-after=5", f"{seconds:g}"]
        done = self.run(*limit, "bash", f"{HOME}/deploy.sh", name, seconds=seconds + 30)
        if done.status in (124, 137):
            raise Mismatch(f"deploy.sh {name} ends within {seconds:g} s", "it goes on")
        return done


def likely_cause(told: Sequence[str], shut: str) -> tuple[str, LookAt]:
    """What probably keeps the site from its visitors: a note, and where to look.

    Args:
        told: lines of the journal that tell of trouble.
        shut: what Nginx says of an app that runs and that it does not reach.
    """
    if any(SIGSYS in one for one in told):
        note = "SIGSYS: it made a system call that SystemCallFilter= does not let it make."
        return note, [(SERVICE, "SystemCallFilter"), (SERVICE, "")]
    if "Permission denied" in shut:
        words = ("SocketMode", "SocketUser", "SocketGroup", "ListenStream")
        note = "Nginx's workers run as www-data: the socket has to let them in."
        return note, [(SOCKET, word) for word in words]
    if "connect()" in shut:
        return "", [("nginx.conf", "server 127"), ("nginx.conf", "server unix"), (SOCKET, "")]
    if any("BOARD_" in one for one in told):
        return "", [(SERVICE, "EnvironmentFile"), (SERVICE, "Environment"), (SERVICE, "")]
    return "", [(SERVICE, "")]


def is_loud(line: str) -> bool:
    """Tell whether a line of the journal tells of trouble."""
    return any(word in line for word in LOUD) and not any(word in line for word in IDLE)


# What is done with the files, as the lab's README says.
PREPARE = f"""
timeout 40 systemctl stop {SOCKET} {SERVICE} 2>/dev/null
rm -rf {RELEASES} {CURRENT} /etc/systemd/system/{SERVICE} /etc/systemd/system/{SOCKET}
rm -f /etc/systemd/system/*.wants/{SERVICE} /etc/systemd/system/*.wants/{SOCKET}
rm -f /etc/nginx/sites-enabled/default
rm -rf /var/lib/board /var/lib/private/board
install -d -m 750 -o board -g board /var/lib/board
mkdir -p {RELEASES}
"""
START = f"""
systemctl daemon-reload
systemctl reset-failed {SOCKET} {SERVICE} 2>/dev/null
systemctl enable {SOCKET} {SERVICE}
timeout 10 systemctl start {SOCKET}
timeout 10 systemctl start {SERVICE}
systemctl reload-or-restart nginx
"""


class ContainerSites(Sites):
    """The sites of a lab about systemd: each in a container of its own."""

    def make(self, *, start: bool = True, **options: Any) -> Site:
        """Boot a server and put the learner's files on it.

        Raises:
            NotAllowed: that cannot be done here; says where it can.
        """
        if tree.missing():
            raise NotAllowed(NOT_HERE)
        if options:
            raise GraderError(f"no such options: {', '.join(options)}")
        self.placed = self.files()
        server = self._server()
        try:
            server.begin(self.lab)
            site = SystemdSite(self.lab, self.placed, server)
        except BaseException:
            server.close()
            raise
        self._keep(site)
        if start:
            site.start()
        return site

    def _server(self) -> ContainerServer:
        """A server, as soon as there is a place for it.

        Raises:
            StartFailed: with these files no other site has started either.
        """
        PLACES.acquire()
        try:
            if self.failed:
                raise self.failed
            server = ContainerServer()
        except BaseException:
            PLACES.release()
            raise
        server.when_closed(PLACES.release)
        return server

    def common(self) -> Site:
        """The site that checks share.

        Raises:
            NotAllowed: there can be none here; the first time it says all about it.
        """
        lacks = tree.missing()
        if lacks and not self.nowhere:
            self.nowhere = True
            raise NotAllowed(ELSEWHERE.format(number=self.lab.number, course=COURSE, lacks=lacks))
        if lacks:
            raise NotAllowed(NOT_HERE)
        return super().common()


class SystemdLiveSites(LiveSites):
    """The site of a lab about systemd, on the server that this machine is."""

    def _site_on(self, server: LiveServer) -> LiveSite:
        """The site, of the learner's files; their places are covered by copies meanwhile."""
        return SystemdSite(self.lab, self.files(), server)

    def files(self) -> list[File]:
        """The learner's files."""
        return Sites.files(self)

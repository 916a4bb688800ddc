"""Live grading: the checks of a lab against the server that this machine is.

The site is the real one: systemd's services, the files that a deploy put in place, real ports.
For the time of the grading the app gets a database, a key and a name of its own, and visitors'
addresses are put on `lo`; a program with root's rights (`grader.agent`) does that, does what checks
do to a site, and puts everything back, even when this process is killed.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grader.errors import GraderError, NotLive, Place, StartFailed, UsageError
from grader.lab import LARGEST, Lab
from grader.machine import File, Machine
from grader.sandbox import TCP_BUFFERS, addresses, allow_many_sockets
from grader.site import Site, wait_for
from grader.sites import Sites
from grader.text import COURSE

UNITS = {"gunicorn": "board.service", "nginx": "nginx.service"}
SOCKET = "board.socket"
# Where a lab whose units are the learner's writes, and what its checks break.
COVERS = (
    "/etc/systemd/system",
    "/etc/nginx/sites-enabled",
    "/etc/board",
    "/srv/board",
    "/opt/board/venv/bin",
)
ASIDE = ("/var/lib/board",)
DATABASE = "/var/lib/board/course-live.db"  # known to the agent, who removes it
AUTHORITY = "/etc/letsencrypt/course-root.pem"  # of the certificates that a course server is given
SYSTEM_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
ERROR_LOG = "/var/log/nginx/error.log"
RUN_SECONDS = 60.0
PATIENCE = 200.0  # seconds; systemd may wait for a service that does not stop, more than once
START_SECONDS = 30.0

WARNING = """\
Lab {number} is to be graded live, on the server that this machine is. Until the end of it
  {units} are stopped, broken and started again, as the checks want;
{own}  visitors see an empty board: what they write to it is lost;
  the networks 203.0.113.0/24 and 2001:db8::/32 belong to this machine;
  its TCP buffers are small.
Afterwards all is put back."""
OWN = (
    "  they are what the lab's own files make of them; those of the server are covered by copies;\n"
)


def refuse_without_units(lab: Lab) -> None:
    """See that a lab is about what runs on a server.

    Raises:
        UsageError: it is not; names what is in the way.
    """
    other = next((one for one in lab.run if one not in UNITS), None)
    if other:
        raise UsageError(
            f"lab {lab.number} cannot be graded live: no server has a service for {other}."
            f" In a box it can:  {COURSE} check {lab.number}"
        )
    if not Path("/run/systemd/system").is_dir():
        raise UsageError("--live grades services of systemd, which does not run this machine")


def warning(lab: Lab) -> str:
    """What a live grading does to the server, for who is asked whether it may."""
    units = " and ".join(UNITS[one].removesuffix(".service") for one in lab.run)
    own = OWN if lab.systemd else ""
    return WARNING.format(number=lab.number, units=units, own=own)


@dataclass(frozen=True)
class Ended:
    """How a program ended: its status, and what it printed on both streams."""

    status: int
    output: str


class LiveServer(Machine):
    """This machine, as a machine for a site; a program with root's rights does what takes them.

    Raises:
        UsageError: nobody here may become root.
        GraderError: the program did not start.
    """

    real = True
    covers: Sequence[str] = COVERS
    aside: Sequence[str] = ASIDE

    def __init__(self) -> None:
        allow_many_sockets()
        self._agent: subprocess.Popen[bytes] | None = None
        super().__init__(
            self._start(), PATIENCE, "the server", "the agent of the live grading ended"
        )
        self.refused: list[str] = []
        self.small_buffers = False

    def _start(self) -> socket.socket:
        command = [sys.executable, "-P", "-B", "-m", "grader.agent"]
        if os.geteuid():
            if not shutil.which("sudo") or subprocess.run(["sudo", "-v"]).returncode:
                raise UsageError("--live takes root's rights, and sudo does not give them")
            command = ["sudo", "-n", *command]
        with (
            tempfile.TemporaryDirectory() as folder,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door,
        ):
            path = f"{folder}/agent.sock"
            door.bind(path)
            door.listen(1)
            door.settimeout(START_SECONDS)
            # Not in the terminal's group: after Ctrl-C it has everything to put back.
            self._agent = subprocess.Popen(
                [*command, path], stdin=subprocess.DEVNULL, process_group=0
            )
            try:
                control, _ = door.accept()
            except TimeoutError:
                self._agent.kill()
                raise GraderError("the agent of the live grading did not start") from None
        told = control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", told)[1]:
            control.close()
            raise GraderError("the agent of the live grading is not root's")
        return control

    def begin(self, lab: Lab) -> None:
        """Prepare the server for a lab's checks."""
        units = {name: UNITS[name] for name in lab.run}
        own = {"own": True, "covers": self.covers, "aside": self.aside} if lab.systemd else {}
        if lab.systemd:
            units = {"socket": SOCKET, **units}
        told = self.request("begin", units=units, addresses=addresses(), kernel=TCP_BUFFERS, **own)
        self.refused = told["refused"]
        self.small_buffers = bool(told["set"])

    def sockets(self, family: int = 4, count: int = 1) -> list[socket.socket]:
        """Make TCP sockets; this process is in the server's network."""
        if any(":" in one for one in self.refused) and family == 6:
            raise NotLive("this machine has no IPv6 for visitors to come by")
        if any(":" not in one for one in self.refused) and family == 4:
            raise NotLive("this machine does not let visitors have addresses of their own")
        kind = socket.AF_INET6 if family == 6 else socket.AF_INET
        return [socket.socket(kind, socket.SOCK_STREAM) for _ in range(count)]

    def spawn(self, name: str, argv: Sequence[str], env: dict[str, str], cwd: str = "/") -> int:
        """Let systemd start a service of the site; returns its process id."""
        if name not in UNITS:
            raise NotLive(f"it runs {argv[0]} beside the services")
        return int(self.request("spawn", name=name, env=env)["pid"])

    def drop_spare(self) -> None:
        """Nothing is asked for ahead."""

    def run(self, *argv: str, seconds: float = RUN_SECONDS) -> Ended:
        """Run a program as root, to its end; other requests are answered meanwhile.

        Raises:
            GraderError: it did not end in time.
        """
        number = self.request("run", argv=argv)["number"]
        told = wait_for(partial(self._ended, number), seconds)
        if told is None:
            self.request("kill_run", number=number)
            raise GraderError(f"`{shlex.join(argv)}` did not end within {seconds:g} s")
        return Ended(told["status"], base64.b64decode(told["data"]).decode("utf-8", "replace"))

    def _ended(self, number: int) -> dict[str, Any] | None:
        told = self.request("ended", number=number)
        return None if told["status"] is None else told

    def close(self) -> None:
        """Have everything put back.

        Raises:
            GraderError: something could not be; says what.
        """
        try:
            problems = self.request("end")["problems"]
        finally:
            self._control.close()
            if self._agent:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._agent.wait(PATIENCE)
        if problems:
            raise GraderError("\n".join(problems))


class LiveSite(Site):
    """The site that this machine serves, for a lab's checks. It is not started yet.

    Raises:
        StartFailed: a file of the lab is not on this machine.
    """

    def __init__(self, lab: Lab, server: LiveServer) -> None:
        self._describe(lab, [])
        self.box = server
        self.small_buffers = server.small_buffers
        self.files = [deployed(lab, name, server) for name in lab.files]
        self._name_services(DATABASE, {})
        self._own_root = (server.read(AUTHORITY, LARGEST) or b"").decode("ascii", "ignore")
        self._trust()
        _, self._logged = server.grown(ERROR_LOG, 0)

    def _trust(self) -> None:
        """Trust who a visitor trusts: the authority of a course server, or all that are known."""
        self.root = self._own_root
        if self.lab.certificates and not self.root:
            known = self.box.read(SYSTEM_AUTHORITIES, LARGEST) or b""
            self.root = known.decode("ascii", "ignore")

    def change_certificates(self, key_type: str) -> None:
        """Put other certificates in the place of the course's own, until the next reset.

        Raises:
            NotLive: the server has real ones, which are nobody's to touch.
        """
        from grader.certificates import make_certificates

        if not self._own_root:
            raise NotLive(f"this check needs certificates with {key_type} keys")
        made = make_certificates(key_type)
        self.box.write(*made.files)
        self.root = made.root

    def reset(self) -> None:
        """Undo what a check has done; no service runs afterwards."""
        self.box.request("reset")
        self._trust()
        for one in self.services.values():
            one.pid = 0

    def error_log(self) -> str:
        """The end of what Nginx's error log got since the grading began."""
        return self.box.grown(ERROR_LOG, self._logged)[0].decode("utf-8", "replace")


def deployed(lab: Lab, name: str, server: LiveServer) -> File:
    """Read a file of a lab as it is on the server."""
    path = lab.files[name]
    data = server.read(path, LARGEST)
    if data is None:
        note = f"Deploy the lab first: sudo {COURSE} deploy {lab.number}"
        raise StartFailed("", f"the file {name}, as {path}", "no such file", Place(name), note)
    return File(path, data)


class LiveSites(Sites):
    """What the checks of a live grading get for sites: one and the same, put back between two."""

    in_turn = True

    def __init__(self, lab: Lab, folder: Path) -> None:
        super().__init__(lab, folder)
        self._server: LiveServer | None = None
        self._site: LiveSite | None = None
        self._used = False
        self._broken = False  # a check may have left it so

    def make(self, *, start: bool = True, **options: Any) -> Site:
        """The site, as if it were new.

        Raises:
            NotLive: a check wants it otherwise than it is.
        """
        key_type = options.pop("key_type", "")
        if options:
            wanted = ", ".join(f"{name}={value!r}" for name, value in options.items())
            raise NotLive(f"this check needs a site that is made for it, with {wanted}")
        if self._server is None:
            self._server = LiveServer()
            self._server.begin(self.lab)
        if self._site is None:
            self._site = self._site_on(self._server)
            self.placed = self._site.files
        elif self._used:
            self._site.reset()
        self._used = True
        if key_type:
            self._site.change_certificates(key_type)
        if start:
            self._site.start()
        return self._site

    def _site_on(self, server: LiveServer) -> LiveSite:
        """The site, not started."""
        return LiveSite(self.lab, server)

    def common(self) -> Site:
        """The site, for checks that leave it as it is."""
        if self._broken and self.shared:
            self._broken = False
            self.make()
        return super().common()

    def files(self) -> list[File]:
        """The files that the server serves with."""
        return self._site.files if self._site else []

    def close(self, sites: list[Site] | None = None) -> None:
        """After a check that had the site for itself, remember it; at the end, put all back."""
        if sites:
            self._broken = True
        if sites is None and self._server:
            server, self._server = self._server, None
            server.close()

"""A box: a disposable machine made of Linux namespaces, by bubblewrap.

It has its own users, mounts, processes and network; it sees `/usr`, the course's virtual
environment and nothing of the user's home; it can write to nothing outside. When the process that
made it dies, for whatever reason, the kernel takes the whole box away.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from grader.errors import GraderError, NotAllowed
from grader.machine import File, Machine

HERE = Path(__file__).resolve().parent
APP = HERE.parent / "labs" / "board"

SERVER_V4, SERVER_V6 = "192.0.2.80", "2001:db8::80"
ZONE = "board.example"
SERVICE_ID = 1000
NOBODY = 65534  # what a service's user is outside, when root runs the grader

MIB = 1024 * 1024
PROCESS_LIMITS = {
    "AS": 2048 * MIB,
    "CPU": 120,  # seconds
    "NPROC": 512,
    "FSIZE": 64 * MIB,
    "CORE": 0,
    "NOFILE": 8192,
}
MEMORY = 1536 * MIB  # of all processes together
PROCESSES = 256  # in the whole box; NPROC counts threads, and each service's for themselves
LARGE = 20 * MIB  # bytes of static/large.bin
WALL = 300.0  # seconds
PATIENCE = 30.0  # seconds that the box may take to answer
CLOSE_SECONDS = 5.0  # for a box's processes to be gone
MOST_DESCRIPTORS = 200  # in one message; the kernel's own limit is 253
MANY_SOCKETS = 8192  # that the grader may hold; often 1024 is the default
AHEAD = 16  # sockets that are asked for at once: a new one is as good as another
TMPFS = {"/etc": 16, "/run": 32, "/srv": 96, "/var": 512, "/home": 16, "/tmp": 64, "/dev/shm": 64}
# Visitors from networks that a server in a company, or a container, may take for its own.
PRIVATE = ("10.7.7.7", "172.17.0.7", "192.168.7.7")
FOR_ALL = ("/tmp", "/dev/shm")  # mode 1777

FOLDERS = [
    "/etc/letsencrypt",
    "/etc/nginx/conf.d",
    "/etc/nginx/sites-available",
    "/etc/nginx/sites-enabled",
    "/home/board",
    "/run",
    "/run/board",
    "/srv/board",
    "/var/cache/nginx",
    "/var/lib/board",
    "/var/lib/letsencrypt",
    "/var/lib/nginx",
    "/var/log/letsencrypt",
    "/var/log/nginx",
    "/var/www/letsencrypt",
]
KERNEL = {
    # Every service may listen below 1024, as systemd's AmbientCapabilities would let it.
    "net/ipv4/ip_unprivileged_port_start": "0",
    # A shell's `curl --interface` may use any visitor's address.
    "net/ipv6/ip_nonlocal_bind": "1",
    # Mounts and networks of their own would be ways around the limits. (An ordinary user's
    # services come into a user namespace each; with these forbidden that gives them nothing.)
    **{
        f"user/max_{kind}_namespaces": "0" for kind in ("cgroup", "ipc", "mnt", "net", "pid", "uts")
    },
}
# How much of a page the kernel swallows for a slow reader is the same on every machine.
TCP_BUFFERS = {
    "net/ipv4/tcp_wmem": "4096 16384 131072",
    "net/ipv4/tcp_rmem": "4096 131072 262144",
}
# Shared memory that no process has attached is no process's use of memory. In pages. Before
# Linux 6.11 only the machine's own root may set it.
KERNEL_IF_ALLOWED = {"kernel/shmall": str(64 * MIB // os.sysconf("SC_PAGE_SIZE"))}
# What the machine's own nginx package brings and a site file may include.
NGINX_FILES = ["mime.types", "fastcgi_params", "fastcgi.conf"]
PROGRAMS = {
    "bwrap": "bubblewrap",
    "nginx": "nginx",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
}
# What one lab alone takes; the launcher installs it when that lab is graded.
PROGRAMS_OF_LABS = {
    "pebble": "pebble",
    "pebble-challtestsrv": "pebble",
    "certbot": "certbot",
    "faketime": "faketime",
    "systemd-analyze": "systemd",
    "jq": "jq",
    "logrotate": "logrotate",
}
CAPABILITIES = [
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_PTRACE",
    "CAP_KILL",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_CHOWN",
    "CAP_FOWNER",
    "CAP_DAC_OVERRIDE",
    "CAP_SETFCAP",
    "CAP_SYS_RESOURCE",
]
WAYS_OUT = """\
This machine does not let bubblewrap make namespaces, which the boxes are made of. bubblewrap says:
  {said}
Ways out, whichever fits:
  Ubuntu 23.10 and later:  sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0
  older Debian kernels:    sudo sysctl -w kernel.unprivileged_userns_clone=1
  namespaces set to none:  sudo sysctl -w user.max_user_namespaces=15000
  a container:             start it with --security-opt seccomp=unconfined, or use the Vagrant VM"""


# Programs of the virtual environment that one lab alone needs, and where it asks for them.
LABS_OWN = {"uwsgi": "labs/14/requirements.txt"}


def find_program(name: str) -> str:
    """Find a program on PATH or where Debian keeps administrators' ones.

    Raises:
        NotAllowed: it is not there; says which package has it.
    """
    if name in LABS_OWN:
        found = shutil.which(name, path=f"{sys.prefix}/bin")
        if found is None:
            file = HERE.parent / LABS_OWN[name]
            raise NotAllowed(
                f"{name} is missing. Install it:  {sys.prefix}/bin/pip install -r {file}"
            )
        return found
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        package = (PROGRAMS | PROGRAMS_OF_LABS).get(name, name)
        raise NotAllowed(f"{name} is missing. Install it:  sudo apt-get install {package}")
    return found


def etc_files() -> list[File]:
    """The small files of /etc that programs look for, and the course's nginx.conf."""
    hosts = f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 board\n{SERVER_V4} {ZONE} www.{ZONE}\n"
    hosts += f"{SERVER_V6} {ZONE} www.{ZONE}\n"
    users = "root:x:0:0:root:/root:/bin/sh\nboard:x:1000:1000::/home/board:/bin/sh\n"
    users += "nobody:x:65534:65534::/nonexistent:/bin/false\n"
    texts = {
        "/etc/hosts": hosts,
        "/etc/host.conf": "multi on\n",  # or a name of two lines in hosts has the first alone
        "/etc/hostname": "board\n",
        "/etc/resolv.conf": "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "/etc/passwd": users,
        "/etc/group": "root:x:0:\nboard:x:1000:\nnogroup:x:65534:\n",
        "/etc/nginx/nginx.conf": (HERE / "etc" / "nginx.conf").read_text(),
        # Debian changed its own in 2026: a machine's updates may not decide who passes.
        "/etc/nginx/proxy_params": (HERE / "etc" / "proxy_params").read_text(),
        "/etc/nginx/uwsgi_params": (HERE / "etc" / "uwsgi_params").read_text(),
    }
    return [File(path, text.encode(), root=True) for path, text in texts.items()]


def addresses() -> list[str]:
    """Lines for `ip -batch`: the visitors' addresses and the server's own ones, all on lo."""
    return [
        "link set lo up",
        "route add local 203.0.113.0/24 dev lo",
        *(f"route add local {one}/32 dev lo" for one in PRIVATE),
        f"addr add {SERVER_V4}/32 dev lo",
        "route add local 2001:db8::/32 dev lo",
        f"addr add {SERVER_V6}/128 dev lo nodad",
    ]


def bwrap_arguments() -> list[str]:
    """The arguments of bubblewrap up to the command: what the box is, and what it sees.

    Not `--die-with-parent`: killed while it starts, bubblewrap would leave a child that waits for
    ever, and it would take the end of a *thread* for the end of its parent. The box ends when its
    socket to the grader closes, at whatever moment that is.
    """
    made = ["--unshare-user", "--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    made += ["--unshare-cgroup-try", "--hostname", "board", "--uid", "0", "--gid", "0"]
    made += ["--as-pid-1", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    for capability in CAPABILITIES:
        made += ["--cap-add", capability]
    made += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink(f"/{name}"):
            made += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            made += ["--ro-bind", f"/{name}", f"/{name}"]
    made += ["--proc", "/proc", "--dev", "/dev"]
    for path, size in TMPFS.items():
        mode = "1777" if path in FOR_ALL else "0755"
        made += ["--perms", mode, "--size", str(size * MIB), "--tmpfs", path]
    made += ["--symlink", "/run", "/var/run"]
    # bubblewrap makes missing parents private to root; the services must pass through.
    made += ["--perms", "0755", "--dir", "/etc/ssl"]
    for path in (
        "/etc/ld.so.cache",
        "/etc/alternatives",
        "/etc/localtime",
        "/etc/ssl/certs",  # and not what may lie beside: private keys
        "/etc/ssl/openssl.cnf",
    ):
        made += ["--ro-bind-try", path, path]
    made += ["--perms", "0755", "--dir", "/etc/nginx"]
    for name in NGINX_FILES:
        made += ["--ro-bind-try", f"/etc/nginx/{name}", f"/etc/nginx/{name}"]
    for path in sorted({sys.base_prefix, sys.prefix}):
        if not f"{path}/".startswith("/usr/"):
            for parent in reversed(Path(path).parents[:-1]):
                if str(parent) not in TMPFS:
                    made += ["--perms", "0755", "--dir", str(parent)]
            made += ["--ro-bind", path, path]
    made += ["--perms", "0755", "--dir", "/course"]
    made += ["--ro-bind", str(HERE / "init.py"), "/course/init.py"]
    made += ["--ro-bind", str(APP), "/course/board"]
    return [*made, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]


def search_path() -> str:
    """PATH inside the box: the course's virtual environment first."""
    return f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def two_users_allowed() -> bool:
    """Tell whether this process may map a second user into a box: root, and not in a box itself."""
    if os.geteuid():
        return False
    for kind in ("uid", "gid"):
        lines = Path(f"/proc/self/{kind}_map").read_text().splitlines()
        ranges = [(int(first), int(size)) for first, _, size in map(str.split, lines)]
        if not any(first <= NOBODY < first + size for first, size in ranges):
            return False
    return True


def allow_many_sockets() -> None:
    """Let this process hold as many sockets as the machine allows: visitors come by hundreds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_SOCKETS if hard == resource.RLIM_INFINITY else min(hard, MANY_SOCKETS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Box(Machine):
    """One box. Use it as a context manager, or call `close`; a dead grader closes it too.

    Args:
        files: what to place in it at the start, besides the course's own.
        wall: seconds after which it ends by itself; 0 for never.
        limited: whether processes have limits on CPU time (a site that stays up has none).
        small_buffers: whether TCP has less room than the machine gives it, and the same everywhere.

    Raises:
        NotAllowed: this machine forbids it or lacks a program.
        GraderError: it did not start for another reason.
    """

    def __init__(
        self,
        files: Iterable[File] = (),
        *,
        wall: float = WALL,
        limited: bool = True,
        small_buffers: bool = True,
    ) -> None:
        control, inside = socket.socketpair()
        super().__init__(control, PATIENCE, "the box", "the box ended")
        self._bwrap: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._said: str | None = None
        self.pid = 0
        self._spare: dict[int, list[socket.socket]] = {4: [], 6: []}
        self._spare_lock = threading.Lock()
        allow_many_sockets()
        try:
            with inside:
                two_users = self._start(inside, wall)
            limits = {name: v for name, v in PROCESS_LIMITS.items() if limited or name != "CPU"}
            self.request(
                "setup",
                limits={"process": limits, "memory": MEMORY, "processes": PROCESSES},
                kernel={
                    **KERNEL,
                    **(TCP_BUFFERS if small_buffers else {}),
                    **({"user/max_user_namespaces": "0"} if two_users else {}),
                },
                kernel_if_allowed=KERNEL_IF_ALLOWED,
                addresses=addresses(),
                folders=FOLDERS,
                large=[["/srv/board/static/large.bin", LARGE]],
                copies=[["/course/board", "/srv/board"]],
                files=[one.packed() for one in [*etc_files(), *files]],
            )
        except BaseException as error:
            self.close()
            if isinstance(error, GraderError) and "PermissionError" in str(error):
                raise NotAllowed(WAYS_OUT.format(said=error)) from None
            raise

    def _start(self, inside: socket.socket, wall: float) -> bool:
        """Start bubblewrap; map a second user into the box, if possible, and tell whether."""
        for name in ("ip", "unshare"):
            find_program(name)
        python = os.path.realpath(sys.executable)
        command = ["-I", "-S", "/course/init.py", str(inside.fileno()), ZONE]
        command += [SERVER_V4, SERVER_V6, str(wall)]
        info_read, info_write = os.pipe()
        block_read, block_write = os.pipe()
        two_users = two_users_allowed()
        blocked = ["--userns-block-fd", str(block_read)] if two_users else []
        try:
            arguments = [find_program("bwrap"), *bwrap_arguments(), "--info-fd", str(info_write)]
            arguments += [*blocked, "--setenv", "PATH", search_path(), "--", python, *command]
            self._bwrap = subprocess.Popen(
                arguments,
                # With its reading end too: it can tell who has gone away, and does not die of it,
                # which would leave its child waiting.
                pass_fds=[inside.fileno(), info_write, info_read, block_read],
                # Not in the terminal's group: Ctrl-C is the grader's. Killed by one while it
                # starts, bubblewrap would leave a child that waits for ever.
                process_group=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        except BaseException:
            os.close(info_read)
            os.close(block_write)
            raise
        finally:
            os.close(info_write)
            os.close(block_read)
        with os.fdopen(info_read, "rb") as info, os.fdopen(block_write, "wb") as go_on:
            told = info.read()
            if not told:
                return two_users  # The first request will say what bubblewrap said.
            self.pid = json.loads(told)["child-pid"]
            with contextlib.suppress(ProcessLookupError):
                self._pidfd = os.pidfd_open(self.pid)
            if two_users:
                # Services become `nobody` outside: whatever escapes its limits is not root.
                users = f"0 0 1\n{SERVICE_ID} {NOBODY} 1\n"
                try:
                    for kind in ("uid", "gid"):
                        Path(f"/proc/{self.pid}/{kind}_map").write_text(users)
                except OSError as error:
                    raise GraderError(
                        f"the box's users could not be mapped: {error!r}{self._last_words()}"
                    ) from None
                go_on.write(b"1")
        return two_users

    def _last_words(self) -> str:
        """Say what bubblewrap printed; tells a forbidden machine from a broken box."""
        if self._bwrap is None:
            return ""
        if self._said is None:
            self._end()
            self._said = self._bwrap.communicate()[1].decode("utf-8", "replace").strip()
        forbidden = ("namespace", "uid map", "Operation not permitted", "Permission denied")
        if self._said.startswith("bwrap:") and any(word in self._said for word in forbidden):
            raise NotAllowed(WAYS_OUT.format(said=self._said.splitlines()[0]))
        return f" ({self._said.splitlines()[-1]})" if self._said else ""

    def sockets(self, family: int = 4, count: int = 1) -> list[socket.socket]:
        """Make TCP sockets that live in the box's network, neither bound nor connected."""
        made: list[socket.socket] = []
        with self._spare_lock:  # or each of many threads would fetch some
            spare = self._spare[family]
            if self._ended():
                spare.clear()  # theirs is a network without servers: what they say would mislead
            while len(made) < count:
                if not spare:
                    some = min(max(count - len(made), AHEAD), MOST_DESCRIPTORS)
                    _, fds = self._ask("sockets", some, {"family": family, "count": some})
                    spare += [socket.socket(fileno=fd) for fd in fds]
                made.append(spare.pop())
        return made

    def _ended(self) -> bool:
        """Tell whether the box's first process is gone."""
        if self._pidfd < 0:
            return True
        told = select.poll()  # unlike select, it takes any number of a descriptor
        told.register(self._pidfd, select.POLLIN)
        return bool(told.poll(0))

    def spawn(self, name: str, argv: Sequence[str], env: dict[str, str], cwd: str = "/") -> int:
        """Start a program as a service; returns its process id inside the box.

        Raises:
            NotAllowed: it is one that this machine should have, and has not.
        """
        if argv[0] in PROGRAMS | PROGRAMS_OF_LABS or argv[0] in LABS_OWN:
            find_program(argv[0])
        given = {"PATH": search_path(), "HOME": "/home/board", "LANG": "C.UTF-8", **env}
        answer = self.request("spawn", name=name, argv=list(argv), env=given, cwd=cwd)
        return int(answer["pid"])

    def drop_spare(self) -> None:
        """Close the sockets that were asked for ahead; a forked process must not share them."""
        for spare in self._spare.values():
            for one in spare:
                one.close()
            spare.clear()

    def close(self) -> None:
        """End the box and everything in it; returns when all its processes are gone."""
        self.drop_spare()
        self._control.close()
        self._end()
        self._said = self._said or ""
        if self._bwrap and self._bwrap.stderr:
            self._bwrap.stderr.close()

    def _end(self) -> None:
        """Kill the box's first process: the kernel ends the whole process namespace with it."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._bwrap:
            # It waits for that process, which is the last of its namespace to go.
            if self.pid:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._bwrap.wait(CLOSE_SECONDS)
            self._bwrap.kill()
            self._bwrap.wait()

    def __enter__(self) -> Box:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

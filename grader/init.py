"""The first process of a box: it prepares the box, runs the services, and obeys the grader.

It runs *inside* the box as PID 1, root of the box's own namespaces, under a bare interpreter: only
the standard library, and only modules that are quick to import. The grader, outside, talks to it
over one unix socket: each message is a length (4 bytes, big endian) and that many bytes of JSON,
and a reply may carry file descriptors (``SCM_RIGHTS``). When that socket closes, the box ends.

It trusts the grader and nothing else: services run without any capability, under another user
where the machine allows it, with limits, and all they print is read, capped and kept here.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than all of the above
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]  # from the grader
    Reply = dict[str, Any]
    Process = dict[str, Any]

CLK_TCK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SERVICE_ID = 1000
KEEP_HEAD = 256 * 1024
KEEP_TAIL = 256 * 1024
KILL_SECONDS = 5.0
WATCH_SECONDS = 0.25
LISTEN, ESTABLISHED = "0A", "01"  # states of a TCP socket in the kernel's tables
ACCEPTING = 0x10000  # flag of a listening unix socket there


class Log:
    """What one stream of a service printed: its beginning, its end, and how long it was."""

    def __init__(self) -> None:
        self.head = bytearray()
        self.tail = bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        """Append bytes; keep only the first and the last part of them."""
        self.total += len(data)
        room = KEEP_HEAD - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        if data:
            self.tail += data
            if len(self.tail) > 2 * KEEP_TAIL:
                del self.tail[:-KEEP_TAIL]

    def kept(self, start: int = 0) -> bytes:
        """Return the kept bytes from a position of the whole on; a line says what was dropped."""
        tail = self.tail[-KEEP_TAIL:]
        tail_start = self.total - len(tail)
        head, tail = self.head[start:], tail[max(0, start - tail_start) :]
        dropped = tail_start - max(start, len(self.head))
        if dropped <= 0:
            return bytes(head + tail)
        return bytes(head) + b"\n[... %d bytes left out ...]\n" % dropped + bytes(tail)


class Service:
    """A program that the grader asked for, and its session of processes."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid
        self.status: int | None = None
        self.killed_for: str | None = None


services: dict[str, Service] = {}  # by name: the one started last under that name
logs: dict[tuple[str, str], Log] = {}  # by name and stream; goes on over restarts of the service
sessions: dict[int, str] = {}  # session id -> name, of every service's processes that still exist
ended: set[int] = set()  # sessions whose first process is gone: their ids may be used again
frozen: set[int] = set()  # processes that the grader stopped with SIGSTOP
pipes: dict[int, Log] = {}  # by the file descriptor that is read
poller = select.poll()
limits: Message = {}


# --- preparing the box ------------------------------------------------------------------------


def two_users() -> bool:
    """Tell whether the box has a second user to run services as (only root can map one)."""
    with open("/proc/self/uid_map") as lines:
        return any(line.split()[0] == str(SERVICE_ID) for line in lines)


OTHER_USER = two_users()
UNSHARE = ["unshare", "--user", f"--map-user={SERVICE_ID}", f"--map-group={SERVICE_ID}", "--"]


def own(path: str) -> None:
    """Give a path to the user of the services."""
    if OTHER_USER:
        os.chown(path, SERVICE_ID, SERVICE_ID, follow_symlinks=False)


def make_dirs(path: str, mode: int = 0o755) -> None:
    """Like os.makedirs, but all that it makes belongs to the services."""
    if path in ("", "/") or os.path.isdir(path):
        return
    make_dirs(os.path.dirname(path))
    os.mkdir(path, mode)
    own(path)


def place(path: str, data: bytes, mode: int, root: bool = False) -> None:
    """Write a file at a path of the box, replacing what is there."""
    make_dirs(os.path.dirname(path))
    # A name that no service can have taken before, and that nginx's `include *` passes over.
    temporary = os.path.join(os.path.dirname(path), f".{os.urandom(8).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as out:
        out.write(data)
    os.chmod(temporary, mode)
    if not root:
        own(temporary)
    os.rename(temporary, path)


def copy_tree(source: str, target: str) -> None:
    """Copy a folder with its modes, times and symbolic links."""
    make_dirs(target)
    for entry in os.scandir(source):
        to = os.path.join(target, entry.name)
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), to)
            own(to)
        elif entry.is_dir():
            copy_tree(entry.path, to)
        else:
            with open(entry.path, "rb") as read:
                place(to, read.read(), 0o644)
            # Python accepts compiled modules only when the source's time is the one they name.
            seen = entry.stat()
            os.utime(to, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def make_large(path: str, size: int) -> None:
    """Make a file that is mostly holes; each MiB begins with its number (8 bytes, big endian)."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.ftruncate(fd, size)
    for at in range(0, size, 1 << 20):
        os.pwrite(fd, struct.pack(">Q", at >> 20), at)
    os.close(fd)
    own(path)


def set_kernel(settings: dict[str, str]) -> None:
    """Set what the kernel keeps for this box alone (names as sysctl's, with /)."""
    for name, value in settings.items():
        with open("/proc/sys/" + name, "w") as out:
            out.write(value)


def add_addresses(commands: list[str]) -> None:
    """Give `ip -batch` its lines: the addresses of the server and of the visitors."""
    read, write = os.pipe()
    os.write(write, "\n".join(commands).encode())
    os.close(write)
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(read, 0)
            os.execvp("ip", ["ip", "-batch", "-"])
        finally:
            os._exit(127)
    os.close(read)
    _, status = os.waitpid(pid, 0)
    if status:
        raise PermissionError("the box could not get its addresses (`ip -batch` failed)")


def do_setup(message: Message) -> Reply:
    """Files, folders, addresses, limits."""
    limits.update(message["limits"])
    trial = None if OTHER_USER else os.spawnvp(os.P_NOWAIT, UNSHARE[0], [*UNSHARE, "true"])
    set_kernel(message["kernel"])
    with contextlib.suppress(OSError):
        set_kernel(message["kernel_if_allowed"])
    add_addresses(message["addresses"])
    for path in message["folders"]:
        make_dirs(path)
        own(path)
    for source, target in message["copies"]:
        copy_tree(source, target)
    for path, size in message["large"]:
        make_large(path, size)
    for item in message["files"]:
        place(item["path"], base64.b64decode(item["data"]), item["mode"], item["root"])
    if trial and os.waitpid(trial, 0)[1]:
        raise PermissionError("services could not get a user namespace (`unshare --user` failed)")
    return {"other_user": OTHER_USER}


# --- services ---------------------------------------------------------------------------------


def give_up_rights() -> list[str]:
    """In the child: become the services' user, with no capability; what to run before, if so."""
    if OTHER_USER:
        os.setgroups([])
        os.setresgid(SERVICE_ID, SERVICE_ID, SERVICE_ID)
        os.setresuid(SERVICE_ID, SERVICE_ID, SERVICE_ID)
        return []
    # An ordinary user owns only one id: a user namespace of its own takes the capabilities away.
    return UNSHARE


def set_limits() -> None:
    """In the child: what a single process may use."""
    for name, value in limits.get("process", {}).items():
        which = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(which)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(which, (value, value))


def stream_pipe(log: Log) -> int:
    """Make a pipe whose reading end goes to a log; return the writing end."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(write, True)
    if OTHER_USER:
        os.fchown(write, SERVICE_ID, SERVICE_ID)  # so that /dev/stdout can be opened again
    pipes[read] = log
    poller.register(read, select.POLLIN)
    return write


def do_spawn(message: Message) -> Reply:
    """Start a service; replies with its process id."""
    name = message["name"]
    out = stream_pipe(logs.setdefault((name, "stdout"), Log()))
    err = stream_pipe(logs.setdefault((name, "stderr"), Log()))
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            null = os.open("/dev/null", os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(out, 1)
            os.dup2(err, 2)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.umask(0o022)
            os.chdir(message["cwd"])
            set_limits()
            argv = give_up_rights() + message["argv"]
            os.execvpe(argv[0], argv, message["env"])
        except BaseException as error:
            os.write(2, f"cannot start {message['argv'][0]}: {error}\n".encode())
        finally:
            os._exit(127)
    os.close(out)
    os.close(err)
    services[name] = Service(name, pid)
    sessions[pid] = name
    ended.discard(pid)
    return {"pid": pid}


def reap() -> None:
    """Collect the processes that ended: ours, and the orphans that PID 1 inherits."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        frozen.discard(pid)
        if pid in sessions:
            ended.add(pid)
            processes()  # forgets the session at once if this was its last process
        for service in services.values():
            if service.pid == pid and service.status is None:
                service.status = os.waitstatus_to_exitcode(status)


def processes() -> dict[int, Process]:
    """Every process of the box but this one, as dictionaries by process id.

    Their command lines are left alone: the kernel lets whoever reads one wait for that process's
    memory, for many seconds while it forks without end.
    """
    found: dict[int, Process] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or entry == "1":
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as read:
                text = read.read()
        except OSError:
            continue
        name, _, rest = text.rpartition(b") ")
        fields = rest.split()
        if len(fields) < 22:
            continue
        found[int(entry)] = {
            "pid": int(entry),
            "name": name.partition(b"(")[2].decode("utf-8", "replace"),
            "state": fields[0].decode(),
            "parent": int(fields[1]),
            "session": int(fields[3]),
            "cpu": (int(fields[11]) + int(fields[12])) / CLK_TCK,
            "threads": int(fields[17]),
            "rss": int(fields[21]) * PAGE,
        }
    # The kernel gives a session's id to nobody else while one of its processes lives. After that a
    # process of another service may come to have it: it must not pass for this one's.
    for session in ended - {one["session"] for one in found.values()}:
        ended.discard(session)
        del sessions[session]
    for one in found.values():
        one["service"] = find_owner(one, found)
    return found


def owner(one: Process, found: dict[int, Process]) -> str | None:
    """Name the service of a process: by its session, else by its ancestors'; else None."""
    for _ in range(64):
        for session in (one["session"], one["pid"]):  # its own, until it has called setsid()
            if session in sessions:
                return sessions[session]
        if one["parent"] not in found:
            return None
        one = found[one["parent"]]
    return None


# The agent of a server that runs already puts its own here: there systemd knows.
find_owner: Any = owner


def alive(one: Process) -> bool:
    """Tell whether a process is more than a zombie: its threads outlive the first one a while."""
    return bool(one["state"] != "Z" or one["threads"] > 1)


def do_processes(_message: Message) -> Reply:
    """List the processes, zombies left out."""
    reap()
    return {"processes": [one for one in processes().values() if alive(one)]}


def do_status(_message: Message) -> Reply:
    """Tell of each service whether it runs, and how its first process ended."""
    reap()
    return {
        "services": {
            one.name: {"pid": one.pid, "status": one.status, "killed_for": one.killed_for}
            for one in services.values()
        }
    }


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    if number == signal.SIGSTOP:
        frozen.add(pid)
    elif number == signal.SIGCONT:
        frozen.discard(pid)


def do_signal(message: Message) -> Reply:
    """Send a signal to single processes, or to all of a service's (strays included, to kill)."""
    number = message["signal"]
    sent: list[int] = []
    end = time.monotonic() + KILL_SECONDS
    while time.monotonic() < end:
        found = processes()
        if "pids" in message:
            targets = [pid for pid in message["pids"] if pid in found]
        else:
            names = [message["service"], None] if number == signal.SIGKILL else [message["service"]]
            targets = [pid for pid, one in found.items() if alive(one) and one["service"] in names]
        for pid in targets:
            send(pid, number)
        sent += targets
        reap()
        if not targets or not message.get("all"):
            break
        # A process that forks while it is being killed shows up in the next round.
        select.select([], [], [], 0.002)
    return {"sent": sent}


# --- what the kernel knows --------------------------------------------------------------------


def socket_owners() -> tuple[dict[int, list[int]], dict[int, Process]]:
    """Map a socket's inode to the processes that hold it."""
    owners: dict[int, list[int]] = {}
    found = processes()
    for pid in found:
        folder = f"/proc/{pid}/fd"
        try:
            for fd in os.listdir(folder):
                try:
                    target = os.readlink(folder + "/" + fd)
                except OSError:
                    continue
                if target.startswith("socket:["):
                    owners.setdefault(int(target[8:-1]), []).append(pid)
        except OSError:
            continue
    return owners, found


def address(text: str) -> tuple[str, int]:
    """Read an address of /proc/net/tcp or tcp6: host (str) and port (int)."""
    host, port = text.split(":")
    raw = bytes.fromhex(host)
    count = len(raw) // 4
    words = struct.pack(f"={count}I", *struct.unpack(f">{count}I", raw))
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, words), int(port, 16)


def tcp_table(wanted: str) -> list[dict[str, Any]]:
    """Rows of the kernel's TCP tables in one state."""
    rows = []
    for version in ("4", "6"):
        path = "/proc/net/tcp" + ("" if version == "4" else "6")
        try:
            with open(path) as lines:
                next(lines)
                for line in lines:
                    fields = line.split()
                    if fields[3] != wanted:
                        continue
                    sent, received = fields[4].split(":")
                    rows.append(
                        {
                            "family": int(version),
                            "local": address(fields[1]),
                            "remote": address(fields[2]),
                            "unsent": int(sent, 16),
                            "unread": int(received, 16),
                            "inode": int(fields[9]),
                        }
                    )
        except FileNotFoundError:
            continue
    return rows


def do_listeners(_message: Message) -> Reply:
    """List all listening sockets, TCP and unix, with the service that holds each."""
    owners, found = socket_owners()
    listeners: list[dict[str, Any]] = []
    for row in tcp_table(LISTEN):
        host, port = row["local"]
        listeners.append({"host": host, "port": port, "path": None, "inode": row["inode"]})
    with open("/proc/net/unix", errors="backslashreplace") as lines:
        next(lines)
        for line in lines:
            fields = line.split(None, 7)
            if len(fields) < 8 or not fields[6].isdigit():
                continue  # nameless, or the rest of a path that has a line end in it
            if int(fields[3], 16) & ACCEPTING:
                path = fields[7].rstrip("\n")
                listeners.append(
                    {"host": None, "port": None, "path": path, "inode": int(fields[6])}
                )
    for one in listeners:
        pids = owners.get(one.pop("inode"), [])
        one["pids"] = pids
        one["services"] = sorted({found[pid]["service"] or "" for pid in pids})
        one["commands"] = sorted({found[pid]["name"] for pid in pids})
    # This process's own sockets (the resolver's is UDP) never listen on TCP.
    return {"listeners": listeners}


def do_connections(_message: Message) -> Reply:
    """List the established TCP connections: addresses, bytes not yet read, accepted or not."""
    return {"connections": tcp_table(ESTABLISHED)}


# --- files, logs, sockets for the grader --------------------------------------------------------


def do_log(message: Message) -> Reply:
    """Return what a stream printed, from a position on (in bytes of the whole)."""
    drain()
    log = logs.get((message["name"], message["stream"]), Log())
    kept = log.kept(message.get("start", 0))
    return {"data": base64.b64encode(kept).decode(), "total": log.total}


def do_read(message: Message) -> Reply:
    """Return the end of a regular file, at most `limit` bytes; None when there is none."""
    try:
        fd = os.open(message["path"], os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return {"data": None}
    try:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            return {"data": None}
        start = max(0, seen.st_size - message["limit"])
        data = os.pread(fd, message["limit"], start)
        return {"data": base64.b64encode(data).decode(), "end": start + len(data)}
    finally:
        os.close(fd)


def do_write(message: Message) -> Reply:
    """Place files while the site runs."""
    for item in message["files"]:
        place(item["path"], base64.b64decode(item["data"]), item["mode"], item["root"])
    return {}


def do_link(message: Message) -> Reply:
    """Make a symbolic link while the site runs."""
    os.symlink(message["target"], message["path"])
    own(message["path"])
    return {}


def do_remove(message: Message) -> Reply:
    """Remove a file, if it is there, while the site runs."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(message["path"])
    return {}


def do_size(message: Message) -> Reply:
    """Add up the files below a folder: how many, and how many bytes."""
    count = total = 0
    for folder, _, names in os.walk(message["path"]):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it went away meanwhile
                total += os.lstat(os.path.join(folder, name)).st_size
                count += 1
    return {"files": count, "bytes": total}


def do_sockets(message: Message) -> tuple[Reply, list[socket.socket]]:
    """Make sockets that belong to the box's network; the grader binds and connects them."""
    family = socket.AF_INET6 if message["family"] == 6 else socket.AF_INET
    made = [socket.socket(family, socket.SOCK_STREAM) for _ in range(message["count"])]
    return {}, made


def do_unix(message: Message) -> Reply | tuple[Reply, list[socket.socket]]:
    """Connect to a unix socket of the box: its path means something only in here."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(2)
    try:
        made.connect(message["path"])
    except OSError as error:
        made.close()
        return {"errno": error.errno or errno.ETIMEDOUT}
    made.settimeout(None)
    return {}, [made]


COMMANDS = {name[3:]: value for name, value in globals().items() if name.startswith("do_")}


# --- names --------------------------------------------------------------------------------------


def answer_name(query: bytes, zone: bytes, v4: str, v6: str) -> bytes | None:
    """Answer one DNS question (RFC 1035) about a name in our zone; anything else: no such name."""
    if len(query) < 17:
        return None
    labels, at = [], 12
    while at < len(query) and query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]])
        at += 1 + query[at]
    question = query[12 : at + 5]
    if at + 5 > len(query):
        return None
    kind = struct.unpack(">H", query[at + 1 : at + 3])[0]
    ours = (b"." + b".".join(labels).lower()).endswith(b"." + zone)
    data = {1: socket.inet_pton(socket.AF_INET, v4), 28: socket.inet_pton(socket.AF_INET6, v6)}
    record = b""
    if ours and kind in data:
        record = struct.pack(">HHHIH", 0xC00C, kind, 1, 60, len(data[kind])) + data[kind]
    flags = 0x8580 if ours else 0x8583
    counts = struct.pack(">HHHHH", flags, 1, 1 if record else 0, 0, 0)
    return query[:2] + counts + question + record


def name_server() -> socket.socket:
    """Open the resolver's socket: /etc/hosts knows no `*.board.example`."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.53", 53))
    made.setblocking(False)
    return made


# --- the loop -----------------------------------------------------------------------------------


def drain() -> None:
    """Read all that the services have printed."""
    for fd in list(pipes):
        for _ in range(64):
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                break
            if not data:
                poller.unregister(fd)
                os.close(fd)
                del pipes[fd]
                break
            pipes[fd].add(data)


def watch() -> None:
    """Kill the service that uses the most when all together use more than the box may."""
    memory, number = limits.get("memory"), limits.get("processes")
    if not memory or not number:
        return
    crowded = sum(entry.isdigit() for entry in os.listdir("/proc")) > number
    if crowded:
        # What forks all the time is never seen whole, and leaves no time to look: all stop here.
        try:
            os.kill(-1, signal.SIGSTOP)
        except ProcessLookupError:
            return
    found = processes()
    used: dict[str | None, int] = {}
    for one in found.values():
        used[one["service"]] = used.get(one["service"], 0) + (1 if crowded else one["rss"])
    if sum(used.values()) > (number if crowded else memory):
        worst = max(used, key=lambda name: used[name])
        for pid, one in found.items():
            if one["service"] == worst:
                send(pid, signal.SIGKILL)
        if worst in services:
            services[worst].killed_for = "processes" if crowded else "memory"
    if crowded:
        for pid in found:
            if pid not in frozen:
                send(pid, signal.SIGCONT)


def receive(control: socket.socket, size: int) -> bytes:
    """Read exactly `size` bytes; none at the end of the conversation."""
    data = bytearray()
    while len(data) < size:
        more = control.recv(min(size - len(data), 1 << 20))
        if not more:
            return b""
        data += more
    return bytes(data)


def answer(control: socket.socket, commands: dict[str, Any]) -> bool:
    """Read one command, do it, reply; False at the end of the conversation."""
    size = receive(control, 4)
    body = receive(control, struct.unpack(">I", size)[0]) if size else b""
    if not body:
        return False
    message = json.loads(body)
    passed: list[socket.socket] = []
    try:
        result = commands[message["do"]](message)
        if isinstance(result, tuple):
            result, passed = result
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    data = json.dumps(result).encode()
    packed = struct.pack(">I", len(data)) + data
    if passed:
        sent = socket.send_fds(control, [packed[:1]], [one.fileno() for one in passed])
        control.sendall(packed[sent:])
        for one in passed:
            one.close()
    else:
        control.sendall(packed)
    return True


def answer_names(names: socket.socket, zone: bytes, v4: str, v6: str) -> None:
    """Answer one question about a name; whatever is wrong with it is the asker's affair."""
    try:
        query, client = names.recvfrom(512)
        reply = answer_name(query, zone, v4, v6)
        if reply:
            names.sendto(reply, client)
    except OSError:
        return


def main() -> None:
    """Serve the grader until it goes away or the box's time is over."""
    control = socket.socket(fileno=int(sys.argv[1]))
    zone, v4, v6, wall = sys.argv[2].encode(), sys.argv[3], sys.argv[4], float(sys.argv[5])
    os.set_inheritable(control.fileno(), False)
    os.closerange(3, control.fileno())  # bubblewrap's own
    os.closerange(control.fileno() + 1, 1024)
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    names = name_server()
    for one in (control.fileno(), names.fileno(), woken):
        poller.register(one, select.POLLIN)
    end = time.monotonic() + wall if wall else None
    next_watch = 0.0
    while end is None or time.monotonic() < end:
        ready = {fd for fd, _ in poller.poll(WATCH_SECONDS * 1000)}
        if woken in ready:
            os.read(woken, 4096)
            reap()
        if not ready.isdisjoint(pipes):
            drain()
        if names.fileno() in ready:
            answer_names(names, zone, v4, v6)
        if control.fileno() in ready and not answer(control, COMMANDS):
            return
        if time.monotonic() > next_watch:
            next_watch = time.monotonic() + WATCH_SECONDS
            watch()
    print(f"its {wall:g} s were over", file=sys.stderr)


if __name__ == "__main__":
    main()

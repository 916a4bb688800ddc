"""The first process of a box: it prepares the box, runs the services, and obeys the grader.

It runs *inside* the box as PID 1, root of the box's own namespaces, under a bare interpreter: only
the standard library, and only modules that are quick to import. The grader, outside, talks to it
over one unix socket: each message is a length (4 bytes, big endian) and that many bytes of JSON,
and a reply may carry file descriptors (``SCM_RIGHTS``). When that socket closes, the box ends.

It trusts the grader and nothing else: services run without any capability, under another user
where the machine allows it, with limits, and all they print is read, capped and kept here.
"""

import base64
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

CLK_TCK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SERVICE_ID = 1000
KEEP_HEAD = 256 * 1024
KEEP_TAIL = 256 * 1024
LISTEN, ESTABLISHED = "0A", "01"


class Log:
    """What one stream of a service printed: its beginning, its end, and how long it was."""

    def __init__(self):
        self.head = bytearray()
        self.tail = bytearray()
        self.total = 0

    def add(self, data):
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

    def kept(self):
        """Return the kept bytes, with a line that says how much was dropped."""
        tail = self.tail[-KEEP_TAIL:]
        dropped = self.total - len(self.head) - len(tail)
        if dropped <= 0:
            return bytes(self.head + tail)
        return bytes(self.head) + b"\n[... %d bytes left out ...]\n" % dropped + bytes(tail)


class Service:
    """A program that the grader asked for, and its session of processes."""

    def __init__(self, name, pid):
        self.name = name
        self.pid = pid
        self.status = None
        self.killed_for = None


services = {}  # name -> the Service started last under that name
logs = {}  # (name, "stdout" or "stderr") -> Log; goes on over restarts of the service
sessions = {}  # session id -> name, of every process that was ever started here
pipes = {}  # file descriptor -> Log
limits = {}


# --- preparing the box ------------------------------------------------------------------------


def two_users():
    """Tell whether the box has a second user to run services as (only root can map one)."""
    with open("/proc/self/uid_map") as lines:
        return any(line.split()[0] == str(SERVICE_ID) for line in lines)


OTHER_USER = two_users()


def own(path):
    """Give a path to the user of the services."""
    if OTHER_USER:
        os.chown(path, SERVICE_ID, SERVICE_ID, follow_symlinks=False)


def make_dirs(path, mode=0o755):
    """Like os.makedirs, but all that it makes belongs to the services."""
    if path in ("", "/") or os.path.isdir(path):
        return
    make_dirs(os.path.dirname(path))
    os.mkdir(path, mode)
    own(path)


def place(path, data, mode):
    """Write a file at a path of the box, replacing what is there."""
    make_dirs(os.path.dirname(path))
    temporary = path + ".new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as out:
        out.write(data)
    os.chmod(temporary, mode)
    own(temporary)
    os.rename(temporary, path)


def copy_tree(source, target):
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


def set_kernel(settings: dict[str, str]) -> None:
    """Set what the kernel keeps for this network namespace alone (names as sysctl's, with /)."""
    for name, value in settings.items():
        with open("/proc/sys/" + name, "w") as out:
            out.write(value)


def add_addresses(commands):
    """Give `ip -batch` its lines: the addresses of the server and of the visitors."""
    read, write = os.pipe()
    os.write(write, "\n".join(commands).encode())
    os.close(write)
    pid = os.fork()
    if pid == 0:
        os.dup2(read, 0)
        os.execvp("ip", ["ip", "-batch", "-"])
    os.close(read)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError("the box could not get its addresses (`ip -batch` failed)")


def do_setup(message):
    """Files, folders, addresses, limits."""
    limits.update(message["limits"])
    set_kernel(message["kernel"])
    add_addresses(message["addresses"])
    for path in message["folders"]:
        make_dirs(path)
        own(path)
    for source, target in message["copies"]:
        copy_tree(source, target)
    for item in message["files"]:
        place(item["path"], base64.b64decode(item["data"]), item["mode"])
    return {"other_user": OTHER_USER}


# --- services ---------------------------------------------------------------------------------


def give_up_rights():
    """In the child: become the services' user, with no capability over anything."""
    if OTHER_USER:
        os.setgroups([])
        os.setresgid(SERVICE_ID, SERVICE_ID, SERVICE_ID)
        os.setresuid(SERVICE_ID, SERVICE_ID, SERVICE_ID)
        return []
    # An ordinary user owns only one id: a user namespace of its own takes the capabilities away.
    return [
        "unshare",
        "--user",
        "--map-user=%d" % SERVICE_ID,
        "--map-group=%d" % SERVICE_ID,
        "--",
    ]


def set_limits():
    """In the child: what a single process may use."""
    for name, value in limits.get("process", {}).items():
        which = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(which)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(which, (value, value))


def stream_pipe(log):
    """Make a pipe whose reading end goes to a log; return the writing end."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(write, True)
    if OTHER_USER:
        os.fchown(write, SERVICE_ID, SERVICE_ID)  # so that /dev/stdout can be opened again
    pipes[read] = log
    return write


def do_spawn(message):
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
            os.write(2, ("cannot start %s: %s\n" % (message["argv"][0], error)).encode())
        finally:
            os._exit(127)
    os.close(out)
    os.close(err)
    services[name] = Service(name, pid)
    sessions[pid] = name
    return {"pid": pid}


def reap():
    """Collect the processes that ended: ours, and the orphans that PID 1 inherits."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        for service in services.values():
            if service.pid == pid:
                service.status = os.waitstatus_to_exitcode(status)


def processes():
    """Every process of the box but this one, as dictionaries by process id."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or entry == "1":
            continue
        try:
            with open("/proc/%s/stat" % entry, "rb") as read:
                text = read.read()
            with open("/proc/%s/cmdline" % entry, "rb") as read:
                command = read.read(4096).replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except OSError:
            continue
        name, fields = text.rpartition(b") ")[::2]
        fields = fields.split()
        found[int(entry)] = {
            "pid": int(entry),
            "name": name.partition(b"(")[2].decode("utf-8", "replace"),
            "state": fields[0].decode(),
            "parent": int(fields[1]),
            "session": int(fields[3]),
            "cpu": (int(fields[11]) + int(fields[12])) / CLK_TCK,
            "threads": int(fields[17]),
            "rss": int(fields[21]) * PAGE,
            "command": command,
        }
    for one in found.values():
        one["service"] = owner(one, found)
    return found


def owner(one, found):
    """Name the service of a process: by its session, else by its ancestors'; else None."""
    for _ in range(64):
        if one["session"] in sessions:
            # A service that starts again under its name does not own what the old one left.
            return sessions[one["session"]]
        if one["parent"] not in found:
            return None
        one = found[one["parent"]]
    return None


def do_processes(_message):
    """List the processes, zombies left out."""
    reap()
    return {"processes": [one for one in processes().values() if one["state"] != "Z"]}


def do_status(_message):
    """Tell of each service whether it runs, and how its first process ended."""
    reap()
    return {
        "services": {
            one.name: {"pid": one.pid, "status": one.status, "killed_for": one.killed_for}
            for one in services.values()
        }
    }


def do_signal(message):
    """Send a signal to single processes, or to all of a service's (strays included, to kill)."""
    number = message["signal"]
    sent = []
    wanted = message.get("pids")
    for _ in range(50 if message.get("all") else 1):
        found = processes()
        if wanted is None:
            stray = number == signal.SIGKILL
            targets = [
                pid
                for pid, one in found.items()
                if one["state"] != "Z"
                and (one["service"] == message["service"] or (stray and one["service"] is None))
            ]
        else:
            targets = [pid for pid in wanted if pid in found]
        for pid in targets:
            try:
                os.kill(pid, number)
                sent.append(pid)
            except ProcessLookupError:
                pass
        if not targets:
            break
        reap()
        # A process that forks while it is being killed shows up in the next round.
        if message.get("all"):
            select.select([], [], [], 0.002)
    return {"sent": sent}


# --- what the kernel knows --------------------------------------------------------------------


def socket_owners():
    """Map a socket's inode to the processes that hold it."""
    owners = {}
    found = processes()
    for pid in found:
        folder = "/proc/%d/fd" % pid
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


def address(text):
    """Read an address of /proc/net/tcp or tcp6: host (str) and port (int)."""
    host, port = text.split(":")
    raw = bytes.fromhex(host)
    words = struct.pack("=%dI" % (len(raw) // 4), *struct.unpack(">%dI" % (len(raw) // 4), raw))
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, words), int(port, 16)


def tcp_table(wanted):
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


def do_listeners(_message):
    """List all listening sockets, TCP and unix, with the service that holds each."""
    owners, found = socket_owners()
    listeners = []
    for row in tcp_table(LISTEN):
        host, port = row["local"]
        listeners.append({"host": host, "port": port, "path": None, "inode": row["inode"]})
    with open("/proc/net/unix") as lines:
        next(lines)
        for line in lines:
            fields = line.split(None, 7)
            accepting = int(fields[3], 16) & 0x10000
            if accepting and len(fields) > 7:
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


def do_connections(_message):
    """List the established TCP connections: addresses, bytes not yet read, accepted or not."""
    return {"connections": tcp_table(ESTABLISHED)}


# --- files, logs, sockets for the grader --------------------------------------------------------


def do_log(message):
    """Return what a stream printed, from a position on (in bytes of the whole)."""
    drain()
    log = logs.get((message["name"], message["stream"]), Log())
    kept = log.kept()
    return {"data": base64.b64encode(kept[message.get("start", 0) :]).decode(), "total": log.total}


def do_read(message):
    """Return the end of a regular file, at most `limit` bytes; None when there is none."""
    try:
        fd = os.open(message["path"], os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return {"data": None}
    with os.fdopen(fd, "rb") as read:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            return {"data": None}
        read.seek(max(0, seen.st_size - message["limit"]))
        return {"data": base64.b64encode(read.read(message["limit"])).decode()}


def do_write(message):
    """Place files while the site runs."""
    for item in message["files"]:
        place(item["path"], base64.b64decode(item["data"]), item["mode"])
    return {}


def do_sockets(message):
    """Make sockets that belong to the box's network; the grader binds and connects them."""
    family = socket.AF_INET6 if message["family"] == 6 else socket.AF_INET
    made = [socket.socket(family, socket.SOCK_STREAM) for _ in range(message["count"])]
    return {}, made


def do_unix(message):
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


def answer_name(query, zone, v4, v6):
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
    ours = b".".join(labels).lower().endswith(zone)
    data = {1: socket.inet_pton(socket.AF_INET, v4), 28: socket.inet_pton(socket.AF_INET6, v6)}
    record = b""
    if ours and kind in data:
        record = struct.pack(">HHHIH", 0xC00C, kind, 1, 60, len(data[kind])) + data[kind]
    flags = 0x8580 if ours else 0x8583
    counts = struct.pack(">HHHHH", flags, 1, 1 if record else 0, 0, 0)
    return query[:2] + counts + question + record


def name_server():
    """Open the resolver's socket: /etc/hosts knows no `*.board.example`."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.53", 53))
    made.setblocking(False)
    return made


# --- the loop -----------------------------------------------------------------------------------


def drain():
    """Read all that the services have printed."""
    for fd in list(pipes):
        for _ in range(64):
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                break
            if not data:
                os.close(fd)
                del pipes[fd]
                break
            pipes[fd].add(data)


def watch_memory():
    """Kill the service that uses the most when all together use more than the box may."""
    allowed = limits.get("memory")
    if not allowed:
        return
    used = {}
    found = processes()
    for one in found.values():
        used[one["service"]] = used.get(one["service"], 0) + one["rss"]
    if sum(used.values()) <= allowed:
        return
    worst = max(used, key=lambda name: used[name])
    for pid, one in found.items():
        if one["service"] == worst:
            os.kill(pid, signal.SIGKILL)
    if worst in services:
        services[worst].killed_for = "memory"


def receive(control, size):
    """Read exactly `size` bytes; none at the end of the conversation."""
    data = b""
    while len(data) < size:
        more = control.recv(size - len(data))
        if not more:
            return b""
        data += more
    return data


def answer(control):
    """Read one command, do it, reply; False at the end of the conversation."""
    size = receive(control, 4)
    body = receive(control, struct.unpack(">I", size)[0]) if size else b""
    if not body:
        return False
    message = json.loads(body)
    passed = []
    try:
        result = COMMANDS[message["do"]](message)
        if isinstance(result, tuple):
            result, passed = result
    except Exception as error:
        result = {"error": "%s: %s" % (type(error).__name__, error)}
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


def main():
    """Serve the grader until it goes away or the box's time is over."""
    control = socket.socket(fileno=int(sys.argv[1]))
    zone, v4, v6, wall = sys.argv[2].encode(), sys.argv[3], sys.argv[4], float(sys.argv[5])
    os.set_inheritable(control.fileno(), False)
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    names = name_server()
    end = time.monotonic() + wall if wall else None
    next_watch = 0.0
    while end is None or time.monotonic() < end:
        waiting = [control, names, woken, *pipes]
        ready = select.select(waiting, [], [], 0.25)[0]
        if woken in ready:
            os.read(woken, 4096)
            reap()
        if any(fd in pipes for fd in ready if isinstance(fd, int)):
            drain()
        if names in ready:
            query, client = names.recvfrom(512)
            reply = answer_name(query, zone, v4, v6)
            if reply:
                names.sendto(reply, client)
        if control in ready and not answer(control):
            return
        if time.monotonic() > next_watch:
            next_watch = time.monotonic() + 0.25
            watch_memory()


main()

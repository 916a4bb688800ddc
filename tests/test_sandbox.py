"""The box: what it shows, what it forbids, what it limits, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from grader import sandbox
from grader.errors import GraderError, NotAllowed
from grader.machine import File
from grader.sandbox import MIB, SERVER_V4, SERVER_V6, ZONE, Box
from inside import (
    PATIENCE,
    printed,
    processes_with,
    python,
    run,
    shell,
    status_of,
    wait_end,
    wait_until,
)

ROOT = Path(__file__).resolve().parent.parent
ORDINARY = 61234  # a user id that nobody has
IP_FREEBIND, IPV6_FREEBIND = 15, 78


@pytest.fixture
def box() -> Iterator[Box]:
    """A box with nothing running in it."""
    with Box() as made:
        yield made


# --- isolation ----------------------------------------------------------------------------------


def test_home_and_temporary_files_are_invisible(box: Box, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.write_text("outside")
    hidden = [marker, ROOT / "pyproject.toml", ROOT / "labs", ROOT / "tests", ROOT / ".git"]
    hidden += [Path.home() / name.name for name in Path.home().iterdir()][:50]
    visible = [path for path in {*sandbox_mounts()} if path.exists()]
    shown = python(
        box, f"import os\nprint([p for p in {[str(p) for p in hidden]!r} if os.path.exists(p)])"
    )
    assert shown.err == ""
    seen = [Path(path) for path in json.loads(shown.out.replace("'", '"'))]
    assert [path for path in seen if not lies_in(path, visible)] == []
    assert shell(box, "ls /home; ls /root 2>&1").out.splitlines()[0] == "board"


def sandbox_mounts() -> list[Path]:
    """What a box shows of the machine on purpose."""
    return [Path("/usr"), Path(sys.prefix), Path(sys.base_prefix)]


def lies_in(path: Path, folders: list[Path]) -> bool:
    """Tell whether a path is one of the folders, in one, or on the way to one."""
    return any(path.is_relative_to(one) or one.is_relative_to(path) for one in folders)


FIND_WRITABLE = """
import os, stat
seen = []
for folder, names, files in os.walk("/"):
    if folder.startswith("/proc") or folder.startswith("/usr/") and folder.count("/") > 3:
        names.clear()
        continue
    probe = folder + "/probe"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.unlink(probe)
        seen.append(folder)
    except OSError:
        pass
    for name in files[:100]:
        path = folder + "/" + name
        try:
            if stat.S_ISREG(os.lstat(path).st_mode):
                os.close(os.open(path, os.O_WRONLY))
                seen.append(path)
        except OSError:
            pass
kinds = {}
for line in open("/proc/self/mountinfo"):
    before, _, after = line.partition(" - ")
    kinds[before.split()[4]] = after.split()[0]
for path in seen:
    point = path
    while point not in kinds:
        point = os.path.dirname(point)
    print(kinds[point], point)
"""


def test_only_the_box_own_memory_is_writable(box: Box) -> None:
    wrote = python(box, FIND_WRITABLE)
    assert wrote.err == ""
    places = {tuple(line.split()) for line in wrote.out.splitlines()}
    assert ("tmpfs", "/tmp") in places and ("tmpfs", "/srv") in places
    assert {kind for kind, _ in places} == {"tmpfs"}
    assert {place for _, place in places} <= set(sandbox.TMPFS)
    told = [line.split() for line in shell(box, "cat /proc/self/mountinfo").out.splitlines()]
    open_ = {words[4] for words in told if not words[5].startswith("ro")}
    assert open_ <= {*sandbox.TMPFS, "/proc", "/dev/pts", *DEVICES}


DEVICES = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")]


def test_even_the_box_own_root_writes_to_nothing_outside(box: Box, tmp_path: Path) -> None:
    for path in ("/usr/probe", f"{sys.prefix}/probe", "/course/init.py", "/probe", "/dev/probe"):
        with pytest.raises(GraderError, match="Read-only"):
            box.write(File(path, b"x"))
    box.write(File(f"{tmp_path}/probe", b"x"))  # a folder of this name, in the box's own /tmp
    assert list(tmp_path.iterdir()) == []


def test_kernel_settings_of_the_machine_are_out_of_reach(box: Box) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    # What a file says already is written to it: where that succeeds, nothing changes.
    tried = python(
        box,
        "import os\n"
        "for folder, _, names in os.walk('/proc/sys'):\n"
        "    for name in names:\n"
        "        try:\n"
        "            fd = os.open(folder + '/' + name, os.O_RDWR)\n"
        "            os.write(fd, os.read(fd, 4096))\n"
        "            print(folder + '/' + name)\n"
        "        except OSError:\n"
        "            pass\n"
        "print('done')",
    )
    *written, done = tried.out.splitlines()
    assert (done, tried.err) == ("done", "")
    if os.geteuid() == 0:
        assert written == []
    # An ordinary user's services may set what the kernel keeps for each box alone.
    own = r"/proc/sys/(fs/mqueue/.*|kernel/(shm|msg|sem|auto_msgmni|pid_max).*)"
    assert [path for path in written if not re.fullmatch(own, path)] == []
    assert shell(box, "echo h > /proc/sysrq-trigger").status != 0
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


CONNECT = """
import socket
def tried(family, address):
    try:
        with socket.socket(family) as made:
            made.settimeout(3)
            made.connect(address)
        return "connected"
    except OSError as error:
        return type(error).__name__
"""


def test_no_network_but_its_own(box: Box) -> None:
    name = f"\0course-{uuid.uuid4().hex}"
    with socket.create_server(("127.0.0.1", 0)) as outside, socket.socket(socket.AF_UNIX) as hidden:
        hidden.bind(name)
        hidden.listen()
        port = outside.getsockname()[1]
        tried = python(
            box,
            f"{CONNECT}\nprint(tried(socket.AF_INET, ('127.0.0.1', {port})))\n"
            f"print(tried(socket.AF_UNIX, {name!r}))\n"
            "print(tried(socket.AF_INET, ('198.51.100.1', 80)))\n"
            "print(sorted(name for _, name in socket.if_nameindex()))",
        )
    assert tried.out.splitlines() == [
        "ConnectionRefusedError",
        "ConnectionRefusedError",
        "OSError",  # network is unreachable
        "['lo']",
    ]


SERVER = """
import http.server, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (sys.argv[2] + " " + self.client_address[0]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 512
Server(("::", int(sys.argv[1])), Handler).serve_forever()
"""


def serve(box: Box, port: int = 80, word: str = "here") -> None:
    """Start a web server in a box, on IPv4 and IPv6, and wait until it listens."""
    box.spawn("server", ["python3", "-c", SERVER, str(port), word], {})
    wait_until(
        lambda: any(one["port"] == port for one in box.request("listeners")["listeners"]),
        "the server",
    )


def ask(box: Box, port: int = 80, source: str = "", family: int = 4) -> str:
    """Send a request from a visitor's address; the body of the answer."""
    (made,) = box.sockets(family)
    with made:
        made.settimeout(PATIENCE)
        if source and family == 4:
            made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        elif source:
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        if source:
            made.bind((source, 0))
        made.connect((SERVER_V4 if family == 4 else SERVER_V6, port))
        made.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while more := made.recv(4096):
            answer += more
    return answer.decode().rpartition("\r\n")[2]


def test_each_box_has_a_port_80_of_its_own() -> None:
    with Box() as first, Box() as second, Box() as third:
        boxes = {"one": first, "two": second, "three": third}
        for word, one in boxes.items():
            serve(one, word=word)
        answers = {word: ask(one).split()[0] for word, one in boxes.items()}
    assert answers == {word: word for word in boxes}


# --- addresses and names ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "source"),
    [
        (4, "203.0.113.7"),
        (4, "203.0.113.0"),
        (4, "203.0.113.255"),
        (6, "2001:db8::7"),
        (6, "2001:db8:ffff:ffff::dead:beef"),
    ],
)
def test_visitors_come_from_any_documentation_address(box: Box, family: int, source: str) -> None:
    serve(box)
    seen = ask(box, source=source, family=family).split()[1]
    assert seen.removeprefix("::ffff:") == source
    assert ask(box, family=family).startswith("here")


@pytest.mark.parametrize("source", ["203.0.113.99", "2001:db8::99"])
def test_a_shell_in_the_box_can_be_any_visitor(box: Box, source: str) -> None:
    serve(box)
    curl = run(box, "curl", "-sS", "--interface", source, f"http://{ZONE}/")
    assert curl.err == ""
    assert curl.out.endswith(source)


RESOLVE = """
import socket, sys
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNSPEC):
    try:
        told = socket.getaddrinfo(sys.argv[1], 80, family, socket.SOCK_STREAM)
        print(" ".join(sorted(one[4][0] for one in told)))
    except socket.gaierror:
        print("no such name")
"""


@pytest.mark.parametrize("name", [ZONE, f"www.{ZONE}", f"x.{ZONE}", f"A.b.{ZONE.upper()}"])
def test_names_of_the_site_resolve(box: Box, name: str) -> None:
    told = run(box, "python3", "-c", RESOLVE, name)
    both = " ".join(sorted([SERVER_V4, SERVER_V6]))
    assert told.out.splitlines() == [SERVER_V4, SERVER_V6, both]


@pytest.mark.parametrize("name", ["example.org", f"evil{ZONE}", f"{ZONE}.example.org"])
def test_other_names_do_not_resolve(box: Box, name: str) -> None:
    told = run(box, "python3", "-c", RESOLVE, name)
    assert told.out.splitlines() == ["no such name"] * 3


def test_curl_reaches_a_subdomain_over_ipv6_alone(box: Box) -> None:
    serve(box)
    curl = run(box, "curl", "-sS", "-6", f"http://x.{ZONE}/")
    assert (curl.err, curl.out.split()[0]) == ("", "here")


def test_nonsense_does_not_end_the_name_server(box: Box) -> None:
    python(
        box,
        "import os, socket\n"
        "with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:\n"
        "    for size in [*range(0, 40), 200, 511, 512, 513, 4000]:\n"
        "        made.sendto(b'\\xff' * size, ('127.0.0.53', 53))\n"
        "        made.sendto(os.urandom(size), ('127.0.0.53', 53))\n"
        "        made.sendto(b'\\0' * size, ('127.0.0.53', 53))\n",
    )
    told = run(box, "python3", "-c", RESOLVE, f"x.{ZONE}")
    assert told.out.splitlines()[:2] == [SERVER_V4, SERVER_V6]


# --- rights -------------------------------------------------------------------------------------


def test_services_have_no_capability(box: Box) -> None:
    told = shell(box, "cat /proc/self/status; id -u").out
    for kind in ("Prm", "Eff", "Amb"):
        assert re.search(rf"^Cap{kind}:\s+0+$", told, re.M), told
    assert re.search(r"^NoNewPrivs:\s+1$", told, re.M), told
    assert told.splitlines()[-1] == "1000"


@pytest.mark.parametrize(
    "command",
    [
        "unshare --net true",
        "unshare --user --map-root-user --net true",
        "unshare --user --map-root-user --mount true",
        "unshare --user --map-root-user --pid --fork true",
        "mount -t tmpfs none /tmp",
        "ip link add dummy0 type dummy",
        "chown 0 /tmp/x",
    ],
)
def test_services_get_no_rights_by_asking(box: Box, command: str) -> None:
    assert shell(box, f"touch /tmp/x; {command}").status != 0


def test_services_inherit_no_descriptor(box: Box) -> None:
    names = shell(box, "echo /proc/self/fd/*").out.split()
    # The shell's own folder is being read while it lists it.
    assert {int(Path(name).name) for name in names} <= {0, 1, 2, 3}
    assert "socket" not in shell(box, "ls -l /proc/self/fd").out


def test_ports_below_1024_are_open_to_services(box: Box) -> None:
    for port in (1, 80, 443):
        bound = python(box, f"import socket; socket.create_server(('0.0.0.0', {port}))")
        assert bound.status == 0, bound.err


def test_pid_1_cannot_be_stopped_killed_or_looked_into(box: Box) -> None:
    tried = shell(
        box,
        "for s in STOP KILL TERM INT HUP USR1 CHLD PIPE XCPU; do kill -$s 1; done 2>/dev/null\n"
        "cat /proc/1/environ; cat /proc/1/maps; readlink /proc/1/fd/*; ls /proc/1/cwd/\n"
        "dd if=/proc/1/mem count=1",
    )
    assert tried.out == ""
    assert box.request("status")["services"]
    assert ptrace_of_pid_1(box).startswith("-1")


def ptrace_of_pid_1(box: Box) -> str:
    """Try to attach to the first process as a debugger does."""
    script = "import ctypes; print(ctypes.CDLL(None).ptrace(16, 1, 0, 0))"
    return python(box, script).out


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has one user id, in the box too")
def test_root_gives_services_another_user(box: Box) -> None:
    assert shell(box, "prlimit --pid 1 --nofile=4:4 || echo x > /etc/hosts").status != 0
    service = box.spawn("sleeper", ["sleep", "600"], {})
    assert service
    (outside,) = wait_until(
        lambda: [pid for pid in processes_with("sleep\x00600") if in_box(pid, box)], "the sleeper"
    )
    assert re.search(r"^Uid:\s+65534\s+65534", Path(f"/proc/{outside}/status").read_text(), re.M)


def in_box(pid: int, box: Box) -> bool:
    """Tell whether a process of this machine lives in a box."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat(f"/proc/{box.pid}/ns/pid").st_ino
    except OSError:
        return False


# --- what hostile services leave for the box to read --------------------------------------------


def test_only_regular_files_are_read(box: Box) -> None:
    shell(
        box,
        "cd /tmp; echo text > file; ln -s file link; mkfifo fifo; mkdir folder; : > empty;"
        " head -c 300000 /dev/zero > large",
    )
    assert box.read("/tmp/file") == b"text\n"
    assert box.read("/tmp/empty") == b""
    assert box.read("/tmp/large", 1000) == b"\0" * 1000
    for name in ("link", "fifo", "folder", "missing", "file/below"):
        assert box.read(f"/tmp/{name}") is None, name
    assert box.read("/dev/zero") is None


def test_a_file_is_placed_whatever_lies_around_it(box: Box) -> None:
    shell(
        box,
        "cd /srv/board; mkdir wsgi.py.new; ln -s /course/init.py x.py.new; rm -f y.py;"
        " ln -s /course/init.py y.py",
    )
    box.write(*[File(f"/srv/board/{name}.py", b"placed", 0o640) for name in ("wsgi", "x", "y")])
    for name in ("wsgi", "x", "y"):
        assert box.read(f"/srv/board/{name}.py") == b"placed"
    assert shell(box, "ls -A /srv/board | grep '^[.]' | grep -v env").out == ""


def test_a_file_is_removed_if_it_is_there(box: Box) -> None:
    path = "/srv/board/maintenance.on"
    box.write(File(path, b"x"))
    assert box.read(path) == b"x"
    for _ in range(2):
        box.remove(path)
        assert box.read(path) is None


def test_odd_names_of_sockets_and_processes_are_harmless(box: Box) -> None:
    box.spawn(
        "odd",
        [
            "python3",
            "-c",
            "import os, socket, time\n"
            "open('/proc/self/comm', 'w').write('a) R 1 1 1\\n(\\x1b')\n"
            "made = []\n"
            "for name in (b'/tmp/a\\nb: 1 2 3', b'/tmp/\\xff\\xfe', b'/tmp/\\n0 2 0 10000 1 1 x y',"
            " b'\\0\\n\\n'):\n"
            "    one = socket.socket(socket.AF_UNIX)\n"
            "    one.bind(name)\n"
            "    one.listen()\n"
            "    made.append(one)\n"
            "print('ready', flush=True)\n"
            "time.sleep(600)",
        ],
        {},
    )
    printed(box, "odd", "ready")
    listeners = box.request("listeners")["listeners"]
    assert {tuple(one["services"]) for one in listeners} == {("odd",)}
    paths = [one["path"] for one in listeners]
    assert "/tmp/\\xff\\xfe" in paths
    json.dumps(paths).encode()
    (one,) = box.request("processes")["processes"]
    assert one["service"] == "odd"
    assert one["name"].startswith("a) R 1 1 1")


LISTEN_AND_WAIT = (
    "import os, socket, time\n"
    "{before}\n"
    "made = socket.create_server(('0.0.0.0', 80))\n"
    "print('ready', flush=True)\n"
    "time.sleep(600)"
)


def owners_of_port_80(box: Box) -> list[str]:
    """The services that the box names as listening on port 80."""
    (one,) = [one for one in box.request("listeners")["listeners"] if one["port"] == 80]
    services: list[str] = one["services"]
    return services


@pytest.mark.parametrize(
    ("before", "owner"),
    [
        ("", "app"),
        ("os.fork() and time.sleep(600)", "app"),
        ("os.fork() and time.sleep(600); os.setsid()", "app"),
        ("os.fork() and os._exit(0)", "app"),
        ("os.fork() and os._exit(0); os.setsid()", ""),
        ("os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0)", ""),
    ],
    ids=["itself", "child", "child with a session", "orphan", "daemon", "daemon, twice"],
)
def test_the_owner_of_a_port_is_the_service_or_nobody(box: Box, before: str, owner: str) -> None:
    box.spawn("nginx-of-old", ["true"], {})
    box.spawn("app", ["python3", "-c", LISTEN_AND_WAIT.format(before=before)], {})
    printed(box, "app", "ready")
    assert owners_of_port_80(box) == [owner]


def test_a_used_process_id_gives_nobody_anothers_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets the process id of a service that ended is not that service."""
    settings = {**sandbox.KERNEL_IF_ALLOWED, "kernel/pid_max": "400"}
    monkeypatch.setattr(sandbox, "KERNEL_IF_ALLOWED", settings)
    with Box() as box:
        if shell(box, "cat /proc/sys/kernel/pid_max").out != "400\n":
            pytest.skip("this kernel has one pid_max for all boxes (before Linux 6.14)")
        shell(box, "for i in $(seq 310); do /bin/true; done")  # ids below 300 are used once
        wanted = box.spawn("first", ["true"], {})
        assert wanted >= 300
        wait_end(box, "first")
        before = (
            "for _ in range(1000):\n"
            "    child = os.fork()\n"
            f"    if child == 0 and os.getpid() == {wanted}: break\n"
            "    if child == 0: os._exit(0)\n"
            "    os.waitpid(child, 0)\n"
            "else: os._exit(1)\n"
            "os.setsid()"
        )
        box.spawn("second", ["python3", "-c", LISTEN_AND_WAIT.format(before=before)], {})
        printed(box, "second", "ready")
        (one,) = [one for one in box.request("listeners")["listeners"] if one["port"] == 80]
        assert (one["pids"], one["services"]) == ([wanted], ["second"])


# --- limits -------------------------------------------------------------------------------------


def test_limits_of_a_process(box: Box) -> None:
    told = python(
        box,
        "import resource\n"
        f"for name in {sorted(sandbox.PROCESS_LIMITS)}:\n"
        "    print(name, *resource.getrlimit(getattr(resource, 'RLIMIT_' + name)))",
    )
    seen = {
        line.split()[0]: [int(word) for word in line.split()[1:]] for line in told.out.splitlines()
    }
    for name, (soft, hard) in seen.items():
        assert soft == hard
        assert 0 <= hard <= sandbox.PROCESS_LIMITS[name], name
    assert set(seen) == set(sandbox.PROCESS_LIMITS)


def test_endless_cpu_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sandbox.PROCESS_LIMITS, "CPU", 1)
    with Box() as box:
        assert python(box, "while True: pass").status in (-signal.SIGXCPU, -signal.SIGKILL)


def test_a_large_file_is_refused(box: Box) -> None:
    wrote = shell(
        box, "head -c 100000000 /dev/zero > /var/lib/board/large; wc -c < /var/lib/board/large"
    )
    assert int(wrote.out) == sandbox.PROCESS_LIMITS["FSIZE"]
    assert "File too large" in wrote.err or "File size limit" in wrote.err


def test_a_full_tmp_is_its_own_affair(box: Box) -> None:
    filled = shell(
        box,
        "for i in 1 2 3; do head -c 40000000 /dev/zero > /tmp/$i; done;"
        " du -xsk /tmp | cut -f 1; echo more > /srv/board/more && cat /srv/board/more",
    )
    assert "No space left" in filled.err
    size, more = filled.out.split()
    assert int(size) <= sandbox.TMPFS["/tmp"] * 1024
    assert more == "more"
    box.write(File("/srv/board/placed", b"placed"))
    assert box.read("/srv/board/placed") == b"placed"


def test_threads_are_counted(box: Box) -> None:
    made = python(
        box,
        "import threading\n"
        "over = threading.Event()\n"
        "try:\n"
        "    for count in range(5000): threading.Thread(target=over.wait, daemon=True).start()\n"
        "except RuntimeError:\n"
        "    print(count, flush=True)\n"
        "import os; os._exit(0)",
    )
    assert 0 < int(made.out) <= sandbox.PROCESS_LIMITS["NPROC"]


def bystander(box: Box) -> int:
    """Start a service that does nothing wrong; its process id."""
    pid = box.spawn("bystander", ["sh", "-c", "echo ready; exec sleep 600"], {})
    printed(box, "bystander", "ready")
    return pid


def still_there(box: Box, pid: int) -> bool:
    """Tell whether the bystander runs, and was not left frozen."""
    told = {one["pid"]: one["state"] for one in box.request("processes")["processes"]}
    return status_of(box, "bystander")["status"] is None and told.get(pid) in ("S", "R")


def services(box: Box) -> set[str]:
    """The services that have processes."""
    return {one["service"] for one in box.request("processes")["processes"]}


def test_one_process_may_not_have_all_memory(box: Box) -> None:
    tried = python(box, f"x = bytearray({sandbox.PROCESS_LIMITS['AS']})")
    assert "MemoryError" in tried.err


def test_a_service_with_too_much_memory_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MEMORY", 150 * MIB)
    with Box() as box:
        pid = bystander(box)
        hog = python(
            box,
            f"import os, time; os.fork(); x = b'x' * {120 * MIB}; print('has'); time.sleep(600)",
        )
        assert (hog.status, hog.killed_for) == (-signal.SIGKILL, "memory")
        assert still_there(box, pid)
        wait_until(lambda: services(box) == {"bystander"}, "the end of its other process")


def test_shared_memory_is_limited(box: Box) -> None:
    if (
        shell(box, "cat /proc/sys/kernel/shmall").out.strip()
        != sandbox.KERNEL_IF_ALLOWED["kernel/shmall"]
    ):
        pytest.skip("before Linux 6.11 a box cannot limit System V shared memory")
    made = python(
        box,
        "import ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        f"print(sum(libc.shmget(0, {8 * MIB}, 0o1600) >= 0 for _ in range(50)))",
    )
    assert int(made.out) == 8


BOMBS = {
    "plain": "os.fork()",
    "with sessions": "os.fork() or os.setsid()",
    "that leaves its parent": "os.fork() and (os.fork() and os._exit(0)); os.setsid()",
    "that only runs away": "os.fork() and os._exit(0); os.setsid()",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_fork_bomb_does_not_silence_the_box(box: Box, bomb: str) -> None:
    pid = bystander(box)
    frozen = box.spawn("frozen", ["sleep", "600"], {})
    box.request("signal", pids=[frozen], signal=int(signal.SIGSTOP))
    script = f"import os\nwhile True:\n    try:\n        {bomb}\n    except OSError: pass"
    first = box.spawn("bomb", ["python3", "-c", script], {})
    most, slowest = 0, 0.0
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        asked = time.monotonic()
        most = max(most, len(box.request("processes")["processes"]))
        slowest = max(slowest, time.monotonic() - asked)
    assert slowest < 10, "the grader gives up after 30 s"
    assert most <= sandbox.PROCESS_LIMITS["NPROC"] + 2
    box.request("signal", service="bomb", signal=int(signal.SIGKILL), all=True)
    states = {one["pid"]: one["state"] for one in box.request("processes")["processes"]}
    assert set(states) == {pid, frozen}
    assert status_of(box, "bomb")["status"] is not None or first not in states
    assert still_there(box, pid)
    assert states[frozen] == "T"


def test_a_service_with_too_many_processes_is_killed(box: Box) -> None:
    pid = bystander(box)
    many = python(
        box,
        "import os, time\n"
        f"for _ in range({sandbox.PROCESSES + 20}):\n"
        "    if os.fork() == 0: time.sleep(600)\n"
        "time.sleep(600)",
    )
    assert (many.status, many.killed_for) == (-signal.SIGKILL, "processes")
    assert still_there(box, pid)


def test_endless_output_is_capped_not_lost(box: Box) -> None:
    box.spawn("yes", ["sh", "-c", "echo first; yes 0123456789; "], {})
    wait_until(
        lambda: box.request("log", name="yes", stream="stdout")["total"] > 30 * MIB, "30 MiB"
    )
    box.request("signal", service="yes", signal=int(signal.SIGKILL), all=True)
    log = box.log("yes", "stdout")
    assert log.startswith("first\n0123456789\n")
    assert log.rstrip("\n").endswith("0123456789"[: len(log.rstrip().rpartition("\n")[2])])
    assert len(log) < MIB
    left_out = re.search(r"\[\.\.\. (\d+) bytes left out \.\.\.\]", log)
    assert left_out and int(left_out[1]) > 29 * MIB
    used = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{box.pid}/status").read_text())
    assert used and int(used[1]) < 64 * 1024


def test_a_log_is_told_from_a_position_on(box: Box) -> None:
    box.spawn("talk", ["sh", "-c", "printf 0123456789; printf abcdef >&2"], {})
    wait_end(box, "talk")
    assert box.log("talk", "stdout", 7) == "789"
    assert box.log("talk", "stdout", 10) == box.log("talk", "stdout", 99) == ""
    assert box.log("talk", "stderr") == "abcdef"
    many = shell(box, "seq 1 200000")
    assert len(many.out) < MIB
    name = max(box.request("status")["services"], key=lambda one: one if one != "talk" else "")
    total = box.request("log", name=name, stream="stdout")["total"]
    assert box.log(name, "stdout", total - 14) == "199999\n200000\n"


def test_a_box_ends_when_its_time_is_over() -> None:
    with Box(wall=0.5) as box:
        namespace = os.stat(f"/proc/{box.pid}/ns/pid").st_ino
        box.spawn("sleeper", ["sleep", "600"], {})
        box.sockets()[0].close()  # there are more where it came from
        wait_until(lambda: not living(namespace), "the end of the box")
        for ask in (box.sockets, lambda: box.request("status")):
            with pytest.raises(GraderError, match=r"its 0\.5 s were over"):
                ask()


def living(namespace: int) -> list[int]:
    """The processes of a process namespace."""
    found = []
    for path in Path("/proc").glob("[0-9]*/ns/pid"):
        try:
            if path.stat().st_ino == namespace:
                found.append(int(path.parent.parent.name))
        except OSError:
            continue
    return found


# --- the grader's side --------------------------------------------------------------------------


def test_closing_ends_every_process() -> None:
    box = Box()
    namespace = os.stat(f"/proc/{box.pid}/ns/pid").st_ino
    for number in range(5):
        box.spawn(f"sleeper {number}", ["sh", "-c", "sleep 600 & sleep 600"], {})
    wait_until(lambda: len(living(namespace)) >= 11, "all processes")
    box.close()
    assert living(namespace) == []
    box.close()
    with pytest.raises(GraderError):
        box.request("status")


def test_a_box_lives_on_when_the_thread_that_made_it_ends() -> None:
    made: list[Box] = []
    thread = threading.Thread(target=lambda: made.append(Box()))
    thread.start()
    thread.join()
    with made[0] as box:
        assert shell(box, "echo here").out == "here\n"


def test_boxes_start_side_by_side() -> None:
    made: list[Box] = []
    threads = [threading.Thread(target=lambda: made.append(Box())) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    try:
        assert [shell(box, "echo here").out for box in made] == ["here\n"] * 8
    finally:
        for box in made:
            box.close()


def test_many_sockets_at_once(box: Box) -> None:
    made = box.sockets(count=450)
    assert len({one.fileno() for one in made}) == 450
    for one in made:
        one.close()


def test_a_socket_of_a_path_fails_as_a_connect_does(box: Box) -> None:
    with pytest.raises(FileNotFoundError):
        box.unix_socket("/tmp/missing")
    python(box, "import socket; socket.socket(socket.AF_UNIX).bind('/tmp/deaf')")
    with pytest.raises(ConnectionRefusedError):
        box.unix_socket("/tmp/deaf")


def test_a_missing_program_of_the_learners_is_not_the_machines_fault(box: Box) -> None:
    tried = run(box, "no-such-program")
    assert tried.status != 0
    assert "no-such-program" in tried.err


# --- machines that forbid it, or lack something -------------------------------------------------

REFUSALS = [
    "bwrap: No permissions to create new namespace, likely because the kernel does not allow "
    "non-privileged user namespaces. On e.g. debian this can be enabled with 'sysctl "
    "kernel.unprivileged_userns_clone=1'.",
    "bwrap: Creating new namespace failed: Operation not permitted",
    "bwrap: setting up uid map: Permission denied",
    "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted",
    "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
]


def fake_bwrap(folder: Path, says: str) -> str:
    """Make a `bwrap` that refuses; the PATH that finds it first."""
    script = folder / "bwrap"
    script.write_text(f"#!/bin/sh\ncat >&2 <<'SAYS'\n{says}\nSAYS\nexit 1\n")
    script.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("says", REFUSALS, ids=range(len(REFUSALS)))
def test_forbidden_namespaces_are_explained(
    says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", fake_bwrap(tmp_path, says))
    with pytest.raises(NotAllowed) as caught:
        Box()
    assert says in str(caught.value)
    for way_out in ("sudo sysctl -w", "seccomp=unconfined", "Vagrant"):
        assert way_out in str(caught.value)


def test_another_failure_of_bubblewrap_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", fake_bwrap(tmp_path, "bwrap: Unknown option --size"))
    with pytest.raises(GraderError, match="Unknown option --size") as caught:
        Box()
    assert not isinstance(caught.value, NotAllowed)


def test_forbidden_namespaces_are_nobodys_fault(tmp_path: Path) -> None:
    """A grading says it once a check, counts nothing, and ends with exit code 3."""
    environment = {**os.environ, "PATH": fake_bwrap(tmp_path, REFUSALS[0])}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(ROOT / "labs" / "03"), "--solution"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 3, done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    words = " ".join(done.stdout.split())
    assert "sudo sysctl -w kernel.unprivileged_userns_clone=1" in words
    assert " 0 failed" in done.stdout


MAKE_BOX = """
import sys
from grader.errors import CourseError
from grader.sandbox import Box
try:
    with Box() as box:
        box.spawn("x", ["sh", "-c", "id -u"], {})
        while box.request("status")["services"]["x"]["status"] is None:
            pass
        print("made", box.log("x", "stdout") + box.log("x", "stderr"))
except CourseError as error:
    print(type(error).__name__, error)
"""


def inside_another(*options: str) -> str:
    """Make a box inside a bubblewrap of these options; what came of it."""
    done = subprocess.run(
        ["bwrap", "--dev-bind", "/", "/", *options, "--", sys.executable, "-c", MAKE_BOX],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout + done.stderr


def test_a_machine_without_more_namespaces_is_recognized() -> None:
    told = inside_another("--unshare-user", "--disable-userns", "--proc", "/proc")
    if "Unknown option" in told:
        pytest.skip("this bubblewrap has no --disable-userns")
    assert told.startswith("NotAllowed")
    assert "max_user_namespaces=15000" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("options", [("--uid", "0", "--cap-add", "ALL"), ("--uid", "1000")])
def test_a_box_in_a_container_with_one_user(options: tuple[str, ...]) -> None:
    told = inside_another("--unshare-user", *options)
    assert told == "made 1000\n\n"


@pytest.mark.parametrize(
    ("program", "package"),
    [("bwrap", "bubblewrap"), ("ip", "iproute2"), ("unshare", "util-linux"), ("nginx", "nginx")],
)
def test_missing_programs_are_named_with_their_package(
    program: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, **options: None if name == program else which(name, **options)
    )
    with (
        pytest.raises(NotAllowed, match=f"^{program} is missing.*apt-get install {package}$"),
        Box() as box,
    ):
        box.spawn("server", [program], {})


# --- nothing is left ----------------------------------------------------------------------------

VICTIM = """
import sys, threading
from grader import sandbox
sandbox.ZONE = sys.argv[1]
print("imported", flush=True)
boxes = [sandbox.Box() for _ in range(int(sys.argv[2]))]
for box in boxes:
    box.spawn("one", ["sh", "-c", "sleep 600 & exec sleep 601"], {"X": "1"})
    box.spawn("two", ["setsid", "--fork", "sleep", "600"], {})
    box.spawn("busy", ["sh", "-c", "while :; do echo busy; done"], {})
print("running", *[box.pid for box in boxes], flush=True)
def load(box):
    while True:
        box.request("listeners")
        for made in box.sockets(count=20):
            made.close()
for box in boxes * 2:
    threading.Thread(target=load, args=(box,)).start()
print("loaded", flush=True)
"""


def victim(word: str, temporary: Path, boxes: int = 1) -> subprocess.Popen[str]:
    """Start a grader that makes boxes, to be killed; `word` is in its boxes' command lines."""
    return subprocess.Popen(
        [sys.executable, "-c", VICTIM, f"{word}.example", str(boxes)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    )


def mounts() -> set[str]:
    """This machine's mounts."""
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


def test_killed_while_it_starts(tmp_path: Path) -> None:
    word = f"victim{uuid.uuid4().hex}"
    before = mounts()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    seen = 0
    for step in range(16):
        grader = victim(word, temporary)
        assert grader.stdout
        with grader.stdout:
            assert grader.stdout.readline() == "imported\n"
            time.sleep(step * 0.004)  # the moment itself: from 0 to 60 ms after the start
            seen += bool(processes_with("/course/init.py"))
            grader.kill()
            grader.wait()
        wait_until(lambda: not processes_with(word), "the end of the box")
    assert seen, "no box was ever seen"
    assert mounts() == before
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("moment", ["running", "loaded"])
def test_killed_while_services_run(moment: str, tmp_path: Path) -> None:
    word = f"victim{uuid.uuid4().hex}"
    before = mounts()
    grader = victim(word, tmp_path, boxes=3)
    assert grader.stdout
    with grader.stdout:
        pids: list[str] = []
        for line in grader.stdout:
            if line.startswith("running"):
                pids = line.split()[1:]
            if line.startswith(moment):
                break
        namespaces = [os.stat(f"/proc/{pid}/ns/pid").st_ino for pid in pids]
        networks = [os.stat(f"/proc/{pid}/ns/net").st_ino for pid in pids]
        try:
            wait_until(lambda: all(len(living(one)) >= 4 for one in namespaces), "the services")
        finally:
            grader.kill()
            grader.wait()
    wait_until(
        lambda: not processes_with(word) and not any(map(living, namespaces)),
        "the end of the boxes",
    )
    # A network namespace, and the ports in it, live as long as a process does in it.
    assert not [one for one in network_namespaces() if one in networks]
    assert mounts() == before
    assert list(tmp_path.iterdir()) == []


def network_namespaces() -> set[int]:
    """The network namespaces of all processes."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(path.stat().st_ino)
        except OSError:
            continue
    return found


# --- as an ordinary user ------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as an ordinary user already")
@pytest.mark.parametrize("half", ["hostile", "rest"])
def test_all_of_this_as_an_ordinary_user(
    half: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    become = ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"]
    readable = subprocess.run(
        [*become, sys.executable, "-c", f"open({str(ROOT / 'grader/init.py')!r})"],
        capture_output=True,
    )
    if readable.returncode:
        pytest.skip("an ordinary user may not read this folder or its virtual environment")
    scratch = Path("/tmp") / f"course-{uuid.uuid4().hex}"
    scratch.mkdir()
    os.chown(scratch, ORDINARY, ORDINARY)
    slow = "bomb or killed or limit or endless or many or container"
    options = ["-p", "no:cacheprovider", f"--basetemp={scratch}/pytest"]
    options += ["-k", slow if half == "hostile" else f"not ({slow})", str(Path(__file__).resolve())]
    try:
        done = subprocess.run(
            [*become, sys.executable, "-m", "pytest", "-q", *options],
            cwd=scratch,
            env={**os.environ, "HOME": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
    finally:
        shutil.rmtree(scratch)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_a_low_limit_on_open_files_is_raised() -> None:
    """1024 is a usual one, and 500 visitors on two connections each are more."""
    script = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 4096))\n"
        "from grader.sandbox import Box\n"
        "with Box() as box:\n"
        "    print(len(box.sockets(count=1200)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "1200\n", done.stderr


def test_threads_share_the_sockets_that_were_asked_for_ahead(box: Box) -> None:
    """Eighty at once take eighty, not sixteen each."""
    with ThreadPoolExecutor(80) as pool:
        made = list(pool.map(lambda _: box.sockets()[0], range(80)))
    spare = sum(len(one) for one in box._spare.values())
    assert len({one.fileno() for one in made}) == 80
    assert spare < 16
    for one in made:
        one.close()

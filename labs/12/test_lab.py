"""Lab 12, systemd and zero downtime: the checks. README.md says what each one asks for."""

import contextlib
import hashlib
import re
import secrets
import threading
import time

from itsdangerous import BadSignature, TimestampSigner

from grader.board import LOGIN, whoami
from grader.checks import alone, by_hand, check_of, look_at, needs, points
from grader.client import Exchange
from grader.errors import GraderError, Mismatch
from grader.machine import File
from grader.site import wait_for
from grader.systemd import (
    CURRENT,
    ENVIRONMENT,
    PYTHON,
    SERVICE,
    SOCKET,
    VERSION_HEADER,
    is_loud,
)

URL = "http://board.example"
GUNICORN = "/opt/board/venv/bin/gunicorn"
VISITORS = 3  # who come again and again
PACE = 0.02  # seconds between two visits of one of them
PATIENCE = 25  # seconds; of a visitor, whom a restart lets wait
SOON = 15  # seconds; the README says 10, and a busy machine may be late
LATEST = 11  # seconds by systemd's own clock, which is late by far less
TROUBLE = 8  # seconds
ATTEMPTS = 14  # in that time; the README says one a second
DEPLOY_SECONDS = 60
MOMENT = 0.15  # seconds that a secret is to be seen at the least
LARGEST_MEMORY = 1 << 30
MOST_FILES = 65536
SCORE = 2.5
NOBODY, FIRST_PERSON, LAST_PERSON = 65534, 1000, 60000
LONGEST_PAGE = 3  # seconds
# Messages of systemd, one of them for each time that a unit ends, whatever it ran meanwhile.
ENDED_BADLY, ENDED_WELL = "d9b373ed55a64feb8242e02dbe79a49c", "7ad2d189f7e94e70a38c781354912448"
READ_ONLY = ("/etc", "/usr", "/opt/board", "/srv/board", "/var/www", "/var/lib", "/home")
DEPLOY = "bash /srv/board/deploy.sh"
# Where the door is shut in a deploy, and where the way back is.
SHUT = (
    ("deploy.sh", "systemctl stop"),
    ("deploy.sh", "systemctl kill"),
    ("board.socket", "PartOf"),
    ("deploy.sh", "systemctl restart"),
    ("deploy.sh", "systemctl"),
)
BACK = (
    ("deploy.sh", '"$old"'),
    ("deploy.sh", "$old"),
    ("deploy.sh", "exit"),
    ("deploy.sh", "systemctl"),
)
RESTART = (("board.service", "Restart="), ("board.service", "[Service]"))
# Where other users look for secrets: all but programs, and what the kernel makes up.
FOLDERS = "/etc /home /opt /run /srv /tmp /usr/local /var /dev/shm"
# Where a deploy hands the key to a program that it starts.
HANDED = (
    *(("deploy.sh", word) for word in ("BOARD_SECRET", "--setenv", "env ", "cat /etc")),
    ("deploy.sh", "/etc/board/environment"),
)
# What any user sees of the processes, of the units and files that come and go, and of systemd's
# environment: each text that is there for longer than a moment is printed. (A program that ends at
# once, such as the echo of xargs, would be seen by luck.) It knows no key: its own arguments are in
# the list of processes too.
WATCHER = f"""
import glob, os, subprocess, sys, time
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
places = ["/proc/[0-9]*/cmdline", "/run/systemd/transient/*"]
folders = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/run/board", "/srv/board")
places += [f"{{one}}/*" for one in folders]
shown, since, end = set(), {{}}, time.monotonic() + 120

def texts():
    for name in [one for place in places for one in glob.glob(place)]:
        try:
            if os.path.isfile(name) and os.path.getsize(name) < 200_000:
                with open(name, "rb") as file:
                    yield name, file.read()
        except OSError:
            pass
    told = subprocess.run(["systemctl", "show-environment"], capture_output=True)
    yield "systemctl", told.stdout

while time.monotonic() < end:
    now = time.monotonic()
    since = {{one: since.get(one, now) for one in texts()}}
    for one in [one for one in since if now - since[one] > {MOMENT} and one not in shown]:
        shown.add(one)
        sys.stdout.buffer.write(one[1].replace(b"\\0", b" ") + b"\\n")
        sys.stdout.buffer.flush()
    time.sleep(0.02)
"""


def last_word(site):
    """What systemd says of the service now, for a card."""
    told = site.show(SERVICE)
    return f"{SERVICE} is {told['ActiveState']} ({told['Result']})"


def last_lines(text, count=4):
    """The last lines of what a program printed."""
    lines = [one.strip() for one in text.splitlines() if one.strip()]
    return "\n".join(lines[-count:])


def seconds_between(site, begun, ended):
    """The seconds between two moments in the life of the service, by systemd's own clock."""
    told = site.show(SERVICE)
    return (int(told[f"{ended}TimestampMonotonic"]) - int(told[f"{begun}TimestampMonotonic"])) / 1e6


def door_goes(site):
    """The place to look at when the socket's file goes whenever the service ends; else none."""
    told = site.show(SERVICE)
    folders = [f"/run/{one.partition(':')[0]}/" for one in told["RuntimeDirectory"].split()]
    listens = site.show(SOCKET).get("Listen", "")
    gone = any(one in listens for one in folders) and told["RuntimeDirectoryPreserve"] == "no"
    return [("board.service", "RuntimeDirectory")] if gone else []


GOES = "RuntimeDirectory= is removed when the service ends, and the socket's file in it."


def lost_of(visits):
    """The visits that ended without a page."""
    return [one for one in list(visits) if one.error or one.value != 200]


@contextlib.contextmanager
def visitors(site, wanted, places=()):
    """Visitors who come again and again while the block runs: none of them may be turned away."""
    found_out = threading.Event()

    def visit():
        time.sleep(PACE)
        if found_out.is_set():
            return 200
        status = None
        try:
            status = site.get("/whoami", timeout=PATIENCE).status_code
        finally:
            if status != 200:
                found_out.set()
        return status

    with site.load(visit, VISITORS) as visits:
        wait_for(lambda: len(visits) >= VISITORS, PATIENCE)
        yield visits
        # Those who come when all is over, too; unless somebody was lost before.
        seen = len(visits)
        wait_for(lambda: len(visits) >= seen + 3 * VISITORS or lost_of(visits), PATIENCE)
    site.exchanges.clear()
    site.record(Exchange("GET", "/whoami, again and again", "visitors", f"{URL}/whoami"))
    lost = lost_of(visits)
    if lost:
        first = lost[0]
        what = "no answer" if first.error else f"status {first.value}"
        told = f"{what}, for some who came meanwhile"
        shut = not first.error and first.value == 502
        note = "502 is Nginx's word for a door that is shut." if shut else ""
        gone = door_goes(site) if shut else []
        note, places = (GOES, gone) if gone else (note, places)
        raise Mismatch(f"status 200 for everybody, through {wanted}", told, note, places)


def release_of(site):
    """The release that answers a visitor; "" when none does."""
    with contextlib.suppress(OSError):
        reply = site.get("/whoami", timeout=PATIENCE)
        return reply.headers.get(VERSION_HEADER, "") if reply.status_code == 200 else ""
    return ""


def check_release(site, name, when, places=()):
    """The release that answers, now and after a restart of the service, is the one of this name."""
    for moment in (when, f"{when}, and a restart"):
        seen = {release_of(site) for _ in range(6)}
        if seen != {name}:
            got = " and ".join(f"release {one}" if one else "no answer" for one in sorted(seen))
            gone = door_goes(site) if "" in seen else []
            raise Mismatch(f"release {name}, {moment}", got, GOES if gone else "", gone or places)
        # Workers may have changed between the answer and the list of processes: then once more.
        if not wait_for(site.serves, SOON):
            raise Mismatch(
                f"an answer from a process of board.service, {moment}",
                "from one outside of it",
                "What a deploy starts beside the service, nobody starts again after a boot.",
                [("deploy.sh", "systemd-run"), ("deploy.sh", "gunicorn")],
            )
        if moment == when:
            site.forgive()
            site.systemctl("restart", SERVICE)
            wait_for(lambda: release_of(site), SOON)


def enter(site, script, *arguments):
    """Run a shell script as root where the app's first process is: what it sees of the disk."""
    pid = site.main_pid()
    if not pid:
        raise Mismatch("a running app", last_word(site))
    return site.run("nsenter", "-t", str(pid), "-m", "--", "sh", "-uc", script, "sh", *arguments)


def status_of(site, pid):
    """What the kernel says of a process, by its own names; empty when it is gone."""
    lines = (site.box.read(f"/proc/{pid}/status") or b"").decode().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@points(1)
@look_at("board.service", "ExecStart", "[Service]")
@by_hand("systemctl status board.service board.socket nginx; curl -i http://board.example/")
def test_site_answers(site):
    """The units start, and the site answers

    Everything else is about a board that systemd runs and Nginx stands before.
    """
    told = whoami(site)
    if told["pid"] not in site.pids():
        raise Mismatch("an answer from a process of board.service", "from one outside of it")
    door = site.show(SOCKET)
    if door.get("Listen") and door["ActiveState"] != "active":
        said = [
            one for one in site.journal("_PID=1", f"--grep={SOCKET}").splitlines() if is_loud(one)
        ]
        got = "\n".join([f"it is {door['ActiveState']} ({door['Result']})", *said[-1:]])
        places = [("board.socket", "Accept"), ("board.socket", "[Socket]")]
        raise Mismatch(f"{SOCKET}, which says where to listen, is active", got, look_at=places)


def wanted_by(site, unit):
    """The units that start this one when they are started."""
    told = site.show(unit)
    return f"{told['WantedBy']} {told['RequiredBy']}".split() if "WantedBy" in told else []


@points(2)
@alone
@look_at("board.service", "WantedBy", "After", "[Install]", "[Unit]")
@by_hand("systemctl is-enabled board.service board.socket; systemctl show board -p After,Wants")
def test_boot(site):
    """After a boot it is there, once the network is

    Machines boot at night, when nobody is there who could type `systemctl start`.
    """
    told = site.show(SERVICE)
    after = set(told["After"].split())
    wanted = set(f"{told['Wants']} {told['Requires']} {told['BindsTo']}".split())
    if "network.target" not in after and "network-online.target" not in after:
        raise Mismatch(
            "the service starts after network.target, or network-online.target",
            "it waits for no network",
            look_at=[("board.service", "After"), ("board.service", "[Unit]")],
        )
    if "network.target" not in after and "network-online.target" not in wanted:
        raise Mismatch(
            "somebody asks for network-online.target",
            "nobody does: After= is an order, not a wish",
            "Without Wants=network-online.target that target may not be part of the boot at all.",
            [("board.service", "After")],
        )
    units = (SOCKET, SERVICE, "nginx.service")
    # What wants them, and was part of this machine's own boot.
    wanting = {one for unit in units for one in wanted_by(site, unit)} - set(units)
    part_of_boot = sorted(one for one in wanting if site.show(one)["ActiveState"] == "active")
    for unit in units:
        site.systemctl("stop", unit)
    for one in part_of_boot:
        site.systemctl("start", one)
    if not wait_for(site.serves, SOON):
        state = " and ".join(
            f"{unit} is {site.show(unit)['ActiveState']}" for unit in (SOCKET, SERVICE)
        )
        raise Mismatch("an answer after a boot", f"none; {state}")


@points(2)
@alone
@look_at("board.service", "Restart=", "[Service]")
@by_hand("kill -9 $(systemctl show board -p MainPID --value); sleep 5; systemctl status board")
def test_killed(site):
    """Killed, it is back by itself

    Out of memory, the kernel kills. Nobody should have to notice.
    """
    for _ in range(2):
        before = site.main_pid()
        site.run("kill", "-KILL", str(before))
        # Nobody visits meanwhile: somebody who knocks at a socket would start it too.
        if not wait_for(lambda old=before: site.main_pid() not in (0, old), SOON):
            raise Mismatch("a new first process within 10 s", last_word(site))
        rest = seconds_between(site, "ActiveExit", "ExecMainStart")
        if rest > LATEST:
            places = [("board.service", "RestartSec"), *RESTART]
            raise Mismatch("a new first process within 10 s", f"after {int(rest)} s", "", places)
        if not wait_for(site.serves, SOON):
            told, gone = last_word(site), door_goes(site)
            if site.is_active() and site.nginx_says():
                told += f", and Nginx says: {site.nginx_says()}"
            raise Mismatch("an answer within 10 s", told, GOES if gone else "", gone)
        # What is killed while it starts has no such times.
        wait_for(site.is_active, SOON)


@contextlib.contextmanager
def trouble(site):
    """While the block runs the app cannot start, and a visitor waits; gives how often it tried."""
    whole = site.must("base64", "-w0", GUNICORN)
    site.box.write(File(GUNICORN, b"#!/bin/sh\nexit 3\n", 0o755))
    site.run("mv", "-T", CURRENT, f"{CURRENT}.away")
    begun = site.now()
    visitor = site.connect()
    try:
        site.systemctl("kill", "--signal=KILL", SERVICE)
        visitor.sendall(b"GET / HTTP/1.1\r\nHost: board.example\r\nConnection: close\r\n\r\n")
        began = time.monotonic()
        wait_for(lambda: time.monotonic() > began + TROUBLE, TROUBLE + 1)
        yield lambda: attempts(site, begun)
    finally:
        visitor.close()
        site.run("sh", "-c", f"echo {whole} | base64 -d >{GUNICORN}")
        site.run("mv", "-T", f"{CURRENT}.away", CURRENT)


def attempts(site, begun):
    """How often the service has ended since then, by systemd's own messages."""
    which = [f"MESSAGE_ID={ENDED_BADLY}", f"MESSAGE_ID={ENDED_WELL}", f"UNIT={SERVICE}"]
    return len(site.journal(*which, after=begun).splitlines())


def when_it_failed(site):
    """Where to look when an app that cannot start is not started by Restart= at all."""
    again = site.show(SERVICE)["Restart"] in ("always", "on-failure")
    return () if again else RESTART  # whoever knocks starts it then, and at once


@points(2)
@alone
@look_at("board.service", "RestartSec", "Restart=", "StartLimit", "[Service]")
@by_hand("mv /srv/board/current /tmp/; systemctl kill -s KILL board; journalctl -fu board")
def test_no_storm(site):
    """An app that cannot start is not tried in a storm

    Ten starts a second use the whole machine up, and fill the disk with one and the same message.
    """
    with trouble(site) as tried:
        count = tried()
    if count > ATTEMPTS:
        wanted = f"about one attempt a second: {TROUBLE} in {TROUBLE} s"
        raise Mismatch(wanted, "many more", look_at=when_it_failed(site))


@points(2)
@alone
@needs(test_killed)
@look_at("board.service", "StartLimit", "[Unit]")
@by_hand("systemctl status board.service board.socket   # after some seconds without an app")
def test_trouble_is_over(site):
    """When the trouble is over, it comes back by itself

    A disk that was full, a database that was away for ten seconds. By default systemd gives a
    service up after five attempts, and its socket with it.
    """
    with trouble(site):
        pass
    if not wait_for(site.serves, SOON):
        state = f"{last_word(site)}, {SOCKET} is {site.show(SOCKET)['ActiveState']}"
        wanted = f"an answer within 10 s, after {TROUBLE} s of trouble"
        raise Mismatch(wanted, state, look_at=when_it_failed(site))


@points(3)
@alone
@look_at("board.service", "Requires", "ExecStart")
@look_at("board.socket", "PartOf", "ListenStream", "[Socket]")
@by_hand("(sleep 1; systemctl restart board) & for i in $(seq 60); do curl -s -o /dev/null "
         "-w '%{http_code} ' http://board.example/; done")  # fmt: skip
def test_restart(site):
    """Through a restart visitors wait, and none is refused

    Somebody has to hold the door open while nobody is behind it. An app that opens it itself takes
    it along when it ends, and starting takes it seconds.
    """
    name = site.release("slow", before="import time\n\ntime.sleep(2)\n")
    before = site.main_pid()
    with visitors(site, "a restart of an app that takes 2 s to start"):
        site.run("ln", "-sfn", f"releases/{name}", CURRENT)
        site.systemctl("restart", SERVICE)
        wait_for(lambda: release_of(site) == name, SOON)
    assert site.main_pid() not in (0, before), "the app must have another first process"


@points(2)
@alone
@look_at("board.service", "ExecReload", "ExecStart")
@by_hand("pgrep -f gunicorn; systemctl reload board; sleep 3; pgrep -f gunicorn")
def test_reload(site):
    """A reload brings new workers, and loses no request

    `systemctl reload` is what administrators and programs know. What it means for this service, the
    unit has to say.
    """
    old = set(site.service("gunicorn").workers() or site.pids()) - {site.main_pid()}
    with visitors(site, "a reload"):
        done = site.systemctl("reload", SERVICE)
        wait_for(lambda: done.status or not old & set(site.pids()), SOON)
    if done.status:
        raise Mismatch("`systemctl reload board` works", last_lines(done.output, 1))
    if old & set(site.pids()):
        raise Mismatch("new workers", "the old ones work on")


@points(4)
@alone
@look_at("deploy.sh", "restart", "reload", "ln ")
@by_hand(f"cp -r /srv/board/releases/1 /srv/board/releases/2; {DEPLOY} 2; echo $?; curl -i {URL}/")
def test_deploy(site):
    """A deploy brings the new version, and loses no request

    Twice in a row: what is held on to the first time shows at the second.
    """
    names = [site.release("2"), site.release("3")]
    for name in names:
        with visitors(site, "a deploy", SHUT):
            check_deployed(site, name)
        seen = release_of(site)
        if seen != name:
            raise Mismatch(
                f"release {name}, when deploy.sh {name} has ended",
                f"release {seen}" if seen else "no answer",
                "A process that has begun to work in a folder stays there, wherever a link leads.",
            )
    check_release(site, names[-1], "after deploy.sh 3")


def check_deployed(site, name, when=""):
    """A deploy of a good version ends with status 0."""
    done = site.deploy(name, DEPLOY_SECONDS)
    if done.status:
        got = f"status {done.status}: {last_lines(done.output)}"
        raise Mismatch(f"deploy.sh {name} ends with status 0{when}", got)


@points(4)
@alone
@look_at("deploy.sh", "restart", "reload", "ln ")
@by_hand("mkdir /srv/board/releases/bad; echo 1/0 >/srv/board/releases/bad/wsgi.py; "
         f"{DEPLOY} bad; echo $?; curl -i {URL}/")  # fmt: skip
def test_bad_version(site):
    """A version that does not start is refused, and nobody notices

    A typing mistake, a package that is missing on the server. The version before was good. And the
    next one may be good again.
    """
    good, better = site.release("2"), site.release("3")
    check_deployed(site, good)
    name = site.release("bad", before='raise RuntimeError("this release cannot start")\n')
    for bad in (name, "there-is-none"):
        with visitors(site, f"deploy.sh {bad}, which cannot start", SHUT):
            done = site.deploy(bad, DEPLOY_SECONDS)
        if not done.status:
            raise Mismatch(f"deploy.sh {bad} ends with a status other than 0", "status 0")
        check_release(site, good, f"after deploy.sh {good} and deploy.sh {bad}", BACK)
    check_deployed(site, better, ", after two bad ones")


@points(3)
@alone
@look_at("deploy.sh", "healthz", "curl", "restart", "reload")
@by_hand(f"{DEPLOY} sick; echo $?; curl -i {URL}/healthz   # sick: a release whose /healthz is 503")
def test_sick_version(site):
    """A version that starts and is not well is taken back

    It runs, and its database, or what it makes of it, does not work. /healthz is how it says so.
    """
    sick = """
@app.before_request
def sick():
    from flask import request

    if request.path == "/healthz":
        return "not well\\n", 503
"""
    good = site.release("2")
    check_deployed(site, good)
    name = site.release("sick", after=sick)
    with visitors(site, "the deploy of a version that is not well", SHUT):
        done = site.deploy(name, DEPLOY_SECONDS)
    if not done.status:
        raise Mismatch("deploy.sh sick ends with a status other than 0", "status 0")
    check_release(site, good, f"after deploy.sh {good} and deploy.sh sick", BACK)


@points(1)
@look_at("board.service", "User=", "DynamicUser", "[Service]")
@by_hand("ps -o user,pid,args -C gunicorn,python")
def test_own_user(site):
    """It runs as a user of its own

    What breaks into the app has its rights. Root's are all; another program's are that program too.
    """
    ours = set(site.pids())
    lines = site.must("ps", "-eo", "pid=,uid=,user=").splitlines()
    rows = [(int(pid), int(uid), user) for pid, uid, user in (line.split() for line in lines)]
    others = {uid for pid, uid, _ in rows if pid not in ours}
    for uid, user in sorted({(uid, user) for pid, uid, user in rows if pid in ours}):
        person = FIRST_PERSON <= uid < LAST_PERSON
        if uid in others or uid == NOBODY or person:
            raise Mismatch("a user that nothing else runs as", user)


def below(path, folders):
    """Whether a path is one of these folders, or in one of them."""
    return any(path == one or path.startswith(f"{one}/") for one in folders)


def mounts(site):
    """Where something is mounted for the app, in what is read-only to it; less its own data."""
    lines = site.must("cat", f"/proc/{site.main_pid()}/mountinfo").splitlines()
    paths = [line.split()[4] for line in lines]
    names = [
        "board",
        *(one.partition(":")[0] for one in site.show(SERVICE)["StateDirectory"].split()),
    ]
    own = [f"{folder}/{name}" for folder in ("/var/lib", "/var/lib/private") for name in names]
    return [one for one in paths if below(one, READ_ONLY) and not below(one, own)]


@points(2)
@look_at("board.service", "ReadWritePaths", "ProtectSystem", "[Service]")
@by_hand("nsenter -t $(systemctl show board -p MainPID --value) -m touch /srv/board/x")
def test_read_only(site):
    """It writes to its own data, and nowhere else

    Whoever gets into an app wants to stay: a line in its code, a job for cron. On a disk that is
    read-only there is no place for that.
    """
    script = """for one in "$@"; do
      if touch "$one/.course-probe" 2>/dev/null; then echo "$one"; rm -f "$one/.course-probe"; fi
    done"""
    writable = enter(site, script, *READ_ONLY).output.split()
    # And what was opened below them: each such place is a mount of its own.
    script = 'for one in "$@"; do if [ -w "$one" ]; then echo "$one"; fi; done'
    writable += enter(site, script, *mounts(site)).output.split()
    if writable:
        raise Mismatch("all of the system is read-only to it", f"it may write to {writable[0]}")
    with site.visitor() as visitor:
        visitor.post("/login", data=LOGIN, follow=False)
        reply = visitor.post("/notices/new", data={"title": "A", "body": "B"}, follow=False)
    if reply.status_code >= 400:
        raise Mismatch("a notice can be pinned", f"status {reply.status_code}",
                       "The database is in /var/lib/board.")  # fmt: skip


@points(1)
@look_at("board.service", "NoNewPrivileges", "[Service]")
@by_hand("grep NoNewPrivs /proc/$(systemctl show board -p MainPID --value)/status")
def test_no_new_privileges(site):
    """No program that it starts gets more rights than it has

    sudo, su and others are allowed to make root of whoever runs them. An app needs none of them.
    """
    for pid in site.pids():
        told = status_of(site, pid)
        if told and told.get("NoNewPrivs") != "1":
            raise Mismatch("NoNewPrivs 1 for each process", f"NoNewPrivs {told['NoNewPrivs']}")


@points(1)
@look_at("board.service", "PrivateTmp", "[Service]")
@by_hand("touch /tmp/mine; nsenter -t $(systemctl show board -p MainPID --value) -m ls /tmp")
def test_private_tmp(site):
    """What others have in /tmp, it does not see

    Everybody may write to /tmp. Names that can be guessed, and files that are forgotten there, have
    opened many a door.
    """
    name = f"course-{secrets.token_hex(4)}"
    for folder in ("/tmp", "/var/tmp"):
        site.must("touch", f"{folder}/{name}")
        seen = enter(site, 'ls "$1" 2>/dev/null', folder).output.split()
        site.must("rm", f"{folder}/{name}")
        if name in seen:
            raise Mismatch(f"a {folder} of its own", "that of everybody")


@points(2)
@look_at("board.service", "MemoryMax", "LimitNOFILE", "[Service]")
@by_hand("systemctl show board -p MemoryMax,LimitNOFILE")
def test_bounds(site):
    """Its memory and its files have a limit

    A leak should end the app, which is back in a second, and not the machine.
    """
    unit, memory = SERVICE, []
    while unit and unit != "-.slice":
        told = site.show(unit)
        memory += [int(told["MemoryMax"])] if told["MemoryMax"].isdigit() else []
        unit = told.get("Slice", "")
    if not memory or min(memory) > LARGEST_MEMORY:
        got = f"{min(memory) >> 20} MiB" if memory else "no limit"
        raise Mismatch("at most 1 GiB of memory", got, look_at=[("board.service", "Memory")])
    files = site.show(SERVICE)["LimitNOFILE"]
    if not files.isdigit() or int(files) > MOST_FILES:
        places = [("board.service", "LimitNOFILE"), ("board.service", "[Service]")]
        raise Mismatch(f"at most {MOST_FILES} open files", files, look_at=places)


@points(2)
@look_at("board.service", "CapabilityBoundingSet", "SystemCallFilter", "Protect", "[Service]")
@by_hand("systemd-analyze security board.service")
def test_exposure(site):
    """An intruder would find little that he could use

    systemd knows what a service could do. Most of it an app never needs, and a break-in does.
    """
    told = site.run("systemd-analyze", "security", "--no-pager", SERVICE).output
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    if not found:
        raise GraderError(f"systemd-analyze gives no score: {last_lines(told)}")
    if float(found[1]) > SCORE:
        raise Mismatch(f"a score of {SCORE} or less", found[1])


def begin(site, path):
    """Send a request, and wait until the app has read it; the connection."""
    connection = site.connect()
    connection.settimeout(PATIENCE)
    site.record(Exchange("GET", path, "a visitor", URL + path))
    before = requests_begun(site)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: board.example\r\n\r\n".encode())
    # An app that cannot write to its own data keeps no book: then this is long enough.
    wait_for(lambda: requests_begun(site) > before, 3)
    return connection


def requests_begun(site):
    """How many requests have reached the app, by its own book."""
    text = (site.box.read("/var/lib/board/board.db.requests", 1 << 22) or b"").decode()
    return sum(int(line.split()[0]) for line in text.splitlines() if line[:1].isdigit())


def longer_than(span, seconds):
    """Whether a time as systemd writes it (1min 30s, 500ms, infinity) is longer."""
    units = {"ms": 0.001, "s": 1, "min": 60}
    found = re.findall(r"(\d+)([a-z]+)", span)
    return not found or sum(int(one) * units.get(unit, 3600) for one, unit in found) > seconds


@points(2)
@alone
@look_at("gunicorn.conf.py", "graceful_timeout")
@look_at("board.service", "KillSignal", "TimeoutStopSec", "KillMode", "ExecStop")
@by_hand(f"curl -i '{URL}/slow?seconds=3' & sleep 1; systemctl stop board.socket board; wait")
def test_finishes(site):
    """Told to stop, it finishes what it has begun

    Somebody has just paid. Whether he sees the page that says so should not depend on your deploy.
    """
    with begin(site, "/slow?seconds=3") as visitor:
        site.systemctl("stop", SOCKET, SERVICE)
        try:
            answer = visitor.recv(65536)
        except OSError as error:
            answer = str(error).encode()
    status = answer.split(b" ", 2)[1:2]
    if status != [b"200"]:
        got = f"status {status[0].decode()}" if status else "the connection was closed"
        # When systemd's time was long enough, Gunicorn's was not.
        own = longer_than(site.show(SERVICE)["TimeoutStopUSec"], LONGEST_PAGE)
        places = [("gunicorn.conf.py", "graceful_timeout")] if own else ()
        raise Mismatch("status 200, for a request that takes 3 s", got, look_at=places)


@points(2)
@alone
@look_at("board.service", "TimeoutStopSec", "[Service]")
@look_at("gunicorn.conf.py", "graceful_timeout")
@by_hand(f"curl -i {URL}/hang & sleep 1; time systemctl stop board.socket board")
def test_stops(site):
    """It stops within 10 s, whatever hangs

    A shutdown waits for each service. By default Gunicorn waits 30 s for a request that hangs, and
    systemd 90 s for Gunicorn.
    """
    with begin(site, "/hang"):
        site.systemctl("stop", "--no-block", SOCKET, SERVICE)
        ended = wait_for(lambda: site.show(SERVICE)["ActiveState"] in ("inactive", "failed"), SOON)
    if not ended:
        raise Mismatch("stopped after 10 s, while a request hangs", "it still runs")
    took = seconds_between(site, "ActiveExit", "InactiveEnter")
    if took > LATEST:
        raise Mismatch("stopped after 10 s, while a request hangs", f"after {int(took)} s")


@points(1)
@look_at("gunicorn.conf.py", "accesslog", "errorlog", "bind")
@look_at("board.service", "Standard")
@by_hand(f"curl -s {URL}/crash; journalctl -u board -n 20")
def test_journal(site):
    """What it has to say is in the journal

    One place for all: with dates, by unit and by boot, and with an end to its size. A file of one's
    own grows until the disk is full.
    """
    token = secrets.token_hex(8)
    site.get(f"/echo/{token}")
    site.get("/crash")

    def missing():
        told = site.journal(f"_SYSTEMD_UNIT={SERVICE}")
        lacks = [] if token in told else ["a line for each request"]
        return lacks + ([] if "RuntimeError" in told else ["what went wrong in the app"])

    wait_for(lambda: not missing(), 5)
    lacks = missing()
    if lacks:
        raise Mismatch(f"{lacks[0]}, in `journalctl -u board`", "nothing of it")


@points(1)
@look_at("board.service", "BOARD_SECRET_KEY", "Environment", "LoadCredential", "[Service]")
@by_hand("cat /etc/board/environment; systemctl show board -p Environment,EnvironmentFiles")
def test_own_key(site):
    """Its secret key is the server's own

    One that stands in a unit stands in a repository too, and on every machine of that kind.
    """
    with site.visitor() as visitor:
        visitor.post("/login", data=LOGIN, follow=False)
        cookie = visitor.cookies.get("session")
    if not cookie:
        raise Mismatch("a session cookie", "none")
    # As Flask signs it.
    signer = TimestampSigner(
        site.key, salt="cookie-session", key_derivation="hmac", digest_method=hashlib.sha1
    )
    try:
        signer.unsign(cookie)
    except BadSignature:
        raise Mismatch(
            "a session signed with the key in /etc/board/environment", "another key"
        ) from None


@contextlib.contextmanager
def watched(site):
    """While the block runs somebody reads the list of processes; gives what he has seen."""
    seen = site.must("mktemp").strip()
    script = '"$1" -I -c "$2" >"$3" 2>/dev/null & echo $!'
    pid = site.must("sh", "-c", script, "sh", PYTHON, WATCHER, seen).strip()
    try:
        wait_for(lambda: site.box.read(seen, 1), SOON)  # he has begun
        yield lambda: site.must("cat", seen)
    finally:
        site.run("kill", "-KILL", pid)
        site.run("rm", "-f", seen)


@points(2)
@alone
@look_at("board.service", "BOARD_SECRET", "environment")
@look_at("deploy.sh", ".env", "cat /etc", "cp /etc", "BOARD_SECRET")
@look_at("board.service", "chmod", "ExecStartPre", "PassEnvironment")
@by_hand("ls -l /etc/board; systemctl cat board; runuser -u nobody -- cat /etc/board/environment")
def test_secret(site):
    """Nobody else on the machine can read it

    Every user may read the units, the list of processes and their arguments. So may what breaks
    into another program.
    """
    with watched(site) as seen:
        site.deploy(site.release("2"), DEPLOY_SECONDS)
        meanwhile = seen()
    wanted = "the key is for the app alone"
    places = {
        "the units": f"systemctl cat {SERVICE} {SOCKET}; systemctl show {SERVICE} {SOCKET}",
        "systemd's own environment": "systemctl show-environment",
        "the list of processes": "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ",
    }
    for where, script in places.items():
        said = site.run("runuser", "-u", "nobody", "--", "sh", "-c", f"({script}) 2>/dev/null")
        if site.key in said.output.replace("\0", " "):
            raise Mismatch(wanted, f"user nobody reads it, in {where}")
    if site.key in meanwhile:
        raise Mismatch(
            wanted,
            "user nobody reads it, during a deploy",
            "In the list of processes, where a program's arguments are for everybody to see; in a "
            "unit, in systemd's environment, or in a file that is there for a while.",
            HANDED,
        )
    script = (
        f'find {FOLDERS} -type f -readable -size -200k -exec grep -lF -- "$1" {{}} + 2>/dev/null'
    )
    files = site.run("runuser", "-u", "nobody", "--", "sh", "-c", script, "sh", site.key).output
    if files.strip():
        file = files.split()[0]
        # Where a copy is made its name stands, too.
        copied = [(one, file) for one in ("deploy.sh", "board.service") if file != ENVIRONMENT]
        places = [*copied, *check_of(test_secret).look_at] if copied else ()
        raise Mismatch(wanted, f"user nobody reads it, in {file}", look_at=places)

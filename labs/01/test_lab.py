"""Lab 01: the notice board, served by `flask --app wsgi run`."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import pkgutil
import re
import secrets
import signal
import zlib
from collections.abc import Callable
from html import unescape

import requests

from grader.board import LOGIN
from grader.checks import alone, by_hand, look_at, needs, points
from grader.commands import run
from grader.errors import Mismatch, StartFailed
from grader.machine import File
from grader.services import START_SECONDS, ending, last_lines
from grader.site import Listener, Site, wait_for

HERE = "127.0.0.1:5000"
RUN = "`flask --app wsgi run`"
IMPORT = '`python -c "import wsgi"`'
IMPORT_SECONDS = 10.0
# Python imports wsgi.py, then stops where it is: so one can see what the import left running.
IMPORT_AND_STOP = "import wsgi, os, signal; os.kill(os.getpid(), signal.SIGSTOP)"

ADA = tuple(LOGIN.values())
DEBUGGER_SCRIPT = pkgutil.get_data("werkzeug.debug", "shared/debugger.js")
# What a visitor must not learn from a crash: of /crash, of a database that is none, of any file.
SECRETS = (
    *("Traceback", "RuntimeError", "did what it says"),
    *("DatabaseError", "not a database", r"board\.db", r"\w\.py\b"),
    *(r"\bline \d", r"\bcrash\("),
)
# Whether any part of the site that the import makes is Werkzeug's debugger, at whatever path.
FIND_DEBUGGER = """
import gc, wsgi
from werkzeug.debug import DebuggedApplication
found = [one for one in gc.get_objects() if issubclass(type(one), DebuggedApplication)]
raise SystemExit(3 if found else 0)
"""
STARTERS_KEY = "change-me-later"
KNOWN_KEYS = ("", "dev", "secret")  # Flask's tutorial has the second one
DEFAULT_DATABASE = "/var/lib/board/board.db"

SLOW_VISITORS, SLOW_SECONDS, SLOW_LIMIT = 8, 0.25, 1.0


# --- what the checks share


def get(site: Site, path: str, **options: object) -> requests.Response:
    """GET, with the host that a browser sends which was given the dev server's address."""
    return site.get(path, host=HERE, **options)


def tcp_listeners(site: Site) -> list[Listener]:
    """The TCP sockets that anything in the box listens on."""
    return [one for one in site.listeners() if not one.path]


def is_loopback(listener: Listener) -> bool:
    """Tell whether only the machine itself can connect."""
    address = ipaddress.ip_address(listener.host)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def named(listeners: list[Listener]) -> str:
    """The addresses, for a card."""
    return ", ".join(sorted({str(one) for one in listeners}))


def restart(site: Site, **env: str) -> None:
    """Stop the dev server and start it again, with some of its environment changed."""
    service = site.service("flask")
    service.stop()
    wait_for(lambda: not tcp_listeners(site), START_SECONDS)
    service.env.update(env)
    service.start()


def import_wsgi(site: Site) -> int:
    """Import wsgi.py as every server does, in a box where nothing runs.

    Returns its process id when the import is done (and the process stopped, see above), when the
    process has ended, when it listens, or when it takes too long.
    """
    argv = ["python", "-c", IMPORT_AND_STOP]
    pid = site.box.spawn("import", argv, site.service("flask").env, "/srv/board")
    wait_for(
        lambda: is_stopped(site, pid) or import_status(site) is not None or tcp_listeners(site),
        IMPORT_SECONDS,
    )
    return pid


def is_stopped(site: Site, pid: int) -> bool:
    """Tell whether a process is stopped by a signal."""
    return any(one["pid"] == pid and one["state"] == "T" for one in site.processes())


def import_status(site: Site) -> int | None:
    """How the process of `import_wsgi` ended; None while it has not."""
    status: int | None = site.box.request("status")["services"]["import"]["status"]
    return status


def counted(threads: int, processes: int) -> str:
    """Say how many of each there are, for a card."""
    told = [f"{threads} thread{'s' * (threads > 1)}"] if threads else []
    told += [f"{processes} process{'es' * (processes > 1)}"] if processes else []
    return " and ".join(told)


def pin(site: Site) -> str:
    """Pin a notice; returns its title, which nobody can know."""
    title = f"Notice {secrets.token_hex(8)}"
    notice = {"title": title, "body": "Is it still here tomorrow?"}
    reply = site.post("/api/notices", host=HERE, json=notice, auth=ADA)
    if reply.status_code != 201:
        raise Mismatch("status 201: the notice is pinned", f"status {reply.status_code}")
    return title


def shows(site: Site, title: str) -> bool:
    """Tell whether a notice is on the board."""
    reply = get(site, "/api/notices")
    if reply.status_code != 200:
        raise Mismatch("status 200 and the notices", f"status {reply.status_code}")
    return title in reply.text


def sign_in(site: Site) -> dict[str, str]:
    """Log in; returns the header that carries the session."""
    reply = site.post("/login", host=HERE, data=LOGIN)
    cookies = "; ".join(f"{one.name}={one.value}" for one in reply.cookies)
    if reply.status_code != 303 or not cookies:
        raise Mismatch(
            "status 303 and a session cookie",
            f"status {reply.status_code} and {'a cookie' if cookies else 'no cookie'}",
        )
    return {"Cookie": cookies}


def is_signed_in(site: Site, session: dict[str, str]) -> bool:
    """Tell whether a session counts: the account shows, or else the way to the log-in form."""
    status = get(site, "/account", headers=session).status_code
    if status not in (200, 303):
        raise Mismatch("status 200, or 303 to the log-in form", f"status {status}")
    return status == 200


def refuse_secrets(reply: requests.Response, note: str = "") -> None:
    """Fail when a reply tells something about the code."""
    headers = [f"{name}: {value}" for name, value in reply.headers.items()]
    inside = [content_of(one.value or "") for one in reply.cookies]
    text = "\n".join([*headers, *inside, unescape(reply.text)])
    found = next(filter(None, (re.search(f".*(?:{one}).*", text) for one in SECRETS)), None)
    if found:
        without_tags = " ".join(re.sub(r"<[^>]*>", " ", found[0]).split())
        shown = without_tags if re.search("|".join(SECRETS), without_tags) else found[0].strip()
        raise Mismatch(
            "a reply that tells nothing about the code", f"a reply that says: {shown[:120]}", note
        )


def content_of(cookie: str) -> str:
    """What anybody can read in a session, which is signed, and not encrypted; else ""."""
    payload = cookie.removeprefix(".").partition(".")[0]
    with contextlib.suppress(ValueError, zlib.error):
        data = base64.urlsafe_b64decode(payload + "==="[: -len(payload) % 4])
        return (zlib.decompress(data) if cookie.startswith(".") else data).decode()
    return ""


def forged(session: dict[str, str], key: str, other: str) -> dict[str, str]:
    """A session with the same content, signed with another key; no header if it cannot be made."""
    from flask import Flask
    from flask.sessions import SecureCookieSessionInterface
    from itsdangerous import BadData

    name, _, value = session["Cookie"].partition("=")
    app, signer = Flask("forger"), SecureCookieSessionInterface().get_signing_serializer
    app.secret_key = key
    serializer = signer(app)
    try:
        content = serializer.loads(value)
    except BadData:  # sessions of another kind
        return {}
    serializer.secret_keys = [other.encode()]  # Flask would refuse an empty one
    return {"Cookie": f"{name}={serializer.dumps(content)}"}


# --- the checks


@points(2)
@look_at("wsgi.py", "run_simple(", "create_app(", "app =", "create_app")
def test_site_starts_and_answers(site: Site) -> None:
    """The site starts and answers

    `flask --app wsgi run` imports wsgi.py, looks for the app in it, and serves it on
    127.0.0.1:5000.
    """
    try:
        reply = get(site, "/whoami")
    except requests.ConnectionError as error:
        found = named(site.service("flask").listeners()) or "no address"
        raise Mismatch(
            f"an answer at {HERE}", f"{error}; it listens on {found}", f"{RUN} chooses the address."
        ) from None
    if reply.status_code == 404:
        raise Mismatch(
            "the board, which has a page /whoami", "an app without such a page (status 404)"
        )
    assert reply.status_code == 200
    told = reply.json()
    if not isinstance(told, dict) or told.get("instance") != site.instance:
        raise Mismatch("the answer of the board that runs here", "an answer of something else")
    assert get(site, "/").status_code == 200


@alone
@points(3)
@look_at("wsgi.py", "app.run", "run_simple(", ".serve_forever", ".start()", "Popen")
@by_hand('BOARD_SECRET_KEY=x timeout 5 python -c "import wsgi"; echo "ended with $?"')
def test_importing_starts_nothing(make_site: Callable[..., Site]) -> None:
    """Importing wsgi.py starts nothing

    Gunicorn, the flask command and tests import this file. Whatever it starts, they all start:
    once for each worker, or they wait for it for ever.
    """
    expected = f"{IMPORT} ends with status 0 and leaves nothing running"
    site = make_site(start=False)
    pid = import_wsgi(site)
    listening = tcp_listeners(site)
    if listening:
        raise Mismatch(
            expected,
            f"it starts a server on {named(listening)}",
            "If it is app.run(): flask skips it, with a warning in red; no other program does.",
        )
    status = import_status(site)
    if status is not None:
        said = last_lines(site.lab.learner_names(site.box.log("import", "stderr")), 3)
        raise Mismatch(expected, f"it ended with {ending(status)} during the import\n{said}")
    running = site.processes()
    if not is_stopped(site, pid):
        raise Mismatch(expected, f"the import goes on after {IMPORT_SECONDS:g} s")
    threads = sum(one["threads"] for one in running if one["pid"] == pid) - 1
    others = len(running) - 1
    if threads or others:
        raise Mismatch(expected, f"still running: {counted(threads, others)}")
    site.box.request("signal", pids=[pid], signal=int(signal.SIGCONT))
    wait_for(lambda: import_status(site) is not None, IMPORT_SECONDS)
    status = import_status(site)
    if status != 0:
        seen = "it does not end" if status is None else f"it ended with {ending(status)}"
        raise Mismatch(expected, seen)


@alone
@points(2)
@look_at("wsgi.py", "0.0.0.0", '"::"', "host=", '("",')
@by_hand(
    "kill $(grep -lx flask /proc/[0-9]*/comm | cut -d/ -f3); "
    'BOARD_SECRET_KEY=x python -c "import wsgi" & sleep 2; ss -ltn'
)
def test_only_loopback_is_listened_on(make_site: Callable[..., Site]) -> None:
    """Nothing listens for the network

    The development server is for this machine alone. On 0.0.0.0 it serves everybody in the same
    network, and with debug mode on it lets them look for a way to run code here.
    """

    def refuse_others(command: str) -> None:
        found = [one for one in tcp_listeners(site) if not is_loopback(one)]
        if found:
            raise Mismatch(
                "only loopback is listened on: 127.0.0.1 or ::1",
                f"{named(found)}, while {command} runs",
            )

    def is_quiet() -> bool:
        return all(one["threads"] == 1 for one in site.processes())

    site = make_site(start=False)
    import_wsgi(site)
    refuse_others(IMPORT)
    site.box.request("signal", service="import", signal=int(signal.SIGKILL), all=True)
    site.start()
    # A thread that the import left behind may be about to listen.
    wait_for(lambda: is_quiet() or not all(map(is_loopback, tcp_listeners(site))), 2)
    refuse_others(RUN)


@alone
@points(2)
@look_at(
    "wsgi.py", "FLASK_DEBUG", "format_exc", "repr(", "errorhandler", "DebuggedApplication(", "debug"
)
@by_hand(
    "curl -i 127.0.0.1:5000/crash; echo damaged > /var/lib/board/board.db; curl -i 127.0.0.1:5000/"
)
def test_crash_tells_visitors_nothing(site: Site) -> None:
    """A crash tells visitors nothing

    A traceback shows paths, versions, code and values: a map for whoever looks for a way in. You
    find it in the log; a visitor needs only to know that it was not their fault.
    """
    reply = get(site, "/crash")
    refuse_secrets(reply)
    if reply.status_code != 500:
        note = "Browsers, caches and monitoring know a failure by its status alone."
        raise Mismatch("status 500", f"status {reply.status_code}", note)
    as_program = {"Accept": "application/json"}
    refuse_secrets(get(site, "/crash?debug=1", headers=as_program))
    session = sign_in(site)
    refuse_secrets(get(site, "/crash", headers=session), "This visitor had logged in.")
    database = site.service("flask").env["BOARD_DATABASE"]
    site.box.write(File(database, b"These bytes are not a database.\n" * 64))
    damaged = "This was after the database file was damaged."
    for path in ("/", "/api/notices"):
        for headers in (session, as_program, {}):
            reply = get(site, path, headers=headers)
            refuse_secrets(reply, damaged)
        if reply.status_code < 500:
            raise Mismatch(f"status 500 for {path}", f"status {reply.status_code}", damaged)


@points(2)
@look_at("wsgi.py", "FLASK_DEBUG", "DebuggedApplication(", "debug")
def test_no_debugger(site: Site) -> None:
    """No debugger can be reached

    Werkzeug's debugger runs any Python code that is typed into its page, as the user that serves
    the site. A PIN is all that protects it.
    """
    for path in ("/", "/crash", "/console", "/debug", "/admin", "/api/notices"):
        reply = get(site, f"{path}?__debugger__=yes&cmd=resource&f=debugger.js")
        if reply.content == DEBUGGER_SCRIPT:
            raise Mismatch("no debugger at any path", "the script of Werkzeug's debugger")
    console = get(site, "/console")
    if "__debugger__" in console.text or "Interactive Console" in console.text:
        raise Mismatch("no console at any path", "Werkzeug's console, which runs Python code")
    env = site.service("flask").env
    if run(site, ["python", "-c", FIND_DEBUGGER], env=env, seconds=IMPORT_SECONDS).status == 3:
        raise Mismatch(
            "no debugger at any path", "wsgi.py makes one: a DebuggedApplication of Werkzeug's"
        )


@alone
@points(2)
@look_at("wsgi.py", "secret_key", "SECRET_KEY", "BOARD_SECRET_KEY", "urandom", "secrets.")
@by_hand(
    "for key in a b a; do BOARD_SECRET_KEY=$key flask --app wsgi run --port 5001 & sleep 2; "
    "[ -e jar ] || curl -sc jar -d name=ada -d password=pin-the-notice 127.0.0.1:5001/login; "
    "curl -b jar -w '%{http_code}\\n' 127.0.0.1:5001/account; kill $!; done   # 200, 303, 200"
)
def test_secret_key_comes_from_the_environment(site: Site) -> None:
    """The secret key comes from the environment

    Whoever knows the key can make a session for any user. In the code it is known to everybody who
    ever saw the code.
    """
    key = site.service("flask").env["BOARD_SECRET_KEY"]
    session = sign_in(site)
    if not is_signed_in(site, session):
        raise Mismatch(
            "status 200 for a visitor who has just logged in", "status 303 to the log-in form"
        )
    restart(site, BOARD_SECRET_KEY=key[:-1] + ("b" if key[-1] == "a" else "a"))
    if is_signed_in(site, session):
        raise Mismatch(
            "a restart with another BOARD_SECRET_KEY ends the session",
            "the session still counts",
            "It was signed with a key that does not come from the environment.",
        )
    restart(site, BOARD_SECRET_KEY=key)
    if not is_signed_in(site, session):
        raise Mismatch(
            "a restart with the same BOARD_SECRET_KEY keeps the session",
            "the session is lost",
            "A key made anew at each start logs everybody out, and two workers never agree.",
        )
    for other in (STARTERS_KEY, *KNOWN_KEYS):
        if is_signed_in(site, forged(session, key, other)):
            words = (other, "SECRET_KEY_FALLBACKS", "KEY")
            raise Mismatch(
                "BOARD_SECRET_KEY alone opens a session",
                f"one that is signed with {other!r} counts too",
                "That key was in the code: it is known for good, also as a fallback."
                if other == STARTERS_KEY
                else "Everybody knows or guesses that key, also as a fallback.",
                [("wsgi.py", word) for word in words],
            )


@alone
@points(2)
@look_at("wsgi.py", "BOARD_SECRET_KEY", "secret_key", "SECRET_KEY", "create_app(")
@by_hand(
    "timeout 5 env -u BOARD_SECRET_KEY flask --app wsgi run --port 5001; "
    "BOARD_SECRET_KEY= timeout 5 flask --app wsgi run --port 5001"
)
def test_no_start_without_secret_key(make_site: Callable[..., Site]) -> None:
    """Without a secret key it does not start

    A board that falls back on some key works, and nobody notices that its sessions are worth
    nothing. One that does not start is noticed at once.
    """
    site = make_site(start=False)
    service = site.service("flask")

    def serves() -> bool:
        return service.program.ready(service)

    def output() -> list[str]:
        return [service.log("stdout"), service.log("stderr")]

    for case, env in (("unset", {}), ("empty", {"BOARD_SECRET_KEY": ""})):
        service.env.pop("BOARD_SECRET_KEY", None)
        service.env.update(env)
        expected = f"with BOARD_SECRET_KEY {case}, {RUN} fails and names the variable"
        earlier = [len(text) for text in output()]
        service.spawn()
        wait_for(lambda: service.end()[0] is not None or serves(), START_SECONDS)
        status = service.end()[0]
        if status is None:
            raise Mismatch(expected, "it serves" if serves() else "it neither serves nor ends")
        if status == 0:
            raise Mismatch(expected, "it ends with status 0, as if all were well")
        said = "".join(text[size:] for text, size in zip(output(), earlier, strict=True))
        if "BOARD_SECRET_KEY" not in said:
            shown = last_lines(site.lab.learner_names(said), 2) or "nothing"
            raise Mismatch(expected, f"it ends with {ending(status)} and says: {shown}")


@alone
@points(1)
@look_at("wsgi.py", "BOARD_DATABASE", "DATABASE", "memory", "unlink", "remove", "create_app(")
@by_hand(
    'curl -u ada:pin-the-notice --json \'{"title": "Kept?", "body": "?"}\' '
    "127.0.0.1:5000/api/notices; BOARD_SECRET_KEY=x flask --app wsgi run --port 5001 & "
    "sleep 2; curl 127.0.0.1:5001/api/notices"
)
def test_notices_survive_a_restart(site: Site) -> None:
    """Notices survive a restart

    A server is restarted for every new version, and when it crashes. What visitors wrote must be
    on a disk by then.
    """
    title = pin(site)
    if not shows(site, title):
        raise Mismatch(
            "the notice that was just pinned",
            "a board without it",
            "Each request opens the database: one in memory is new, and empty, each time.",
        )
    restart(site)
    if not shows(site, title):
        raise Mismatch("the notice that was pinned before the restart", "a board without it")


@alone
@needs(test_notices_survive_a_restart)
@points(2)
@look_at("wsgi.py", "BOARD_DATABASE", "DATABASE", "create_app(")
@by_hand(
    "BOARD_SECRET_KEY=x BOARD_DATABASE=/tmp/other.db flask --app wsgi run --port 5001 & "
    "sleep 2; curl 127.0.0.1:5001/healthz; ls -l /tmp/other.db"
)
def test_database_comes_from_the_environment(make_site: Callable[..., Site]) -> None:
    """The database is where the environment says

    The server has its disk and its backups, your laptop has others. The same code runs on both
    when the path is not in it.
    """
    first, second = "/var/lib/board/first.db", "/home/board/second.sqlite3"
    site = make_site(env={"BOARD_DATABASE": first})

    def pin_in(path: str, when: str) -> str:
        title = pin(site)
        if site.box.read(path) is None:
            raise Mismatch(
                f"{when}, the notices are in {path}",
                "no such file",
                "The notice was pinned: it went into another file.",
            )
        return title

    title = pin_in(first, f"with BOARD_DATABASE={first}")
    restart(site, BOARD_DATABASE=second)
    if shows(site, title):
        raise Mismatch(f"with BOARD_DATABASE={second}, a new board", f"the notices of {first}")
    pin_in(second, f"with BOARD_DATABASE={second}")
    site.service("flask").env.pop("BOARD_DATABASE")
    try:
        restart(site)
    except StartFailed as failed:
        failed.note = failed.note or "In this check, BOARD_DATABASE is not set at the last start."
        raise
    pin_in(DEFAULT_DATABASE, "without BOARD_DATABASE")


@alone
@needs(test_database_comes_from_the_environment)
@points(1)
@look_at("wsgi.py", "healthz", "before_request", "DATABASE", "connect(")
@by_hand("cd /var/lib/board; rm -f board.db; mkdir board.db; curl -i http://127.0.0.1:5000/healthz")
def test_healthz_tells_whether_the_database_opens(make_site: Callable[..., Site]) -> None:
    """/healthz tells whether the database opens

    A load balancer and your alarm ask here. A page that always says 200 is an alarm that is
    switched off; a board that does not even start cannot tell what is wrong.
    """
    folder = "/var/lib/board/later"
    path = f"{folder}/board.db"
    try:
        site = make_site(env={"BOARD_DATABASE": path})
    except StartFailed as failed:
        raise StartFailed(
            failed.service,
            "the site starts, and /healthz says 503, while the database cannot be opened",
            failed.got,
            failed.place,
            f"In this check, {folder}/ does not exist at first.",
            failed.look_at,
        ) from None

    def refuse_health(why: str) -> None:
        status = get(site, "/healthz").status_code
        if status != 503:
            raise Mismatch(f"status 503 while {why}", f"status {status}")

    # An app may make the folder. Then the database can be opened.
    if get(site, "/healthz").status_code != 200 or site.box.read(path) is None:
        refuse_health(f"the folder of {path} does not exist")
    site.box.write(File(f"{folder}/.keep", b""))
    if not wait_for(lambda: get(site, "/healthz").status_code == 200, 5):
        raise Mismatch("status 200 once the database can be opened", "another status, for 5 s")
    # It goes while the board runs, and a folder is in its place.
    run(site, ["sh", "-c", f"rm -f {path}*; mkdir {path}"])
    refuse_health(f"{path} has become a folder")
    # In the place of the next one stands a folder from the start.
    path = f"{folder}/other.db"
    site.box.write(File(f"{path}/.keep", b""))
    restart(site, BOARD_DATABASE=path)
    refuse_health(f"{path} is a folder")


@points(1)
@look_at("wsgi.py", "Lock(", "Semaphore", "threaded", "lock")
@by_hand("time (for i in $(seq 8); do curl -s '127.0.0.1:5000/slow?seconds=0.25' & done; wait)")
def test_slow_requests_overlap(site: Site) -> None:
    """Slow requests overlap

    Most of a slow request is waiting: for a database, for another service. Meanwhile others can be
    served; the development server does so, with a thread for each request.
    """

    def at_once() -> float:
        calls = [lambda: get(site, f"/slow?seconds={SLOW_SECONDS}")] * SLOW_VISITORS
        timed = site.together(calls)
        for one in timed:
            if one.error:
                raise one.error
            assert one.value.status_code == 200
        return max(one.seconds for one in timed)

    # A busy machine may be late once; a queue is late each time.
    if at_once() >= SLOW_LIMIT and (took := at_once()) >= SLOW_LIMIT:
        raise Mismatch(
            f"{SLOW_VISITORS} requests of {SLOW_SECONDS:g} s, sent at once, are all answered "
            f"within {SLOW_LIMIT:g} s",
            f"the last answer came after {took:.1f} s",
        )

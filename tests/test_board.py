"""The app that every lab serves: what the labs' checks rely on."""

# ruff: noqa: D102 -- the name of a test says what it tests

import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from flask import Flask, session
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

BOARD = Path(__file__).resolve().parent.parent / "labs" / "board"
sys.path.insert(0, str(BOARD))

from board import assets, auth, create_app, files, learning, operators  # noqa: E402

ADA = {"name": "ada", "password": "pin-the-notice"}
BASIC = ("ben", "read-the-board")
EMPTY = hashlib.sha256().hexdigest()
PROCESSES = 6

fork = multiprocessing.get_context("fork")


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flask:
    monkeypatch.setenv("BOARD_SECRET_KEY", "a key for tests")
    monkeypatch.setenv("BOARD_DATABASE", str(tmp_path / "board.db"))
    monkeypatch.setenv("BOARD_INSTANCE", "test-host")
    return create_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def member(app: Flask) -> FlaskClient:
    """A visitor who has logged in."""
    client = app.test_client()
    assert client.post("/login", data=ADA).status_code == 303
    return client


# Starting


@pytest.mark.parametrize("key", [None, "", "  "])
def test_no_key_no_app(monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    monkeypatch.delenv("BOARD_SECRET_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("BOARD_SECRET_KEY", key)
    with pytest.raises(RuntimeError, match="BOARD_SECRET_KEY is not set"):
        create_app()


def test_flask_run_without_a_key_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "wsgi.py").write_text("from board import create_app\n\napp = create_app()\n")
    env = {k: v for k, v in os.environ.items() if k != "BOARD_SECRET_KEY"}
    run = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "run", "--port", "0"],
        cwd=tmp_path,
        env=env | {"PYTHONPATH": str(BOARD)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert run.returncode == 1
    assert "BOARD_SECRET_KEY" in run.stderr


def test_the_environment_is_read_when_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOARD_SECRET_KEY", "one")
    monkeypatch.delenv("BOARD_DATABASE", raising=False)
    assert create_app().config["DATABASE"] == "/var/lib/board/board.db"
    monkeypatch.setenv("BOARD_SECRET_KEY", "two")
    monkeypatch.setenv("BOARD_DATABASE", "/elsewhere.db")
    app = create_app()
    assert (app.config["SECRET_KEY"], app.config["DATABASE"]) == ("two", "/elsewhere.db")


def test_without_a_database_it_starts_and_says_so(app: Flask, tmp_path: Path) -> None:
    app.config["DATABASE"] = str(tmp_path / "missing" / "board.db")
    client = app.test_client()
    assert client.get("/healthz").status_code == 503
    assert client.get("/healthz").get_json()["status"] == "the database cannot be opened"
    assert client.get("/").status_code == 500
    assert client.get("/api/notices").status_code == 500
    assert client.get("/stats").status_code == 503
    assert client.get("/whoami").status_code == 200
    (tmp_path / "missing").mkdir()
    assert client.get("/healthz").status_code == 200
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("make", [lambda p: p.write_text("no database " * 50), lambda p: p.mkdir()])
def test_a_file_that_is_no_database(
    app: Flask, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    path = tmp_path / "odd"
    make(path)
    app.config["DATABASE"] = str(path)
    assert app.test_client().get("/healthz").status_code == 503


def test_the_database_is_found_at_request_time(app: Flask, tmp_path: Path) -> None:
    client = app.test_client()
    client.post("/api/notices", json={"title": "Here", "body": "only"}, auth=BASIC)
    app.config["DATABASE"] = str(tmp_path / "other.db")
    assert "Here" not in client.get("/").text
    app.config["DATABASE"] = str(tmp_path / "board.db")
    assert "Here" in client.get("/").text


# Several processes at once


def in_processes(work: Callable[[Barrier], None]) -> None:
    """Run the work in several processes, which start it at the same moment."""
    barrier = fork.Barrier(PROCESSES)
    processes = [fork.Process(target=work, args=(barrier,)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * PROCESSES


@pytest.mark.parametrize("attempt", range(5))
def test_workers_that_start_at_once_make_one_schema(app: Flask, attempt: int) -> None:
    def work(barrier: Barrier) -> None:
        client = app.test_client()
        barrier.wait(10)
        assert client.get("/healthz").status_code == 200
        assert len(client.get("/api/notices").get_json()["notices"]) == 4

    in_processes(work)
    with sqlite3.connect(app.config["DATABASE"]) as database:
        assert database.execute("SELECT count(*) FROM notices").fetchone() == (4,)


def test_workers_write_at_once(app: Flask) -> None:
    def work(barrier: Barrier) -> None:
        client = app.test_client()
        barrier.wait(10)
        for _ in range(5):
            reply = client.post("/api/notices", json={"title": "t", "body": "b"}, auth=BASIC)
            assert reply.status_code == 201

    in_processes(work)
    with sqlite3.connect(app.config["DATABASE"]) as database:
        assert database.execute("SELECT count(*) FROM notices").fetchone() == (4 + 5 * PROCESSES,)


@pytest.mark.parametrize("limit", [operators.LIMIT, 2000])
def test_the_count_is_exact_across_processes(
    app: Flask, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Also while the file is summed up again and again, as the small limit makes it."""
    monkeypatch.setattr(operators, "LIMIT", limit)

    def work(barrier: Barrier) -> None:
        client = app.test_client()
        barrier.wait(10)
        for number in range(200):
            client.get("/whoami")
            client.get(f"/echo/{number % 3} ü%0A")

    in_processes(work)
    stats = app.test_client().get("/stats").get_json()
    assert stats["paths"]["/whoami"] == 200 * PROCESSES
    assert sum(n for path, n in stats["paths"].items() if path.startswith("/echo/")) == (
        200 * PROCESSES
    )
    assert stats["paths"]["/stats"] == 1
    assert stats["total"] == 400 * PROCESSES + 1


def test_the_file_of_counts_stays_small(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "LIMIT", 5000)
    monkeypatch.setattr(operators, "MOST_PATHS", 5)
    client = app.test_client()
    for number in range(300):
        client.get("/whoami")
        client.get(f"/echo/{number}/{'ü' * 300}")
    size = os.path.getsize(app.config["DATABASE"] + ".requests")
    stats = client.get("/stats").get_json()
    assert size < 5000 + 5 * 250
    assert stats["total"] == 601
    assert stats["paths"]["/whoami"] == 300
    assert stats["paths"]["others"] > 100


def test_counting_is_cheap(app: Flask) -> None:
    with app.test_request_context("/whoami"):
        operators.count_request()
        start = time.perf_counter()
        for _ in range(1000):
            operators.count_request()
        assert (time.perf_counter() - start) / 1000 < 500e-6  # about 10 µs on an idle machine


# Pages


def test_home_speaks_two_languages(client: FlaskClient) -> None:
    english = client.get("/", headers={"Accept-Language": "fr, en;q=0.5"})
    german = client.get("/", headers={"Accept-Language": "de-AT"})
    assert '<h1 lang="en">What the house should know</h1>' in english.text
    assert '<h1 lang="de">Was das Haus wissen sollte</h1>' in german.text
    assert english.headers["Vary"] == german.headers["Vary"] == "Accept-Language"


@pytest.mark.parametrize("path", ["/", "/notices/1", "/api/notices"])
def test_who_may_keep_a_page(client: FlaskClient, member: FlaskClient, path: str) -> None:
    client.set_cookie("theme", "dark")
    anonymous = client.get(path)
    assert anonymous.headers["Cache-Control"] == "public, max-age=2"
    assert "Cookie" not in anonymous.headers.get("Vary", "")
    assert "Set-Cookie" not in anonymous.headers
    assert client.head(path).headers["Cache-Control"] == "public, max-age=2"
    assert member.get(path).headers["Cache-Control"] == "private, no-store"


@pytest.mark.parametrize("path", ["/big", "/notices/999", "/slow?seconds=0", "/login", "/account"])
def test_other_replies_are_not_public(client: FlaskClient, path: str) -> None:
    assert "public" not in client.get(path).headers.get("Cache-Control", "")


def test_a_page_of_its_own_for_404_and_500(client: FlaskClient) -> None:
    for path in "/nothing", "/notices/999", "/notices/" + "9" * 5000, "/echo", "/static//style.css":
        reply = client.get(path)
        assert (reply.status_code, reply.mimetype) == (404, "text/html")
        assert "This notice board has no such page" in reply.text
    crash = client.get("/crash")
    assert crash.status_code == 500
    assert "Something broke on our side" in crash.text
    assert "Traceback" not in crash.text and "RuntimeError" not in crash.text
    assert client.get("/").status_code == 200


def test_headers(client: FlaskClient) -> None:
    for path in "/", "/nothing", "/crash", "/static/style.css", "/api/nothing":
        assert client.get(path).headers["X-Powered-By"] == "Flask"
    unwanted = {"Content-Security-Policy", "X-Frame-Options", "X-Content-Type-Options"}
    assert not unwanted & set(client.get("/").headers.keys())


def test_no_inline_script_or_style(client: FlaskClient, member: FlaskClient) -> None:
    pages = [
        client.get("/"),
        client.get("/login"),
        client.get("/nothing"),
        client.get("/crash"),
        client.get("/notices/1"),
        member.get("/notices/new"),
        member.get("/account?note=x"),
    ]
    for page in pages:
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|data:", page.text)
        assert re.findall(r"<script[^>]*>(.*?)</script>", page.text) == [""]


def test_static_files_come_from_flask_itself(client: FlaskClient) -> None:
    linked = set(re.findall(r"(?:href|src|srcset)=\"(/static/[^\"]+)", client.get("/").text))
    assert len(linked) == 6
    for path in linked | {"/static/robots.txt", "/static/fonts/board.woff2", "/static/motd"}:
        assert client.get(path).status_code == 200, path
    assert client.get("/static/Grüße vom Brett.txt").status_code == 200
    assert client.get("/static/../static_secret.txt").status_code == 404


def test_fingerprinted_files_are_made_from_the_content(app: Flask, tmp_path: Path) -> None:
    static = BOARD / "static"
    for name in assets.NAMES:
        content = (static / name).read_bytes()
        made = assets.fingerprinted(name, content)
        assert re.fullmatch(r"(style|app|img/board)\.[0-9a-f]{8}\.(css|js|png)", made)
        assert (static / made).read_bytes() == content, "run: flask --app wsgi fingerprint"
        assert assets.fingerprinted(name, content + b"\n") != made
    assert len(list(static.rglob("*.????????.*"))) == len(assets.NAMES), "an old one is left"
    copied = tmp_path / "static"
    shutil.copytree(static, copied, ignore=shutil.ignore_patterns("*.????????.*"), symlinks=True)
    app.static_folder = str(copied)
    said = app.test_cli_runner().invoke(args=["fingerprint"]).output.split()
    assert said == [assets.fingerprinted(one, (static / one).read_bytes()) for one in assets.NAMES]
    assert all((copied / name).is_file() for name in said)


def test_pages_name_the_fingerprinted_files_when_told_to(app: Flask) -> None:
    def linked() -> set[str]:
        page = app.test_client().get("/").text
        return set(re.findall(r"(?:href|src|srcset)=\"/static/([^\"]+)", page))

    plain = linked()
    assert set(assets.NAMES) < plain
    app.config["FINGERPRINTS"] = True
    names = assets.current_names(BOARD / "static")
    assert linked() == {names.get(one, one) for one in plain}
    assert not linked() & set(assets.NAMES)
    assert all(app.test_client().get(f"/static/{one}").status_code == 200 for one in linked())


def test_a_file_without_a_copy_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text("a {}")
    assert assets.current_names(tmp_path) == {}


def test_the_planted_files_are_what_they_claim() -> None:
    static = BOARD / "static"
    assert (static / "wsgi.py").is_symlink()
    with sqlite3.connect(static / "backup.sqlite3") as database:
        assert "No visitor" in database.execute("SELECT text FROM about").fetchone()[0]
    assert (static / "fonts/board.woff2").read_bytes()[:4] == b"wOF2"
    assert (static / "favicon.ico").read_bytes()[:4] == b"\0\0\1\0"
    assert json.loads((static / "data.json").read_text())
    assert all((BOARD / name).is_file() for name in ("static_secret.txt", "static-private/key.txt"))
    assert sum(path.stat().st_size for path in static.rglob("*") if path.is_file()) < 200_000


def test_private_files_are_for_members(client: FlaskClient, member: FlaskClient) -> None:
    reply = client.get("/files/keys.txt")
    assert (reply.status_code, reply.headers["Location"]) == (303, "/login?next=/files/keys.txt")
    assert "X-Accel-Redirect" not in reply.headers
    reply = member.get("/files/keys.txt")
    assert (reply.status_code, reply.data) == (200, b""), "Nginx sends the file"
    assert reply.headers["X-Accel-Redirect"] == "/private/keys.txt"
    assert reply.headers["Content-Disposition"] == "attachment; filename=keys.txt"
    assert (reply.mimetype, reply.headers["Cache-Control"]) == ("text/plain", "private, no-store")
    for name in "none.txt", "..", "../wsgi.py", "..%2Fwsgi.py", "%2e%2e", "", "a%00b", "a%0d%0ab":
        reply = member.get(f"/files/{name}")
        assert reply.status_code == 404, name
        assert "X-Accel-Redirect" not in reply.headers


def test_some_private_files_are_for_one_member(app: Flask, member: FlaskClient) -> None:
    path = "/files/letter%20to%20ada.txt"
    assert member.get(path).headers["X-Accel-Redirect"] == "/private/letter%20to%20ada.txt"
    ben = app.test_client()
    assert ben.post("/login", data={"name": "ben", "password": "read-the-board"}).status_code == 303
    reply = ben.get(path)
    assert reply.status_code == 403
    assert "X-Accel-Redirect" not in reply.headers
    assert ben.get("/files/keys.txt").status_code == 200
    assert {path.name for path in (BOARD / "private").iterdir()} > set(files.OWNERS)
    assert set(files.OWNERS.values()) < set(auth.USERS)


# Sessions


def test_login_and_logout(client: FlaskClient) -> None:
    assert client.get("/account?note=hi").headers["Location"] == "/login?next=/account?note%3Dhi"
    reply = client.post("/login?next=/account?note%3Dhi", data=ADA)
    assert (reply.status_code, reply.headers["Location"]) == (303, "/account?note=hi")
    cookie = reply.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Secure" not in cookie
    assert client.get("/account").status_code == 200
    assert "Set-Cookie" not in client.get("/account").headers
    assert client.get("/logout").status_code == 405
    assert client.post("/logout").status_code == 303
    assert client.get("/account").status_code == 303


@pytest.mark.parametrize(
    "data", [{}, {"name": "ada"}, ADA | {"password": "wrong"}, ADA | {"name": "<b>eve"}]
)
def test_a_wrong_password_opens_nothing(client: FlaskClient, data: dict[str, str]) -> None:
    reply = client.post("/login", data=data)
    assert reply.status_code == 403
    assert "Set-Cookie" not in reply.headers
    assert "<b>" not in reply.text


def test_a_login_takes_less_than_a_tenth_of_a_second(client: FlaskClient) -> None:
    def login() -> float:
        start = time.perf_counter()
        client.post("/login", data=ADA)
        return time.perf_counter() - start

    assert min(login() for _ in range(5)) < 0.1


@pytest.mark.parametrize("target", ["//evil.test", "https://evil.test", "/\\evil.test", "x", ""])
def test_the_way_back_stays_on_the_site(client: FlaskClient, target: str) -> None:
    reply = client.post("/login", query_string={"next": target}, data=ADA)
    assert reply.headers["Location"] == "/"


@pytest.mark.parametrize("where", ["cross-site", "same-site"])
def test_foreign_forms_are_refused(member: FlaskClient, where: str) -> None:
    headers = {"Sec-Fetch-Site": where}
    assert member.post("/logout", headers=headers).status_code == 403
    assert member.delete("/api/notices/1", headers=headers).status_code == 403
    assert member.get("/account", headers=headers).status_code == 200
    ours = {"Sec-Fetch-Site": "same-origin"}
    form = {"title": "t", "body": "b"}
    assert member.post("/notices/new", data=form, headers=ours).status_code == 303


def test_a_session_is_worthless_under_another_key(
    app: Flask, member: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookie = member.get_cookie("session")
    assert cookie is not None
    monkeypatch.setenv("BOARD_SECRET_KEY", "another key")
    for application, status in (app, 200), (create_app(), 303):
        client = application.test_client()
        client.set_cookie("session", cookie.value)
        assert client.get("/account").status_code == status


def test_account_shows_the_token_beside_the_note(member: FlaskClient) -> None:
    with member:
        page = member.get("/account", query_string={"note": "<b>&"}).text
        token = session["token"]
    assert re.fullmatch(r"[0-9a-f]{32}", token)
    assert f"token={token}" in page
    assert '<q id="note">&lt;b&gt;&amp;</q>' in page


# Notices


def test_pin_a_notice(client: FlaskClient, member: FlaskClient) -> None:
    assert client.post("/notices/new", data={"title": "t", "body": "b"}).status_code == 303
    assert member.get("/notices/new").status_code == 200
    reply = member.post("/notices/new", data={"title": " <i>Piano ", "body": "Söft & loud"})
    assert reply.headers["Location"] == "/notices/5"
    page = client.get("/notices/5").text
    assert "&lt;i&gt;Piano" in page and "Söft &amp; loud" in page and "ada" in page
    assert "Piano" in client.get("/").text


@pytest.mark.parametrize("title", ["", " ", "x" * 121])
def test_a_notice_that_will_not_do(member: FlaskClient, title: str) -> None:
    reply = member.post("/notices/new", data={"title": title, "body": "kept"})
    assert reply.status_code == 400
    assert "The title must be a text of 1 to 120 characters." in reply.text
    assert "kept</textarea>" in reply.text


def test_api(client: FlaskClient, member: FlaskClient) -> None:
    created = client.post("/api/notices", json={"title": "T", "body": "B"}, auth=BASIC)
    assert (created.status_code, created.headers["Location"]) == (201, "/api/notices/5")
    notice = created.get_json()
    assert notice == {
        "id": 5,
        "title": "T",
        "body": "B",
        "author": "ben",
        "created": notice["created"],
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", notice["created"])
    assert client.get("/api/notices/5").get_json() == notice
    listed = client.get("/api/notices").get_json()["notices"]
    assert listed[0] == notice and [n["id"] for n in listed] == [5, 4, 3, 2, 1]
    assert client.delete("/api/notices/5").status_code == 401
    assert client.delete("/api/notices/5", auth=("ben", "wrong")).status_code == 401
    assert client.delete("/api/notices/5", auth=BASIC).status_code == 204
    assert member.delete("/api/notices/5").status_code == 404
    again = member.post("/api/notices", json={"title": "T", "body": "B"})
    assert (again.get_json()["author"], again.get_json()["id"]) == ("ada", 6)


def test_notices_stay_deleted(client: FlaskClient) -> None:
    for notice in range(1, 5):
        client.delete(f"/api/notices/{notice}", auth=BASIC)
    assert client.get("/api/notices").get_json() == {"notices": []}
    assert "The board is empty" in client.get("/").text


def test_errors_of_the_api_are_problem_details(client: FlaskClient) -> None:
    def refused(reply: TestResponse, status: int) -> TestResponse:
        assert (reply.status_code, reply.mimetype) == (status, "application/problem+json")
        problem = json.loads(reply.data)
        assert problem["status"] == status and problem["title"] and problem["detail"]
        return reply

    new = {"title": "t", "body": "b"}
    basic = refused(client.post("/api/notices", json=new), 401).headers["WWW-Authenticate"]
    assert basic.startswith("Basic")
    refused(client.post("/api/notices", json=new, headers={"Authorization": "odd"}), 401)
    refused(client.post("/api/notices", json=new | {"title": ""}, auth=BASIC), 400)
    refused(client.post("/api/notices", json=new | {"title": 7}, auth=BASIC), 400)
    refused(client.post("/api/notices", json=new | {"title": "\ud800"}, auth=BASIC), 400)
    refused(client.post("/api/notices", json=[], auth=BASIC), 400)
    refused(client.post("/api/notices", data=new, auth=BASIC), 415)
    refused(client.post("/api/notices", data="{", content_type="application/json", auth=BASIC), 400)
    refused(client.get("/api/notices/99"), 404)
    refused(client.get("/api/nothing"), 404)
    assert "GET" in refused(client.put("/api/notices/1"), 405).headers["Allow"]


# For learning


def test_whoami(client: FlaskClient) -> None:
    reply = client.get(
        "/whoami",
        base_url="https://board.example:8443",
        headers={"X-Thing": "1"},
        environ_base={"REMOTE_ADDR": "203.0.113.7"},
    )
    seen = reply.get_json()
    assert seen["client"] == "203.0.113.7"
    assert (seen["scheme"], seen["host"]) == ("https", "board.example:8443")
    assert seen["url"] == "https://board.example:8443/whoami"
    assert (seen["pid"], seen["instance"]) == (os.getpid(), "test-host")
    assert seen["headers"]["X-Thing"] == "1"
    assert client.get("/whoami", environ_base={"REMOTE_ADDR": ""}).get_json()["client"] == ""


def test_whoami_does_not_look_at_sessions(member: FlaskClient) -> None:
    reply = member.get("/whoami")
    assert reply.headers["Cache-Control"] == "no-store"
    assert "Vary" not in reply.headers


@pytest.mark.parametrize(
    "target",
    [
        "/echo/a%2Fb?x=1&x=2",
        "/echo/",
        "/echo//",
        "/echo//a//b/?",
        "//echo//x",
        "/echo/%E2%82%AC/%ff%00%0A?%ff=%zz",
        "/echo/a+b%20c;d=e:@!$&'()*,~",
        "/echo/./a/../b/%2e%2E/?a=b?c",
    ],
)
@pytest.mark.parametrize("variable", ["RAW_URI", "REQUEST_URI"])
def test_echo_tells_the_raw_target(client: FlaskClient, target: str, variable: str) -> None:
    path, _, query = target.partition("?")
    environ: dict[str, object] = {"RAW_URI": None, "REQUEST_URI": None, variable: target}
    reply = client.get("/echo/unused", environ_overrides=environ).get_json()
    assert (reply["path"], reply["query"]) == (path, query)
    assert (reply["method"], reply["length"], reply["sha256"]) == ("GET", 0, EMPTY)


@pytest.mark.parametrize(
    "path", ["/echo/", "/echo//", "//echo//a//b/", "/echo/€/\xff\0\n/", "/echo/a/../b"]
)
def test_echo_is_reached_by_odd_paths(app: Flask, path: str) -> None:
    wsgi_path = path.encode().decode("latin-1")
    environ = {"PATH_INFO": wsgi_path, "RAW_URI": None, "REQUEST_URI": None}
    assert app.test_client().get("/", environ_overrides=environ).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE", "HEAD"])
def test_echo_takes_every_method(client: FlaskClient, method: str) -> None:
    reply = client.open("/echo/x", method=method, data=b"hello")
    assert reply.status_code == 200
    if method != "HEAD":
        seen = reply.get_json()
        assert (seen["method"], seen["length"]) == (method, 5)
        assert seen["sha256"] == hashlib.sha256(b"hello").hexdigest()


class OncePerRead(io.RawIOBase):
    """A chunked body as a server hands it over: its length is known at the end."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces

    def read(self, size: int = -1, /) -> bytes:
        assert 0 < size <= 1 << 20, "a body is read in pieces"
        return next(self.pieces, b"")


@pytest.mark.parametrize("path", ["/echo/x", "/upload"])
def test_chunked_bodies_are_read(client: FlaskClient, path: str) -> None:
    pieces = [b"x" * 65536] * 32
    environ = {"wsgi.input": OncePerRead(iter(pieces)), "wsgi.input_terminated": True}
    environ["CONTENT_LENGTH"] = ""
    reply = client.post(path, environ_overrides=environ).get_json()
    assert reply["length"] == 1 << 21
    assert reply["sha256"] == hashlib.sha256(b"x" * (1 << 21)).hexdigest()


def broken() -> Iterator[bytes]:
    """Give a body that breaks off with an exception of the server's own."""
    yield b"abc"
    raise ValueError("a bad chunk")


@pytest.mark.parametrize("pieces", [broken, lambda: iter([b"abc"])])
def test_a_body_that_breaks_off_is_400(
    client: FlaskClient, pieces: Callable[[], Iterator[bytes]]
) -> None:
    environ = {"wsgi.input": OncePerRead(pieces()), "wsgi.input_terminated": True}
    assert (
        client.post("/echo/x", environ_overrides=environ | {"CONTENT_LENGTH": "9"}).status_code
        == 400
    )


def test_upload(client: FlaskClient, tmp_path: Path) -> None:
    body = os.urandom(2_000_000)
    expected = {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert client.post("/upload", data=body).get_json() == expected | {"name": None}
    form = {"note": "x", "file": (io.BytesIO(body), "Töne.bin")}
    assert client.post("/upload", data=form).get_json() == expected | {"name": "Töne.bin"}
    plain = client.post("/upload", data={"a": "b"}).get_json()  # url-encoded is a raw body too
    assert plain["length"] == 3
    nothing = client.post("/upload", data={"a": "b"}, content_type="multipart/form-data")
    assert nothing.status_code == 400
    assert {path.name for path in tmp_path.iterdir()} == {"board.db.requests"}


@pytest.mark.parametrize("query", ["slow?seconds=", "burn?ms=", "big?kb="])
@pytest.mark.parametrize("number", ["nan", "inf", "-1", "1e9", "much", ""])
def test_bad_numbers_get_a_sentence(client: FlaskClient, query: str, number: str) -> None:
    reply = client.get(f"/{query}{number}")
    assert reply.status_code == 400
    assert re.search(r"The parameter \w+ must be a number from 0 to \d+\.", reply.text)


def test_slow_and_burn_take_their_time(client: FlaskClient) -> None:
    start = time.monotonic()
    assert client.get("/slow?seconds=0.1").get_json()["seconds"] == 0.1
    assert time.monotonic() - start >= 0.1
    cpu = time.thread_time()
    assert client.get("/burn?ms=30").get_json()["ms"] == 30
    assert time.thread_time() - cpu >= 0.03


def test_stream_sends_five_events_one_by_one(client: FlaskClient) -> None:
    start = time.monotonic()
    reply = client.get("/stream", buffered=False)
    assert reply.mimetype == "text/event-stream"
    first = next(reply.iter_encoded())
    assert first == b": for 127.0.0.1\nid: 1\ndata: event 1 of 5\n\n"
    assert len(list(reply.iter_encoded())) == 4
    assert time.monotonic() - start >= 0.75


def test_big_is_exact_and_always_the_same(client: FlaskClient) -> None:
    one = client.get("/big?kb=100")
    assert (len(one.data), one.mimetype) == (102_400, "text/html")
    assert client.get("/big").data == one.data
    assert len(client.get("/big?kb=1").data) == 1024


def test_go_stays_on_the_site(client: FlaskClient) -> None:
    def go(to: str) -> TestResponse:
        return client.get("/go", query_string={"to": to}, base_url="https://board.example")

    assert go("/login").status_code == 302
    assert go("/login").headers["Location"] == "https://board.example/login"
    assert go("/").headers["Location"] == "https://board.example/"
    assert go("/a b?x=1&y=ü").headers["Location"] == "https://board.example/a%20b?x=1&y=%C3%BC"
    for to in "//evil.test", "/\\evil.test", "https://evil.test/", "login", "", "/a\r\nX: y":
        assert go(to).status_code == 400, to


def test_stamp_never_comes_twice_and_says_what_it_is_told(client: FlaskClient) -> None:
    seen = set()
    for says, wanted in learning.KEEPING.items():
        reply = client.get(f"/stamp?says={says}", base_url="https://board.example")
        assert reply.headers.get("Cache-Control", "") == wanted
        assert "Set-Cookie" not in reply.headers
        told = reply.get_json()
        assert told["url"] == "https://board.example/stamp"
        seen.add(told["stamp"])
    assert len(seen) == len(learning.KEEPING)
    assert "Cache-Control" not in client.get("/stamp").headers
    assert client.get("/stamp?says=whatever").status_code == 400
    assert client.get("/stamp?kb=-1").status_code == 400
    reply = client.get("/stamp?says=public&cookie=1&kb=2")
    assert reply.headers["Set-Cookie"].startswith(f"stamp={reply.get_json()['stamp']};")
    assert reply.headers["Cache-Control"] == "public, max-age=60"
    assert len(reply.get_json()["padding"]) == 2048


def test_stats_counts_what_reached_the_app(client: FlaskClient) -> None:
    for path in "/", "/", "/nothing", "/crash", "/static/style.css", "/echo/a?b":
        client.get(path)
    client.post("/login", headers={"Sec-Fetch-Site": "cross-site"})
    expected = {"/": 2, "/nothing": 1, "/crash": 1, "/static/style.css": 1, "/echo/a": 1}
    stats = client.get("/stats").get_json()
    assert stats["paths"] == expected | {"/login": 1, "/stats": 1}
    assert stats["total"] == 8


def test_every_user_has_a_real_hash() -> None:
    assert set(auth.USERS) == {"ada", "ben"}
    assert auth.check_password("ada", "pin-the-notice")
    assert auth.check_password(*BASIC)
    assert not auth.check_password("ada", "read-the-board")
    assert not auth.check_password("nobody", "pin-the-notice")


@pytest.mark.parametrize("status", [404, 413, 502, 503, 504])
def test_the_given_error_pages_need_nothing_else(status: int) -> None:
    page = (BOARD / "errors" / f"{status}.html").read_text()
    assert f'<p class="status">{status}</p>' in page
    assert re.findall(r'(?:href|src)="([^"]*)"', page) == ["/"]
    assert not re.search(r"url\(|@import|<script|<link", page)

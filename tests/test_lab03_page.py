"""Lab 03's page: every command on it is run, every output and every error-log line is real."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from grader.errors import StartFailed
from grader.lab import SOLUTIONS, find_lab, read_submission
from grader.sandbox import File
from grader.site import Site, wait_for

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "labs" / "03-nginx.md").read_text()
LAB = find_lab("03")
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
MASKS = [
    (r"app-[0-9a-f]{12}", "app-x"),
    (r'"pid": \d+', '"pid": x'),
    (r"curl/[\d.]+", "curl/x"),
    (r"after \d+ ms: .*", "after x ms"),  # the rest is worded differently from curl to curl
]
TROUBLE = PAGE.partition("\n## What can go wrong\n")[2].partition("\n## ")[0]
TROUBLES = dict(re.findall(r"^### (.*?)\n(.*?)(?=^### |\Z)", TROUBLE, re.MULTILINE | re.DOTALL))


def masked(text: str) -> str:
    """Leave out what differs from run to run and from machine to machine."""
    for pattern, replacement in MASKS:
        text = re.sub(pattern, replacement, text)
    return text.strip()


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and content, without the indentation."""
    return [
        (language, re.sub(rf"^{indent}", "", body, flags=re.MULTILINE))
        for indent, language, body in BLOCK.findall(text)
    ]


def steps() -> list[tuple[list[str], str]]:
    """The page's commands, block by block, each with the output that is shown for it."""
    found = []
    told = blocks(PAGE)
    for (language, body), (next_language, output) in zip(told, [*told[1:], ("", "")], strict=True):
        if language == "console":
            found.append((body.splitlines(), output if next_language == "text" else ""))
    return found


def sessions() -> dict[str, list[tuple[list[str], str]]]:
    """The commands for the box, by the `./course up` that opens it; other `./course` apart."""
    made: dict[str, list[tuple[list[str], str]]] = {}
    current = ""
    for commands, output in steps():
        for command in [one[2:] for one in commands if one.startswith("$ ")]:
            current = command
            made.setdefault(command, [])
        made[current].append(([one[2:] for one in commands if one.startswith("# ")], output))
    return made


@pytest.mark.parametrize("command", sessions())
def test_commands_print_what_the_page_shows(command: str) -> None:
    words = command.split()
    assert words[0] == "./course"
    script = "exec 2>&1\n"
    for inside, _ in sessions()[command]:
        script += "echo '<<<<'\n" + "\n".join(inside) + "\n"
    done = subprocess.run(
        [sys.executable, "-m", "grader", *words[1:]],
        input=script,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    if words[1] != "up":
        assert done.returncode == 0
        assert sessions()[command][0][1].strip() in done.stdout
        return
    printed = done.stdout.split("<<<<\n")[1:]
    assert [masked(one) for one in printed] == [masked(out) for _, out in sessions()[command]]


def test_shown_lines_are_those_of_real_files() -> None:
    folders = [SOLUTIONS / "03", ROOT / "tests" / "right" / "03", ROOT / "tests" / "wrong" / "03"]
    files = [one for folder in folders for one in folder.rglob("*") if one.is_file()]
    texts = ["\n".join(map(str.strip, one.read_text().splitlines())) for one in files]
    shown = [body for language, body in blocks(PAGE) if language in ("nginx", "python")]
    assert shown
    for body in shown:
        lines = "\n".join(map(str.strip, body.splitlines()))
        assert "--8<--" in body or any(lines in text for text in texts), body


def site_with(*changes: tuple[str, str, str], more: tuple[File, ...] = ()) -> Site:
    """The solution, with some texts replaced: name of the file, old text, new text."""
    files = []
    for one in read_submission(LAB, SOLUTIONS / "03"):
        data = one.data
        for name, old, new in changes:
            if LAB.files[name] == one.path:
                assert old.encode() in data
                data = data.replace(old.encode(), new.encode())
        files.append(replace(one, data=data))
    return Site(LAB, [*files, *more])


def not_started(*changes: tuple[str, str, str]) -> str:
    """What nginx says when it does not start, with the path that it says it with."""
    with pytest.raises(StartFailed) as failed:
        site_with(*changes)
    return "[emerg] " + failed.value.got.replace("nginx.conf", LAB.files["nginx.conf"])


def refused() -> str:
    """Nobody listens."""
    with site_with(("nginx.conf", "127.0.0.1:8000", "127.0.0.1:5000")) as site:
        assert site.get("/whoami").status_code == 502
        return site.error_log()


def no_socket() -> str:
    """Nginx looks for a unix socket; Gunicorn listens on TCP."""
    to_socket = ("nginx.conf", "127.0.0.1:8000", "unix:/run/board/gunicorn.sock")
    with site_with(to_socket) as site:
        assert site.get("/whoami").status_code == 502
        return site.error_log()


def worker_died() -> str:
    """A worker is killed while it has a request."""
    # On a connection that was kept open, Nginx would ask once more.
    with site_with(("nginx.conf", "keepalive 16;", "")) as site:
        gunicorn = site.service("gunicorn")

        def kill_all() -> None:
            asked = wait_for(lambda: "/slow" in site.get("/stats").json()["paths"], 10)
            assert asked
            gunicorn.signal(signal.SIGKILL, gunicorn.workers())

        reply, _ = site.together([lambda: site.get("/slow?seconds=30", timeout=20), kill_all])
        assert reply.value.status_code == 502
        return site.error_log()


def timed_out() -> str:
    """The app is slower than Nginx is patient."""
    patience = ("nginx.conf", "proxy_http_version", "proxy_read_timeout 1s; proxy_http_version")
    with site_with(patience) as site:
        assert site.get("/slow?seconds=3").status_code == 504
        return site.error_log()


def too_large() -> str:
    """An upload of 1.1 MB."""
    with site_with() as site:
        assert site.post("/upload", data=b"x" * 1_100_000).status_code == 413
        return site.error_log()


def no_live_upstreams() -> str:
    """A crash counts as a dead server; the second one leaves nobody."""
    twice = "zone board 64k; server 127.0.0.1:8000; server 127.0.0.1:8000;"
    retry = "proxy_next_upstream error timeout http_500; proxy_http_version"
    with site_with(
        ("nginx.conf", "server 127.0.0.1:8000;", twice), ("nginx.conf", "proxy_http_version", retry)
    ) as site:
        assert [site.get("/crash").status_code for _ in range(2)] == [500, 502]
        return site.error_log()


def missing_semicolon() -> str:
    """The directive before lacks its semicolon."""
    return not_started(("nginx.conf", "proxy_http_version 1.1;", "proxy_http_version 1.1"))


def misspelt_upstream() -> str:
    """There is no such upstream."""
    return not_started(("nginx.conf", "http://board;", "http://borad;"))


def port_taken() -> str:
    """Gunicorn has port 80 already."""
    return not_started(("gunicorn.conf.py", "127.0.0.1:8000", "0.0.0.0:80"))


def welcome() -> str:
    """Debian's own site beside ours."""
    text = b"server { listen 80 default_server; root /usr/share/nginx/html; }"
    with site_with(more=(File("/etc/nginx/sites-enabled/default", text),)) as site:
        assert "Welcome to nginx!" in site.get("/", host="192.0.2.80").text
        assert "Welcome to nginx!" not in site.get("/").text
        return site.error_log()


MISTAKES: dict[str, Callable[[], str]] = {
    "502 Bad Gateway at once": refused,
    "502 Bad Gateway with a unix socket": no_socket,
    "502 Bad Gateway after a while": worker_died,
    "504 Gateway Time-out": timed_out,
    "413 Request Entity Too Large": too_large,
    "502 after one page has crashed": no_live_upstreams,
    "Nginx does not start, and points at an innocent line": missing_semicolon,
    "Nginx does not start: host not found": misspelt_upstream,
    "Nginx does not start: address already in use": port_taken,
    '"Welcome to nginx!"': welcome,
}


@pytest.mark.parametrize("heading", TROUBLES)
def test_mistakes_leave_the_line_that_the_page_shows(heading: str) -> None:
    log = MISTAKES[heading]()
    lines = [body.strip() for language, body in blocks(TROUBLES[heading]) if language == "text"]
    assert all(line in log for line in lines), log
    assert lines or not log


def test_all_mistakes_are_on_the_page() -> None:
    assert list(MISTAKES) == list(TROUBLES)


@pytest.mark.parametrize("kind", ["slow headers", "slow uploads", "slow readers"])
def test_nginx_holds_slow_visitors_and_gunicorn_alone_cannot(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "bench"))
    import slow_clients

    monkeypatch.setattr(slow_clients, "PATIENCE", 10.0)
    behind = slow_clients.measure(80, kind, 50, visitors=20)
    assert (len(behind.served), behind.gave_up) == (20, 0)
    monkeypatch.setattr(slow_clients, "PATIENCE", 2.0)
    monkeypatch.setattr(slow_clients, "ENOUGH", 1)
    # One of its two workers may have got all the slow ones: then the other serves, by luck.
    alone = slow_clients.measure(8000, kind, 50, visitors=40)
    assert alone.gave_up == 1

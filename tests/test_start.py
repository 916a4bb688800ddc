"""Files that do not start: one card each, in the learner's names, and everything else blocked."""

from __future__ import annotations

import os
import random
import re
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT, Graded, grade

LAB = "03"
SOLUTION = ROOT / "solutions" / LAB
WSGI = (SOLUTION / "wsgi.py").read_bytes()
GUNICORN = (SOLUTION / "gunicorn.conf.py").read_bytes()
NGINX = (SOLUTION / "nginx.conf").read_bytes()
MOST = 6000  # characters of one card


@dataclass(frozen=True)
class Case:
    """A mistake: the file, what is in it, and what the card must say."""

    name: str
    file: str
    data: bytes
    says: tuple[str, ...]
    place: str = ""


CASES = [
    # --- nginx.conf
    Case(
        "nginx syntax error",
        "nginx.conf",
        NGINX.replace(b"listen 80;", b"listen 80"),
        ('invalid parameter "listen"',),
        "nginx.conf:8",
    ),
    Case(
        "nginx brace left open",
        "nginx.conf",
        NGINX.rstrip().removesuffix(b"}"),
        ("unexpected end of file", "A `{` further up has no `}`"),
        "nginx.conf:",
    ),
    Case(
        "nginx brace too many",
        "nginx.conf",
        NGINX + b"}\n",
        ('unexpected "}"', "There is a `}` too many"),
        "nginx.conf:",
    ),
    Case(
        "nginx.conf with all that stands in /etc/nginx/nginx.conf",
        "nginx.conf",
        b"http {\n" + NGINX + b"}\n",
        ('"http" directive is not allowed here', "begin with `server`"),
        "nginx.conf:1   http {",
    ),
    Case(
        "nginx that asks the app over https",
        "nginx.conf",
        NGINX.replace(b"proxy_pass http:", b"proxy_pass https:"),
        ("status 502", "SSL_do_handshake() failed"),
        "nginx.conf:12   proxy_pass https://board;",
    ),
    Case(
        "nginx that sends two Host headers",
        "nginx.conf",
        NGINX.replace(b"proxy_set_header Host", b"proxy_set_header Host x;\nproxy_set_header Host"),
        ("status 400", "The answer says: Bad Request"),
        "nginx.conf:",
    ),
    Case(
        "nginx unknown directive",
        "nginx.conf",
        b"server {\n    listen 80;\n    proxy_set_haeder X y;\n}\n",
        ('unknown directive "proxy_set_haeder"',),
        "nginx.conf:3   proxy_set_haeder X y;",
    ),
    Case(
        "nginx unknown upstream host",
        "nginx.conf",
        b"server {\n    listen 80;\n    location / { proxy_pass http://gunicorn:8000; }\n}\n",
        ("host not found in upstream",),
        "nginx.conf:3",
    ),
    Case(
        "nginx certificate that is not there",
        "nginx.conf",
        b"server {\n    listen 443 ssl;\n    ssl_certificate /etc/x.pem;\n"
        b"    ssl_certificate_key /etc/x.pem;\n}\n",
        ("cannot load certificate", "/etc/x.pem"),
        "nginx.conf",
    ),
    Case(
        "port taken",
        "nginx.conf",
        b"server {\n    listen 80;\n    listen 8000;\n}\n",
        ("0.0.0.0:8000 failed", "Address already in use"),
        "nginx.conf",
    ),
    Case(
        "nginx.conf with a byte-order mark",
        "nginx.conf",
        b"\xef\xbb\xbf" + NGINX,
        ("unknown directive", "byte-order mark"),
        "nginx.conf:",
    ),
    Case(
        "nginx.conf in UTF-16",
        "nginx.conf",
        NGINX.decode().encode("utf-16"),
        ("UTF-16",),
        "nginx.conf:",
    ),
    Case(
        "nginx.conf of random bytes",
        "nginx.conf",
        random.Random(1).randbytes(5000),
        ("nginx.conf",),
        "nginx.conf",
    ),
    Case(
        "nginx.conf with zero bytes",
        "nginx.conf",
        b"\0" * 100 + NGINX,
        ("zero bytes",),
        "nginx.conf:",
    ),
    Case(
        "nginx.conf with escapes and bad UTF-8",
        "nginx.conf",
        b"server {\n    \x1b[31m\x1b]0;title\x07\xff\xfe 1;\n}\n",
        ("unknown directive", "\\x1b[31m"),
        "nginx.conf:2",
    ),
    Case(
        "nginx.conf of one long line",
        "nginx.conf",
        b"server { listen 80; add_header X " + b"y" * 200_000 + b"; }\n",
        ("too long parameter",),
        "nginx.conf",
    ),
    # --- wsgi.py
    Case(
        "Python syntax error",
        "wsgi.py",
        b"from board import create_app\n\napp = create_app(\n",
        ("SyntaxError", "was never closed"),
        "wsgi.py:3   app = create_app(",
    ),
    Case(
        "Python indentation error",
        "wsgi.py",
        b"from board import create_app\n\n  app = create_app()\n",
        ("IndentationError",),
        "wsgi.py:3",
    ),
    Case(
        "exception at import",
        "wsgi.py",
        b"import os\n\nkey = os.environ['NO_SUCH_KEY']\n",
        ("KeyError", "NO_SUCH_KEY"),
        "wsgi.py:3   key = os.environ['NO_SUCH_KEY']",
    ),
    Case(
        "module that is not there",
        "wsgi.py",
        b"from bord import create_app\napp = create_app()\n",
        ("ModuleNotFoundError", "bord"),
        "wsgi.py:1",
    ),
    Case(
        "exception with a long, odd text",
        "wsgi.py",
        b"raise ValueError('\\x1b[2J\\x1b]0;title\\x07\\u202e' + 'x' * 1_000_000)\n",
        ("ValueError", "\\x1b[2J", "more characters"),
        "wsgi.py:1",
    ),
    Case(
        "no app",
        "wsgi.py",
        b"from board import create_app\n\napplication = create_app()\n",
        ("Failed to find attribute 'app' in 'wsgi'.",),
        "wsgi.py",
    ),
    Case(
        "app is nothing that can be called",
        "wsgi.py",
        b"app = 'board'\n",
        ("callable",),
        "wsgi.py",
    ),
    Case(
        "master killed at import",
        "wsgi.py",
        b"import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n",
        (),
        "wsgi.py",
    ),
    Case(
        "deep recursion",
        "wsgi.py",
        b"def deeper(n):\n    return deeper(n + 1)\n\n\ndeeper(0)\n",
        ("RecursionError",),
        "wsgi.py:2",
    ),
    Case(
        "too deep for the parser",
        "wsgi.py",
        b"app = " + b"(" * 5000 + b")" * 5000 + b"\n",
        ("parenthes",),
        "wsgi.py:1",
    ),
    Case(
        "too much memory at import",
        "wsgi.py",
        b"kept = []\nwhile True:\n    kept.append(bytes(100_000_000))\n",
        ("MemoryError",),
        "wsgi.py:3",
    ),
    Case(
        "wsgi.py in UTF-16",
        "wsgi.py",
        WSGI.decode().encode("utf-16"),
        ("UTF-16",),
        "wsgi.py",
    ),
    Case(
        "wsgi.py with zero bytes",
        "wsgi.py",
        WSGI + b"\0\0\0",
        ("null bytes", "zero bytes"),
        "wsgi.py",
    ),
    Case(
        "wsgi.py of random bytes",
        "wsgi.py",
        random.Random(2).randbytes(5000),
        ("wsgi.py",),
        "wsgi.py",
    ),
    Case(
        "wsgi.py in Latin-1",
        "wsgi.py",
        WSGI + "\nname = 'Grüße'\n".encode("latin-1"),
        ("SyntaxError", "UTF-8"),
        "wsgi.py",
    ),
    Case(
        "100 MB of output at import",
        "wsgi.py",
        b"import sys\nfor _ in range(1000):\n    print('spam' * 25_000)\n"
        b"    print('spam' * 25_000, file=sys.stderr)\nraise RuntimeError('after all that')\n",
        ("RuntimeError: after all that",),
        "wsgi.py:5",
    ),
    Case(
        "output with escapes and bad UTF-8",
        "wsgi.py",
        b"import os\nos.write(2, b'\\x1b[31m\\x1b]0;title\\x07\\xff\\xfe\\x00\\n' * 50)\n"
        b"raise RuntimeError('\\x1b[31mred')\n",
        ("RuntimeError: \\x1b[31mred",),
        "wsgi.py:3",
    ),
    Case(
        "tracebacks that somebody made up",
        "wsgi.py",
        b"print('Traceback (most recent call last):\\n  File \"/etc/passwd\", line 1\\nE: fake')\n"
        b"print('Traceback (most recent call last):')\nraise RuntimeError('the real one')\n",
        ("the real one",),
        "wsgi.py:3",
    ),
    # --- gunicorn.conf.py
    Case(
        "syntax error in gunicorn.conf.py",
        "gunicorn.conf.py",
        b'bind = "127.0.0.1:8000\n',
        ("SyntaxError",),
        "gunicorn.conf.py:1",
    ),
    Case(
        "wrong type of a setting",
        "gunicorn.conf.py",
        b'bind = "127.0.0.1:8000"\nworkers = "many"\n',
        ("workers", "many"),
        "gunicorn.conf.py",
    ),
    Case(
        "worker class that is not there",
        "gunicorn.conf.py",
        b'bind = "127.0.0.1:8000"\nworker_class = "gthreads"\n',
        ("gthreads",),
        "gunicorn.conf.py",
    ),
    Case(
        "bind that cannot be",
        "gunicorn.conf.py",
        b'bind = "127.0.0.1:eight"\n',
        ("eight",),
        "gunicorn.conf.py",
    ),
    Case(
        "address that is not the machine's",
        "gunicorn.conf.py",
        b'bind = "10.1.2.3:8000"\n',
        ("10.1.2.3",),
        "gunicorn.conf.py",
    ),
    Case(
        "daemon",
        "gunicorn.conf.py",
        GUNICORN + b"daemon = True\n",
        ("background", "daemon"),
        "gunicorn.conf.py",
    ),
    Case(
        "hook that raises",
        "gunicorn.conf.py",
        GUNICORN + b"\n\ndef on_starting(server):\n    raise RuntimeError('in the hook')\n",
        ("in the hook",),
        "gunicorn.conf.py",
    ),
    Case("empty wsgi.py", "wsgi.py", b"", ("empty",), "wsgi.py"),
    Case("wsgi.py of white space", "wsgi.py", b"\n \r\n\t\n", ("empty",), "wsgi.py"),
    Case("empty nginx.conf", "nginx.conf", b"", ("empty",), "nginx.conf"),
    Case("huge file", "nginx.conf", b"#" * 5_000_000, ("5,000,000 bytes",), "nginx.conf"),
]
SLOW = [
    Case(
        "sys.exit at import",
        "wsgi.py",
        b"import sys\nsys.exit('not today')\n",
        ("each ended at once", "not today"),
        "wsgi.py",
    ),
    Case(
        "os._exit(0) at import",
        "wsgi.py",
        b"import os\nos._exit(0)\n",
        ("each ended at once",),
        "wsgi.py",
    ),
    Case(
        "killed at import",
        "wsgi.py",
        b"import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
        ("SIGSEGV",),
        "wsgi.py",
    ),
    Case(
        "endless import",
        "wsgi.py",
        b"import time\n\ntime.sleep(10_000)\n",
        ("still starting", "does not come to an end"),
        "wsgi.py",
    ),
    Case(
        "no workers",
        "gunicorn.conf.py",
        GUNICORN + b"workers = 0\n",
        ("no worker that could answer", "`workers`"),
        "gunicorn.conf.py",
    ),
    Case(
        "endless sleep in gunicorn.conf.py",
        "gunicorn.conf.py",
        b"import time\n\ntime.sleep(10_000)\n",
        ("still starting",),
        "gunicorn.conf.py",
    ),
    Case(
        "children without end at import",
        "wsgi.py",
        b"import os, time\nwhile True:\n    try:\n        if os.fork() == 0:\n"
        b"            time.sleep(1000)\n    except OSError:\n        pass\n",
        ("was stopped", "than a box may"),
        "wsgi.py",
    ),
    Case(
        "fork bomb at import",
        "wsgi.py",
        b"import os\nwhile True:\n    try:\n        os.fork() or os.setsid()\n"
        b"    except OSError:\n        pass\n",
        ("was stopped", "than a box may"),
        "wsgi.py",
    ),
    Case(
        "output without end at import",
        "wsgi.py",
        b"import os\nwhile True:\n    os.write(2, b'spam' * 10_000 + b'\\n')\n",
        ("still starting",),
        "wsgi.py",
    ),
]


def lay_out(folder: Path, case: Case) -> Path:
    """Copy the solution, with the case's file in it."""
    shutil.copytree(SOLUTION, folder)
    (folder / case.file).write_bytes(case.data)
    return folder


def check_one_card(graded: Graded) -> str:
    """Assert that the first check failed, the others are blocked; give the card."""
    first, *others = graded.results
    assert graded.names("failed") == [first], graded.output[:MOST]
    assert graded.names("blocked") == others
    assert len(others) > 5
    assert graded.code == 1
    card: str = graded.results[first]["card"]
    for text in (card, graded.output):
        assert "Traceback (most recent call last)" not in text
        assert "inconclusive" not in text
        assert "INTERNALERROR" not in text
        assert "/srv/board" not in text
        assert "/etc/nginx/sites-enabled" not in text
        odd = {one for one in text if one != "\n" and not one.isprintable()}
        assert not odd, odd
    assert len(card) < MOST
    assert card in graded.output
    return card


def flat(card: str) -> str:
    """A card as one line, however it was wrapped."""
    return " ".join(card.split())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_card(case: Case, tmp_path: Path) -> None:
    check_case(case, tmp_path)


@pytest.mark.slow
def test_one_card_of_what_takes_long_to_fail(tmp_path: Path) -> None:
    """These wait for as long as a site may take to start, so they do it side by side."""

    def complaint(case: Case) -> str:
        scratch = tmp_path / case.name
        scratch.mkdir()
        try:
            check_case(case, scratch)
        except AssertionError as error:
            return f"{case.name}: {error}"
        return ""

    with ThreadPoolExecutor(len(SLOW)) as pool:
        assert [text for text in pool.map(complaint, SLOW) if text] == []


def check_case(case: Case, scratch: Path) -> None:
    """Grade a mistake, and assert what its card says."""
    folder = lay_out(scratch / "submission", case)
    card = check_one_card(grade(LAB, f"--submission={folder}", scratch=scratch))
    for text in case.says:
        assert text in flat(card), card
    pointed = re.search(r"^  look at    (.*)$", card, re.MULTILINE)
    assert pointed, card
    assert pointed[1].startswith(case.place), card


def remove(path: Path) -> None:
    """Leave the file out."""
    path.unlink()


def make_folder(path: Path) -> None:
    """Put a folder in the place of the file."""
    path.unlink()
    path.mkdir()


def make_fifo(path: Path) -> None:
    """Put a pipe in the place of the file."""
    path.unlink()
    os.mkfifo(path)


def link_outside(path: Path) -> None:
    """Link to a file out of the folder."""
    path.unlink()
    path.symlink_to("/etc/passwd")


def link_round(path: Path) -> None:
    """Link a file to itself."""
    path.unlink()
    path.symlink_to(path.name)


def link_nowhere(path: Path) -> None:
    """Link to nothing."""
    path.unlink()
    path.symlink_to("missing.py")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (remove, "no such file"),
        (make_folder, "not a file"),
        (make_fifo, "not a file"),
        (link_outside, "leads out of the folder"),
        (link_round, "link"),
        (link_nowhere, "no such file"),
    ],
)
def test_what_is_no_file(change: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    folder = shutil.copytree(SOLUTION, tmp_path / "submission")
    change(folder / "gunicorn.conf.py")
    card = check_one_card(grade(LAB, f"--submission={folder}", scratch=tmp_path))
    assert says in flat(card)
    assert "look at    gunicorn.conf.py" in card
    assert "root:" not in card


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    folder = shutil.copytree(SOLUTION, tmp_path / "submission")
    (folder / "wsgi.py").chmod(0)
    card = check_one_card(grade(LAB, f"--submission={folder}", scratch=tmp_path))
    assert "Permission denied" in card


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("wsgi.py", WSGI.replace(b"\n", b"\r\n")),
        ("wsgi.py", b"\xef\xbb\xbf" + WSGI),
        ("gunicorn.conf.py", GUNICORN.replace(b"\n", b"\r\n")),
        ("nginx.conf", NGINX.replace(b"\n", b"\r\n")),
        ("wsgi.py", WSGI + b"\nprint('\\x1b[31m\\xff' * 1_000_000)\n"),
    ],
    ids=["CRLF", "BOM", "CRLF, gunicorn", "CRLF, nginx", "noise"],
)
def test_what_the_program_accepts_is_no_fault(name: str, data: bytes, tmp_path: Path) -> None:
    folder = shutil.copytree(SOLUTION, tmp_path / "submission")
    (folder / name).write_bytes(data)
    graded = grade(LAB, f"--submission={folder}", scratch=tmp_path)
    assert graded.names("passed") == list(graded.results), graded.output
    assert graded.code == 0


def test_links_within_the_folder_are_fine(tmp_path: Path) -> None:
    folder = shutil.copytree(SOLUTION, tmp_path / "submission")
    (folder / "wsgi.py").rename(folder / "wsgi.final.py")
    (folder / "wsgi.py").symlink_to("wsgi.final.py")
    graded = grade(LAB, f"--submission={folder}", scratch=tmp_path)
    assert graded.code == 0, graded.output

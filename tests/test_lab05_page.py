"""Lab 05's page: its commands are run, and each of its mistakes is made, to see what it says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grader.board import LOGIN
from grader.lab import SOLUTIONS, find_lab
from grader.machine import File
from grader.site import Site

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT, checks
from pages import (
    Session,
    blocks,
    check_session,
    in_box,
    not_started,
    read_page,
    sessions,
    shown_of,
    site_with,
    solution_text,
    troubles,
)

PAGE = read_page("05-compression")
LAB = find_lab("05")
TROUBLES = troubles(PAGE)
STATIC = "/srv/board/static"
PACKED = {"Accept-Encoding": "gzip"}


def lines(text: str) -> str:
    """Each line without the blanks at its ends; empty lines stay."""
    return "\n".join(map(str.strip, text.splitlines()))


@pytest.mark.parametrize("session", sessions(PAGE), ids=lambda one: one[0])
def test_commands_print_what_the_page_shows(session: Session) -> None:
    assert all(output for _, output in session[1])
    check_session(session, lines)


def test_the_deploy_packs_every_style_sheet_again() -> None:
    (packing,) = [body for language, body in blocks(PAGE) if language == "sh"]
    script = f"{packing}echo '/* new */' >>static/style.css\n{packing}"
    script += "gzip -dc static/style.css.gz | tail -n 1; ls static/app.js.gz static/img/pin.svg.gz"
    (printed,) = in_box([[script]], "05", "--solution")
    assert printed.splitlines()[-3:] == ["/* new */", "static/app.js.gz", "static/img/pin.svg.gz"]


def test_shown_lines_are_those_of_the_solution() -> None:
    assert shown_of(PAGE, solution_text(LAB)) == 9


def once(*changes: tuple[str, str]) -> tuple[str, str, str]:
    """The change of nginx.conf that replaces some texts, each of which is in it once."""
    text = changed = (SOLUTIONS / "05" / "nginx.conf").read_text()
    for old, new in changes:
        assert changed.count(old) == 1, old
        changed = changed.replace(old, new)
    return "nginx.conf", text, changed


def head(site: Site, path: str, **options: object) -> str:
    """The head of a reply."""
    reply = site.get(path, stream=True, **options)  # type: ignore[arg-type]
    first = f"HTTP/1.1 {reply.status_code} {reply.reason}\n"
    return first + "".join(f"{name}: {value}\n" for name, value in reply.headers.items())


def head_request() -> str:
    """What is not asked for does not come: HEAD or GET makes no difference."""
    with site_with(LAB) as site:
        packed = site.head("/static/style.css", headers=PACKED)
        assert packed.headers["Content-Encoding"] == "gzip"
        reply = site.head("/static/style.css", headers={"Accept-Encoding": None})
        assert "Content-Encoding" not in reply.headers
        return f"HTTP/1.1 200 {reply.reason}\n" + "".join(
            f"{name}: {reply.headers[name]}\n" for name in ("Content-Type", "Content-Length")
        )


def stale() -> str:
    """Run the page's own commands, which show that a packed neighbour is not compared."""
    change = "echo '/* new */' >>static/style.css"
    told = [step for _, inside in sessions(PAGE) for step in inside]
    commands, output = next(step for step in told if change in step[0])
    (printed,) = in_box([commands], "05", "--solution")
    assert printed.endswith(output)
    return printed


def unreadable() -> str:
    """The packed file is for its owner alone, who is not Nginx's user."""
    with site_with(LAB) as site:
        site.box.write(File(f"{STATIC}/style.css.gz", b"x", mode=0o000))
        told = head(site, "/static/style.css", headers=PACKED)
        assert "Content-Encoding: gzip" in told
        assert "Transfer-Encoding: chunked" in told  # packed anew: its length was not known
        return site.error_log()


def script_type() -> str:
    """The list has the newer name of a script's type alone."""
    with site_with(LAB, once((" application/javascript\n", "\n"))) as site:
        told = head(site, "/static/app.js", headers=PACKED)
        assert "Content-Encoding" not in told
        return told


def duplicate_type() -> str:
    """text/html is named, which is in anyway."""
    with site_with(LAB, once(("gzip_types text/css", "gzip_types text/html text/css"))) as site:
        return site.service("nginx").log()


def no_brotli() -> str:
    """Debian's nginx does not know the directive by itself."""
    return not_started(LAB, once(("    gzip on;", "    brotli on;")))


STREAM = "        proxy_buffering off;\n"


def stream_parts(site: Site, accept: str) -> int:
    """In how many pieces the events come."""
    reply = site.get("/stream", headers={"Accept-Encoding": accept}, stream=True)
    return len(list(iter(reply.raw.read1, b"")))


def events_together() -> str:
    """The events' type is in the list, and nothing says that they must not wait."""
    more = (" application/json", " text/event-stream application/json")
    with site_with(LAB, once(more, (STREAM, ""))) as site:
        assert stream_parts(site, "identity") >= 4
        assert stream_parts(site, "gzip") <= 2
        told = head(site, "/stream", headers=PACKED)
    with site_with(LAB, once(more)) as site:
        assert stream_parts(site, "gzip") >= 4
    return told


def always() -> str:
    """`gzip_static always` asks nobody."""
    with site_with(LAB, once(("gzip_static on;", "gzip_static always;"))) as site:
        site.box.write(File(f"{STATIC}/style.css.gz", b"as it lies there"))
        return head(site, "/static/style.css", headers={"Accept-Encoding": None})


def kept() -> str:
    """The gallery's cache, and an app that does not say Vary."""
    with Site(LAB, read_answer("packed-form-kept")) as site:
        assert "Content-Encoding: gzip" in head(site, "/big?kb=100", headers=PACKED)
        return head(site, "/big?kb=100", headers={"Accept-Encoding": None})


def other_address() -> str:
    """The same page by another address, which a condition on $request_uri does not know."""
    with Site(LAB, read_answer("account-by-request-uri")) as site:
        ada = site.visitor()
        ada.post("/login", data=LOGIN)
        ada.get("/account?note=hello", headers=PACKED)
        assert b"Content-Encoding" not in site.exchanges[-1].received.partition(b"\r\n\r\n")[0]
        ada.get("/%61ccount?note=hello", headers=PACKED)
        last = site.exchanges[-1]
        told = last.received.partition(b"\r\n\r\n")[0].decode().replace("\r\n", "\n")
        return f"{last.method} {last.target}\n{told}"


def no_ranges() -> str:
    """What is packed has no ranges, whether it was packed on the way or lies there."""
    ranged = {"Range": "bytes=10-99", "Accept-Encoding": None}
    path = "/static/style.css"
    with site_with(LAB) as site:
        assert site.get(path, headers=ranged).status_code == 206
        told = head(site, path, headers=ranged | PACKED)
        site.box.write(File(f"{STATIC}/style.css.gz", b"as it lies there"))
        reply = site.get(path, headers=ranged | PACKED, stream=True)
        assert (reply.status_code, reply.raw.read()) == (200, b"as it lies there")
        return told


def read_answer(name: str) -> list[File]:
    """The files of a wrong answer: the solution's, and its own over them."""
    own = ROOT / "tests" / "wrong" / "05" / name
    return [
        File(path, (own if (own / file).exists() else SOLUTIONS / "05").joinpath(file).read_bytes())
        for file, path in LAB.files.items()
    ]


MISTAKES: dict[str, Callable[[], str]] = {
    "`curl -I` says that nothing is compressed": head_request,
    "The new style sheet does not arrive": stale,
    "The packed file is there, and is not used": unreadable,
    "Scripts stay plain": script_type,
    "A warning at each start": duplicate_type,
    'Nginx does not start: unknown directive "brotli"': no_brotli,
    "Events come all at once": events_together,
    "Rubbish instead of a style sheet": always,
    "A visitor's cache shows rubbish": kept,
    "The account page is packed after all": other_address,
    "A download cannot be resumed": no_ranges,
}


@pytest.mark.parametrize("heading", TROUBLES)
def test_mistakes_show_what_the_page_says(heading: str) -> None:
    told = MISTAKES[heading]()
    shown = [body for language, body in blocks(TROUBLES[heading]) if language == "text"]
    assert shown
    for line in "".join(shown).splitlines():
        assert line in told, told


def test_all_mistakes_are_on_the_page() -> None:
    assert list(MISTAKES) == list(TROUBLES)


def test_by_hand_lines_work_as_printed() -> None:
    commands = [one.by_hand for one in checks(LAB)]
    assert all(commands)
    printed = in_box([[f"{one} || echo failed"] for one in commands], "05", "--solution")
    assert len(printed) == len(commands)
    for command, output in zip(commands, printed, strict=True):
        assert output.strip(), command
        assert "failed" not in output and "bash:" not in output, (command, output)

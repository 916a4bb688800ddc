"""Lab 06's page: every command on it is run, every output and every error-log line is real."""

from __future__ import annotations

import re
import shutil
import ssl
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from grader.errors import StartFailed
from grader.lab import SOLUTIONS, find_lab, read_solution, read_submission
from grader.machine import File
from grader.notebook import machine
from grader.site import Site, wait_for

sys.path.insert(0, str(Path(__file__).parent))
from pages import (
    blocks,
    check_session,
    in_box,
    lay_out_with,
    read_page,
    sessions,
    shown_of,
    site_with,
    solution_text,
    steps,
    troubles,
    unpadded,
)

PAGE = read_page("06-tls")
LAB = find_lab("06")
LIVE = "/etc/letsencrypt/live/board.example"
MASKS = [
    (r"Testing (cert|CA) #\S+", r"Testing \1 #<random>"),
    (r"OpenSSL/[\d.]+: error:[0-9A-F]+", "OpenSSL/<version>: error:<number>"),
]
BEFORE = PAGE.partition("\n## What can go wrong\n")[0]
TROUBLES = troubles(PAGE)
NGINX = tuple(map(int, re.findall(r"\d+", machine())[:3]))


def masked(text: str) -> str:
    """Replace what differs from run to run; no blanks at the ends of lines."""
    for pattern, replacement in MASKS:
        text = re.sub(pattern, replacement, text)
    return unpadded(text)


def test_commands_print_what_the_page_shows() -> None:
    (check, _), session = sessions(BEFORE)
    assert (check, session[0]) == ("./course check 06 --solution", "./course shell 06 --solution")
    assert len(session[1]) > 7
    check_session(session, masked)


def test_the_solution_gets_all_points() -> None:
    check_session(sessions(BEFORE)[0])


def test_shown_lines_are_those_of_the_solution() -> None:
    assert shown_of(PAGE, solution_text(LAB)) > 8


# Heading: file, old text, new text; each for the whole file.
REJECT = "    ssl_reject_handshake on;\n"
MISTAKES: dict[str, list[tuple[str, str, str]]] = {
    "It works in the browser, and nowhere else": [("nginx.conf", "fullchain.pem", "cert.pem")],
    "The certificate was renewed, and visitors get the old one": [
        ("nginx.conf", f"{LIVE}/", f"{LIVE}-old/")
    ],
    "Nginx does not start: key values mismatch": [("nginx.conf", f"{LIVE}/", f"{LIVE}-mixed/")],
    "Nginx does not start: no such certificate": [
        ("nginx.conf", "live/board.example", "live/board.exmaple")
    ],
    'Nginx does not start: no "ssl_certificate" is defined': [("nginx.conf", REJECT, "")],
    "Nginx does not start: duplicate": [
        ("nginx.conf", "upstream board {", "ssl_prefer_server_ciphers off;\nupstream board {")
    ],
    'Nginx does not start: unknown directive "http2"': [
        ("nginx.conf", " ssl http2;", " ssl;"),
        ("nginx.conf", "    # From 1.25.1 on: `http2 on;` on a line of its own.\n", ""),
        ("nginx.conf", "[::]:443 ssl;\n", "[::]:443 ssl;\n    http2 on;\n"),
    ],
    "wrong version number": [
        ("nginx.conf", "443 ssl http2", "443"),
        ("nginx.conf", "443 ssl", "443"),
        ("nginx.conf", REJECT, ""),
    ],
    "Too many redirects": [
        ("nginx.conf", "    # Text shrinks", "    return 301 https://$host$request_uri;\n    #")
    ],
    "Links and redirects lead back to http": [
        ("nginx.conf", "    proxy_set_header X-Forwarded-Proto $scheme;\n", "")
    ],
    "certbot cannot renew: 404": [("nginx.conf", "root /var/www/letse", "alias /var/www/letse")],
}
MISTAKES["certbot cannot renew: 404"].append(("nginx.conf", "letsencrypt;", "letsencrypt/;"))


def log_of(folder: Path) -> str:
    """The error log after some requests; or what nginx says when it does not start."""
    try:
        with Site(LAB, read_submission(LAB, folder)) as site:
            site.get("/whoami")
            site.get("/.well-known/acme-challenge/token")
            return site.error_log()
    except StartFailed as failed:
        return "[emerg] " + failed.got.replace("nginx.conf", LAB.files["nginx.conf"])


@pytest.mark.parametrize("heading", TROUBLES)
def test_mistakes_show_what_the_page_says(heading: str, tmp_path: Path) -> None:
    folder, body = lay_out_with(LAB, tmp_path / "mine", MISTAKES[heading]), TROUBLES[heading]
    log = log_of(folder)
    if "No line in the log" in body:
        wanted = [line for line in log.splitlines() if "acme-challenge/token" not in line]
        assert not re.search(r"\[(error|crit|alert|emerg)\]", "\n".join(wanted)), log
        commands = [[one[2:] for one in lines] for lines, _ in steps(body)]
        shown = [masked(output) for _, output in steps(body)]
        printed = in_box(commands, "06", "--submission", str(folder))
        assert [masked(one) for one in printed] == shown
    else:
        lines = [text.strip() for language, text in blocks(body) if language == "text"]
        assert len(lines) == 1
        assert lines[0] in log


def test_all_mistakes_are_on_the_page() -> None:
    assert list(MISTAKES) == list(TROUBLES)
    assert len(MISTAKES) >= 5


def verifies(site: Site) -> bool:
    """Whether a visitor who knows the course's root alone gets in."""
    context = ssl.create_default_context(cadata=site.root)
    try:
        context.wrap_socket(site.connect(port=443), server_hostname="board.example").close()
    except ssl.SSLCertVerificationError:
        return False
    return True


def test_renewed_files_are_served_after_a_reload() -> None:
    heading = "The certificate was renewed, and visitors get the old one"
    with site_with(LAB, *MISTAKES[heading]) as site:
        for name in ("privkey.pem", "fullchain.pem"):
            data = site.box.read(f"{LIVE}/{name}")
            assert data
            site.box.write(File(f"{LIVE}-old/{name}", data))
        assert not verifies(site)
        site.service("nginx").reload()
        assert wait_for(lambda: verifies(site), 10)


def test_missing_intermediate_differs_from_an_unknown_root() -> None:
    command = ["openssl s_client -connect board.example:443 </dev/null 2>/dev/null | grep ^Verif"]
    (said,) = in_box([command], "06", "--solution")
    assert said.startswith("Verification error: unable to get local issuer certificate")


@pytest.mark.skipif(NGINX >= (1, 29, 2), reason="from then on each server has its own")
def test_the_default_server_decides_about_versions() -> None:
    old = "ssl_protocols TLSv1.3;"
    for number, versions in ((0, {"TLSv1.3"}), (1, {"TLSv1.2", "TLSv1.3"})):
        files = []
        for one in read_solution(LAB):
            parts = one.data.decode().split("ssl_protocols TLSv1.2 TLSv1.3;")
            if len(parts) == 3:
                both = ["ssl_protocols TLSv1.2 TLSv1.3;"] * 2
                both[number] = old
                text = parts[0] + both[0] + parts[1] + both[1] + parts[2]
                one = replace(one, data=text.encode())
            files.append(one)
        with Site(LAB, files) as site:
            assert {name for name in ("TLSv1.2", "TLSv1.3") if speaks(site, name)} == versions


def speaks(site: Site, name: str) -> bool:
    """Whether the server agrees to a version."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    version = ssl.TLSVersion[name.replace(".", "_")]
    context.minimum_version = context.maximum_version = version
    try:
        context.wrap_socket(site.connect(port=443), server_hostname="board.example").close()
    except OSError:
        return False
    return True


def test_versions_outside_of_the_servers_are_added_to_the_given_ones(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(SOLUTIONS / "06", folder)
    text = (folder / "nginx.conf").read_text().replace("    ssl_protocols TLSv1.2 TLSv1.3;\n", "")
    weak = text.replace("ECDHE+CHACHA20;", "ECDHE+CHACHA20:ECDHE+AES:@SECLEVEL=0;")
    (folder / "nginx.conf").write_text("ssl_protocols TLSv1.2 TLSv1.3;\n" + weak)
    command = "openssl s_client -connect board.example:443 -tls1 -cipher ALL:@SECLEVEL=0 </dev/null"
    (said,) = in_box([[f"{command} 2>&1 | grep Protocol"]], "06", "--submission", str(folder))
    assert said.split() == ["Protocol", ":", "TLSv1"]

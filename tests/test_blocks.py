"""The block of an Nginx file that a request meets, for the line that a card shows."""

from __future__ import annotations

import pytest

from grader.blocks import other_blocks
from grader.card import likely_place
from grader.client import Exchange
from grader.lab import find_lab
from grader.machine import File

TWO = """\
upstream board { server 127.0.0.1:8000; }
server {
    listen 80; listen [::]:80;
    server_name board.example;
    proxy_pass one;
}
server {
    listen 80;
    listen [::]:80 default_server;
    server_name *.board.example;  # { not a block }
    proxy_pass two;
}
server {
    listen 443 ssl;
    listen [::]:443 ssl;
    proxy_pass three;
}
"""
FIRST, SECOND, THIRD = {3, 4, 5}, {8, 9, 10, 11}, {14, 15, 16}


@pytest.mark.parametrize(
    ("host", "port", "family", "met"),
    [
        ("board.example", 80, 4, FIRST),
        ("www.board.example", 80, 4, SECOND),
        ("evil.test", 80, 4, FIRST),
        ("evil.test", 80, 6, SECOND),
        ("board.example", 443, 6, THIRD),
    ],
)
def test_the_block_is_chosen_as_nginx_does(
    host: str, port: int, family: int, met: set[int]
) -> None:
    assert other_blocks(TWO, host, port, family) == (FIRST | SECOND | THIRD) - met


@pytest.mark.parametrize(
    "listen", ["", "listen 80;", "listen *:80;", "listen 192.0.2.80;", "listen 192.0.2.80:80;"]
)
def test_ways_to_say_port_80(listen: str) -> None:
    text = f"server {{ {listen} }}\nserver {{\n listen [::]:80;\n}}\n"
    assert other_blocks(text, "board.example", 80, 4) == {3}


def test_one_line_for_both_versions_of_ip() -> None:
    text = "server {\n listen 8080;\n}\nserver {\n listen [::]:80 ipv6only=off;\n}\n"
    assert other_blocks(text, "board.example", 80, 4) == {2}


@pytest.mark.parametrize("text", ["", "server {", "}", 'server { listen "', "server { listen; }"])
def test_what_is_no_file_of_nginx_has_no_other_blocks(text: str) -> None:
    assert other_blocks(text, "board.example", 80, 4) == set()


def place(host: str, source: str, text: str = TWO) -> int:
    """The line that a card would show for a request."""
    lab = find_lab("03")
    asked = Exchange("GET", "/", source, f"http://{host}/", {"Host": host})
    files = [File(lab.files["nginx.conf"], text.encode())]
    found = likely_place([("nginx.conf", "proxy_pass")], files, lab, asked)
    assert found
    return found.line


def test_the_likely_line_is_one_of_that_block() -> None:
    assert place("board.example:80", "203.0.113.7") == 5
    assert place("www.board.example", "203.0.113.7") == 11
    assert place("evil.test", "2001:db8::7") == 11
    # One that has no such line: then it is the first of all.
    assert place("www.board.example", "203.0.113.7", TWO.replace("proxy_pass two;", "")) == 5

"""`course shell`: a lab's site in its box, and a shell in there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from grader.errors import StartFailed
from grader.lab import Lab, read_submission
from grader.sandbox import SERVICE_ID, find_program, search_path, two_users_allowed
from grader.site import Site
from grader.text import clean

HELLO = """\
The site of lab {number} runs in its box; you are in it too. Try:  curl -i {url}
Logs: /var/log/nginx/. Visitors: curl --interface 203.0.113.7 …   `exit` ends the box."""


def open_shell(lab: Lab, folder: Path) -> int:
    """Start a site and a shell beside it; returns the shell's exit code.

    A site that does not start says so, and the shell opens all the same: that is when one is
    needed most.
    """
    with Site(lab, read_submission(lab, folder), start=False, wall=0) as site:
        try:
            site.start()
            print(HELLO.format(number=lab.number, url=url_of(site)), flush=True)
        except StartFailed as failed:
            print(f"{failed.service} did not start:\n{clean(failed.got)}", file=sys.stderr)
        return run_in(site, ["bash", "--norc", "-i"] if sys.stdin.isatty() else ["bash", "-s"])


def url_of(site: Site) -> str:
    """The address to try first."""
    host, port = site.front
    if isinstance(port, str):
        return f"--unix-socket {port} http://localhost/"
    return f"http://{host}/" if port == 80 else f"http://{host}:{port}/"


def run_in(site: Site, argv: list[str]) -> int:
    """Run a command in a site's box, on this terminal."""
    enter = [find_program("nsenter"), "-t", str(site.box.pid)]
    enter += ["--user", "--preserve-credentials", "--mount", "--net", "--pid", "--ipc", "--uts"]
    app = next((one.env for one in site.services.values() if one.program.app), {})
    environment = {
        **app,
        "PATH": search_path(),
        "HOME": "/home/board",
        "TERM": os.environ.get("TERM", "dumb"),
        "PS1": f"[box of lab {site.lab.number}] \\w# ",
    }
    inside = ["sh", "-c", 'cd /srv/board && exec "$@"', "sh", *argv]
    if site.lab.acme:
        from grader.acme import ENVIRONMENT

        environment |= ENVIRONMENT
        # What certbot makes must be the services' own: on a server all of it is root's.
        if two_users_allowed():
            user = str(SERVICE_ID)
            inside = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", *inside]
    return subprocess.run([*enter, "--", *inside], env=environment).returncode

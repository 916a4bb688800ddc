"""Provisioning, on a whole server: systemd, nginx and the app, in a container of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import container
from answers import ROOT
from container import APART, CLONE, Container, booted, provision
from inside import wait_until
from pages import blocks

pytestmark = pytest.mark.skipif(bool(container.missing()), reason=container.missing())

SCRIPTS = ROOT / "vagrant" / "provision"
# Everything that provisioning may write to: names, modes, owners, sizes, times, targets of links.
LOOK = "find /etc /srv /opt /usr/local /home /var/www -printf '%p %M %u %g %s %T@ %l\\n' | sort"
STATES = "systemctl show -p Id,InvocationID,ExecMainPID,StateChangeTimestamp board nginx"
WORKERS = "pgrep -P $(cat /run/nginx.pid)"


@pytest.fixture(scope="module")
def server() -> Iterator[Container]:
    """A provisioned server."""
    with container.server() as made:
        yield made


def test_packages_are_those_that_the_root_tree_holds() -> None:
    """A package that only a network could bring would be missing in every container."""
    listed = re.search(r"^packages=\((.*?)^\)", (SCRIPTS / "packages.sh").read_text(), re.M | re.S)
    assert listed
    wanted = re.sub("#.*", "", listed[1]).split()
    told = subprocess.run(
        ["dpkg-query", f"--admindir={container.ROOT_TREE}/var/lib/dpkg", "-W", *wanted],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr


def test_the_site_is_served(server: Container) -> None:
    told = json.loads(server.sh("curl -s http://board.example/whoami"))
    assert (told["host"], told["client"]) == ("board.example", "127.0.0.1")
    assert server.sh("curl -s http://board.example/healthz")
    for unit in ("board", "nginx"):
        assert server.sh(f"systemctl is-enabled {unit}; systemctl is-active {unit}").split() == [
            "enabled",
            "active",
        ]
    assert server.sh("systemctl --failed --quiet") == ""


def test_a_second_time_changes_nothing(server: Container) -> None:
    before = [server.sh(script) for script in (LOOK, STATES, WORKERS)]
    printed = provision(server)
    assert [server.sh(script) for script in (LOOK, STATES, WORKERS)] == before
    assert printed == "provision: ready: the site answers on port 80\n"


def test_the_files_are_those_of_a_box(server: Container) -> None:
    left_out = "-x __pycache__ -x large.bin -x wsgi.py -x gunicorn.conf.py"
    assert server.sh(f"diff -r --no-dereference {left_out} {CLONE}/labs/board /srv/board") == ""
    for name in ("wsgi.py", "gunicorn.conf.py"):
        server.sh(f"cmp {CLONE}/solutions/03/{name} /srv/board/{name}")
    server.sh(f"cmp {CLONE}/solutions/03/nginx.conf /etc/nginx/sites-enabled/board.conf")
    large = server.sh("od -A d -t u1 /srv/board/static/large.bin")
    numbers = [line.split() for line in large.splitlines() if line != "*"]
    assert numbers[-1] == [str(20 << 20)]
    found = {
        int(at): int(last) for at, *bytes_ in numbers[:-1] for last in bytes_[7:8] if int(last)
    }
    assert found == {number << 20: number for number in range(1, 20)}


def test_nobody_else_reads_the_secret_and_the_app_writes_only_its_own(server: Container) -> None:
    assert server.sh("stat -c '%a %U %G' /etc/board/environment") == "640 root board\n"
    secret = server.sh("cat /etc/board/environment")
    assert re.search(r"^BOARD_SECRET_KEY=[0-9a-f]{64}$", secret, re.M)
    for user in ("vagrant", "www-data"):
        asked = server.run(["runuser", "-u", user, "cat", "/etc/board/environment"], check=False)
        assert asked.returncode == 1
    assert server.sh("find /srv /opt -user board") == ""
    made = server.sh("find / -xdev -user board -type d").split()
    assert set(made) <= {
        "/run/board",
        "/var/lib/board",
        "/var/lib/board/.gunicorn",
        "/var/log/board",
        "/var/cache/board",
    }


def test_certificates_are_made_where_there_are_none(server: Container) -> None:
    live = "/etc/letsencrypt/live"
    verify = "openssl verify -CAfile /etc/letsencrypt/course-root.pem -untrusted"
    chain = f"{live}/board.example/chain.pem {live}/board.example/cert.pem"
    assert server.sh(f"{verify} {chain}").endswith("cert.pem: OK\n")
    assert server.sh(f"ls {live}").split() == [
        "board.example",
        "board.example-mixed",
        "board.example-old",
        "board.example-test",
    ]
    assert server.sh(f"stat -c %a {live} {live}/*/privkey.pem").split() == ["700", *["600"] * 4]


def test_what_somebody_changed_stays_and_what_the_course_changed_comes(server: Container) -> None:
    server.sh(
        "echo '# mine' >>/srv/board/gunicorn.conf.py"
        " && rm /srv/board/static/robots.txt"
        f" && echo '/* new */' >>{CLONE}/labs/board/static/style.css"
        " && ln -s ../sites-available/default /etc/nginx/sites-enabled/default"
        " && systemctl stop nginx && systemctl disable -q nginx"
    )
    printed = provision(server)
    assert "gunicorn.conf.py was deployed or changed: left as it is" in printed
    assert "put the app into /srv/board (2 files)" in printed
    assert "removed /etc/nginx/sites-enabled/default" in printed
    assert server.sh("tail -n 1 /srv/board/gunicorn.conf.py") == "# mine\n"
    assert server.sh("tail -n 1 /srv/board/static/style.css") == "/* new */\n"
    assert server.sh("systemctl is-enabled nginx; systemctl is-active nginx") == "enabled\nactive\n"
    again = provision(server)
    assert "left as it is" in again
    assert "put the app" not in again


def test_an_ordinary_user_and_sudo_use_the_same_environment(server: Container) -> None:
    """Neither makes anything in the clone, which may be a folder of the host's."""
    for command in (["./course", "list"], ["sudo", "./course", "list"]):
        done = server.run(command, user="vagrant", cwd=CLONE)
        assert done.stdout.splitlines()[0].startswith("01 "), done.stdout
    assert server.sh(f"ls -A {CLONE} | grep -x -e .venv -e .course || true") == ""
    assert server.sh(f"find {APART['COURSE_STATE']} ! -user vagrant") == ""


def test_boxes_are_made_possible(server: Container) -> None:
    """What Ubuntu forbids is allowed, and what is allowed is left alone."""
    name = "kernel.apparmor_restrict_unprivileged_userns"
    file = "/etc/sysctl.d/60-course-boxes.conf"
    assert server.sh(f"ls {file} 2>/dev/null || true") == ""
    fake = "/run/fake/kernel/apparmor_restrict_unprivileged_userns"
    server.sh(f"mkdir -p /run/fake/kernel && echo 1 >{fake}")
    script = f"mount --bind /run/fake /proc/sys && bash {CLONE}/vagrant/provision/boxes.sh {CLONE}"
    for said in (f"allowed namespaces to ordinary users: {name} = 0", ""):
        printed = server.run(["unshare", "--mount", "sh", "-c", script]).stdout
        assert said in printed
        assert bool(said) is bool(printed)
        assert server.sh(f"cat {fake}").strip() == "0"
        assert server.sh(f"cat {file}").splitlines()[-1] == f"{name} = 0"
    server.sh(f"rm {file}")


def test_a_shared_folder_is_watched_by_looking(server: Container) -> None:
    """The kernel does not tell of what the host changes; the greeting says whose folder it is."""
    fake = "mkdir -p /run/bin && printf '#!/bin/sh\\necho vboxsf\\n' >/run/bin/findmnt"
    server.sh(f"{fake} && chmod +x /run/bin/findmnt")
    assert "It was copied from your own machine" in server.sh("cat /etc/motd.d/course")
    run = f"PATH=/run/bin:$PATH bash {CLONE}/vagrant/provision/course.sh {CLONE}"
    server.sh(run, env=APART)
    assert "It is a folder of your own machine" in server.sh("cat /etc/motd.d/course")
    assert "WATCHFILES_FORCE_POLLING=true" in server.sh("cat /etc/environment").splitlines()
    server.sh("sed -i /WATCHFILES/d /etc/environment && rm -r /run/bin")
    provision(server)


def test_it_wants_root_and_a_clone() -> None:
    """One sentence each."""
    with booted(binds={ROOT: "/mnt/course"}) as bare:
        script = "/mnt/course/vagrant/provision/server.sh"
        refused = bare.run(["bash", script, "/mnt/course"], user="vagrant", check=False)
        assert (refused.returncode, "it needs root's rights" in refused.stdout) == (1, True)
        lost = bare.run(["bash", script, "/tmp"], check=False)
        assert (lost.returncode, "say where the course's clone is" in lost.stdout) == (1, True)


# --- The pages ----------------------------------------------------------------------------------

GUIDES = ROOT / "docs" / "guides"
NOT_HERE = re.compile(r"apt-get |usermod |vagrant plugin |brew ")  # a provider's own installation
ASKS = re.compile(r"deploy \d\d$|undeploy$|--live$")


def commands(page: str) -> list[str]:
    """The commands of a page, line by line."""
    shown = blocks((GUIDES / page).read_text())
    return [line for kind, body in shown if kind == "sh" for line in body.splitlines()]


def test_the_commands_of_the_page_about_servers_work(server: Container) -> None:
    """Typed in the clone, in the order of the page."""
    shown = commands("server.md")
    assert len(shown) == 5
    for line in shown:
        typed = f"{line} --yes" if ASKS.search(line) else line
        done = server.run(["sh", "-c", typed], user="vagrant", cwd=CLONE, check=False)
        assert done.returncode == 0, f"{typed}\n{done.stdout}"
    assert json.loads(server.sh("curl -s http://board.example/whoami"))["host"] == "board.example"


def test_the_commands_of_the_page_about_the_machine_are_run() -> None:
    """In a virtual machine, by tests/vm/run; or below."""
    run = (ROOT / "tests" / "vm" / "run").read_text()
    for line in commands("vagrant.md"):
        inside = re.fullmatch(r"vagrant ssh -c 'cd course && (.*)'", line)
        tried = inside[1] if inside else line
        if not NOT_HERE.search(line) and tried not in SERVERS and not tried.startswith("cd "):
            assert f'"{tried}' in run or f'"{tried}'.replace("03", "{lab}") in run, line


SERVERS = {
    "./course notebooks --no-browser --ip=0.0.0.0": "http://127.0.0.1:8888/api/contents",
    "./course serve --dev-addr=0.0.0.0:8001": "http://127.0.0.1:8001/",
}


@pytest.mark.parametrize("command", SERVERS)
def test_notebooks_and_site_are_served(command: str) -> None:
    """To the host of a virtual machine; the notebooks only to who knows the token."""
    assert command in commands("vagrant.md")
    python = (ROOT / ".venv" / "bin" / "python").resolve()
    tree = Path(f"{container.ROOT_TREE}{python}")
    if not (ROOT / ".venv" / ".course-dev").is_file() or not tree.is_file():
        pytest.skip("the course's own environment is not complete, or not of this Debian's Python")
    # An environment works at its own path alone, so the clone is where it is here.
    with booted(binds={ROOT: str(ROOT)}) as box:
        unit = ["systemd-run", "--quiet", "--unit=tried", "--uid=vagrant", "--setenv=HOME=/tmp"]
        box.run([*unit, "sh", "-c", f"cd {ROOT} && COURSE_STATE=/tmp/state exec {command}"])
        said = "journalctl --quiet -o cat -u tried"

        def status(query: str = "") -> str:
            """What it answers; "000" while nothing listens."""
            got = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", SERVERS[command] + query]
            return box.run(got, check=False).stdout

        def decided() -> bool:
            """Whether it answers, or has ended."""
            runs = box.run(["systemctl", "is-active", "-q", "tried"], check=False).returncode == 0
            return status() != "000" or not runs

        wait_until(decided, f"an answer to {command}", 100)
        if "notebooks" in command:
            assert status() == "403"
            token = re.search(r"token=(\w+)", box.sh(said))
            assert token
            assert status(f"?token={token[1]}") == "200"
        else:
            assert status() == "200", box.sh(said)

"""The sites that systemd runs: where they can be, where they cannot, and what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from grader import tree
from grader.errors import UsageError
from grader.lab import find_lab, read_solution
from grader.site import Site, wait_for
from grader.systemd import ContainerServer, SystemdSite

sys.path.insert(0, str(Path(__file__).parent))
from answers import ROOT, checks

LAB = find_lab("12")
in_container = pytest.mark.skipif(bool(tree.missing()), reason=tree.missing())


def test_where_it_cannot_be_every_check_is_inconclusive_and_one_sentence_says_where() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(LAB.folder), "--solution"],
        env={**os.environ, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3, done.stdout
    assert done.stdout.count("inconclusive") >= len(checks(LAB))
    assert "0 passed, 0 failed" in done.stdout
    told = " ".join(done.stdout.split())
    assert told.count("Lab 12 is about systemd") == 1
    assert "vagrant up" in told
    assert "docs/guides/vagrant.md" in told


def test_what_a_tree_takes_is_said() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "grader", "tree"],
        env={**os.environ, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 3
    assert "no root tree can be made here" in done.stderr
    assert "root" in done.stderr or "apt-get install" in done.stderr


def test_no_box_takes_it() -> None:
    with pytest.raises(UsageError, match="no box has one"):
        Site(LAB, read_solution(LAB))


@in_container
def test_a_container_is_gone_when_it_is_closed() -> None:
    server = ContainerServer()
    inside = server._container
    server.begin(LAB)
    site = SystemdSite(LAB, read_solution(LAB), server)
    site.start()
    assert site.get("/whoami").json()["pid"] in site.pids()
    done = site.run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.status, done.output) == (7, "out\nerr\n")
    site.close()
    assert not Path(f"/proc/{inside.init}").exists()
    assert not list(Path("/tmp").glob(f"{inside.name}*"))
    assert list(Path("/sys/fs/cgroup").glob(f"*/{inside.name}")) == []


@in_container
def test_a_container_ends_with_its_grader() -> None:
    code = """
import os, sys
sys.path.insert(0, sys.argv[1])
from grader.systemd import ContainerServer
server = ContainerServer()
print(server._container.init, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, timeout=60
    )
    init = Path("/proc", done.stdout.strip())
    assert init.name.isdecimal(), done
    assert wait_for(lambda: not init.exists(), 10)

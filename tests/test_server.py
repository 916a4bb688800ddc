"""A whole server: prepared, deployed to, graded live, broken, put back. It runs in a container."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from answers import answers, expectation, lay_out
from container import APART, CLONE, Container, missing
from container import server as booted_server
from server import course, grade_live, place_submission

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

SITE = "/etc/nginx/sites-enabled/board.conf"
# What a live grading must leave as it was, in one text.
# Gunicorn's own folder is there when its workers are, a moment after the first answer.
STATE = """
find /srv/board /etc/nginx /etc/letsencrypt -type f -exec sha256sum {} + | sort
find /srv/board /etc/nginx /etc/letsencrypt /var/lib/board -name .gunicorn -prune \\
    -o -printf '%p %m %u %g %l\\n' | sort
ls -A /run/systemd/system; test ! -e /run/course-live
ip addr show lo; ip route show table local; cat /proc/sys/net/ipv4/tcp_[rw]mem
systemctl is-active board nginx; systemctl is-enabled board nginx
systemctl show board nginx -p Environment,EnvironmentFiles,StandardOutput,DropInPaths
sqlite='import sqlite3; print(*sqlite3.connect("/var/lib/board/board.db").iterdump())'
python3 -c "$sqlite"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Container]:
    with booted_server() as made:
        yield made


def deploy(server: Container, lab: str, *options: str) -> str:
    code, said = course(server, "deploy", lab, "--yes", *(options or ("--solution",)))
    assert code == 0, said
    return said


def answer(name: str, folder: Path) -> Path:
    """A wrong answer, laid out whole."""
    found = next(one for one in answers("wrong") if f"{one.parent.name}/{one.name}" == name)
    return lay_out(found, folder / found.name)


def status(server: Container, url: str = "http://board.example/") -> str:
    return server.run(["curl", "-sko", "/dev/null", "-w", "%{http_code}", url], check=False).stdout


# Lab 08 has hosts that a server has not; one check of lab 07 puts the clock forward, three of lab
# 13 run programs beside the services, three of lab 15 need an empty cache, and one two sites.
NOT_LIVE = {
    "07": ["kept"],
    "13": ["secrets", "jq", "rotation"],
    "15": ["app-down", "programs", "slow-clients", "budget"],
}


@pytest.mark.parametrize(
    "lab",
    [
        *("02", "03", "04", "05", "06"),
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("07", "09", "10", "13", "15")),
    ],
)
def test_a_deployed_solution_passes_live_and_nothing_else_changes(
    server: Container, lab: str
) -> None:
    deploy(server, lab)
    before = server.sh(STATE)
    graded = grade_live(server, lab)
    left = NOT_LIVE.get(lab, [])
    assert graded.results
    assert (graded.names("inconclusive"), graded.names("failed")) == (left, []), graded.output
    assert len(graded.names("blocked")) == (lab == "13"), graded.output
    assert graded.code == (3 if left else 0)
    assert server.sh(STATE) == before


@pytest.mark.slow
def test_the_lab_about_systemd_is_graded_live_and_everything_is_put_back(
    server: Container,
) -> None:
    deploy(server, "03")
    before = server.sh(STATE)
    graded = grade_live(server, "12", "--solution")
    assert (graded.code, graded.names("passed")) == (0, list(graded.results)), graded.output
    assert server.sh(STATE) == before
    assert status(server) == "200"


def test_a_wrong_answer_about_systemd_is_caught_live(server: Container, tmp_path: Path) -> None:
    wrong = place_submission(server, answer("12/no-restart", tmp_path))
    chosen = "site_answers or killed"
    graded = grade_live(server, "12", f"--submission={wrong}", "-k", chosen)
    assert (graded.code, graded.names("failed")) == (1, ["killed"]), graded.output


@pytest.mark.parametrize(
    "name",
    ["03/article-sample", "03/no-temporary-file", "04/alias-without-slashes", "06/default-ciphers"],
)
def test_a_wrong_answer_is_caught_live(server: Container, name: str, tmp_path: Path) -> None:
    wrong = answer(name, tmp_path)
    deploy(server, name[:2], "--submission", place_submission(server, wrong))
    graded = grade_live(server, name[:2])
    expected = expectation(Path(__file__).parent / "wrong" / name)["fails"]
    assert graded.names("failed") == expected, graded.output
    assert graded.code == 1
    course(server, "undeploy", "--yes")


def test_what_does_not_start_is_refused_and_nothing_changes(
    server: Container, tmp_path: Path
) -> None:
    deploy(server, "03")
    before = server.sh(STATE)
    for name, words in (
        ("nginx.conf", "Nginx refuses the files"),
        ("wsgi.py", "Gunicorn refuses the files"),
        ("gunicorn.conf.py", "Gunicorn refuses the files"),
    ):
        broken = lay_out_solution(tmp_path / f"broken-{name}", "03")
        (broken / name).write_text("this is { nonsense\n")
        code, said = course(
            server, "deploy", "03", "--yes", "--submission", place_submission(server, broken)
        )
        assert code == 1 and words in said and f"{name}" in said, said
        assert "Traceback" not in said.splitlines()[0]
    assert server.sh(STATE) == before


def lay_out_solution(folder: Path, lab: str) -> Path:
    """A copy of a lab's solution."""
    folder.mkdir()
    for one in (Path(__file__).parent.parent / "solutions" / lab).iterdir():
        if one.is_file():
            (folder / one.name).write_bytes(one.read_bytes())
    return folder


def test_a_site_that_does_not_answer_is_rolled_back(server: Container, tmp_path: Path) -> None:
    deploy(server, "03")
    before = server.sh(STATE)
    broken = lay_out_solution(tmp_path / "wrong-port", "03")
    site = broken / "nginx.conf"
    site.write_text(site.read_text().replace("127.0.0.1:8000", "127.0.0.1:8001"))
    code, said = course(
        server, "deploy", "03", "--yes", "--submission", place_submission(server, broken)
    )
    assert code == 1 and "status 502" in said and "is back, and serves" in said, said
    assert server.sh(STATE) == before
    assert status(server) == "200"


def test_deploys_are_taken_back_one_by_one(server: Container) -> None:
    deploy(server, "03")
    first = server.sh(f"cat {SITE}")
    deploy(server, "04")
    second = server.sh(f"cat {SITE}")
    assert first != second
    assert "Nothing to do" in deploy(server, "04")
    server.sh(f"echo '# mine' >>{SITE}")
    code, said = course(server, "undeploy", "--yes")
    assert code == 0 and f"{SITE} was changed since" in said, said
    kept = said.rstrip().rpartition(" ")[2]
    assert server.sh(f"cat {kept}/board.conf") == second + "# mine\n"
    assert server.sh(f"cat {SITE}") == first


def test_what_no_deploy_wrote_is_named_and_kept(server: Container) -> None:
    deploy(server, "03")
    server.sh(f"echo '# by hand' >>{SITE}")
    by_hand = server.sh(f"cat {SITE}")
    command = [f"{CLONE}/course", "deploy", "04", "--solution"]
    done = server.run(command, env=APART, check=False)
    assert done.returncode != 0 and "no deploy wrote it" in done.stdout, done.stdout
    assert server.sh(f"cat {SITE}") == by_hand
    assert "no deploy wrote it; a copy is kept" in deploy(server, "04")
    course(server, "undeploy", "--yes")
    assert server.sh(f"cat {SITE}") == by_hand


def test_dry_run_changes_nothing(server: Container) -> None:
    deploy(server, "03")
    before = server.sh(STATE)
    code, said = course(server, "deploy", "06", "--solution", "--dry-run")
    assert code == 0 and f"{SITE}  is replaced; a copy is kept" in said, said
    assert server.sh(STATE) == before


def test_a_deploy_that_was_killed_is_taken_back_by_the_next(server: Container) -> None:
    deploy(server, "03")
    before = server.sh(f"cat {SITE}")
    # As if it had been killed after it wrote: the last deploy is not whole.
    deploy(server, "04")
    path = "/var/lib/course-deploy/history.json"
    told = json.loads(server.sh(f"cat {path}"))
    told[-1]["whole"] = False
    server.run(["sh", "-c", f"cat >{path}"], typed=json.dumps(told))
    said = deploy(server, "03")
    assert "had broken off" in said and "Nothing to do" in said
    assert server.sh(f"cat {SITE}") == before


def test_a_machine_that_is_no_course_server_is_left_alone(server: Container) -> None:
    server.sh("mv /etc/board/course-server /etc/board/hidden")
    try:
        code, said = course(server, "deploy", "04", "--solution", "--yes")
        assert code == 2 and "--force" in said
        code, said = course(server, "deploy", "04", "--solution", "--yes", "--force")
        assert code == 0, said
    finally:
        server.sh("mv /etc/board/hidden /etc/board/course-server")


@pytest.mark.parametrize("victim", ["grader", "agent"])
def test_a_live_grading_that_is_killed_leaves_nothing(server: Container, victim: str) -> None:
    deploy(server, "02")
    before = server.sh(STATE)
    server.sh(
        f"systemd-run --quiet --collect --unit=grading-{victim} -p KillMode=process"
        f" --setenv=COURSE_VENV={APART['COURSE_VENV']} --setenv=COURSE_STATE=/run/course-state"
        f" {CLONE}/course check 02 --live --yes"
    )
    find = {
        "grader": "$(systemctl show grading-grader -p MainPID --value)",
        "agent": "$(pgrep -f '[g]rader.agent')",
    }
    # The app, started for the grading, has answered somebody.
    begun = "test -s /run/course-live/gunicorn.stdout"
    server.sh(f"timeout 20 sh -c 'until {begun}; do sleep 0.1; done'")
    server.sh(f"kill -KILL {find[victim]}")
    if victim == "agent":
        # What it left, the next grading puts back first.
        graded = grade_live(server, "02", "-k", "answers")
        assert graded.code == 0, graded.output
    server.sh("timeout 60 sh -c 'while [ -e /run/course-live ]; do sleep 0.1; done'")
    assert server.sh(STATE) == before


@pytest.mark.parametrize("victim", ["grader", "agent"])
def test_a_grading_of_units_that_is_killed_leaves_nothing(server: Container, victim: str) -> None:
    deploy(server, "03")
    before = server.sh(STATE)
    server.sh(
        f"systemd-run --quiet --collect --unit=units-{victim} -p KillMode=process"
        f" --setenv=COURSE_VENV={APART['COURSE_VENV']} --setenv=COURSE_STATE=/run/course-state"
        f" {CLONE}/course check 12 --live --yes --solution -k 'test_restart'"
    )
    begun = "systemctl -q is-active board.socket"  # which the server itself does not have
    server.sh(f"timeout 60 sh -c 'until {begun}; do sleep 0.1; done'")
    assert "/srv/board/current" in server.sh("ls -d /srv/board/*")
    if victim == "grader":
        server.sh("kill -KILL $(systemctl show units-grader -p MainPID --value)")
    else:
        server.sh("kill -KILL $(pgrep -f '[g]rader.agent')")
        # What it left, the next grading puts back first.
        graded = grade_live(server, "12", "--solution", "-k", "site_answers")
        assert graded.code == 0, graded.output
    server.sh("timeout 60 sh -c 'while [ -e /run/course-live ]; do sleep 0.1; done'")
    assert server.sh(STATE) == before


def test_live_asks_first(server: Container) -> None:
    code, said = course(server, "check", "03", "--live")
    assert code != 0 and "--yes" in said, said

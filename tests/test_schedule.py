"""What a timer or a cron table starts, and when: as systemd and cron would read it."""

from __future__ import annotations

import datetime

import pytest

from grader.commands import run
from grader.errors import Mismatch
from grader.lab import find_lab, read_solution
from grader.machine import File
from grader.schedule import (
    NEVER,
    cron_field,
    cron_line,
    cron_schedules,
    cron_times,
    delays,
    longest_gap,
    read_unit,
    shell_words,
    timer_schedule,
    variables_of,
)
from grader.site import Site

HOUR, DAY = 3600, 24 * 3600
LAB = find_lab("11")
SH = {"SHELL": "/bin/sh"}


def test_a_unit_is_read_as_systemd_does() -> None:
    text = (
        "# no\n[Timer]\nOnCalendar=daily\nOnCalendar=\nOnCalendar = a \\\n  b\n; no\n[Install]\nX=1"
    )
    assert read_unit(text) == {"Timer": {"OnCalendar": ["a    b"]}, "Install": {"X": ["1"]}}
    assert read_unit("# nothing\n") == {}


def test_a_command_of_a_unit_is_written_for_a_shell() -> None:
    assert shell_words("-/bin/sh -c 'echo $$x 5%%'", {}) == "/bin/sh -c 'echo $x 5%'"
    assert shell_words("/bin/sleep ${SPREAD} ${OTHER}", {"SPREAD": "7200"}) == "/bin/sleep 7200 ''"


def test_the_variables_of_a_unit() -> None:
    told = {"Environment": ['A=1 "B=two words"', "C=50%%=x"]}
    assert variables_of(told) == {"A": "1", "B": "two words", "C": "50%=x"}
    assert variables_of({}) == {}


@pytest.mark.parametrize(
    ("fields", "gap"),
    [
        ("0 */12 * * *", 12 * HOUR),
        ("17 3 * * *", DAY),
        ("0 0 * * 0", 7 * DAY),
        ("0 0 * * sun", 7 * DAY),
        ("0 0 * * 7", 7 * DAY),
        ("0 0 * * 1-6", 2 * DAY),
        ("0 0 1 * *", 31 * DAY),
        ("30 1,13 * jan-dec *", 12 * HOUR),
        ("0 0 1 * 1", 7 * DAY),  # either day, when both are named
        ("* * * * *", 60),
    ],
)
def test_times_of_cron(fields: str, gap: float) -> None:
    assert longest_gap([cron_times(fields.split())]) == gap


@pytest.mark.parametrize("field", ["60", "x", "5-1", "*/0", "1-", ""])
def test_a_field_that_cron_refuses(field: str) -> None:
    with pytest.raises(ValueError, match="field"):
        cron_field(field, (0, 59), {})


def test_several_times_are_followed_together() -> None:
    day = datetime.datetime(2027, 1, 1)
    one = [day + datetime.timedelta(hours=24 * n) for n in range(5)]
    other = [at + datetime.timedelta(hours=6) for at in one]
    assert longest_gap([one, other]) == 18 * HOUR
    assert longest_gap([one, [day]]) == DAY
    assert longest_gap([[day], []]) == NEVER


def test_a_line_of_cron() -> None:
    read = cron_line("renew.cron", "@daily root sleep $((RANDOM \\% 60)); x % y", SH)
    assert (read.command, read.gap) == ("sleep $((RANDOM % 60)); x", DAY)
    assert cron_line("renew.cron", "@reboot root x", SH).gap == NEVER
    for line in ("0 0 * * * /srv/board/renew.sh", "0 0 * * root x", "@often root x", "0 0 * * *"):
        with pytest.raises(Mismatch):
            cron_line("renew.cron", line, SH)


def site_with(**texts: str) -> Site:
    """A box with other texts in the files for timer and cron; nothing is started."""
    files = []
    for one in read_solution(LAB):
        name = next(name for name, path in LAB.files.items() if path == one.path)
        text = texts.get(name.replace(".", "_"))
        files.append(File(one.path, text.encode(), one.mode) if text else one)
    return Site(LAB, files, start=False)


def test_variables_of_a_cron_table_hold_for_the_lines_below_them() -> None:
    table = "A = 1\n@daily root x\nSHELL=/bin/bash\nA='2 3'\n@daily root y\n"
    with site_with(renew_cron=table) as site:
        first, second = cron_schedules(site, "renew.cron")
    assert first.variables == {"SHELL": "/bin/sh", "A": "1"}
    assert second.variables == {"SHELL": "/bin/bash", "A": "2 3"}
    assert (first.shell, second.shell) == ("/bin/sh", "/bin/bash")


def test_variables_of_a_service_reach_its_commands() -> None:
    service = "[Service]\nEnvironment=SPREAD=7200\nExecStart=/bin/sleep ${SPREAD}\n"
    service += "ExecStart=/bin/sh -c 'sleep $$SPREAD; /srv/board/renew.sh'\n"
    with site_with(renew_service=service) as site:
        read = timer_schedule(site, "renew.timer", "renew.service", "board-renew")
        assert read
        (seen,) = delays(site, read, 1, 1800, bool)
    assert seen >= 4 * HOUR


def test_what_systemd_says_of_a_timer() -> None:
    with site_with() as site:
        read = timer_schedule(site, "renew.timer", "renew.service", "board-renew")
        assert read
        assert (read.gap, read.chance, read.command) == (
            12 * HOUR,
            12 * HOUR,
            "/srv/board/renew.sh",
        )
        assert cron_schedules(site, "renew.cron") == []
        assert run(site, ["sh", "-c", "echo out; echo err >&2; exit 3"]).status == 3


@pytest.mark.parametrize(
    ("timer", "says"),
    [
        ("[Timer]\nOnCalendar=dayly\n[Install]\nWantedBy=timers.target\n", "systemd takes"),
        ("[Timer]\nOnCalendar=daily\n", "can be enabled"),
        (
            "[Timer]\nUnit=x.service\nOnCalendar=daily\n[Install]\nWantedBy=timers.target\n",
            "the timer of",
        ),
    ],
)
def test_a_timer_that_would_not_work(timer: str, says: str) -> None:
    with site_with(renew_timer=timer) as site, pytest.raises(Mismatch, match=says):
        timer_schedule(site, "renew.timer", "renew.service", "board-renew")


def test_a_timer_after_each_run() -> None:
    text = "[Timer]\nOnBootSec=5min\nOnUnitActiveSec=8h\n[Install]\nWantedBy=timers.target\n"
    with site_with(renew_timer=text) as site:
        read = timer_schedule(site, "renew.timer", "renew.service", "board-renew")
        assert read
        assert (read.gap, read.chance) == (8 * HOUR, 0)


@pytest.mark.parametrize(
    ("command", "least"),
    [
        ("sleep 3h; /srv/board/renew.sh", 3 * HOUR),
        ("perl -e 'sleep 7200' && /srv/board/renew.sh", 2 * HOUR),
        ("/srv/board/renew.sh", 0),
        ("sleep $SPREAD; /srv/board/renew.sh", 2 * HOUR),
    ],
)
def test_a_fast_clock_shows_how_long_a_command_sleeps(command: str, least: float) -> None:
    with site_with(renew_cron=f"SPREAD=7200\n0 0 * * * root {command}\n") as site:
        (read,) = cron_schedules(site, "renew.cron")
        (seen,) = delays(site, read, 1, 1800, bool)
        # Seconds of ours may pass before a busy machine has started it.
        assert least <= seen < least + 10 * 1800
        data = site.box.read("/srv/board/renew.sh")
        assert data is not None
        assert b"certbot" in data, "the real one is back"


def test_a_command_that_starts_something_else_is_not_seen() -> None:
    with site_with(renew_cron="0 0 * * * root true\n") as site:
        (read,) = cron_schedules(site, "renew.cron")
        assert delays(site, read, 2, DAY, bool) == []


def test_a_table_without_a_last_line_end_is_passed_over() -> None:
    with (
        site_with(renew_cron="0 0 * * * root /srv/board/renew.sh") as site,
        pytest.raises(Mismatch, match="line end"),
    ):
        cron_schedules(site, "renew.cron")

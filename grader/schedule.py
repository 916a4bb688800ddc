"""When a systemd timer or a cron table starts something, how often, and how much by chance.

Times of a timer are what `systemd-analyze` says of it. cron has no such program, so its table is
read here, as crontab(5) tells. What a command does before it comes to the point, sleeping above
all, shows when it is run in a box whose clock is fast.
"""

from __future__ import annotations

import datetime
import itertools
import re
import secrets
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grader.commands import Done, run
from grader.errors import Mismatch
from grader.machine import File

if TYPE_CHECKING:
    from grader.site import Site

Sections = dict[str, dict[str, list[str]]]

NEVER = float("inf")
ITERATIONS = 400  # times of a timer that are looked at
DAYS = 400  # of a cron table
TARGET = "/srv/board/renew.sh"
DAY = 24 * 3600.0
DEFAULT_PATIENCE = 90.0  # seconds, of systemd, unless it was told otherwise
SLACK = 4.0  # seconds of ours, for a machine that has too much to do
FIRST = datetime.datetime(2027, 1, 1)
STARTERS = ("OnActiveSec", "OnBootSec", "OnStartupSec")
REPEATERS = ("OnUnitActiveSec", "OnUnitInactiveSec")
USERS = ("root", "board")
SHORT = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec"
WEEKDAYS = "sun mon tue wed thu fri sat"
NAMES: tuple[dict[str, int], ...] = (
    *({}, {}, {}),
    {name: number for number, name in enumerate(MONTHS.split(), 1)},
    {name: number for number, name in enumerate(WEEKDAYS.split())},
)
BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
ELAPSE = re.compile(r"(?:Next elapse|Iter\. #\d+): (?:\w{3} )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC")
MICROSECONDS = re.compile(r"[μu]s: (\d+)")


@dataclass(frozen=True)
class Schedule:
    """One thing that is started again and again.

    Attributes:
        file: the learner's file that says so.
        gap: the longest time between two starts, in seconds; infinite when there is no next one.
        chance: by how many seconds a start is put off by chance, at most.
        command: what is started, for a shell.
        shell: the shell.
        cut: whether a % in a cron table ended the command.
        patience: after how many seconds systemd gives a start up that has not come to the point.
        variables: the command's environment, as far as the learner's file says it.
    """

    file: str
    gap: float
    chance: float
    command: str
    shell: str = "/bin/sh"
    cut: bool = False
    patience: float = NEVER
    variables: Mapping[str, str] = field(default_factory=dict)


# --- systemd ------------------------------------------------------------------------------------


def read_unit(text: str) -> Sections:
    """Read a unit file (systemd.syntax(7)): values by section and key, in their order."""
    found: Sections = {}
    section: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
            continue
        key, _, value = (part.strip() for part in line.partition("="))
        if value:
            section.setdefault(key, []).append(value)
        else:
            section[key] = []  # an empty value takes back those before
    return found


def timer_schedule(site: Site, timer: str, service: str, unit: str) -> Schedule | None:
    """Find out when a timer starts its service; None when the file has nothing but comments.

    Args:
        site: where `systemd-analyze` and `systemctl` are run.
        timer: the learner's name of the timer's file.
        service: the learner's name of the service's file.
        unit: the name of both on the server, without what follows the dot.

    Raises:
        Mismatch: systemd would not take it, or not start anything by it.
    """
    sections = read_unit(text_of(site, timer))
    if not any(sections.values()):
        return None
    folder = site.lab.files[timer].rpartition("/")[0]
    seen = run(site, ["systemd-analyze", "verify", "--man=no", f"{folder}/{unit}.timer"])
    if seen.status:
        raise Mismatch("a timer that systemd takes", last_line(site, seen), look_at=[(timer, "")])
    root = "/tmp/enabled"
    script = f"mkdir -p {root}{folder} && cp {folder}/{unit}.* {root}{folder}/"
    script += f" && systemctl --root={root} enable {unit}.timer && cd {root}{folder}"
    script += " && ls -d *.wants"
    script += " && for one in *.wants; do ls /usr/lib/systemd/system/${one%.wants}; done"
    enabled = run(site, ["sh", "-c", script])
    if enabled.status:
        nowhere = ".wants" in enabled.stdout
        raise Mismatch(
            "a timer that can be enabled, to be there after a boot",
            "it is enabled for a unit that systemd does not have"
            if nowhere
            else "`systemctl enable` finds nothing to do",
            "The section [Install] says what wants the unit: WantedBy=timers.target.",
            [(timer, "WantedBy"), (timer, "[Install]"), (timer, "")],
        )
    told = sections.get("Timer", {})
    wanted = told.get("Unit", [f"{unit}.service"])[-1]
    if wanted != f"{unit}.service":
        raise Mismatch(
            f"the timer of {unit}.service", f"one of {wanted}", look_at=[(timer, "Unit")]
        )
    calendars = told.get("OnCalendar", [])
    gap = longest_gap([elapses(site, timer, one) for one in calendars])
    if calendars or any(told.get(one) for one in STARTERS):
        repeats = [seconds_of(site, timer, one) for key in REPEATERS for one in told.get(key, [])]
        gap = min([gap, *repeats])
    delays = told.get("RandomizedDelaySec", ["0"])
    commands = read_unit(text_of(site, service)).get("Service", {})
    if commands.get("RemainAfterExit", ["no"])[-1].lower() in ("yes", "true", "on", "1", "y", "t"):
        raise Mismatch(
            "a service that can be started again",
            "one that remains active when its command has ended",
            "A timer starts a service that is not active: this one, once. Leave out "
            "RemainAfterExit.",
            [(service, "RemainAfterExit")],
        )
    lines = [one for key in ("ExecStartPre", "ExecStart") for one in commands.get(key, [])]
    variables = variables_of(commands)
    return Schedule(
        timer,
        gap,
        seconds_of(site, timer, delays[-1]) if delays else 0.0,
        " && ".join(shell_words(one, variables) for one in lines),
        patience=patience_of(site, service, commands),
        variables=variables,
    )


def patience_of(site: Site, file: str, commands: dict[str, list[str]]) -> float:
    """How long systemd lets a service start: with what ExecStartPre says (systemd.service(5))."""
    told = [*commands.get("TimeoutSec", []), *commands.get("TimeoutStartSec", [])]
    if not told:
        return NEVER if commands.get("Type", [""])[-1] == "oneshot" else DEFAULT_PATIENCE
    return NEVER if told[-1] in ("infinity", "0") else seconds_of(site, file, told[-1])


def variables_of(commands: dict[str, list[str]]) -> dict[str, str]:
    """The variables that a service sets (Environment=, see systemd.exec(5))."""
    told = [one for line in commands.get("Environment", []) for one in shlex.split(line)]
    pairs = [one.replace("%%", "%").partition("=") for one in told]
    return {name: value for name, _, value in pairs}


def shell_words(line: str, variables: Mapping[str, str]) -> str:
    """Write a command line of a unit for a shell: systemd's own prefixes and %% taken away.

    systemd puts the unit's variables in the place of ${NAME}. $$ is a $.
    """

    def meant(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1], "")

    words = [one.replace("%%", "%") for one in shlex.split(line.lstrip("-@:+!"))]
    return shlex.join(re.sub(r"\$\$|\$\{(\w+)\}", meant, one) for one in words)


def elapses(site: Site, file: str, calendar: str) -> list[datetime.datetime]:
    """The next times of a calendar event, in UTC."""
    asked = ["systemd-analyze", "calendar", f"--iterations={ITERATIONS}"]
    asked += [f"--base-time={FIRST:%Y-%m-%d %H:%M:%S} UTC", "--", calendar]
    said = run(site, asked, env={"TZ": "UTC"})
    if said.status:
        raise Mismatch(
            "times that systemd understands", last_line(site, said), look_at=[(file, calendar)]
        )
    return [datetime.datetime.fromisoformat(one) for one in ELAPSE.findall(said.stdout)]


def seconds_of(site: Site, file: str, span: str) -> float:
    """Read a time span as systemd does."""
    said = run(site, ["systemd-analyze", "timespan", "--", span])
    found = MICROSECONDS.search(said.stdout)
    if not found:
        raise Mismatch(
            "a time span that systemd understands", last_line(site, said), look_at=[(file, span)]
        )
    return int(found[1]) / 1e6


# --- cron ---------------------------------------------------------------------------------------


def cron_schedules(site: Site, file: str) -> list[Schedule]:
    """Find out what a table of /etc/cron.d starts, and when.

    Raises:
        Mismatch: cron would not read it.
    """
    text = text_of(site, file)
    found = []
    variables = {"SHELL": "/bin/sh"}
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        assigned = re.match(r"([A-Za-z_]\w*)\s*=\s*(.*)$", line)
        if assigned:
            variables[assigned[1]] = assigned[2].strip("\"'")
            continue
        found.append(cron_line(file, line, variables))
    if found and not text.endswith("\n"):
        raise Mismatch(
            "a line end after the last line",
            "none",
            "cron passes over a table whose last line is not ended.",
            [(file, text.splitlines()[-1].strip())],
        )
    return found


def cron_line(file: str, line: str, variables: Mapping[str, str]) -> Schedule:
    """Read one job of a table in /etc/cron.d: five fields or a word, a user, a command.

    Args:
        file: the learner's name of the table's file.
        line: the job.
        variables: what lines before it have set, SHELL among them.

    Raises:
        Mismatch: cron would not take it.
    """
    at = [(file, line)]
    count = 1 if line.startswith("@") else len(BOUNDS)
    parts = line.split(None, count + 1)
    times = " ".join(parts[:count])
    if line.startswith("@"):
        if times not in (*SHORT, "@reboot"):
            raise Mismatch("a time that cron understands", times, look_at=at)
        times = SHORT.get(times, "")
    if len(parts) < count + 2 or parts[count] not in USERS:
        raise Mismatch(
            "five fields, a user (root), then the command",
            line,
            "A table in /etc/cron.d says who runs the command, unlike a user's own.",
            at,
        )
    try:
        starts = cron_times(times.split()) if times else []
    except ValueError as error:
        raise Mismatch("times that cron understands", str(error), look_at=at) from None
    # An unescaped % ends the command: what follows goes to its standard input.
    command, *rest_of_line = re.split(r"(?<!\\)%", parts[-1])
    command = command.replace("\\%", "%").strip()
    return Schedule(
        file,
        longest_gap([starts]),
        0.0,
        command,
        variables["SHELL"],
        bool(rest_of_line),
        variables=dict(variables),
    )


def cron_times(fields: Sequence[str]) -> list[datetime.datetime]:
    """All times of a job within some hundred days.

    Raises:
        ValueError: a field is none of cron's; names it.
    """
    if len(fields) != len(BOUNDS):
        raise ValueError(f"{len(fields)} fields")
    sets = [cron_field(*one) for one in zip(fields, BOUNDS, NAMES, strict=True)]
    minutes, hours, days, months, weekdays = sets
    either = not fields[2].startswith("*") and not fields[4].startswith("*")
    found = []
    for number in range(DAYS):
        day = FIRST + datetime.timedelta(days=number)
        weekday = day.isoweekday() % 7
        by_day, by_weekday = day.day in days, bool({weekday, weekday or 7} & weekdays)
        if day.month in months and (by_day or by_weekday if either else by_day and by_weekday):
            found += [day.replace(hour=h, minute=m) for h in sorted(hours) for m in sorted(minutes)]
    return found


def cron_field(text: str, bounds: tuple[int, int], names: dict[str, int]) -> set[int]:
    """The numbers that a field stands for."""
    found: set[int] = set()
    for part in text.lower().split(","):
        told = re.fullmatch(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?", part)
        if not told:
            raise ValueError(f"the field {text!r}")
        try:
            if told[1] == "*":
                first, last = bounds
            else:
                first = names.get(told[1], -1) if told[1].isalpha() else int(told[1])
                end = told[2] or told[1]
                last = names.get(end, -1) if end.isalpha() else int(end)
        except ValueError:
            raise ValueError(f"the field {text!r}") from None
        step = int(told[3] or 1)
        if not bounds[0] <= first <= last <= bounds[1] or not step:
            raise ValueError(f"the field {text!r}")
        found |= set(range(first, last + 1, step))
    return found


# --- both ---------------------------------------------------------------------------------------


def delays(
    site: Site,
    schedule: Schedule,
    starts: int,
    speed: int,
    enough: Callable[[list[float]], bool],
) -> list[float]:
    """Start what a schedule starts, several times at once, in a box whose clock is fast.

    Args:
        site: where; its /srv/board/renew.sh is another meanwhile, which only looks at the clock.
        schedule: what is started.
        starts: how often.
        speed: how many times faster than ours that clock is.
        enough: tells of the delays so far whether others need not be waited for.

    Returns:
        By how many seconds of that clock renew.sh came after the start; of those that came within
        a day.
    """
    real = next(one for one in site.files if one.path == TARGET)
    log = f"/tmp/starts-{secrets.token_hex(4)}"
    stub = f'#!/bin/sh\necho "$STARTED $(date +%s.%N)" >> {log}\n'
    pairs = [f"{name}={shlex.quote(value)}" for name, value in schedule.variables.items()]
    exports = " ".join(["export STARTED=$(date +%s.%N)", *pairs])
    once = f"{exports}; exec {schedule.shell} -c {shlex.quote(schedule.command)}"
    fast = f"faketime -f '+0 x{speed}' sh -c {shlex.quote(once)}"
    argv = ["sh", "-c", f"for i in $(seq {starts}); do {fast} & done; wait"]

    def came() -> list[float]:
        lines = (site.box.read(log) or b"").decode().splitlines()
        return [float(end) - float(start) for start, end in map(str.split, lines)]

    site.box.write(File(TARGET, stub.encode(), 0o755))
    try:
        run(site, argv, seconds=DAY / speed + SLACK, enough=lambda: enough(came()))
        return came()
    finally:
        site.box.write(real)


def longest_gap(times: Iterable[Sequence[datetime.datetime]]) -> float:
    """The longest time between two starts, in seconds, where several lists are followed at once.

    It is infinite when there are not two.
    """
    lists = [one for one in times if len(one) > 1]
    if not lists:
        return NEVER
    until = min(one[-1] for one in lists)  # beyond that not all lists are known
    merged = sorted({at for one in lists for at in one if at <= until})
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(merged)]
    return max(gaps, default=NEVER)


def text_of(site: Site, name: str) -> str:
    """One of the learner's files, as it was placed."""
    return (site.submitted(name) or b"").decode("utf-8", "replace")


def last_line(site: Site, done: Done) -> str:
    """What a program complained about, in the learner's file names."""
    said = site.lab.learner_names(done.stderr).strip().splitlines()
    return said[0] if said else f"status {done.status}"

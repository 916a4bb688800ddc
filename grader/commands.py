"""Programs that a check runs in the box, beside the site, to their end."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grader.site import wait_for

if TYPE_CHECKING:
    from grader.site import Site

numbers = itertools.count(1)


@dataclass(frozen=True)
class Done:
    """How a program ended, and what it printed.

    Attributes:
        status: its exit code, negative for a signal; None when it was killed.
        stdout: what it printed.
        stderr: what it complained about.
    """

    status: int | None
    stdout: str
    stderr: str


def run(
    site: Site,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str = "/srv/board",
    seconds: float = 60.0,
    enough: Callable[[], bool] = lambda: False,
) -> Done:
    """Run a program as the services' user, and wait for its end.

    What it leaves running when it is late is killed with it.

    Args:
        site: a site; it need not be started.
        argv: the program and its arguments.
        env: more environment than every service has.
        cwd: where.
        seconds: how long it may take.
        enough: tells, again and again, whether its end need not be waited for.

    Raises:
        NotLive: the site is that of a server, where nothing runs beside the services.
    """
    name = f"{os.path.basename(argv[0])}-{next(numbers)}"
    box = site.box
    box.spawn(name, argv, dict(env or {}), cwd)

    def status() -> int | None:
        told: int | None = box.request("status")["services"][name]["status"]
        return told

    wait_for(lambda: status() is not None or enough(), seconds)
    ended = status()
    if ended is None:
        box.request("signal", service=name, signal=int(signal.SIGKILL), all=True)
    return Done(ended, box.log(name, "stdout"), box.log(name, "stderr"))

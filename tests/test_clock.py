"""A service's clock is put forward, and nobody else's."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from grader.clock import CODE, library, put_forward, restart_with_clock
from grader.errors import GraderError
from grader.site import Site

DAY = 86_400


def ahead(site: Site, path: str) -> float:
    """How many seconds the clock of who makes the reply is ahead of this machine's."""
    told = parsedate_to_datetime(site.get(path).headers["Date"])
    return told.timestamp() - time.time()


def test_the_clock_is_the_machines_until_it_is_put_forward() -> None:
    with Site.of_lab("04") as site:
        nginx = site.service("nginx")
        restart_with_clock(nginx)
        assert -3 < ahead(site, "/static/style.css") < 3
        for days in (1, 3, 0):
            put_forward(nginx, days * DAY)
            assert days * DAY - 5 < ahead(site, "/static/style.css") < days * DAY + 5
        assert site.get("/whoami").status_code == 200


@pytest.mark.parametrize("machine", CODE)
@pytest.mark.skipif(not shutil.which("readelf"), reason="readelf is not installed")
def test_the_library_is_whole_on_every_machine(machine: str, tmp_path: Path) -> None:
    path = tmp_path / "clock.so"
    path.write_bytes(library(machine))
    words = ["readelf", "--wide", "--file-header", "--use-dynamic", "--symbols", str(path)]
    told = subprocess.run(words, capture_output=True, text=True, check=True)
    assert {"x86_64": "X86-64", "aarch64": "AArch64"}[machine] in told.stdout
    assert re.search(r"FUNC +GLOBAL +DEFAULT +1 +gettimeofday$", told.stdout, re.MULTILINE)
    assert not told.stderr


def test_a_machine_without_code_is_named() -> None:
    with pytest.raises(GraderError, match="of the kind riscv64"):
        library("riscv64")

"""What the benchmarks share."""

from __future__ import annotations

import re
import subprocess

from grader.sandbox import find_program


def nginx_version() -> str:
    """Of this machine's nginx: three numbers."""
    said = subprocess.run([find_program("nginx"), "-v"], capture_output=True, text=True).stderr
    found = re.search(r"nginx/([\d.]+)", said)
    return found[1] if found else said.strip()

"""The certificate of completion: what was graded, as a picture, and a code that fits it.

The picture is an SVG file. Its `metadata` holds the result as JSON: the points, each check, the
seed, and the SHA-256 of each of the learner's files and of the checks that were asked. The code is
the beginning of that JSON's own SHA-256.

So a changed certificate is found out, and so are other files than those that were graded. It proves
nothing about somebody who writes both anew: there is no secret in it, as the course is on the
learner's own machine. To be sure, grade the files again with the seed that it names.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import secrets
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grader.errors import NotEarned, UsageError
from grader.lab import LABS, Lab, find_lab, read_file, submission_folder
from grader.text import COURSE, clean
from grader.variation import VARIABLE

CAPSTONE = "15"
ASKED = ("03", "04", "05", "06", "07", "09", "10", CAPSTONE)  # whose checks the capstone asks
DIGITS = 20  # of the code
LARGEST = 1 << 20  # bytes of a certificate
LONGEST_NAME = 60  # characters
METADATA = re.compile(r'<metadata id="result">([^<]*)</metadata>')
CODE = re.compile(r'<text id="code"[^>]*>([^<]*)</text>')


def digest(data: bytes) -> str:
    """SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()


def files_of(lab: Lab, folder: Path) -> dict[str, str]:
    """The digests of a submission's files, by their names.

    Raises:
        StartFailed: one cannot be read.
    """
    return {name: digest(read_file(folder, name, lab.number)) for name in lab.files}


def checks_digest() -> str:
    """One digest over the checks that are asked: another version of the course may ask others."""
    texts = [(LABS / number / "test_lab.py").read_bytes() for number in ASKED]
    return digest(b"\0".join(texts))


def result_of(
    name: str, day: str, seed: str, files: Mapping[str, str], checks: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What a certificate says.

    Args:
        name: whose it is, as they want it to be written.
        day: when it was graded, such as 2031-05-17.
        seed: with which what is asked was drawn.
        files: the digests of the files, by name.
        checks: the graded checks, with `check`, `verdict`, `points` and `of`.
    """
    return {
        "name": clean(name.strip(), LONGEST_NAME),
        "day": day,
        "lab": CAPSTONE,
        "points": sum(int(one["points"]) for one in checks),
        "of": sum(int(one["of"]) for one in checks),
        "checks": {one["check"]: one["verdict"] for one in checks},
        "seed": seed,
        "files": dict(files),
        "asked": checks_digest(),
    }


def canonical(result: Mapping[str, Any]) -> str:
    """The one way to write a result down."""
    return json.dumps(result, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def code_of(result: Mapping[str, Any]) -> str:
    """The code that fits a result: five groups of four digits."""
    made = digest(canonical(result).encode())[:DIGITS]
    return "-".join(textwrap.wrap(made, 4))


def draw(result: Mapping[str, Any]) -> str:
    """The certificate, as SVG: it needs no font, script or file from elsewhere."""
    title = find_lab(CAPSTONE).title
    told = html.escape(canonical(result), quote=False)
    name = html.escape(str(result["name"])) or "A learner"
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 560" role="img" aria-labelledby="t d">
  <title id="t">Certificate of completion: Flask behind Nginx</title>
  <desc id="d">{name} put a site online, {result["points"]} of {result["of"]} points.</desc>
  <metadata id="result">{told}</metadata>
  <rect width="840" height="560" fill="#fdfcf9"/>
  <rect x="18" y="18" width="804" height="524" fill="none" stroke="#24211e" stroke-width="2"/>
  <rect x="26" y="26" width="788" height="508" fill="none" stroke="#a8321e"/>
  <g fill="#24211e" font-family="Georgia, 'Liberation Serif', serif" text-anchor="middle">
    <text x="420" y="112" font-size="21" letter-spacing="3">FLASK BEHIND NGINX</text>
    <text x="420" y="206" font-size="44">{name}</text>
    <text x="420" y="262" font-size="23">has put a site online</text>
    <text x="420" y="318" font-size="19">Lab {CAPSTONE}, {html.escape(title)}:
      {result["points"]} of {result["of"]} points, {len(result["checks"])} checks</text>
    <text x="420" y="352" font-size="19">{html.escape(str(result["day"]))}</text>
  </g>
  <g fill="#24211e" font-family="'DejaVu Sans Mono', 'Liberation Mono', monospace"
     text-anchor="middle">
    <text id="code" x="420" y="438" font-size="25">{code_of(result)}</text>
    <text x="420" y="470" font-size="14">seed {html.escape(str(result["seed"]))}</text>
    <text x="420" y="500" font-size="14">course verify certificate.svg</text>
  </g>
</svg>
"""


def read_certificate(path: Path) -> tuple[dict[str, Any], str]:
    """The result in a certificate, and the code that is written on it.

    Raises:
        UsageError: it is no certificate.
    """
    try:
        with path.open("rb") as source:
            text = source.read(LARGEST).decode("utf-8", "replace")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    told, code = METADATA.search(text), CODE.search(text)
    try:
        result = json.loads(html.unescape(told[1])) if told else None
    except ValueError:
        result = None
    if not isinstance(result, dict) or code is None:
        raise UsageError(f"{path} is no certificate of this course")
    return result, code[1].strip()


def doubts(result: Mapping[str, Any], code: str, files: Mapping[str, str]) -> list[str]:
    """What speaks against a certificate, each in a sentence; none when it is as it was made.

    Args:
        result: what it says.
        code: what is written on it.
        files: the digests of the files that it is said to be about; none to leave them out.
    """
    found = []
    if code != code_of(result):
        found.append("The code does not fit the result: one of the two was changed.")
    if result.get("lab") != CAPSTONE or not result.get("of"):
        found.append("It is not about the capstone.")
    elif result.get("points") != result["of"]:
        found.append(f"Only {result.get('points')} of {result['of']} points were reached.")
    told = result.get("files")
    known = told if isinstance(told, dict) else {}
    found += [
        f"{clean(name)} is not the file that was graded."
        for name, seen in files.items()
        if known.get(name) != seen
    ]
    if result.get("asked") != checks_digest():
        found.append("Another version of the course has graded it: its checks differ from these.")
    return found


# --- what the command line does


def graded(folder: Path | None, seed: str) -> dict[str, Any]:
    """Grade the capstone with a seed; see `grader.reporting.grade`."""
    from grader.reporting import grade

    os.environ[VARIABLE] = seed
    return grade(find_lab(CAPSTONE), folder, False)


def certify(out: Path, name: str, folder: Path | None, seed: str | None) -> str:
    """Grade the capstone and write a certificate; its code.

    Args:
        out: where it is written.
        name: whose it is.
        folder: with the files; None for those in the lab's own folder.
        seed: to draw with; None for a new one.

    Raises:
        NotEarned: points are missing.
        GraderError: it was not graded.
    """
    lab = find_lab(CAPSTONE)
    seed = seed or secrets.token_hex(3)
    files = files_of(lab, submission_folder(lab, False, folder))
    data = graded(folder, seed)
    checks = [{**one, "check": one["name"]} for one in data["checks"]]
    result = result_of(name, data["graded"][:10], seed, files, checks)
    if result["points"] != lab.points:
        where = f" --submission {folder}" if folder else ""
        raise NotEarned(
            f"{result['points']} of {lab.points} points, so there is no certificate yet. "
            f"What is missing: {COURSE} check {lab.number}{where} --seed {seed}"
        )
    out.write_text(draw(result), encoding="utf-8")
    return code_of(result)


def examine(path: Path, folder: Path | None, again: bool) -> tuple[list[str], str]:
    """Examine a certificate: what speaks against it, and what to print.

    Args:
        path: of the certificate.
        folder: with the files that it is said to be about; None for the lab's own folder.
        again: whether to grade them once more.

    Raises:
        UsageError: it is no certificate, or there is no such folder.
        GraderError: it was not graded.
    """
    lab = find_lab(CAPSTONE)
    result, code = read_certificate(path)
    files = files_of(lab, submission_folder(lab, False, folder))
    found = doubts(result, code, files)
    if not found and path.read_text("utf-8", "replace") != draw(result):
        found.append("The picture shows something else than its result: it was changed.")
    if again and not found:
        points = graded(folder, str(result["seed"]))["points"]["earned"]
        if points != lab.points:
            found.append(f"Graded again, they have {points} of {lab.points} points.")
    if found:
        return found, "\n".join(found)
    name = clean(str(result["name"]), LONGEST_NAME) or "(no name)"
    lines = [f"{name}, {clean(str(result['day']), 10)}: {result['points']} points."]
    lines.append("The certificate is as it was made, and these are the files that were graded.")
    if again:
        lines.append("Graded again with the same seed, they have all points.")
    return [], "\n".join(lines)

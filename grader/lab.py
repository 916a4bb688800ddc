"""A lab's folder: what lab.toml says, and the learner's files."""

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path

from grader.errors import Place, StartFailed, UsageError
from grader.machine import File
from grader.text import COURSE

LABS = Path(__file__).resolve().parent.parent / "labs"
SOLUTIONS = LABS.parent / "solutions"
# What is remembered from run to run: hints that were shown, and verdicts.
STATE = Path(os.environ.get("COURSE_STATE") or LABS.parent / ".course")
LARGEST = 1 << 20  # bytes; no file that a lab asks for comes near it
KNOWN = {"number", "title", "minutes", "points", "files", "services"}


@dataclass(frozen=True)
class Lab:
    """What lab.toml says.

    Attributes:
        number: two digits.
        folder: where lab.toml lies.
        title: a few words.
        minutes: how long it takes a learner.
        points: the sum over its checks.
        files: where each of the learner's files goes in the box.
        run: the services, in the order of their start.
        visit: where visitors knock: "host:port", or "unix:/path"; the first that listens.
        certificates: whether the box has what certbot leaves on a server.
        hosts: services that run the app on an address of their own, with that address.
        acme: whether the box has a server that certbot gets certificates from.
        names: host names that the certificates stand for besides the usual two.
        given: folders of the lab's own, and where each is placed in the box, as it is.
        systemd: whether it takes a machine that systemd runs: no box will do.
    """

    number: str
    folder: Path
    title: str
    minutes: int
    points: int
    files: dict[str, str]
    run: tuple[str, ...]
    visit: tuple[str, ...]
    certificates: bool = False
    hosts: dict[str, str] = field(default_factory=dict)
    acme: bool = False
    names: tuple[str, ...] = ()
    given: dict[str, str] = field(default_factory=dict)
    systemd: bool = False

    def learner_names(self, text: str) -> str:
        """Put the learner's own file names where a message has the box's paths."""
        for name, path in self.files.items():
            text = text.replace(path, name)
        return text


def load_lab(folder: Path) -> Lab:
    """Read lab.toml of a folder.

    Raises:
        UsageError: it is missing or wrong; says what and where.
    """
    path = folder / "lab.toml"
    try:
        told = tomllib.loads(path.read_text())
        services = told["services"]
        unknown = set(told) - KNOWN
        if unknown:
            raise UsageError(f"{path}: unknown key {sorted(unknown)[0]!r}")
        return Lab(
            number=str(told["number"]),
            folder=folder,
            title=str(told["title"]),
            minutes=int(told["minutes"]),
            points=int(told["points"]),
            files=dict(told["files"]),
            run=tuple(services["run"]),
            visit=tuple(services["visit"]),
            certificates=bool(services.get("certificates", False)),
            hosts=dict(services.get("hosts", {})),
            acme=bool(services.get("acme", False)),
            names=tuple(services.get("names", ())),
            given=dict(services.get("given", {})),
            systemd=bool(services.get("systemd", False)),
        )
    except FileNotFoundError:
        raise UsageError(f"{folder} is not a lab folder: it has no lab.toml") from None
    except KeyError as error:
        raise UsageError(f"{path}: the key {error} is missing") from None
    except (tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from None


def all_labs() -> list[Lab]:
    """The course's labs, in order."""
    return [load_lab(path.parent) for path in sorted(LABS.glob("[0-9][0-9]/lab.toml"))]


def find_lab(number: str) -> Lab:
    """The course's lab of a number such as "3" or "03".

    Raises:
        UsageError: there is none; names those that there are.
    """
    folder = LABS / number.zfill(2)
    if not number.isdecimal() or not (folder / "lab.toml").is_file():
        known = ", ".join(lab.number for lab in all_labs())
        raise UsageError(f"there is no lab {number!r}; the labs are {known}")
    return load_lab(folder)


def submission_folder(lab: Lab, solution: bool, submission: Path | None) -> Path:
    """Where the files are that are meant: handed in, the solution's, or the learner's own.

    Raises:
        UsageError: the folder that was given is none.
    """
    if submission is None:
        return SOLUTIONS / lab.number if solution else lab.folder
    if not submission.is_dir():
        raise UsageError(f"--submission {submission}: there is no such folder")
    return submission


def given_folders(lab: Lab) -> list[File]:
    """Read what the folders hold that a lab gives besides the learner's files."""
    return [
        File(f"{target}/{path.relative_to(lab.folder / name).as_posix()}", path.read_bytes())
        for name, target in lab.given.items()
        for path in sorted((lab.folder / name).rglob("*"))
        if path.is_file()
    ]


def read_submission(lab: Lab, folder: Path) -> list[File]:
    """Read the learner's files of a lab from a folder.

    Raises:
        StartFailed: one is missing, empty, too large, not a file, or a link that leads out of the
            folder.
    """
    read = {path: read_file(folder, name, lab.number) for name, path in lab.files.items()}
    return [File(path, data, mode_of(data)) for path, data in read.items()]


def mode_of(data: bytes) -> int:
    """The mode of a file: a script may be run, however it was kept on the learner's machine."""
    return 0o755 if data.startswith(b"#!") else 0o644


def read_solution(lab: Lab, *changes: tuple[str, str, str]) -> list[File]:
    """Read the course's own solution of a lab, with some texts replaced.

    Args:
        lab: the lab.
        changes: name of the file, old text, new text; the old one must be there.
    """
    files = []
    for one in read_submission(lab, SOLUTIONS / lab.number):
        data = one.data
        for name, old, new in changes:
            if lab.files[name] == one.path:
                assert old.encode() in data, old
                data = data.replace(old.encode(), new.encode())
        files.append(replace(one, data=data))
    return files


def read_file(folder: Path, name: str, number: str = "NN") -> bytes:
    """Read one file of the learner's, of the lab of a number; see `read_submission`."""
    wanted = f"the file {name} in {folder.name}/"

    def refuse(got: str, note: str = "") -> StartFailed:
        return StartFailed("", wanted, got, Place(name), note)

    root = folder.resolve()
    try:
        real = (root / name).resolve()
    except RuntimeError:
        raise refuse("a link that leads to itself") from None
    if not real.is_relative_to(root):
        raise refuse(
            "a link that leads out of the folder", "Put the file itself there: copy it in."
        )
    try:
        fd = os.open(root / name, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise refuse(
            "no such file", f"Bring it back as it was given: {COURSE} reset {number} {name}"
        ) from None
    except OSError as error:
        raise refuse(error.strerror or str(error)) from None
    seen = os.fstat(fd)
    if not stat.S_ISREG(seen.st_mode):
        os.close(fd)
        raise refuse("something that is not a file")
    with os.fdopen(fd, "rb") as source:
        if seen.st_size > LARGEST:
            raise refuse(
                f"a file of {seen.st_size:,} bytes", f"More than {LARGEST:,} is a mistake."
            )
        data = source.read(LARGEST)
    if not data.strip():
        raise refuse("an empty file")
    return data


def odd_encoding(data: bytes) -> str:
    """Name what is unusual about a file's bytes that could keep a program from reading it."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "is saved as UTF-16; save it as UTF-8"
    if data.startswith(b"\xef\xbb\xbf"):
        return "begins with a byte-order mark; save it as UTF-8 without one"
    if b"\0" in data:
        return "contains zero bytes: it is not a text file"
    if b"\r\n" in data:
        return "has Windows line ends (CRLF); save it with Unix ones (LF)"
    if b"\r" in data:
        return "has old Macintosh line ends (CR); save it with Unix ones (LF)"
    try:
        data.decode()
    except UnicodeDecodeError:
        return "is not UTF-8; save it as UTF-8"
    return ""

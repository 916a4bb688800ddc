"""`course doctor`: each requirement, missing and present, and how the findings are shown."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grader import doctor
from grader.doctor import BY_HAND, EXTRA, GRADING, Finding, as_json, as_text, examine, healthy
from grader.errors import GraderError
from grader.sandbox import PROGRAMS, WAYS_OUT, find_program

ROOT = Path(__file__).resolve().parent.parent
LAUNCHER = (ROOT / "course").read_text()
USER = 4321
FORBIDDEN = "bwrap: Creating new namespace failed: Operation not permitted"
ALL_MODULES = "configure arguments: " + " ".join(f"--with-{one}_module" for one in doctor.MODULES)


@pytest.fixture(scope="module")
def found() -> list[Finding]:
    """What is found on this machine, which runs the course's tests."""
    return examine()


def program(folder: Path, name: str, script: str) -> Path:
    """Make a shell script of a name."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Put a shell script before the program of a name, where a box would see it too."""
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(doctor, "search_path", lambda: path)
    return lambda name, script: program(tmp_path / "bin", name, script)


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Take programs off this machine."""
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, **options: None if name in names else which(name, **options)
    )


# --- this machine -------------------------------------------------------------------------------


def test_this_machine_has_all_that_grading_needs(found: list[Finding]) -> None:
    assert [one for one in found if one.needed_for == GRADING and one.state == "missing"] == []
    assert healthy(found)
    names = [one.name for one in found]
    assert len(names) == len(set(names))
    for name in (*PROGRAMS, "curl", "openssl", "nsenter", "chromium", "namespaces", "stale boxes"):
        assert name in names
    assert next(one for one in found if one.name == "namespaces").found == "a box starts"


def test_the_version_of_nginx_is_told(found: list[Finding]) -> None:
    said = subprocess.run([find_program("nginx"), "-v"], capture_output=True, text=True).stderr
    told = next(one for one in found if one.name == "nginx")
    assert told.found.split()[0] == said.split("/")[1].split()[0]


def test_only_what_is_not_well_has_a_repair(found: list[Finding]) -> None:
    assert {one.name for one in found if one.state == "ok" and one.repair} == set()
    assert {one.name for one in found if one.state == "missing" and not one.repair} == set()


# --- programs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "use", "ask"), doctor.NEEDED)
def test_a_missing_program_is_named_with_its_package(
    name: str, use: str, ask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, name)
    told = doctor.find(name, use, ask)
    assert (told.name, told.state, told.found) == (name, "missing", "not found")
    package = dict(one.split(":") for one in re.findall(r"\w+:[a-z0-9-]+", LAUNCHER)).get(name)
    wanted = package or {"nsenter": "util-linux"}.get(name, name)
    assert told.repair.endswith(f"apt-get install {wanted}")
    assert healthy([told]) == (use != GRADING)


def test_what_a_single_lab_needs_is_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "11"
    folder.mkdir()
    (folder / "packages").write_text("nginx:nginx\nno-such-program:some-package\n")
    told = doctor.of_a_lab(folder)
    assert (told.name, told.state, told.found) == ("lab 11", "missing", "no-such-program not found")
    assert told.repair.endswith("course check 11 installs what it needs")
    assert healthy([told])
    (folder / "packages").write_text("nginx:nginx\n")
    assert doctor.of_a_lab(folder).state == "ok"


def test_what_the_launcher_installs_for_all_is_needed_for_more_than_tests() -> None:
    asked = re.search(r"for pair in (.*) \$needs_more; do", LAUNCHER)
    assert asked
    needed = {name: use for name, use, _ in doctor.NEEDED}
    assert {needed[one.partition(":")[0]] for one in asked[1].split()} == {GRADING, BY_HAND}
    more = set(re.findall(r"(\w+):", " ".join(re.findall(r"needs_more='(.*)'", LAUNCHER))))
    assert {name for name, use in needed.items() if use == EXTRA} == more


def test_a_path_without_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told = doctor.find("curl", BY_HAND, "--version")
    assert told.state == "missing"
    assert told.repair.startswith("install curl your system's own way")  # there is no apt-get


def test_an_ordinary_user_needs_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, **_: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: USER)
    assert doctor.install("bwrap") == "sudo apt-get install bubblewrap"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert doctor.install("bwrap") == "apt-get install bubblewrap"


def test_a_program_where_boxes_do_not_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "opt", "h2load", "echo 1.2.3")
    monkeypatch.setenv("PATH", str(tmp_path / "opt"))
    monkeypatch.setattr(doctor, "search_path", lambda: "/nowhere")
    told = doctor.find("h2load", EXTRA, "--version")
    assert told.state == "missing"
    assert "a box does not see" in told.found


BROKEN = "echo libx.so.1.1: cannot open shared object file >&2; exit 127"


@pytest.mark.parametrize(
    ("script", "state", "words"),
    [
        ("echo nginx version: nginx/1.24.0 '(Ubuntu)' >&2", "ok", "1.24.0 ("),
        ("echo wrk 4.1.0; exit 1", "ok", "4.1.0 ("),
        ("echo no idea", "warning", "does not tell its version; it says: no idea"),
        (":", "warning", "it says: nothing"),
        (BROKEN, "missing", "does not run: libx.so.1.1: cannot"),
        ("kill -SEGV $$", "missing", "does not run"),
    ],
)
def test_what_a_program_says_of_itself(
    script: str, state: str, words: str, fake: Callable[[str, str], Path]
) -> None:
    path = fake("nginx", script)
    told = doctor.find("nginx", GRADING, "-v")
    assert (told.state, words in told.found) == (state, True), told
    assert str(path) in told.found
    assert bool(told.repair) == (state != "ok")


def test_a_program_that_hangs(
    fake: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SECONDS", 0.1)
    fake("ip", "exec sleep 5")
    told = doctor.find("ip", GRADING, "-V")
    assert told.state == "missing"
    assert "timed out" in told.found


def test_a_program_cannot_write_to_the_terminal(fake: Callable[[str, str], Path]) -> None:
    fake("wrk", r"printf '\033]0;title\007none'")
    told = doctor.find("wrk", EXTRA, "-v")
    assert r"\x1b]0;title\x07none" in told.found


@pytest.mark.parametrize("module", doctor.MODULES)
def test_a_missing_module_of_nginx(module: str, fake: Callable[[str, str], Path]) -> None:
    fake("nginx", f"echo '{ALL_MODULES}' >&2")
    assert doctor.modules().state == "ok"
    option = f"--with-{module}_module"
    fake("nginx", f"echo '{ALL_MODULES}' | sed 's/{option}/{option}=dynamic/' >&2")
    told = doctor.modules()
    assert told.state == "missing"
    assert f"has no {module};" in told.found
    assert not healthy([told])


def test_a_module_of_nginx_that_was_left_out() -> None:
    assert doctor.missing_modules(ALL_MODULES) == []
    assert doctor.missing_modules(f"{ALL_MODULES} --without-http_gzip_module") == ["http_gzip"]


def test_an_nginx_that_does_not_name_its_modules(
    fake: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("nginx", "echo nginx version: nginx/9.9.9 >&2")
    assert doctor.modules().state == "warning"
    without(monkeypatch, "nginx")
    assert doctor.modules().state == "missing"


# --- namespaces ---------------------------------------------------------------------------------


def machine(root: Path, *settings: str, container: str = "") -> Path:
    """A machine that has settings such as `user/max_user_namespaces=0`."""
    for setting in settings:
        path, _, value = setting.partition("=")
        (root / "proc/sys" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "proc/sys" / path).write_text(f"{value}\n")
    if container:
        (root / container).parent.mkdir(parents=True, exist_ok=True)
        (root / container).touch()
    return root


@pytest.mark.parametrize(("path", "value", "way"), doctor.SETTINGS)
def test_the_setting_that_forbids_namespaces_is_named(
    path: str, value: str, way: str, tmp_path: Path, fake: Callable[[str, str], Path]
) -> None:
    fake("bwrap", f"echo '{FORBIDDEN}' >&2; exit 1")
    harmless = [f"{one}={'1' if bad == '0' else '0'}" for one, bad, _ in doctor.SETTINGS]
    told = doctor.namespaces(machine(tmp_path, *harmless, f"{path}={value}"))
    assert (told.state, told.repair) == ("missing", way)
    assert f"forbidden: {path.replace('/', '.')} is {value}. bubblewrap says:" in told.found
    assert told.found.endswith(FORBIDDEN)
    assert not healthy([told])


@pytest.mark.parametrize("mark", doctor.CONTAINERS)
def test_a_container_that_forbids_namespaces(
    mark: str, tmp_path: Path, fake: Callable[[str, str], Path]
) -> None:
    fake("bwrap", f"echo '{FORBIDDEN}' >&2; exit 1")
    told = doctor.namespaces(machine(tmp_path, container=mark))
    assert "this is a container" in told.found
    assert told.repair == doctor.CONTAINER_WAY


def test_several_causes_and_none(tmp_path: Path, fake: Callable[[str, str], Path]) -> None:
    fake("bwrap", f"echo '{FORBIDDEN}' >&2; exit 1")
    bare = doctor.namespaces(tmp_path)
    assert "no setting that the course knows" in bare.found
    assert "docs/guides/troubleshooting.md" in bare.repair
    root = machine(tmp_path, "user/max_user_namespaces=0", container=".dockerenv")
    assert len(doctor.namespaces(root).repair.splitlines()) == 2


def test_the_ways_out_are_those_of_the_sandbox() -> None:
    for *_, way in doctor.SETTINGS:
        assert way in WAYS_OUT
    assert doctor.CONTAINER_WAY.replace("the container", "it") in WAYS_OUT
    guide, _, title = doctor.UNKNOWN_WAY.removesuffix(" names the ways out").partition(", under ")
    assert f"### {title.strip(',')}\n" in (ROOT / guide).read_text()


def test_a_box_that_does_not_start_for_another_reason(fake: Callable[[str, str], Path]) -> None:
    fake("bwrap", "echo 'bwrap: Unknown option --size' >&2; exit 1")
    told = doctor.namespaces()
    assert told.state == "missing"
    assert "Unknown option --size" in told.found
    assert "forbidden" not in told.found


def test_a_machine_inside_another_that_allows_no_more_namespaces() -> None:
    code = "from grader.doctor import *\nprint(namespaces())"
    options = ["--unshare-user", "--disable-userns", "--proc", "/proc"]
    done = subprocess.run(
        ["bwrap", "--dev-bind", "/", "/", *options, "--", sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "Unknown option" in done.stderr:
        pytest.skip("this bubblewrap has no --disable-userns")
    assert done.stderr == ""
    assert "state='missing'" in done.stdout
    assert "forbidden: user.max_user_namespaces are " in done.stdout
    assert "repair='sudo sysctl -w user.max_user_namespaces=15000'" in done.stdout


def test_no_box_is_tried_without_its_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "ip", "bwrap")
    told = doctor.namespaces()
    assert told.found == "a box could not be tried: bwrap, ip not found"
    assert [line.split()[-1] for line in told.repair.splitlines()] == ["bubblewrap", "iproute2"]


# --- stale boxes --------------------------------------------------------------------------------

BWRAP = ["/usr/bin/bwrap", "--ro-bind", "/x/init.py", "/course/init.py", "--", "python3"]
INIT = ["/usr/bin/python3.11", "-I", "-S", "/course/init.py", "4", "board.example"]
GRADER = ["/x/.venv/bin/python", "-m", "pytest", "labs/03"]


def process(
    proc: Path, pid: int, parent: int, argv: list[str], exe: str = "", user: int = USER
) -> None:
    """Add a process to a process file system."""
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "cmdline").write_text("".join(f"{word}\0" for word in argv))
    (folder / "status").write_text(f"Name:\tx\nPPid:\t{parent}\nUid:\t{user}\t{user}\t0\t0\n")
    (folder / "exe").symlink_to(exe or argv[0])


def test_boxes_of_a_running_grading_are_not_stale(tmp_path: Path) -> None:
    process(tmp_path, 1, 0, ["/sbin/init"], user=0)
    process(tmp_path, 50, 1, GRADER, "/usr/bin/python3.11")
    process(tmp_path, 60, 50, BWRAP)
    process(tmp_path, 61, 60, INIT)
    assert doctor.box_processes(tmp_path, USER) == {60: 50, 61: 60}
    assert doctor.find_stale(tmp_path, USER) == []


@pytest.mark.parametrize("session", ["/sbin/init", "/usr/lib/systemd/systemd"])
@pytest.mark.parametrize("owner", [0, USER])
def test_boxes_without_a_grader_are_stale(session: str, owner: int, tmp_path: Path) -> None:
    process(tmp_path, 1, 0, [session], user=owner)
    process(tmp_path, 60, 1, BWRAP)
    process(tmp_path, 61, 60, INIT)
    process(tmp_path, 71, 1, INIT)  # its bubblewrap is gone too
    process(tmp_path, 81, 80, INIT)  # and its parent
    assert doctor.find_stale(tmp_path, USER) == [60, 61, 71, 81]


def test_another_users_python_is_no_grader(tmp_path: Path) -> None:
    process(tmp_path, 1, 0, GRADER, "/usr/bin/python3", user=0)
    process(tmp_path, 60, 1, BWRAP)
    assert doctor.find_stale(tmp_path, USER) == [60]


def test_only_boxes_of_this_user_are_named(tmp_path: Path) -> None:
    process(tmp_path, 1, 0, ["/sbin/init"], user=0)
    process(tmp_path, 60, 1, BWRAP, user=USER + 1)
    process(tmp_path, 70, 1, ["/usr/bin/vim", "/course/init.py"])
    process(tmp_path, 71, 1, ["/usr/bin/python3", "/x/init.py"])
    process(tmp_path, 72, 1, [""], "/usr/bin/python3")  # a kernel's thread, or a dead process
    (tmp_path / "73").mkdir()  # gone while it is looked at
    assert doctor.find_stale(tmp_path, USER) == []


def test_a_parent_that_cannot_be_looked_at_counts_as_a_grader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> str:
        raise PermissionError

    process(tmp_path, 50, 1, GRADER)
    process(tmp_path, 60, 50, BWRAP)
    monkeypatch.setattr(os, "readlink", refuse)
    assert doctor.find_stale(tmp_path, USER) == []


def test_stale_boxes_come_with_the_command_that_ends_them(tmp_path: Path) -> None:
    for pid, parent, argv in ((60, 1, BWRAP), (61, 60, INIT)):
        process(tmp_path, pid, parent, argv, user=os.getuid())
    told = doctor.stale_boxes(tmp_path, settle=0)
    assert (told.state, told.repair) == ("warning", "kill -KILL 60 61")
    assert "60 61" in told.found


def test_a_box_that_is_just_ending_is_not_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process(tmp_path, 60, 1, BWRAP, user=os.getuid())
    monkeypatch.setattr(doctor.time, "sleep", lambda _: shutil.rmtree(tmp_path / "60"))
    assert doctor.stale_boxes(tmp_path).state == "ok"


def test_real_boxes_are_recognized() -> None:
    with doctor.Box() as box:
        mine = doctor.box_processes(Path("/proc"), os.getuid())
        assert box.pid in mine
        assert mine[mine[box.pid]] == os.getpid()
        stale = doctor.find_stale(Path("/proc"), os.getuid())
        assert not {box.pid, mine[box.pid]} & set(stale)


# --- Python -------------------------------------------------------------------------------------


def test_an_old_python() -> None:
    assert doctor.python((3, 11, 0)).state == "ok"
    assert doctor.python((4, 0, 0)).state == "ok"
    told = doctor.python((3, 10, 12))
    assert (told.state, told.found) == ("missing", "3.10.12, older than 3.11")
    assert "rm -rf .venv" in told.repair


def test_the_oldest_python_is_that_of_the_project() -> None:
    oldest = ".".join(map(str, doctor.OLDEST_PYTHON))
    assert f'requires-python = ">={oldest}"' in (ROOT / "pyproject.toml").read_text()


def test_packages_that_differ_are_named(tmp_path: Path) -> None:
    pins = tmp_path / "requirements.txt"
    here = doctor.installed("click")
    pins.write_text(f"# pinned\nclick=={here}\nFlask==0.0.1\n")
    told = doctor.packages(pins)
    flask = doctor.installed("flask")
    assert (told.state, told.found) == ("warning", f"Flask {flask} instead of 0.0.1")
    assert told.repair.startswith("rm -rf .venv && ./course")
    pins.write_text(f"click=={here}\nno-such.package_x==1\nFlask==0.0.1\n")
    told = doctor.packages(pins)
    assert told.state == "missing"
    assert told.found.startswith("no-such.package_x is not installed; Flask ")


def test_every_pin_is_read() -> None:
    text = doctor.REQUIREMENTS.read_text()
    assert len(doctor.pins(text)) == len(re.findall(r"^[^#\s]", text, re.MULTILINE)) > 20


def test_a_course_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROJECT", "no-such-course")
    assert "no-such-course is not installed" in doctor.packages().found
    assert doctor.machine()["course"] == "unknown"


# --- the clone ----------------------------------------------------------------------------------


def test_a_full_disk(tmp_path: Path) -> None:
    assert doctor.room("disk", tmp_path, wanted=0).state == "ok"
    told = doctor.room("disk", tmp_path, wanted=1 << 60)
    assert told.state == "warning"
    assert told.repair
    assert healthy([told])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"one\r\ntwo\r\n", "CRLF"),
        (b"\xef\xbb\xbfone\n", "byte-order mark"),
        ("one\n".encode("utf-16"), "UTF-16"),
        ("one\n".encode("utf-16-be"), "zero bytes"),
        (b"caf\xe9\n", "not UTF-8"),
    ],
)
def test_an_odd_file_and_its_repair(data: bytes, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "labs" / "03"
    folder.mkdir(parents=True)
    (folder / "nginx.conf").write_bytes(data)
    told = doctor.learner_file(folder, "nginx.conf")
    assert told
    assert (told.name, told.state) == ("labs/03/nginx.conf", "warning")
    assert words in told.found
    if " labs/03/" in told.repair:  # it is a command, and does it
        subprocess.run(["sh", "-c", told.repair], cwd=tmp_path, check=True)
        assert (folder / "nginx.conf").read_bytes().splitlines()[0] == b"one"
        assert doctor.learner_file(folder, "nginx.conf") is None
    else:
        assert words in ("zero bytes", "not UTF-8")
        assert "editor" in told.repair


def test_a_file_that_is_gone_or_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "03"
    folder.mkdir()
    told = doctor.learner_file(folder, "wsgi.py")
    assert told
    assert (told.found, told.repair) == ("no such file", "course reset 03 wsgi.py")
    (folder / "wsgi.py").symlink_to("/etc/passwd")
    told = doctor.learner_file(folder, "wsgi.py")
    assert told
    assert "link" in told.found
    assert "git" not in told.repair


def test_odd_files_of_all_labs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ROOT.glob("labs/0[13]/[lwgn]*.[tpc]*"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.parent.name)
    monkeypatch.setattr("grader.lab.LABS", tmp_path)
    assert [one.found for one in doctor.learner_files()] == [
        "all 4 of 2 labs are there, as plain text"
    ]
    for path in (tmp_path / "01/wsgi.py", tmp_path / "03/nginx.conf"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    odd = doctor.learner_files()
    assert [one.name for one in odd] == ["labs/01/wsgi.py", "labs/03/nginx.conf"]


def test_a_clone_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / ".course"
    assert doctor.writable(state, tmp_path).state == "ok"
    assert list(tmp_path.iterdir()) == []  # nothing is made
    state.mkdir()
    where: list[Path] = []
    real = doctor.tempfile.TemporaryFile

    def refuse(dir: Path) -> object:
        if dir in where:
            raise PermissionError(13, "Permission denied")
        return real(dir=dir)

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    where[:] = [tmp_path]
    told = doctor.writable(state, tmp_path)
    assert told.state == "missing"
    assert told.found == "the clone cannot be written to: Permission denied"
    assert "folder that you may write to" in told.repair
    where[:] = [state]
    told = doctor.writable(state, tmp_path)
    assert told.found.startswith(".course cannot be written to")
    assert "chown" in told.repair


# --- probes that fail ---------------------------------------------------------------------------


def test_a_probe_that_fails_is_a_finding() -> None:
    def probe() -> Finding:
        raise OSError(5, "Input/output error", f"{Path.home()}/secret/file")

    told = doctor.guarded("disk", GRADING, probe)
    assert [(one.name, one.state) for one in told] == [("disk", "warning")]
    assert "Input/output error" in told[0].found
    assert "secret" not in told[0].found


def test_nothing_that_is_broken_ends_the_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise GraderError("broken") if _ else ValueError("broken")

    for name in ("find", "modules", "Box", "find_stale", "pins", "all_labs", "read_file"):
        monkeypatch.setattr(doctor, name, fail)
    monkeypatch.setattr(shutil, "disk_usage", fail)
    told = examine()
    assert len([one for one in told if "broken" in one.found]) >= 14
    assert "Traceback" not in as_text(told)
    assert not healthy(told)  # no box starts


def test_a_broken_lab_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "01").mkdir()
    (tmp_path / "01" / "lab.toml").write_text("number =")
    monkeypatch.setattr("grader.lab.LABS", tmp_path)
    told = doctor.guarded("your files", GRADING, doctor.learner_files)
    assert told[0].state == "warning"
    assert "lab.toml" in told[0].found


# --- showing ------------------------------------------------------------------------------------

MISSING = Finding("bwrap", "missing", "not found", "sudo apt-get install bubblewrap", GRADING)
WARNING = Finding("labs/01/wsgi.py", "warning", "word " * 40, "first way\nsecond way", GRADING)
LESS = Finding("wrk", "missing", "not found", "sudo apt-get install wrk", EXTRA)
FINE = Finding("ip", "ok", "6.1.0 (/usr/sbin/ip)", needed_for=GRADING)


def test_healthy_means_that_grading_is_possible() -> None:
    assert healthy([])
    assert healthy([FINE, WARNING, LESS])
    assert not healthy([FINE, MISSING])
    assert not healthy([Finding("x", "missing", "not found")])


def test_the_text_begins_with_the_machine() -> None:
    head = " ".join(as_text([FINE]).partition("\n\n")[0].split())
    assert head.startswith(f"Flask behind Nginx {doctor.installed(doctor.PROJECT)}, ")
    cores = len(os.sched_getaffinity(0))
    for part in (f"Linux {platform.release()}", platform.machine(), f" {cores} core", "of memory"):
        assert part in head
    assert doctor.system() in head


def test_the_text_is_plain_and_narrow(found: list[Finding]) -> None:
    told = as_text([*found, MISSING, WARNING, LESS])
    assert re.findall(r"[^\n -~]", told) == []
    lines = told.splitlines()
    assert [line for line in lines if len(line) > 80 and "Repair:" not in line] == []
    assert [line for line in lines if line != line.rstrip()] == []
    for line in ("ok       ip: 6.1.0 (/usr/sbin/ip)", "missing  bwrap: not found"):
        assert line in as_text([FINE, MISSING]).splitlines()


def test_each_way_has_a_line_of_its_own() -> None:
    ways = [line.strip() for line in as_text([WARNING]).splitlines() if "Repair" in line]
    assert ways == ["Repair: first way", "Repair: second way"]


def test_what_is_only_for_tests_is_told_as_such() -> None:
    before, _, after = as_text([LESS, FINE]).partition("Needed only for tests and notebooks:\n")
    assert "wrk" in after.partition("Needed for grading:")[0]
    assert "wrk" not in before


@pytest.mark.parametrize(
    ("findings", "sum_"),
    [
        ([FINE], "Everything that the course needs is here."),
        (
            [FINE, MISSING, LESS],
            "The labs cannot be graded here before this is repaired: bwrap.",
        ),
        ([FINE, WARNING], "The labs can be graded here; worth a look: labs/01/wsgi.py."),
        ([LESS], "The labs can be graded here; missing for tests and notebooks: wrk."),
    ],
)
def test_the_last_sentence_sums_up(findings: list[Finding], sum_: str) -> None:
    assert " ".join(as_text(findings).rpartition("\n\n")[2].split()) == sum_


def test_the_json_has_the_shape_that_is_documented() -> None:
    told = json.loads(as_json([FINE, MISSING]))
    assert set(told) == {"version", "machine", "findings"}
    assert told["version"] == 1
    kinds = {name: type(value) for name, value in told["machine"].items()}
    words = dict.fromkeys(("course", "system", "kernel", "architecture"), str)
    assert kinds == {**words, "cores": int, "memory": int}
    assert told["findings"][1] == {
        "name": "bwrap",
        "state": "missing",
        "found": "not found",
        "repair": "sudo apt-get install bubblewrap",
        "needed_for": "grading",
    }
    assert as_json.__doc__
    for key in (*told, *told["machine"], *told["findings"][0]):
        assert f'"{key}":' in as_json.__doc__


def test_nothing_private_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "ada"
    clone = home / "my course"
    for folder in (clone, home / "private things"):
        folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(doctor, "CLONE", clone)
    shown = doctor.shareable(f"no {clone}/labs/01, '{home}/private things/x': {home}-2/y, {home}")
    assert shown == f"no (clone)/labs/01, '~/...': {home}-2/y, ~/..."
    program(home / "private things", "chromium", "echo Chromium 1.2.3")
    monkeypatch.setenv("PATH", str(home / "private things"))
    assert doctor.find("chromium", EXTRA, "--version").found == "1.2.3 (~/...)"


def test_a_machine_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> dict[str, str]:
        raise OSError("no os-release")

    monkeypatch.setattr(platform, "freedesktop_os_release", refuse)
    assert "unknown Linux" in as_text([])
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"PRETTY_NAME": "a\x1b[2Jb"})
    assert r"a\x1b[2Jb" in as_text([])
    assert "\x1b" not in as_json([])

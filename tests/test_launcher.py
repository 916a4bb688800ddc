"""The launcher, on machines that do not exist.

Each test runs `course` in a box whose /usr/bin holds a shell, the core utilities, and fakes of
apt-get, sudo, Python and the rest. The fakes write down how they were called; nothing outside the
box can be reached or changed.
"""

import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CLONE = "/home/learner/my course"
REAL_TOOLS = """
sh cat chown cp env flock grep ln mkdir mv readlink rm sed sha256sum tail touch uname
"""

# Every fake starts with this: one line for each call, in the order of the calls.
HEAD = r"""#!/bin/sh
printf '%s\n' "${0##*/} $(printf '%s' "$*" | sed -z 's/\n/ /g')" >>/log/calls
"""

FAKES = {
    # Pretends to install: from then on the package's programs are there.
    "apt-get": """
[ ! -e /proc/$$/fd/9 ] || echo "apt-get holds the lock" >>/log/calls
case "$*" in
*update*)
  if [ -e /log/lists-locked ]; then
    rm /log/lists-locked
    echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7"
    exit 100
  fi ;;
*install*)
  if [ -n "${APT_FAILS-}" ]; then echo "E: no room on the disk"; exit 100; fi
  for word in "$@"; do
    case $word in
    nginx) cp /fakes/program /usr/sbin/nginx ;;
    bubblewrap) cp /fakes/program /usr/bin/bwrap ;;
    iproute2) cp /fakes/program /usr/sbin/ip ;;
    curl | wrk | chromium) cp /fakes/program "/usr/bin/$word" ;;
    nghttp2-client) cp /fakes/program /usr/bin/h2load ;;
    python3) cp /fakes/python3 /usr/bin/python3 ;;
    python3-venv) touch /log/venv-works ;;
    esac
  done ;;
esac
""",
    "sudo": """
case "$1" in
-n) [ "${SUDO-}" = free ] ;;
-v) [ "${SUDO-}" = asks ] ;;
*) "$@" ;;
esac
""",
    "id": 'echo "${FAKE_UID:-0}"\n',
    "sleep": "",
    "systemctl": "",
    "program": "",
    # One script for every Python: the system's, others on PATH, and (linked) the environment's.
    "python3": """
prefix=${0%/bin/*}
case "$*" in
*base_prefix*)
  case " ${OLD_PYTHONS-} " in *" $prefix "*) exit 1 ;; esac
  echo "$prefix/bin/python3" ;;
*"import ensurepip"*) [ -e /log/venv-works ] ;;
*--version*) echo "Python 3.9.2" ;;
*"-m venv"*) for last in "$@"; do :; done; mkdir -p "$last/bin" && ln -s "$0" "$last/bin/python" ;;
*"-m pip"*)
  if [ "${PIP_USER-}" = 1 ]; then echo "ERROR: cannot perform a --user install"; exit 1; fi
  if [ -n "${PIP_HANGS-}" ]; then echo >/log/pip-runs; cat /log/go-on >/dev/null; fi
  if [ -n "${PIP_FAILS-}" ]; then echo "ERROR: no route to the index"; exit 1; fi
  case "$*" in
  *requirements-dev.txt*) cp /fakes/ruff /fakes/mypy "$prefix/bin" ;;
  esac ;;
*"-m grader"*)
  [ ! -e /proc/$$/fd/9 ] || echo "the grader holds the lock"
  [ -z "${SHOW_PATH-}" ] || echo "$PATH"
  shift 3; for word in "$@"; do echo "grader got <$word>"; done; exit 7 ;;
*"-m measures"*) echo "== 3 measured =="; exit "${MEASURES_EXIT:-${PYTEST_EXIT:-0}}" ;;
*"-m pytest"*) echo "== 3 passed =="; exit "${PYTEST_EXIT:-0}" ;;
esac
""",
    "ruff": '[ "$1 ${RUFF-}" != "check fails" ]\n',
    "mypy": "",
}


def write_program(path: Path, text: str) -> None:
    """Put a program there that can be run."""
    path.write_text(text)
    path.chmod(0o755)


class Machine:
    """A machine made of fakes, with a clone of the course on it."""

    def __init__(self, folder: Path) -> None:
        """Lay out a bare machine: apt, a shell, the core utilities, no more."""
        self.folder = folder
        for name in ("bin", "sbin", "fakes", "log", "clone/labs/board", "opt/bin", "run"):
            (folder / name).mkdir(parents=True)
        self.clone = folder / "clone"
        self.place = CLONE
        for name in ("course", "requirements.txt", "requirements-dev.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, self.clone / name)
        for name, body in FAKES.items():
            write_program(folder / "fakes" / name, HEAD + body)
        for name in REAL_TOOLS.split():
            (folder / "bin" / name).symlink_to(f"/real/bin/{name}")
        self.add("bin", "apt-get", "id", "sleep", "systemctl")
        self.add_program("bin/unshare")

    def add(self, folder: str, *names: str) -> None:
        """Put fakes into a folder of the machine."""
        for name in names:
            shutil.copy(self.folder / "fakes" / name, self.folder / folder / name)

    def add_program(self, path: str) -> None:
        """Put a program that does nothing at a path of the machine."""
        shutil.copy(self.folder / "fakes/program", self.folder / path)

    def complete(self) -> None:
        """Install everything that the course needs from the system."""
        for path in ("sbin/nginx", "bin/bwrap", "sbin/ip", "bin/curl"):
            self.add_program(path)
        self.add("bin", "python3")
        (self.folder / "log/venv-works").touch()

    def command(self, *command: str, cwd: str = "/") -> list[str]:
        """Return the command line that runs a command on this machine."""
        words = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent"]
        words += ["--proc", "/proc", "--dev", "/dev"]
        for name in ("lib", "lib32", "lib64"):
            if (link := Path("/", name)).is_symlink():
                words += ["--symlink", os.readlink(link), str(link)]
            elif link.is_dir():
                words += ["--ro-bind", str(link), str(link)]
            words += ["--ro-bind-try", f"/usr/{name}", f"/usr/{name}"]
        words += ["--ro-bind", "/usr/bin", "/real/bin"]
        words += ["--symlink", "usr/bin", "/bin", "--symlink", "usr/sbin", "/sbin"]
        for source, target in (
            ("bin", "/usr/bin"),
            ("sbin", "/usr/sbin"),
            ("opt", "/opt/python"),
            ("fakes", "/fakes"),
            ("log", "/log"),
            ("run", "/run"),
            ("clone", self.place),
        ):
            words += ["--bind", str(self.folder / source), target]
        return [
            *words,
            "--symlink",
            f"{self.place}/course",
            "/tmp/course",
            "--chdir",
            cwd,
            *command,
        ]

    def start(self, *args: str, **environment: str) -> subprocess.Popen[str]:
        """Start the launcher and do not wait."""
        return subprocess.Popen(
            self.command(f"{self.place}/course", *args),
            env={"PATH": "/usr/bin", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *args: str,
        launcher: tuple[str, ...] = (),
        cwd: str = "/",
        stdin: int = subprocess.DEVNULL,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run the launcher to its end."""
        return subprocess.run(
            self.command(*(launcher or (f"{self.place}/course",)), *args, cwd=cwd),
            env={"PATH": "/usr/bin", **environment},
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    def calls(self, program: str = "") -> list[str]:
        """Return the calls of the fakes since the last time, those of one program if named."""
        log = self.folder / "log/calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line for line in lines if line.startswith(program)]


@pytest.fixture
def bare(tmp_path: Path) -> Machine:
    """A machine that has apt and nothing else."""
    return Machine(tmp_path)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with all packages, and a clone that was never used."""
    machine = Machine(tmp_path)
    machine.complete()
    return machine


@pytest.fixture
def used(machine: Machine) -> Machine:
    """A machine on which the course was used before."""
    assert machine.run("list").returncode == 7
    machine.calls()
    return machine


def made_venv(calls: list[str]) -> bool:
    """Whether these calls made a virtual environment."""
    return any("-m venv" in call for call in calls)


# --- first use ---------------------------------------------------------------------------------


def test_first_use_installs_what_is_missing_then_hands_over(bare: Machine) -> None:
    """Everything from apt, then the environment, then the CLI with its arguments untouched."""
    done = bare.run("check", "03", "-k", "two words", "")
    assert done.stdout.splitlines() == [
        f"grader got <{word}>" for word in ("check", "03", "-k", "two words", "")
    ]
    assert done.returncode == 7  # the CLI's own
    calls = bare.calls()
    assert "apt-get holds the lock" not in calls  # a daemon that it starts would keep it
    update, install = (call for call in calls if call.startswith("apt-get"))
    assert update.endswith(" update")
    assert install.endswith(
        " install -y --no-install-recommends nginx bubblewrap iproute2 curl python3 python3-venv"
    )
    assert calls.index(install) < next(n for n, call in enumerate(calls) if "-m venv" in call)
    pip = [call for call in calls if "-m pip" in call]
    assert [f"-r {CLONE}/requirements.txt" in call for call in pip] == [True, False]
    assert (
        f"--no-build-isolation --no-deps --config-settings editable_mode=compat -e {CLONE}"
        in pip[1]
    )
    assert any(call.endswith(f"-m compileall -q {CLONE}/labs/board") for call in calls)
    assert calls[-1].startswith("python -P -m grader check 03")
    assert all(line.startswith("course: ") for line in done.stderr.splitlines())


def test_only_what_is_missing_is_installed(machine: Machine) -> None:
    """One missing program is one package; nginx in /usr/sbin counts though PATH lacks it."""
    (machine.folder / "bin/bwrap").unlink()
    machine.run()
    assert [call.split("recommends ")[1] for call in machine.calls("apt-get")[1:]] == ["bubblewrap"]


def test_a_lab_brings_packages_of_its_own(used: Machine) -> None:
    """What one lab alone needs is installed when that lab is named, and not before."""
    (used.clone / "labs/07").mkdir()
    (used.clone / "labs/07/packages").write_text("wrk:wrk\n")
    used.run("check", "03")
    assert used.calls("apt-get") == []
    used.run("check", "7")
    assert [call.split("recommends ")[1] for call in used.calls("apt-get")[1:]] == ["wrk"]
    used.run("check", "07")
    assert used.calls("apt-get") == []


def test_sbin_is_on_the_path_of_the_cli(machine: Machine) -> None:
    """The CLI finds nginx in /usr/sbin too."""
    path = machine.run(SHOW_PATH="yes").stdout.strip()
    assert path.startswith("/usr/bin:")
    assert "/usr/sbin" in path.split(":")


def test_sudo_installs_for_an_ordinary_user(bare: Machine) -> None:
    """Apt is asked through sudo, the environment is made without it."""
    bare.add("bin", "sudo")
    assert bare.run(FAKE_UID="1000", SUDO="free").returncode == 7
    sudo = bare.calls("sudo")
    assert [("update" in call, "install" in call) for call in sudo[1:]] == [(1, 0), (0, 1)]
    assert all("DEBIAN_FRONTEND=noninteractive" in call for call in sudo[1:])


def test_sudo_may_ask_at_a_terminal(bare: Machine) -> None:
    """Where there is a terminal, sudo may ask for the password; it is said what for."""
    bare.add("bin", "sudo")
    ours, theirs = pty.openpty()
    try:
        done = bare.run(FAKE_UID="1000", SUDO="asks", stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 7
    assert "sudo is needed to install: nginx" in done.stderr
    assert "sudo -v" in bare.calls("sudo")


@pytest.mark.parametrize("sudo", ["absent", "asks", "refuses"])
def test_without_the_right_to_install_it_names_the_command(bare: Machine, sudo: str) -> None:
    """No root, no sudo and no terminal to ask on: packages, command, exit code 3."""
    if sudo != "absent":
        bare.add("bin", "sudo")
    done = bare.run("list", FAKE_UID="1000", SUDO=sudo)
    assert done.returncode == 3
    packages = "nginx bubblewrap iproute2 curl python3 python3-venv"
    start = "" if sudo == "absent" else "sudo "
    assert f"missing: {packages}." in done.stderr
    assert (
        done.stderr.splitlines()[-1].strip()
        == f"{start}apt-get update && {start}apt-get install -y --no-install-recommends {packages}"
    )
    assert bare.calls("apt-get") == []
    assert not (bare.clone / ".venv").exists()


def test_without_apt_it_names_the_packages(bare: Machine) -> None:
    """Another kind of Linux: what is missing, and exit code 3."""
    (bare.folder / "bin/apt-get").unlink()
    done = bare.run("list")
    assert done.returncode == 3
    assert "missing: nginx bubblewrap iproute2 curl python3 python3-venv." in done.stderr
    assert "no apt-get" in done.stderr


def test_a_failing_apt_is_shown(bare: Machine) -> None:
    """The last lines of apt-get, and nothing made."""
    done = bare.run("list", APT_FAILS="yes")
    assert done.returncode == 3
    assert "    | E: no room on the disk" in done.stderr
    assert not (bare.clone / ".venv").exists()


def test_it_waits_while_the_system_updates_its_own_lists(bare: Machine) -> None:
    """A machine just started holds the lock of apt's lists for a while."""
    (bare.folder / "log/lists-locked").touch()
    done = bare.run("list")
    assert done.returncode == 7
    assert "waiting" in done.stderr
    assert len([call for call in bare.calls("apt-get") if call.endswith("update")]) == 2


@pytest.mark.parametrize(
    ("systemd", "was_there", "switched_off"),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_the_packaged_nginx_is_switched_off(
    bare: Machine, systemd: bool, was_there: bool, switched_off: bool
) -> None:
    """Only on a machine with systemd, and only if the course itself installed nginx."""
    if systemd:
        (bare.folder / "run/systemd/system").mkdir(parents=True)
    if was_there:
        bare.add_program("sbin/nginx")
    done = bare.run("list")
    assert (bare.calls("systemctl") == ["systemctl disable --now nginx"]) is switched_off
    assert ("switched the nginx service" in done.stderr) is switched_off


# --- Python ------------------------------------------------------------------------------------


def test_a_python_that_is_too_old_is_named(machine: Machine) -> None:
    """One sentence with the version found, and exit code 3."""
    done = machine.run("list", OLD_PYTHONS="/usr")
    assert done.returncode == 3
    assert "Python 3.11 or newer is needed; /usr/bin/python3 is Python 3.9.2." in done.stderr
    assert machine.calls("apt-get") == []


def test_another_python_on_the_path_will_do(machine: Machine) -> None:
    """When the system's Python is too old and a newer one is on PATH."""
    machine.add("opt/bin", "python3")
    done = machine.run("list", OLD_PYTHONS="/usr", PATH="/opt/python/bin:/usr/bin")
    assert done.returncode == 7
    assert os.readlink(machine.clone / ".venv/bin/python") == "/opt/python/bin/python3"


def test_the_python_of_the_system_comes_first(machine: Machine) -> None:
    """A newer Python on PATH does not win over a good one of the system."""
    machine.add("opt/bin", "python3")
    machine.run("list", PATH="/opt/python/bin:/usr/bin")
    assert os.readlink(machine.clone / ".venv/bin/python") == "/usr/bin/python3"


def test_a_python_without_venv_gets_it_from_apt(machine: Machine) -> None:
    """On Debian, venv without ensurepip only looks as if it worked."""
    (machine.folder / "log/venv-works").unlink()
    assert machine.run("list").returncode == 7
    assert machine.calls("apt-get")[1].endswith("recommends python3-venv")


# --- the second use ----------------------------------------------------------------------------


def test_the_second_use_starts_at_once(used: Machine) -> None:
    """Nothing is checked by running anything, nothing is said, no time is spent."""
    done = used.run("list")
    assert (done.returncode, done.stderr) == (7, "")
    assert used.calls() == ["python -P -m grader list"]
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        used.run("list")
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.1


@pytest.mark.parametrize(
    ("launcher", "cwd"),
    [
        (("/tmp/course",), "/"),
        (("../course",), f"{CLONE}/labs"),
        (("sh", "course"), CLONE),
        (("my course/course",), "/home/learner"),
        (("sh", "-c", 'PATH=$PATH:"$PWD"; cd /; course "$@"', "sh"), CLONE),
    ],
    ids=["symlink", "relative", "sh", "CDPATH", "PATH"],
)
def test_it_can_be_called_from_anywhere(used: Machine, launcher: tuple[str, ...], cwd: str) -> None:
    """However it is called, it is the same clone, so nothing is made again."""
    done = used.run("list", launcher=launcher, cwd=cwd, CDPATH="/home/learner")
    assert (done.stdout, done.stderr) == ("grader got <list>\n", "")


def test_a_program_that_went_away_is_installed_again(used: Machine) -> None:
    """The stamp stands for the environment only; programs are looked for every time."""
    (used.folder / "bin/bwrap").unlink()
    used.run("list")
    calls = used.calls()
    assert not made_venv(calls)
    assert [call for call in calls if "install" in call and "bubblewrap" in call]


def test_a_labs_own_packages_of_python_come_with_that_lab(used: Machine) -> None:
    """Once, and again when they have changed; for another lab nothing is asked for."""
    pins = used.clone / "labs/77/requirements.txt"
    pins.parent.mkdir()
    pins.write_text("one==1.0\n")
    used.run("check", "3")
    assert not used.calls("python -I -m pip")
    done = used.run("check", "77")
    assert "installing the packages of labs/77/requirements.txt" in done.stderr
    (call,) = used.calls("python -I -m pip")
    assert call.endswith(f"-c {CLONE}/requirements.txt -r {CLONE}/labs/77/requirements.txt")
    used.run("check", "77")
    assert not used.calls("python -I -m pip")
    pins.write_text("one==2.0\n")
    used.run("shell", "77")
    assert len(used.calls("python -I -m pip")) == 1


def test_changed_pins_are_installed_without_a_new_environment(used: Machine) -> None:
    """After git pull, say."""
    with (used.clone / "requirements.txt").open("a") as file:
        file.write("another==1.0\n")
    done = used.run("list")
    calls = used.calls()
    assert "bringing .venv up to date" in done.stderr
    assert not made_venv(calls)
    assert len([call for call in calls if "-m pip" in call]) == 2
    assert used.run("list").stderr == ""


def test_a_moved_clone_gets_a_new_environment(used: Machine) -> None:
    """Virtual environments do not move."""
    used.place = "/srv/course"
    assert "making it again" in used.run("list").stderr
    assert made_venv(used.calls())
    assert used.run("list").stderr == ""


def test_another_python_gets_a_new_environment(used: Machine) -> None:
    """The system was upgraded: packages for the old Python are no use."""
    python = used.folder / "bin/python3"
    python.rename(used.folder / "bin/python3.99")
    python.symlink_to("python3.99")
    assert "making it again" in used.run("list").stderr
    assert made_venv(used.calls())


def test_an_environment_whose_python_vanished_is_made_again(machine: Machine) -> None:
    """The link in .venv leads nowhere."""
    machine.add("opt/bin", "python3")
    machine.run("list", OLD_PYTHONS="/usr", PATH="/opt/python/bin:/usr/bin")
    (machine.folder / "opt/bin/python3").unlink()
    machine.calls()
    assert machine.run("list").returncode == 7
    assert made_venv(machine.calls())


# --- an environment elsewhere -------------------------------------------------------------------

ELSEWHERE = {"COURSE_VENV": "/log/apart/venv", "COURSE_STATE": "/log/apart"}


def test_environment_and_memory_may_be_elsewhere(machine: Machine) -> None:
    """A folder that is shared with a virtual machine's host can hold neither links nor locks."""
    done = machine.run("list", **ELSEWHERE)
    assert done.returncode == 7
    assert "making /log/apart/venv with" in done.stderr
    apart = machine.folder / "log/apart"
    assert (apart / "venv/bin/python").is_symlink()
    assert {"lock", "setup.log"} < {path.name for path in apart.iterdir()}
    made = {path.name for path in machine.clone.iterdir()}
    assert not made & {".venv", ".course"}
    again = machine.run("list", **ELSEWHERE)
    assert (again.returncode, again.stderr) == (7, "")


def test_an_environment_elsewhere_is_made_for_its_own_path(machine: Machine) -> None:
    """Moved, it is made again."""
    machine.run("list", **ELSEWHERE)
    (machine.folder / "log/apart").rename(machine.folder / "log/moved")
    moved = {"COURSE_VENV": "/log/moved/venv", "COURSE_STATE": "/log/moved"}
    done = machine.run("list", **moved)
    assert "/log/moved/venv is half-made, or made for another path" in done.stderr
    assert machine.run("list", **moved).stderr == ""


def test_a_failure_elsewhere_names_the_log_there(machine: Machine) -> None:
    """What is printed is where to look."""
    done = machine.run("list", PIP_FAILS="yes", **ELSEWHERE)
    assert "All of its output: /log/apart/setup.log" in done.stderr


@pytest.mark.parametrize("name", ["COURSE_VENV", "COURSE_STATE"])
def test_elsewhere_is_a_whole_path(machine: Machine, name: str) -> None:
    """Another folder for each place that the command is given at would be no memory."""
    done = machine.run("list", **{name: "apart"})
    assert done.returncode == 3
    assert "must begin with /; this does not: apart" in done.stderr


# --- when it goes wrong ------------------------------------------------------------------------


def test_a_failing_pip_is_not_taken_for_done(machine: Machine) -> None:
    """Its last lines, how to try again, exit code 3; and the next run makes it whole."""
    done = machine.run("list", PIP_FAILS="yes")
    assert done.returncode == 3
    assert "    | ERROR: no route to the index" in done.stderr
    assert "run the same command again" in done.stderr
    assert "grader" not in done.stdout
    machine.calls()
    assert machine.run("list").returncode == 7
    assert made_venv(machine.calls())


def test_a_failing_update_is_not_taken_for_done(used: Machine) -> None:
    """An environment that was whole is half-made once an update of it failed."""
    (used.clone / "requirements.txt").write_text("another==1.0\n")
    assert used.run("list", PIP_FAILS="yes").returncode == 3
    used.calls()
    assert used.run("list").returncode == 7
    assert made_venv(used.calls())


def test_pip_settings_of_the_user_do_not_lead_out_of_the_environment(machine: Machine) -> None:
    """Some people have pip install into their home by default."""
    assert machine.run("list", PIP_USER="1").returncode == 7


@pytest.fixture
def hanging(machine: Machine) -> Iterator[subprocess.Popen[str]]:
    """A launcher in the middle of pip, which goes on when something is written to /log/go-on."""
    for name in ("pip-runs", "go-on"):
        os.mkfifo(machine.folder / "log" / name)
    process = machine.start("list", PIP_HANGS="yes")
    (machine.folder / "log/pip-runs").read_text()
    yield process
    process.kill()
    process.communicate()


def test_a_killed_launcher_leaves_no_lock_and_nothing_half_done(
    machine: Machine, hanging: subprocess.Popen[str]
) -> None:
    """Killed without a chance to tidy up: the next one starts over at once."""
    hanging.send_signal(signal.SIGKILL)
    hanging.wait()
    machine.calls()
    done = machine.run("list")
    assert done.returncode == 7
    assert "waiting" not in done.stderr
    assert made_venv(machine.calls())


def test_two_launchers_do_not_disturb_each_other(
    machine: Machine, hanging: subprocess.Popen[str]
) -> None:
    """The second waits, says so, and finds everything made."""
    second = machine.start("list")
    assert second.stderr is not None
    assert "waiting" in second.stderr.readline()
    let_go, runs = machine.folder / "log/go-on", machine.folder / "log/pip-runs"
    let_go.write_text("")
    runs.read_text()  # pip's second run
    let_go.write_text("")
    assert hanging.wait(10) == 7
    out, err = second.communicate(timeout=10)
    assert (second.returncode, out, err) == (7, "grader got <list>\n", "")
    assert sum("-m venv" in call for call in machine.calls()) == 1


def test_a_folder_that_cannot_be_written_to_is_named(machine: Machine) -> None:
    """One sentence, not a shell's error."""
    (machine.clone / ".course").write_text("in the way")
    done = machine.run("list")
    assert done.returncode == 3
    assert done.stderr.startswith(f"course: cannot write to {CLONE}/.course.")


# --- course test, course serve -----------------------------------------------------------------


def test_course_test_lints_then_runs_all_tests(used: Machine) -> None:
    """The linters, then pytest, whose summary is the last line of all."""
    done = used.run("test")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "== 3 measured =="
    calls = [call for call in used.calls() if not call.startswith("id ")]
    *first, packages, tools = calls[:-6]
    assert packages.endswith("recommends wrk nghttp2-client chromium")
    assert f"-c {CLONE}/requirements.txt -r {CLONE}/requirements-dev.txt" in tools
    assert not any("pip" in call for call in first)
    assert calls[-6:] == [
        "ruff check",
        "ruff format --check",
        "mypy ",
        "python -P -m pytest -n 3 -m not measures tests",
        "python -P -m pytest -m measures --collect-only -q tests",
        "python -P -m pytest -m measures tests",
    ]
    used.run("test")
    assert "pip" not in used.calls()[0]  # the second time


@pytest.mark.parametrize(
    ("ruff", "pytest_exit", "code"), [("fails", "0", 1), ("", "1", 1), ("fails", "5", 5)]
)
def test_course_test_fails_when_any_part_does(
    used: Machine, ruff: str, pytest_exit: str, code: int
) -> None:
    """A linter that complains keeps nobody from testing, but the exit code tells."""
    done = used.run("test", RUFF=ruff, PYTEST_EXIT=pytest_exit)
    assert done.returncode == code
    assert ("ruff check complains" in done.stderr) is bool(ruff)
    assert done.stdout.splitlines()[-1] in ("== 3 passed ==", "== 3 measured ==")


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        (["board"], [f"{CLONE}/labs/board"]),
        (["-n", "4", "board::test_a"], ["-n", "4", f"{CLONE}/labs/board::test_a"]),
        (["tests/test_x.py"], ["tests/test_x.py"]),
        (["/tmp/test_y.py"], ["/tmp/test_y.py"]),
    ],
)
def test_course_test_takes_pytest_arguments(
    used: Machine, given: list[str], passed_on: list[str]
) -> None:
    """Named files are meant from where the user is; without any, all tests run."""
    (used.clone / "labs/labs").mkdir()  # what -k is given is no path, even if there is one
    used.run("test", *given, cwd=f"{CLONE}/labs")
    assert used.calls()[-1] == " ".join(["python -P -m pytest -n 3", *passed_on])


@pytest.mark.parametrize("given", [["-k", "labs"], ["-x", "--golden"]])
def test_course_test_measures_last_and_alone(used: Machine, given: list[str]) -> None:
    """Two runs of pytest: what measures needs the machine for itself."""
    used.run("test", *given)
    assert used.calls()[-3:] == [
        " ".join(["python -P -m pytest -n 3 -m not measures tests", *given]),
        " ".join(["python -P -m pytest -m measures --collect-only -q tests", *given]),
        " ".join(["python -P -m pytest -m measures tests", *given]),
    ]


def test_course_test_ends_with_what_ran_when_nothing_measures(used: Machine) -> None:
    """A second summary, of no test at all, would hide the one that counts."""
    done = used.run("test", "-k", "labs", MEASURES_EXIT="5")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "== 3 passed =="
    assert "measure" not in done.stderr


def test_the_tools_have_a_stamp_of_their_own(used: Machine) -> None:
    """Changed pins are installed for those who test; a failure leaves not even the old stamp."""
    assert used.run("test", PIP_FAILS="yes").returncode == 3
    used.calls()
    assert used.run("test").returncode == 0
    assert used.calls("apt-get") == []  # the programs that tests need came the first time
    pins = used.clone / "requirements-dev.txt"
    before = pins.read_text()
    pins.write_text(before + "another==1.0\n")
    assert used.run("list").stderr == ""
    assert used.run("test", PIP_FAILS="yes").returncode == 3
    pins.write_text(before)
    used.calls()
    assert used.run("test").returncode == 0
    assert "requirements-dev.txt" in used.calls("python -I -m pip")[0]


def test_course_serve_is_mkdocs_in_the_clone(used: Machine) -> None:
    """With the arguments given."""
    used.run("serve", "--strict")
    assert used.calls()[-1] == "python -P -m mkdocs serve --livereload --strict"


def test_the_doctor_comes_before_what_is_missing_is_installed(used: Machine) -> None:
    """It is there to say what that is."""
    (used.folder / "sbin/nginx").unlink()
    done = used.run("doctor", "--json")
    assert done.stdout == "grader got <doctor>\ngrader got <--json>\n"
    assert used.calls("apt-get") == []


def test_notebooks_need_more_than_grading(used: Machine) -> None:
    """Programs that make load, and Jupyter; the command itself is the command line's."""
    done = used.run("notebooks", "--run")
    assert "grader got <notebooks>" in done.stdout
    calls = used.calls()
    assert any(call.endswith("recommends wrk nghttp2-client") for call in calls)
    assert any("requirements-dev.txt" in call for call in calls)


# --- the files around it -----------------------------------------------------------------------


def pins(name: str) -> dict[str, str]:
    """Return what a file of requirements pins."""
    lines = (ROOT / name).read_text().splitlines()
    found = dict(line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(package): version for package, version in found.items()}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_package_is_pinned_with_all_it_needs(name: str) -> None:
    """A machine set up next year gets what was tested, and pip has nothing to choose."""
    for line in (ROOT / name).read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+", line)
    pinned = pins("requirements.txt") | pins(name)
    try:
        for package in pins(name):
            assert distribution(package).version == pinned[package], package
            for text in distribution(package).requires or []:
                need = Requirement(text)
                if need.marker is None or need.marker.evaluate({"extra": ""}):
                    needed = canonicalize_name(need.name)
                    assert needed in pinned, f"{package} needs {needed}"
                    assert need.specifier.contains(pinned[needed]), f"{package} needs {need}"
    except PackageNotFoundError as error:
        pytest.skip(f"{error} is not installed: ./course test installs all of it")


def test_no_package_is_pinned_twice() -> None:
    """Two pins can disagree."""
    assert not pins("requirements.txt").keys() & pins("requirements-dev.txt").keys()


def is_shell(path: Path) -> bool:
    """Whether a file is a script of a shell, by its name or its first line."""
    if path.is_symlink() or not path.is_file():
        return False
    first = path.read_bytes()[:32].partition(b"\n")[0]
    return path.suffix == ".sh" or bool(re.fullmatch(rb"#!/bin/(ba)?sh", first))


PLACES = (".", ".ci", "docs/diagrams", "tests/bench", "tests/vm", "vagrant", "vagrant/provision")
SCRIPTS = [path for place in PLACES for path in sorted((ROOT / place).glob("*")) if is_shell(path)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_shell_scripts_are_clean(script: Path) -> None:
    """Without what shellcheck warns of; POSIX sh where the first line says so."""
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=search)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: ./course test installs it")
    subprocess.run([shellcheck, "--external-sources", script], check=True, cwd=ROOT)


def test_the_launcher_is_posix_and_the_provisioning_stops_at_an_error() -> None:
    """A script that goes on after a failure leaves a server half-made."""
    for name in ("course", ".ci/run"):
        assert (ROOT / name).read_text().startswith("#!/bin/sh\n")
        assert (ROOT / name).stat().st_mode & stat.S_IXUSR
    for script in sorted((ROOT / "vagrant" / "provision").glob("*.sh")):
        assert "\nset -euo pipefail\n" in script.read_text(), script.name


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        (".venv/bin/python", True),
        (".course/lock", True),
        ("site/index.html", True),
        ("grader/__pycache__/x.pyc", True),
        ("labs/board/static/.env", False),
        ("labs/board/static/backup.sqlite3", False),
        ("labs/board/site/.venv", False),
    ],
)
def test_git_ignores_what_is_made_and_nothing_else(
    tmp_path: Path, path: str, ignored: bool
) -> None:
    """What must not be served is part of the course, so it must be tracked."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run([git, "init", "-q", tmp_path], check=True)
    asked = subprocess.run([git, "-C", tmp_path, "check-ignore", "-q", path], check=False)
    assert (asked.returncode == 0) is ignored

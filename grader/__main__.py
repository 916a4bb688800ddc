"""The command line: `course …` runs this."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from grader.errors import CourseError, GraderError

PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": True}


# The launcher's own, which prepares what they need. In the activated environment `course` is this
# module, so it hands them on.
OF_THE_LAUNCHER = ("test", "serve", "notebooks")
EPILOG = """\b
course test [PYTEST OPTIONS]  runs the course's own tests
course serve                  shows the site while you read or write it"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
def main() -> None:
    """Flask behind Nginx: run a lab's files for real, and have them judged."""


@main.command(context_settings=PASS_ON)
@click.argument("number")
@click.option("--solution", is_flag=True, help="Grade the course's own solution.")
@click.option("--submission", type=click.Path(), help="Grade the files of this folder.")
@click.argument("pytest_options", nargs=-1, type=click.UNPROCESSED)
def check(
    number: str, solution: bool, submission: str | None, pytest_options: tuple[str, ...]
) -> None:
    """Grade lab NUMBER; other options go to pytest (-k, -x, -n 2, …)."""
    from grader.lab import find_lab

    arguments = [str(find_lab(number).folder), *pytest_options]
    if solution:
        arguments.append("--solution")
    if submission:
        arguments.append(f"--submission={Path(submission).resolve()}")
    # A process of its own: pytest wants to load its plugins before anything of them is imported.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "pytest", *arguments])


@main.command("list")
def list_labs() -> None:
    """List the labs."""
    from grader.lab import all_labs

    for lab in all_labs():
        click.echo(f"{lab.number}  {lab.title:<40} {lab.minutes:>3} min  {lab.points:>3} points")


@main.command()
@click.argument("number")
@click.argument("check", required=False)
@click.option("--level", type=click.IntRange(1, 4), help="Show the hints up to this level.")
def hint(number: str, check: str | None, level: int | None) -> None:
    """Show one more hint for a CHECK of lab NUMBER, from the idea to the change itself."""
    from grader.hints import next_hint
    from grader.lab import find_lab

    click.echo(next_hint(find_lab(number), check, level))


@main.command()
@click.argument("number")
@click.option("--solution", is_flag=True, help="Start the course's own solution.")
@click.option("--submission", type=click.Path(), help="Start the files of this folder.")
def up(number: str, solution: bool, submission: str | None) -> None:
    """Start the site of lab NUMBER and open a shell in its box; `exit` ends both."""
    from grader.lab import SOLUTIONS, find_lab
    from grader.shell import open_shell

    lab = find_lab(number)
    folder = SOLUTIONS / lab.number if solution else lab.folder
    sys.exit(open_shell(lab, Path(submission) if submission else folder))


@main.command(context_settings=PASS_ON)
@click.option("--run", "again", is_flag=True, help="Run them from cold and keep their outputs.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def notebooks(again: bool, arguments: tuple[str, ...]) -> None:
    """Open the notebooks in JupyterLab; other options go to it.

    With --run, run them instead (all, or those of the lab numbers given) and bring everything up to
    date that is made from their outputs.
    """
    from grader import notebooks as all_of_them

    if not again:
        command = all_of_them.open_lab(list(arguments))
        os.execv(command[0], command)
    paths = [all_of_them.find_notebook(one) for one in arguments] or all_of_them.all_notebooks()
    for path in paths:
        started = time.monotonic()
        click.echo(f"{path.name} ", nl=False)
        all_of_them.run(path)
        click.echo(f"{time.monotonic() - started:.0f} s")
        all_of_them.update()


def run() -> None:
    """Run the command line; say in a sentence what went wrong."""
    if Path(sys.argv[0]).name == "course" and sys.argv[1:2] and sys.argv[1] in OF_THE_LAUNCHER:
        launcher = str(Path(__file__).resolve().parent.parent / "course")
        os.execv(launcher, [launcher, *sys.argv[1:]])
    try:
        main(standalone_mode=True, prog_name="course")
    except CourseError as error:
        click.echo(f"course: {error}", err=True)
        sys.exit(3 if isinstance(error, GraderError) else 2)


if __name__ == "__main__":
    run()

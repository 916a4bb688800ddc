"""The command line: `course …` runs this."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grader.errors import CourseError, DeployFailed, GraderError, NotEarned, UsageError

if TYPE_CHECKING:
    from grader.lab import Lab

PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": True}


# The launcher's own, which prepares what they need. In the activated environment `course` is this
# module, so it hands them on.
OF_THE_LAUNCHER = ("test", "serve", "notebooks")
EPILOG = """\b
course test [PYTEST OPTIONS]  runs the course's own tests
course serve                  shows the site while you read or write it"""


def complete_number(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """The numbers of labs, for a shell that completes the command line."""
    from grader.lab import all_labs

    return [lab.number for lab in all_labs() if lab.number.startswith(begun)]


def named_lab(context: click.Context) -> Lab | None:
    """The lab of a command line that is not complete yet; None when it names none."""
    from grader.lab import find_lab

    try:
        return find_lab(context.params["number"])
    except CourseError:
        return None


def complete_check(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The names of a lab's checks."""
    from grader.hints import load_hints

    lab = named_lab(context)
    names = load_hints(lab) if lab else {}
    return [name for name in names if name.startswith(begun)]


def complete_file(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The names of a lab's files."""
    lab = named_lab(context)
    names = lab.files if lab else {}
    return [name for name in names if name.startswith(begun)]


NUMBER = click.argument("number", shell_complete=complete_number)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
    invoke_without_command=True,
)
@click.version_option(package_name="flask-behind-nginx-grader", prog_name="course")
@click.pass_context
def main(context: click.Context) -> None:
    """Flask behind Nginx: run a lab's files for real, and have them judged.

    Without a command: where you are, and what comes next. Exit codes: 0 all passed, 1 a check
    failed, 2 the command was wrong, 3 the grader could not find out.
    """
    if context.invoked_subcommand is None:
        from grader.show import show
        from grader.status import overview

        show(overview())


@main.command(context_settings=PASS_ON)
@NUMBER
@click.option("--solution", is_flag=True, help="Grade the course's own solution.")
@click.option("--submission", type=click.Path(), help="Grade the files of this folder.")
@click.option("--live", is_flag=True, help="Grade the server that this machine is; asks first.")
@click.option("--yes", is_flag=True, help="With --live: do not ask.")
@click.argument("pytest_options", nargs=-1, type=click.UNPROCESSED)
def check(
    number: str,
    solution: bool,
    submission: str | None,
    live: bool,
    yes: bool,
    pytest_options: tuple[str, ...],
) -> None:
    """Grade lab NUMBER, or `all`; other options go to pytest (-k, -x, -n 2, …)."""
    from grader.lab import all_labs, find_lab

    labs = all_labs() if number == "all" else [find_lab(number)]
    if number == "all" and submission:
        raise UsageError("--submission has the files of one lab: name it")
    arguments = [*(str(lab.folder) for lab in labs), *pytest_options]
    if solution:
        arguments.append("--solution")
    if submission:
        arguments.append(f"--submission={Path(submission).resolve()}")
    arguments += ["--live"] * live + ["--yes"] * yes
    # A process of its own: pytest wants to load its plugins before anything of them is imported.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "pytest", *arguments])


@main.command("watch", context_settings=PASS_ON)
@NUMBER
@click.argument("pytest_options", nargs=-1, type=click.UNPROCESSED)
def watch_lab(number: str, pytest_options: tuple[str, ...]) -> None:
    """Grade lab NUMBER again on every save; goes on to the next lab when it passes."""
    from grader.lab import find_lab
    from grader.watch import watch

    for option in pytest_options:
        if option.startswith(("--solution", "--submission")):
            raise UsageError(f"{option} is not for `watch`: it grades the files that you edit")

    watch(find_lab(number), list(pytest_options))


@main.command("list")
def list_labs() -> None:
    """List the labs."""
    from grader.lab import all_labs

    for lab in all_labs():
        click.echo(f"{lab.number}  {lab.title:<40} {lab.minutes:>3} min  {lab.points:>3} points")


@main.command()
@NUMBER
@click.argument("check", required=False, shell_complete=complete_check)
@click.option("--level", type=click.IntRange(1, 4), help="Show the hints up to this level.")
def hint(number: str, check: str | None, level: int | None) -> None:
    """Show one more hint for a CHECK of lab NUMBER, from the idea to the change itself.

    Without CHECK it is the first one that failed when the lab was graded last.
    """
    from grader.hints import next_hint
    from grader.lab import find_lab
    from grader.status import first_failing

    lab = find_lab(number)
    if check is None and (check := first_failing(lab)):
        click.echo(f"The check {check!r} failed last.\n")
    click.echo(next_hint(lab, check, level))


@main.command()
@NUMBER
@click.option("--solution", is_flag=True, help="Start the course's own solution.")
@click.option("--submission", type=click.Path(), help="Start the files of this folder.")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Use this port, not 8080 or a free one."
)
def up(number: str, solution: bool, submission: str | None, port: int | None) -> None:
    """Run the site of lab NUMBER for your browser, and follow its logs; Ctrl-C ends it."""
    from grader.up import keep_up

    keep_up(*lab_and_folder(number, solution, submission), port)


@main.command()
@NUMBER
@click.option("--solution", is_flag=True, help="Start the course's own solution.")
@click.option("--submission", type=click.Path(), help="Start the files of this folder.")
def shell(number: str, solution: bool, submission: str | None) -> None:
    """Start the site of lab NUMBER and open a shell in its box; `exit` ends both."""
    from grader.shell import open_shell

    sys.exit(open_shell(*lab_and_folder(number, solution, submission)))


def lab_and_folder(number: str, solution: bool, submission: str | None) -> tuple[Lab, Path]:
    """The lab that is meant, and where the files are that are to run.

    Raises:
        UsageError: there is no such lab, or no such folder.
    """
    from grader.lab import find_lab, submission_folder

    lab = find_lab(number)
    return lab, submission_folder(lab, solution, Path(submission) if submission else None)


@main.command("next")
def next_one() -> None:
    """Say what to do next."""
    from grader.status import next_step

    click.echo(next_step())


@main.command()
@NUMBER
@click.argument("file", required=False, shell_complete=complete_file)
def reset(number: str, file: str | None) -> None:
    """Put the files of lab NUMBER (or one FILE) back as they were given; yours are kept."""
    from grader.lab import find_lab
    from grader.starters import reset as put_back

    backup = put_back(find_lab(number), file)
    if backup is None:
        click.echo("Nothing to do: it is as it was given.")
    else:
        click.echo(f"Done. What was there before is in {backup}")


@main.command()
@NUMBER
@click.argument("file", required=False, shell_complete=complete_file)
@click.option("--yes", is_flag=True, help="Do not ask whether to show the solution.")
def diff(number: str, file: str | None, yes: bool) -> None:
    """Compare the files of lab NUMBER (or one FILE) with the solution; asks first."""
    from grader.lab import find_lab
    from grader.show import show_diff
    from grader.starters import compare

    told = compare(find_lab(number), file)
    if not told:
        click.echo("There is no difference.")
    elif yes or click.confirm("This shows the solution. Go on?"):
        show_diff(told)


@main.command()
@click.argument("number")
@click.argument("name")
def new(number: str, name: str) -> None:
    """For authors: make lab NUMBER, called NAME, with all that is to be filled in."""
    from grader.lab import LABS
    from grader.new import new_lab

    for path in new_lab(number, name):
        click.echo(path.relative_to(LABS.parent))
    click.echo("Next: ./course test says what is to be filled in.")


@main.command()
@click.option("--json", "as_data", is_flag=True, help="For programs.")
def doctor(as_data: bool) -> None:
    """Examine this machine: what the course needs, found or not, and how to mend it."""
    from grader import doctor as examination
    from grader.show import show

    findings = examination.examine()
    if as_data:
        click.echo(examination.as_json(findings))
    else:
        show(examination.as_text(findings))
    sys.exit(0 if examination.healthy(findings) else 3)


@main.command()
@NUMBER
@click.option("--solution", is_flag=True, help="Grade the course's own solution.")
@click.option("--submission", type=click.Path(), help="Grade the files of this folder.")
@click.option(
    "--format", "shape", type=click.Choice(["text", "json", "junit", "html", "csv"]), default="text"
)
def report(number: str, solution: bool, submission: str | None, shape: str) -> None:
    """Grade lab NUMBER and print all that was seen, every request and answer included."""
    from grader.lab import find_lab
    from grader.reporting import grade, render

    data = grade(find_lab(number), Path(submission) if submission else None, solution)
    click.echo(render(data, shape), nl=False)
    verdicts = {one["verdict"] for one in data["checks"]}
    sys.exit(1 if "failed" in verdicts else 3 if "inconclusive" in verdicts else 0)


@main.command()
@click.option("--name", default="", help="Whose certificate it is, as it shall be written.")
@click.option("--submission", type=click.Path(), help="Grade the files of this folder.")
@click.option("--seed", help="Draw what is asked with this seed, not with a new one.")
@click.option("--out", type=click.Path(), default="certificate.svg", show_default=True)
def certificate(name: str, submission: str | None, seed: str | None, out: str) -> None:
    """Grade the capstone, and write a certificate if it has all points."""
    from grader.completion import certify

    code = certify(Path(out), name, Path(submission) if submission else None, seed)
    click.echo(f"All points. The certificate: {out}\nIts code: {code}")


@main.command()
@click.argument("file", type=click.Path())
@click.option("--submission", type=click.Path(), help="Compare with the files of this folder.")
@click.option("--again", is_flag=True, help="Grade the files once more, with the same seed.")
def verify(file: str, submission: str | None, again: bool) -> None:
    """Tell whether a certificate is as it was made, and fits the files that it is about."""
    from grader.completion import examine

    found, told = examine(Path(file), Path(submission) if submission else None, again)
    click.echo(told)
    sys.exit(1 if found else 0)


@main.command("deploy")
@NUMBER
@click.option("--solution", is_flag=True, help="Deploy the course's own solution.")
@click.option("--submission", type=click.Path(), help="Deploy the files of this folder.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--force", is_flag=True, help="Also on a machine that looks like no course server.")
@click.option("--yes", is_flag=True, help="Do not ask before replacing what no deploy wrote.")
def deploy_lab(
    number: str, solution: bool, submission: str | None, dry_run: bool, force: bool, yes: bool
) -> None:
    """Put the files of lab NUMBER on this server, checked first; rolls back what does not work."""
    from grader import deploy

    lab, folder = lab_and_folder(number, solution, submission)
    lacks = deploy.looks_like_course_server()
    if lacks and not force:
        raise UsageError(f"this is no server of the course: {lacks}. To deploy anyway: --force")
    if dry_run:
        for step in deploy.plan(lab, folder):
            click.echo(deploy.as_text(step))
        return
    with deploy.alone():
        broken = deploy.settle()
        if broken:
            click.echo(f"A deploy of lab {broken} had broken off: it was taken back.")
        steps = deploy.plan(lab, folder)
        for step in steps:
            click.echo(deploy.as_text(step))
        if any(step.what == "foreign" for step in steps) and not yes:
            click.confirm("Go on?", abort=True)
        if all(step.what == "same" for step in steps):
            click.echo("Nothing to do.")
            return
        deploy.check_first(lab, steps)
        deploy.deploy(lab, folder, steps)
    click.echo(f"Lab {lab.number} is deployed, and the site answers.")


@main.command("tree")
def make_tree() -> None:
    """As root: make the files of the containers that lab 12 is graded in; takes two minutes."""
    from grader import tree

    tree.make()
    click.echo(f"Done: {tree.BARE} and {tree.SERVER}. To be rid of them, remove them.")


@main.command("undeploy")
@click.option("--yes", is_flag=True, help="Do not ask.")
def undeploy_lab(yes: bool) -> None:
    """Take the last deploy back: what was there before comes back."""
    from grader import deploy

    with deploy.alone():
        broken = deploy.settle()
        if broken:
            click.echo(f"The deploy of lab {broken}, which had broken off, was taken back.")
            return
        deploys = deploy.history()
        if not deploys:
            raise UsageError("nothing is deployed")
        for path in deploy.changed_since(deploys[-1]):
            click.echo(f"{path} was changed since; a copy is kept")
        if not yes:
            click.confirm(f"Take back the deploy of lab {deploys[-1].lab}?", abort=True)
        kept = deploy.undeploy()
    click.echo("Done. The site answers." + (f" Your changes are in {kept}" if kept else ""))


@main.command()
@click.argument("kind", type=click.Choice(["bash", "zsh", "fish"]))
def completion(kind: str) -> None:
    """Print what your shell needs to complete `course`: put it into its start file."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(kind)
    assert made is not None  # click has all three
    click.echo(made(main, {}, "course", "_COURSE_COMPLETE").source())


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
        code = 1 if isinstance(error, (DeployFailed, NotEarned)) else 2
        sys.exit(3 if isinstance(error, GraderError) else code)
    except OSError as error:
        if error.filename is None:
            raise
        click.echo(f"course: {error.filename}: {error.strerror}", err=True)
        sys.exit(3)


if __name__ == "__main__":
    run()

"""A whole server for tests: a container on the bare root tree, with a clone, and provisioned.

What boots it is `grader.container`; what it is booted on, `grader.tree`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from grader import tree
from grader.container import Container, ContainerError
from grader.container import booted as booted_on
from grader.tree import missing, wheels

ROOT = tree.ROOT
ROOT_TREE = tree.BARE
CLONE = "/home/vagrant/course"  # the course in a server
# As in the Vagrantfile: what `course` makes is not in the clone. pip has no network in there.
APART = {
    "COURSE_VENV": "/home/vagrant/.course/venv",
    "COURSE_STATE": "/home/vagrant/.course",
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "/mnt/wheels",
}
booted = partial(booted_on, ROOT_TREE)
LEFT_OUT = (".venv", ".git", ".course", "__pycache__", ".*_cache", "*.egg-info")  # and ./site


@contextmanager
def server(root: Path = ROOT_TREE) -> Iterator[Container]:
    """A server of the course: booted, with a clone in the home of `vagrant`, and provisioned.

    Raises:
        ContainerError: it did not boot, or provisioning failed.
    """
    with booted_on(root, binds={ROOT: "/mnt/course", wheels(): "/mnt/wheels"}) as container:
        copy_clone(container)
        provision(container)
        yield container


def copy_clone(container: Container) -> None:
    """Copy the course, mounted at /mnt/course, to where a Vagrant machine has it."""
    left_out = " ".join(f"--exclude='{one}'" for one in (*LEFT_OUT, "./site"))
    container.sh(
        f"mkdir {CLONE} && tar -C /mnt/course -c {left_out} . | tar -C {CLONE} -x"
        f" && chown -R vagrant:vagrant {CLONE}"
    )


def provision(container: Container) -> str:
    """Run the provisioning; returns what it printed."""
    script = f"{CLONE}/vagrant/provision/server.sh"
    return container.run(["bash", script, CLONE], env=APART, seconds=300).stdout


__all__ = [
    "APART",
    "CLONE",
    "ROOT_TREE",
    "Container",
    "ContainerError",
    "booted",
    "missing",
    "server",
]

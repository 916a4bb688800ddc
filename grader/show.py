"""Text on a terminal: with colour where there is one, the same words where there is none."""

from __future__ import annotations

import click
from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.syntax import Syntax
from rich.theme import Theme

THEME = Theme({"state.good": "green", "state.bad": "bold red", "state.odd": "yellow"})


class States(RegexHighlighter):
    """Colours the words that tell a state; they are words, so nothing is lost without colour."""

    base_style = "state."
    highlights = [  # noqa: RUF012  # rich reads it so
        r"(?m)(?P<good>\bpassed$|^ok\b)",
        r"(?m)(?P<bad>^missing\b)",
        r"(?m)(?P<odd>\bbegun$|^warning\b)",
    ]


def show(text: str) -> None:
    """Print text with states in colour."""
    console = Console(theme=THEME, highlighter=States())
    if console.is_terminal:
        console.print(text, soft_wrap=True, markup=False, emoji=False)
    else:
        click.echo(text)


def show_diff(text: str) -> None:
    """Print a unified diff, with its lines in colour."""
    console = Console()
    if console.is_terminal:
        lines = Syntax("", "diff", theme="ansi_dark", background_color="default")
        console.print(lines.highlight(text.rstrip("\n")), soft_wrap=True, end="")
    else:
        click.echo(text, nl=False)

"""How a benchmark answers: on the terminal for people, as Markdown for a document, as one line of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol

from rich import box
from rich.console import Console
from rich.table import Table

TERMINAL_WIDTH = 120  # columns, where stdout is not a terminal


class Page(Protocol):
    """Tables, and what to know about them."""

    def show(self) -> None:
        """Print it to the terminal."""

    def as_markdown(self) -> str:
        """It as Markdown, without a heading of its own."""


def tell(page: Page, answer: dict[str, Any], *, markdown: bool, json_line: bool) -> None:
    """Print the page, unless the line of JSON alone is asked for; the line comes last."""
    if markdown:
        print(page.as_markdown())
    elif not json_line:
        page.show()
    if json_line:
        print(json.dumps(answer))


def terminal(width: int = TERMINAL_WIDTH) -> Console:
    """Stdout; so many columns wide where it is not a terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = width
    return console


def titled(title: str) -> Table:
    """An empty table under its title."""
    return Table(title=title, title_justify="left", box=box.SIMPLE)


def show_notes(console: Console, notes: Iterable[str]) -> None:
    """Print notes below a table."""
    for note in notes:
        console.print(note, style="dim", markup=False)

"""Text from outside on a terminal: no markup of rich, and no control character that a terminal would obey."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text in which control characters, but for tabs and line ends, are written as `\x1b`.

    Marks that change the direction of writing, and halves of characters that no file can hold, are among them.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def cell(value: object, style: str = "") -> Text:
    """Return a value for a table, a title or a view, on one line and without markup."""
    return Text(printable(str(value)).replace("\n", r"\n").replace("\t", " "), style=style)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a text as it is, on lines as long as they are."""
    console.print(printable(text), style=style, soft_wrap=True, highlight=False, markup=False)


def add_row(table: Table, *values: object, style: str | None = None) -> None:
    """Add a row of values to a table."""
    table.add_row(*map(cell, values), style=style)


def add_column(table: Table, heading: object, **options: Any) -> None:
    """Add a column to a table.

    Args:
        table: The table.
        heading: The column's name.
        options: Further arguments of `Table.add_column`.
    """
    table.add_column(cell(heading), **options)

"""Output of untrusted text on a terminal, without markup of rich and without control characters."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Escape control characters, except tabs and line feeds, in the form `\x1b`.

    Marks of the direction of writing and lone surrogates are escaped as well.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def cell(value: object, style: str = "") -> Text:
    """Return a value as text on one line and without markup, for a table, a title or a view."""
    return Text(printable(str(value)).replace("\n", r"\n").replace("\t", " "), style=style)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a text without markup and without wrapping its lines."""
    console.print(printable(text), style=style, soft_wrap=True, highlight=False, markup=False)


def add_row(table: Table, *values: object, style: str | None = None) -> None:
    """Add a row of values to a table."""
    table.add_row(*map(cell, values), style=style)


def add_column(table: Table, heading: object, **options: Any) -> None:
    """Add a column to a table.

    Args:
        table: Table to extend.
        heading: Heading of the column.
        options: Further arguments of `Table.add_column`.
    """
    table.add_column(cell(heading), **options)

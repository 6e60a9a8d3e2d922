"""Standard output of the command line."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.console import Console

from orchestrator.plain_output import printable

_LOG_WIDTH = 160  # characters; no line of a log is broken


def tell(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text with its control characters escaped.

    Args:
        text: Text to print; may hold names from files and servers.
        err: Print to standard error.
        nl: End with a line break.
    """
    typer.echo(printable(text), err=err, nl=nl)


def tell_json(value: Any) -> None:
    """Print a value as indented JSON, for programs."""
    tell(json.dumps(value, indent=2))


def wide_console() -> Console:
    """Return a console on standard output, wide enough for unbroken lines where that is no terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=_LOG_WIDTH)

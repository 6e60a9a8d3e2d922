"""Options of the command line that are paths: parsers for typer."""

from __future__ import annotations

from pathlib import Path

import typer

from orchestrator.files.home_paths import expanded_location, expanded_path


def path_option(text: str) -> Path:
    """Return the path an option names, `~` expanded."""
    try:
        return expanded_path(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def location_option(text: str) -> str:
    """Return the URI or the path an option names, `~` of a path expanded."""
    try:
        return expanded_location(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

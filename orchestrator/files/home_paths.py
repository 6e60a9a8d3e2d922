"""Expansion of `~` in paths from users, also where no shell has replaced it."""

from __future__ import annotations

import os
from pathlib import Path


def expanded_path(given: str | os.PathLike[str]) -> Path:
    """Replace `~` or `~name` at the beginning of a path with the home folder.

    A folder whose own name begins with `~`, such as `./~x`, is returned as an absolute path, so that a second call
    leaves it as it is.

    Args:
        given: Path from the user; `~name` of an unknown user is kept, as in a shell.

    Raises:
        ValueError: The path is empty.
    """
    text = os.fspath(given)
    if not text:
        raise ValueError("is empty; name a path, or . for the current folder")
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - unlike Path's, it leaves `./~x` and unknown users alone
    return path.absolute() if str(path).startswith("~") else path


def expanded_location(given: str) -> str:
    """Return a URI as it is, and a path with `~` replaced.

    Raises:
        ValueError: The location is empty.
    """
    return given if "://" in given else str(expanded_path(given))

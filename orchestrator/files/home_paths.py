"""Paths as people write them: `~` is the home folder on whichever spelling, also where no shell replaces it."""

from __future__ import annotations

import os
from pathlib import Path


def expanded_path(given: str | os.PathLike[str]) -> Path:
    """Return a path with the home folder in the place of `~` or `~name`.

    A folder whose own name begins with `~`, such as `./~x`, is returned from the root, so that it stays one.

    Args:
        given: As written; a name that no user has stands for itself, as in a shell.

    Raises:
        ValueError: It is empty.
    """
    text = os.fspath(given)
    if not text:
        raise ValueError("is empty; name a path, or . for the current folder")
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - unlike Path's, it leaves `./~x` and unknown users alone
    return path.absolute() if str(path).startswith("~") else path


def expanded_location(given: str) -> str:
    """Return a URI as it is, and a path with its home folder.

    Raises:
        ValueError: It is empty.
    """
    return given if "://" in given else str(expanded_path(given))

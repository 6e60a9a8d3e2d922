"""Paths among the settings: texts, or paths of Python, with `~` for the home folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator


def expanded_path(given: str | Path) -> Path:
    """Return a path with the home folder in the place of `~` or `~name`.

    Args:
        given: As written.

    Raises:
        ValueError: It is empty, or there is no such home folder.
    """
    text = os.fspath(given)
    if not text:
        raise ValueError("is empty; name a path, such as ./here")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)  # no user of that name: a folder that is called so, as a shell takes it


def _path(given: Any) -> Any:
    return str(expanded_path(given)) if isinstance(given, str | os.PathLike) else given


def _location(given: Any) -> Any:
    return given if isinstance(given, str) and "://" in given else _path(given)


PathText = Annotated[str, BeforeValidator(_path)]
"""A path; `~` becomes the home folder."""

LocationText = Annotated[str, BeforeValidator(_location)]
"""A URI, which is kept, or a path."""

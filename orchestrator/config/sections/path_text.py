"""Paths among the settings: texts, or paths of Python, with `~` for the home folder."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import BeforeValidator

from orchestrator.files.home_paths import expanded_location, expanded_path


def _path(given: Any) -> Any:
    return str(expanded_path(given)) if isinstance(given, str | os.PathLike) else given


def _location(given: Any) -> Any:
    return expanded_location(os.fspath(given)) if isinstance(given, str | os.PathLike) else given


PathText = Annotated[str, BeforeValidator(_path)]
"""A path; `~` becomes the home folder."""

LocationText = Annotated[str, BeforeValidator(_location)]
"""A URI, which is kept, or a path."""

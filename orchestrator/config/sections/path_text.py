"""Types of paths among the settings: text or `pathlib` paths, with `~` for the home folder."""

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
"""Path; `~` becomes the home folder."""

LocationText = Annotated[str, BeforeValidator(_location)]
"""URI, which is kept as it is, or path, in which `~` becomes the home folder."""

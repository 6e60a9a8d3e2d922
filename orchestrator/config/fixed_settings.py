"""Find the settings a user fixed: those written under `training` and `model.options`, even if equal to the default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


def fixed_settings(training: Any, model: Any) -> dict[str, tuple[str, Any]]:
    """Where each setting that is written has its value, and the value; by setting, as far as they can be understood.

    Args:
        training: Section `training`, as written or built.
        model: Section `model`, likewise.
    """
    options = _written(model).get("options")
    return {
        **{name: (f"training.{name}", value) for name, value in _written(training).items()},
        **{name: (f"model.options.{name}", value) for name, value in _written(options).items()},
    }


def shown(value: Any) -> str:
    """A value as a sweep file would have it; flags per stage as letters."""
    if isinstance(value, list | tuple) and value and all(isinstance(flag, bool) for flag in value):
        return "".join("T" if flag else "F" for flag in value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _written(section: Any) -> dict[str, Any]:
    """The keys of a section that somebody has written; a default that nobody wrote is none of them."""
    if isinstance(section, BaseModel):
        return {name: getattr(section, name) for name in section.model_fields_set}
    return (
        {key: value for key, value in section.items() if isinstance(key, str)} if isinstance(section, Mapping) else {}
    )

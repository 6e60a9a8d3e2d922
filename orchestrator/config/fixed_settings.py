"""Settings that a user fixed: those written in `training` and `model`, even if equal to the default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

CHECKPOINT = "checkpoint"
"""Field of the section `model` that may be searched."""

RANDOM = "random"
"""Value of that field for random weights, beside checkpoints in a choice; the same as None."""


def fixed_settings(training: Any, model: Any) -> dict[str, tuple[str, Any]]:
    """Return the written settings: name to the place where it is written, and its value.

    Entries that cannot be understood are left out.

    Args:
        training: Section `training`, as written or as an object.
        model: Section `model`, as written or as an object.
    """
    in_model = written(model)
    options = in_model.get("options")
    checkpoint = {CHECKPOINT: (f"model.{CHECKPOINT}", in_model[CHECKPOINT])} if in_model.get(CHECKPOINT) else {}
    return {
        **checkpoint,
        **{name: (f"training.{name}", value) for name, value in written(training).items()},
        **{name: (f"model.options.{name}", value) for name, value in written(options).items()},
    }


def shown(value: Any) -> str:
    """Return a value as it is written in a sweep file; flags per stage as letters."""
    if isinstance(value, list | tuple) and value and all(isinstance(flag, bool) for flag in value):
        return "".join("T" if flag else "F" for flag in value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def written(section: Any) -> dict[str, Any]:
    """Return the written keys of a section and their values, without the defaults; empty where it is none.

    Args:
        section: A mapping, or a section as an object.
    """
    if isinstance(section, BaseModel):
        return {name: getattr(section, name) for name in section.model_fields_set}
    return (
        {key: value for key, value in section.items() if isinstance(key, str)} if isinstance(section, Mapping) else {}
    )

"""Dotted names of nested settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["flat_names"]


def flat_names(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every setting: `{"a": {"b": 1}}` as `a.b` and 1.

    Args:
        content: Nested settings; lists and empty mappings are values.
        prefix: Text before each name, such as `model.`.
    """
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flat_names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

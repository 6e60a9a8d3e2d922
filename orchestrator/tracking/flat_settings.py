"""Nested settings as flat names with dots, as MLflow shows parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.uris import masked


def flatten(content: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten `{"a": {"b": 1}}` to `{"a.b": 1}`, lists and empty mappings to JSON; mask passwords in addresses."""
    return dict(_leaves(masked(content), ""))


def _leaves(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, (list, Mapping)) else value

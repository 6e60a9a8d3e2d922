"""Nested settings as flat names with dots, as MLflow shows parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.config.flat_names import flat_names
from orchestrator.uris import masked


def flatten(content: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten `{"a": {"b": 1}}` to `{"a.b": 1}`, lists and empty mappings to JSON; mask passwords in addresses."""
    return {
        name: json.dumps(value) if isinstance(value, (list, Mapping)) else value
        for name, value in flat_names(masked(content))
    }

"""Nested settings as flat names with dots, the way MLflow shows parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.config.flat_names import flat_names
from orchestrator.uris import masked


def flatten(content: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; lists, and mappings without content, as JSON. Addresses have no passwords."""
    return {
        name: json.dumps(value) if isinstance(value, (list, Mapping)) else value
        for name, value in flat_names(masked(content))
    }

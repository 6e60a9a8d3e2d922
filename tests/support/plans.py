"""Plans of a sweep, for tests of the parts that take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.config import load_sweep
from orchestrator.config.plans import SearchPlan, resolve_plans


def search_plan(settings: Mapping[str, Any]) -> SearchPlan:
    """Return the search plan of a sweep.

    Args:
        settings: Settings as in a sweep file.
    """
    return resolve_plans(load_sweep(settings)).search

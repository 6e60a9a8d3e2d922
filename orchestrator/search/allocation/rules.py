"""Allocation rules by the name that `trial_scheduler.name` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchestrator.search.allocation.allocator import Allocator
from orchestrator.search.allocation.freeze_thaw import FreezeThaw
from orchestrator.search.allocation.pasha import Pasha
from orchestrator.search.allocation.promotion_asha import PromotionAsha

ALLOCATORS: Final[Mapping[str, type[Allocator]]] = {
    "asha": PromotionAsha,
    "pasha": Pasha,
    "freeze_thaw": FreezeThaw,
}
"""Classes of the rules, created with an `AllocationSetting`."""

"""What the workers of a lane are given; the lane's controller holds it as well, so this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.sections.objective import ObjectiveConfig


@dataclass(frozen=True)
class LaneSetting:
    """What all trials of a lane have in common.

    Args:
        lane: Index of the lane.
        hub: Handle of the hub.
        dataset: Which images, and the split.
        dataset_path: The dataset, as `open_dataset` takes it; reachable by every worker.
        objective: Decides between epochs.
        costs: What a network costs, where trials are to report it.
    """

    lane: int
    hub: Any
    dataset: DatasetConfig
    dataset_path: str
    objective: ObjectiveConfig
    costs: frozenset[str] = frozenset()

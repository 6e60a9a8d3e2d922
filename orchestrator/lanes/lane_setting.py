"""Settings of a lane, passed from the driver through the controller to the workers; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.sections.objective import ObjectiveConfig
from orchestrator.config.tasks.registry import DEFAULT_TASK


@dataclass(frozen=True)
class LaneInputs:
    """Dataset, objective and costs, which all trials of a sweep have in common.

    Args:
        dataset: Name of the dataset, and its split.
        dataset_path: Path or URI of the dataset as `open_dataset` takes it; reachable by every worker.
        objective: Objective that chooses the best epoch of a trial.
        costs: Names of the costs of a network that trials report.
        network_files: Source code of the networks' files, by name: no worker looks for a file of its own.
        task: Name of the task, which places the dataset.
    """

    dataset: DatasetConfig
    dataset_path: str
    objective: ObjectiveConfig
    costs: frozenset[str] = frozenset()
    network_files: Mapping[str, str] = field(default_factory=dict, repr=False)
    task: str = DEFAULT_TASK


@dataclass(frozen=True)
class LaneSetting:
    """Settings of one lane.

    Args:
        lane: Index of the lane.
        hub: Handle of the hub.
        inputs: Dataset, objective and costs of its trials.
        gpus_per_worker: GPUs that each worker reserves, or the share of one; zero on CPU.
    """

    lane: int
    hub: Any
    inputs: LaneInputs
    gpus_per_worker: float = 0.0

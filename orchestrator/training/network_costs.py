"""Costs of a network: parameters and operations, counted, and latency, measured; each only where a sweep uses it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch

from orchestrator.config.sections.training import TrainingConfig
from orchestrator.training.tasks.task import Predictor, Task

__all__ = ["NetworkCosts"]

_WARM_UP = 2
_PASSES = 9


class NetworkCosts:
    """Costs of the network of one trial.

    Args:
        description: Description of the network, see `describe_network`.
        wanted: Names of the costs: any of `params`, `macs` and `latency_ms`.
        task: Task of the network.
    """

    def __init__(self, description: Mapping[str, Any], wanted: frozenset[str], task: Task) -> None:
        self._description = description
        self._task = task
        self._counts = _count(description, wanted, task)
        self._has_latency = "latency_ms" in wanted

    def measure(self, predictor: Predictor, device: torch.device) -> dict[str, float]:
        """Return the wanted costs; the latency is measured now, the counts are those of every epoch.

        Args:
            predictor: Network to time, which is left in evaluation mode.
            device: Device of the network.
        """
        if not self._has_latency:
            return self._counts
        side = self._description["image_size"]
        image, _ = self._task.example_batch(self._description, TrainingConfig(), images=1, side=side, device=device)
        return {**self._counts, "latency_ms": _measure_latency_ms(predictor, image, device)}


def _count(description: Mapping[str, Any], wanted: frozenset[str], task: Task) -> dict[str, float]:
    if not wanted & {"params", "macs"}:
        return {}
    cost = task.model_cost(description)
    counts = {"params": float(cost.params), "macs": float(cost.macs)}
    return {name: value for name, value in counts.items() if name in wanted}


@torch.no_grad()
def _measure_latency_ms(predictor: Predictor, image: Any, device: torch.device) -> float:
    """Return the median of a few passes of one image, after a warm-up, in milliseconds."""
    predictor.evaluated.eval()
    times = []
    for _ in range(_WARM_UP + _PASSES):
        _wait_for(device)
        started = time.perf_counter()
        predictor.predict(image)
        _wait_for(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[_WARM_UP:]) * 1e3


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

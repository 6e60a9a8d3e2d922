"""What a network costs beside its accuracy, counted or measured where a sweep asks for it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch

import models
from orchestrator.training.evaluation import Predictor

_WARM_UP = 2
_PASSES = 9


def count_costs(description: Mapping[str, Any], wanted: frozenset[str]) -> dict[str, float]:
    """Those of `params` and `macs` that are wanted; the same for every epoch of a trial.

    Args:
        description: Of the network, as a checkpoint has it.
        wanted: Metrics asked for.
    """
    if not wanted & {"params", "macs"}:
        return {}
    options = {key: description[key] for key in ("num_classes", "in_chans", "image_size")}
    cost = models.model_cost(description["name"], description["options"], **options)
    counts = {"params": float(cost.params), "macs": float(cost.macs)}
    return {name: value for name, value in counts.items() if name in wanted}


@torch.no_grad()
def measure_latency_ms(predictor: Predictor, in_chans: int, image_size: int, device: torch.device) -> float:
    """Milliseconds from an image to its logits: the median of a few passes over one image, after a warm-up.

    Args:
        learner: Its evaluated network is left in evaluation mode.
        in_chans: Channels of the image.
        image_size: Its side in pixels.
        device: Where the network is.
    """
    predictor.evaluated.eval()
    image = torch.zeros(1, in_chans, image_size, image_size, device=device)
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

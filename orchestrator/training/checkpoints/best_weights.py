"""Content of `best.pt`: weights of the best epoch, and all that is needed to rebuild the network and evaluate it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.config.sections.training import TrainingConfig
from orchestrator.training.checkpoints.checkpoint_file import save_checkpoint
from orchestrator.training.evaluation_settings import EvaluationSettings
from orchestrator.training.images.device_images import DeviceImages

__all__ = ["HeldBest", "save_best", "share_of_255"]

_MOST_HELD_BYTES = 16 * 2**20


@dataclass(frozen=True)
class HeldBest:
    """Best weights so far of a trial, in the process that trains it; `best.pt` has the same bits.

    Args:
        epoch: Epoch of the weights, from 1.
        weights: Copy of the weights by name; None where they are too large to be held beside those in training.
    """

    epoch: int
    weights: Mapping[str, Tensor] | None

    @classmethod
    def of(cls, epoch: int, weights: Mapping[str, Tensor]) -> HeldBest:
        """Copy the weights of an epoch, unless they are large.

        Args:
            epoch: Epoch of the weights, from 1.
            weights: State dict of the evaluated network.
        """
        if sum(tensor.nbytes for tensor in weights.values()) > _MOST_HELD_BYTES:
            return cls(epoch, None)
        return cls(epoch, {name: tensor.detach().clone() for name, tensor in weights.items()})


def save_best(
    path: Path,
    weights: Mapping[str, Tensor],
    *,
    description: Mapping[str, Any],
    data: DeviceImages,
    training: TrainingConfig,
    epoch: int,
    metrics: Mapping[str, float],
) -> None:
    """Write the weights of an epoch as the best so far.

    Args:
        path: Path of the `best.pt`.
        weights: State dict of the evaluated network.
        description: Description of the network, see `describe_network`.
        data: Images of the trial.
        training: Settings of the trial.
        epoch: Epoch of the weights, from 1.
        metrics: Metrics of that epoch.

    Raises:
        StorageFullError: The disk has had no room for minutes.
    """
    content = {
        "model": description,
        "data": {
            "pixel_mean": share_of_255(data.train.mean),
            "pixel_std": share_of_255(data.train.std),
            "class_names": list(data.class_names),
        },
        "evaluation": EvaluationSettings.of(training, data.test).model_dump(),
        "state_dict": weights,
        "epoch": epoch,
        "metrics": metrics,
    }
    save_checkpoint(path, content)


def share_of_255(scaled: Tensor) -> list[float]:
    """Divide numbers by 255 so that the results, times 255, are the same numbers to the last bit.

    Args:
        scaled: Numbers for pixels in 0..255, of any shape.
    """
    share = scaled / 255
    for near in (share.nextafter(share.new_tensor(-1.0)), share.nextafter(share.new_tensor(2.0))):
        share = torch.where((share * 255 != scaled) & (near * 255 == scaled), near, share)
    return share.flatten().tolist()

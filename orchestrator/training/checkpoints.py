"""Checkpoints of a trial: one to continue from, one with the best weights, and the way back to a model.

`last.pt` holds everything training needs to go on; `best.pt` holds the weights of the best epoch and the words to
rebuild the network. Both are written whole or not at all, and read with `weights_only=True`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from orchestrator.errors import CheckpointError

_FORMAT = 1


@dataclass(frozen=True)
class TrialCheckpoints:
    """The checkpoint files of one trial.

    Args:
        folder: The trial's own; reachable by every worker.
    """

    folder: Path

    @property
    def last(self) -> Path:
        """State after the last reported epoch."""
        return self.folder / "last.pt"

    @property
    def best(self) -> Path:
        """Weights of the best epoch so far."""
        return self.folder / "best.pt"


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a checkpoint so that a crash leaves either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        torch.save({"format": _FORMAT, **content}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_checkpoint(path: Path, device: torch.device | None = None) -> dict[str, Any]:
    """Reads a checkpoint without running any code from it.

    Raises:
        CheckpointError: The file is missing, damaged or of another format.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as error:  # foreign bytes make an unpickler raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({reason})") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: is no checkpoint of this version of SpatialSweep")
    return content


def build_model(description: Mapping[str, Any]) -> nn.Module:
    """The network a checkpoint describes, freshly initialised.

    Args:
        description: `name`, `options`, `num_classes`, `in_chans`, `image_size`.
    """
    return models.create_model(
        description["name"],
        num_classes=description["num_classes"],
        in_chans=description["in_chans"],
        image_size=description["image_size"],
        **description["options"],
    )


def load_model_file(path: Path) -> nn.Module:
    """Rebuilds the trained network of a `best.pt`, in evaluation mode on the CPU.

    Inputs are images scaled to [0, 1], then normalised with the attributes `pixel_mean` and `pixel_std` (tuples, one
    number per channel); outputs are logits in the order of `class_names`.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    content = read_checkpoint(path, torch.device("cpu"))
    if "data" not in content:
        raise CheckpointError(f"{path}: is a checkpoint to continue from; a model is read from best.pt beside it")
    model = build_model(content["model"])
    model.load_state_dict(content["state_dict"])
    for name in ("pixel_mean", "pixel_std", "class_names"):
        setattr(model, name, tuple(content["data"][name]))
    return model.eval()

"""Checkpoints of a trial: one to continue from and the one before it, one with the best weights.

`last.pt` holds everything training needs to go on, `previous.pt` is the `last.pt` before; `best.pt` holds the weights
of the best epoch and the words to rebuild the network.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from orchestrator.errors import CheckpointError, first_line
from orchestrator.training.checkpoints.checkpoint_content import load_weights, read_best
from orchestrator.training.checkpoints.checkpoint_file import (
    remove_partial_files,
    save_checkpoint,
    verify_checkpoint,
)
from orchestrator.training.evaluation_settings import EvaluationSettings
from orchestrator.training.workers import Workers

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialCheckpoints:
    """The checkpoint files of one trial.

    Args:
        folder: The trial's own; reachable by every worker.
    """

    folder: Path

    @property
    def last(self) -> Path:
        """The newest state to continue from."""
        return self.folder / "last.pt"

    @property
    def previous(self) -> Path:
        """The state before the newest."""
        return self.folder / "previous.pt"

    @property
    def best(self) -> Path:
        """Weights of the best epoch so far."""
        return self.folder / "best.pt"

    def save_state(self, content: Mapping[str, Any]) -> None:
        """Writes a state to continue from; the one before it is kept."""
        save_checkpoint(self.last, content, previous=self.previous)

    def agree_on_state(self, workers: Workers) -> Path | None:
        """What the first rank chooses, on all ranks; see `choose_state`. Every rank must call.

        Raises:
            CheckpointError: Both states are damaged.
        """
        name, fault = "", ""
        if workers.is_first:
            try:
                chosen = self.choose_state()
                name = chosen.name if chosen is not None else ""
            except CheckpointError as error:
                fault = str(error)
        name, fault = workers.told_by_first([name, fault])
        if fault:
            raise CheckpointError(fault)
        return self.folder / name if name else None

    def choose_state(self) -> Path | None:
        """The newest sound state; None when the trial is to start from its beginning.

        A damaged file is reported to the log and passed over. Only where both states are damaged is something wrong
        with the storage itself.

        Raises:
            CheckpointError: Both states are damaged.
        """
        remove_partial_files(self.folder)
        faults = []
        for path in (self.last, self.previous):
            if not path.exists():
                continue
            try:
                verify_checkpoint(path)
            except CheckpointError as error:
                faults.append(str(error))
                continue
            if faults:
                _LOG.warning("%s. The trial continues from the state before it, %s", faults[0], path.name)
            return path
        if len(faults) > 1:
            raise CheckpointError("; ".join(faults))
        if faults:
            _LOG.warning("%s. There is no state before it: the trial starts from its beginning", faults[0])
        return None


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
    number per channel), of `trained_image_size` pixels; outputs are logits in the order of `class_names`. How the
    run evaluated is `evaluation_settings`, None where the file is older than that.

    Raises:
        CheckpointError: The file is missing or damaged, or holds something else.
    """
    content = read_best(path, torch.device("cpu"))
    try:
        model = build_model(content["model"])
    except (models.ModelOptionError, TypeError) as error:  # a name or an option that is not among those there are
        raise CheckpointError(f"{path}: names a network that cannot be built ({first_line(error)})") from None
    load_weights(model, content["state_dict"], path)
    for name in ("pixel_mean", "pixel_std", "class_names"):
        setattr(model, name, tuple(content["data"][name]))
    model.trained_image_size = content["model"]["image_size"]
    model.evaluation_settings = EvaluationSettings.read(content, path)  # type: ignore[assignment]
    return model.eval()

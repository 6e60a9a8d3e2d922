"""Checkpoints of a trial: the state to resume from and the one before it, and the best weights.

`last.pt` holds all that training needs to resume, `previous.pt` is the former `last.pt`; `best.pt` holds the weights of
the best epoch and the description of the network.
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
from orchestrator.config.sections.model import ModelConfig
from orchestrator.config.tasks.registry import DEFAULT_TASK
from orchestrator.errors import CheckpointError, ConfigError, first_line
from orchestrator.files.known_code import is_known_code, note_code
from orchestrator.training.checkpoints.checkpoint_content import load_weights, read_best
from orchestrator.training.checkpoints.checkpoint_file import (
    remove_partial_files,
    save_checkpoint,
    verify_checkpoint,
)
from orchestrator.training.evaluation_settings import EvaluationSettings
from orchestrator.training.tasks.registry import find_task
from orchestrator.training.workers import Workers

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialCheckpoints:
    """Checkpoint files of one trial.

    Args:
        folder: Folder of the trial, which every worker can reach.
    """

    folder: Path

    @property
    def last(self) -> Path:
        """Path of the newest state to resume from."""
        return self.folder / "last.pt"

    @property
    def previous(self) -> Path:
        """Path of the state before the newest."""
        return self.folder / "previous.pt"

    @property
    def best(self) -> Path:
        """Path of the weights of the best epoch so far."""
        return self.folder / "best.pt"

    def save_state(self, content: Mapping[str, Any]) -> None:
        """Write a state to resume from, and keep the one before it."""
        save_checkpoint(self.last, content, previous=self.previous)

    def agree_on_state(self, workers: Workers) -> Path | None:
        """Return the first rank's `choose_state` on all ranks; every rank must call.

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
        name, fault = workers.broadcast_from_first([name, fault])
        if fault:
            raise CheckpointError(fault)
        return self.folder / name if name else None

    def choose_state(self) -> Path | None:
        """Return the path of the newest sound state; None where the trial starts from its beginning.

        A damaged file is logged and skipped. Two damaged files are an error, since the storage itself must be faulty.

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
                _LOG.warning("%s. The trial resumes from the state before it, %s", faults[0], path.name)
            return path
        if len(faults) > 1:
            raise CheckpointError("; ".join(faults))
        if faults:
            _LOG.warning("%s. There is no state before it: the trial starts from its beginning", faults[0])
        return None


def describe_network(
    model: ModelConfig, *, num_classes: int, in_chans: int, image_size: int, task: str = DEFAULT_TASK
) -> dict[str, Any]:
    """Return the description that checkpoints store and `build_network` reads.

    Of a network of a file it holds the source code, so that a checkpoint suffices to rebuild the network.

    Args:
        model: Name and options of the network, as `resolve_trial` or a journal records them.
        num_classes: Number of classes.
        in_chans: Number of channels of the images.
        image_size: Height of the images in pixels.
        task: Name of the task, which builds the network with its head.
    """
    return {
        "name": model.name,
        "options": models.options_of_record(model.name, model.options),
        "num_classes": num_classes,
        "in_chans": in_chans,
        "image_size": image_size,
        "task": task,
        **code_entry(model.name),
    }


def code_entry(name: str) -> dict[str, Any]:
    """Return the part of a description that holds the source code of a network of a file; empty for other networks.

    Args:
        name: Name of the network.
    """
    file = models.network_file(name)
    return {} if file is None else {"code": {"file": file.name, "text": file.text}}


def build_network(description: Mapping[str, Any]) -> nn.Module:
    """Build the network of a description, freshly initialised.

    Options that a description of version 0.1.0 leaves out have the default they had there; a description without a
    task is that of a classifier.

    Args:
        description: `name`, `options`, `num_classes`, `in_chans`, `image_size` and `task`, see `describe_network`.

    Raises:
        ConfigError: There is no such task.
    """
    return find_task(description.get("task", DEFAULT_TASK)).build_network(description)


def load_network_file(path: Path, *, allow_code: bool = False) -> nn.Module:
    """Rebuild the trained network of a `best.pt`, in evaluation mode on the CPU.

    Inputs are images scaled to [0, 1], then normalised with the attributes `pixel_mean` and `pixel_std` (tuples, one
    number per channel), of `trained_image_size` pixels; outputs are those of the `task`, for classification logits in
    the order of `class_names`. The attribute `evaluation_settings` holds the settings of the run's evaluation, None for
    a file that does not store them, and `output_shape` the shape of the output for one image, see `Task.output_shape`.

    Args:
        path: Path of the `best.pt`.
        allow_code: Run the source code that a checkpoint of a network of a file holds, also where the user has not run
            it before.

    Raises:
        CheckpointError: The file is missing or damaged, or holds something else, or code that is not allowed.
    """
    content = read_best(path, torch.device("cpu"))
    _run_its_code(content["model"], path, allow_code=allow_code)
    try:
        network = build_network(content["model"])
    except (models.ModelOptionError, ConfigError, TypeError) as error:  # an unknown name, task or option
        raise CheckpointError(f"{path}: names a network that cannot be built ({first_line(error)})") from None
    load_weights(network, content["state_dict"], path)
    for name in ("pixel_mean", "pixel_std", "class_names"):
        setattr(network, name, tuple(content["data"][name]))
    task = find_task(content["model"].get("task", DEFAULT_TASK))
    network.task, network.output_shape = task.facts.name, task.output_shape(content["model"])  # type: ignore[assignment]
    network.trained_image_size = content["model"]["image_size"]
    network.evaluation_settings = EvaluationSettings.read(content, path)  # type: ignore[assignment]
    return network.eval()


def _run_its_code(description: Mapping[str, Any], path: Path, *, allow_code: bool) -> None:
    """Run the code in the description of a network of a file; no other code is looked for.

    Raises:
        CheckpointError: The description names a file without holding it, its code cannot be run, or it is unknown to
            the user and not allowed.
    """
    name, code = description["name"], description.get("code")
    parts = models.split_reference(name)
    if parts is None:
        return
    if code is None or code["file"] != parts[0]:
        raise CheckpointError(f"{path}: its network is {name}, and the checkpoint does not hold that file")
    sha256 = models.NetworkFile(code["file"], code["text"]).sha256
    if not allow_code and not is_known_code(sha256):
        raise CheckpointError(
            f"{path}: its network is code in the checkpoint, {name} (SHA-256 {sha256[:12]}), which you have not run "
            "before. Allow it once, if you trust it: --allow-code, or allow_code=True (docs/security.md)"
        )
    note_code(sha256)
    try:
        models.register_network_file(code["file"], code["text"])
    except models.NetworkFileError as error:
        raise CheckpointError(f"{path}: its network cannot be built: {error}") from None

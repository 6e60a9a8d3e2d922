"""Weights that a training starts from: their file in the folder of the sweep, and their way into a network."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from models.backbones import StageMaps, fit_backbone, load_backbone
from models.backbones.head_options import build_on_meta
from orchestrator.errors import CheckpointError
from orchestrator.training.checkpoints.checkpoint_file import read_checkpoint, save_checkpoint
from orchestrator.training.checkpoints.checkpoints import build_network

__all__ = ["fit_fault", "load_initial_weights", "read_stored_weights", "store_initial_weights", "stored_path"]

_LOG = logging.getLogger("spatialsweep.trial.weights")  # below the one that writes the log of a trial

FOLDER = "weights"
"""Folder of a sweep that holds the weights its trials start from."""


def stored_path(folder: Path, name: str) -> Path:
    """Return the path of stored weights.

    Args:
        folder: Folder of the sweep.
        name: Name of the file.
    """
    return folder / FOLDER / name


def store_initial_weights(folder: Path, name: str, weights: models.Weights) -> None:
    """Write weights into the folder of a sweep, which every worker reaches; a stored file stays as it is.

    Args:
        folder: Folder of the sweep.
        name: Name of the file.
        weights: Weights to store.
    """
    path = stored_path(folder, name)
    if not path.exists():
        tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in weights.tensors.items()}
        save_checkpoint(path, {"state_dict": tensors, "kind": weights.kind})


def read_stored_weights(folder: Path, name: str) -> models.Weights:
    """Read weights from the folder of a sweep.

    Args:
        folder: Folder of the sweep.
        name: Name of the file.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    path = stored_path(folder, name)
    if not path.exists():
        raise CheckpointError(
            f"{path}: the weights that this trial starts from are not on this node. All nodes have to reach the folder "
            "of the sweep: name shared storage as runs_dir"
        )
    content = read_checkpoint(path, torch.device("cpu"))
    if not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path}: holds no weights")
    return models.Weights(content["state_dict"])


def load_initial_weights(network: nn.Module, trial_folder: Path, name: str) -> None:
    """Load the weights that a trial starts from into its freshly initialised network.

    Of a network with a head, such as a segmentor, they are those of its backbone, and the log says which.

    Args:
        network: Network of the trial.
        trial_folder: Folder of the trial, which lies in the folder of its sweep.
        name: Name of the stored file.

    Raises:
        CheckpointError: The file is missing or damaged, or is not of this network.
    """
    weights = read_stored_weights(trial_folder.parents[1], name)
    backbone = _backbone_of(network)
    try:
        if backbone is None:
            models.load_weights(network, weights)
        else:
            _LOG.info("starts from %s: %s", name, load_backbone(backbone, weights).summary)
    except (models.AuthorsCheckpointError, models.AuthorsOptionError) as error:
        raise CheckpointError(f"{name}: {error}") from None


def fit_fault(description: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, tuple[str, ...]]:
    """Return why weights are not those of a network, empty where they are, and the notes about what is left out.

    Args:
        description: Description of the network, see `describe_network`.
        shapes: Shapes of the weights by name.

    Raises:
        ModelOptionError: The network cannot be built.
    """
    network = build_on_meta(lambda: build_network(description))
    backbone = _backbone_of(network)
    try:
        if backbone is None:
            return "", models.fit_weights(network, shapes).notes
        fit = fit_backbone(backbone, shapes)
        return "", (*fit.notes, fit.result.summary)
    except (models.AuthorsCheckpointError, models.AuthorsOptionError) as error:
        return str(error), ()


def _backbone_of(network: nn.Module) -> StageMaps | None:
    """Return the part of a network with a head that starts from a classifier; None for other networks."""
    backbone = getattr(network, "backbone", None)
    return backbone if isinstance(backbone, StageMaps) else None

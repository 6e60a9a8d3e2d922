"""The folder MLflow makes a model of: weights, signature, example, requirements, and the code of the networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_REQUIRED = ("mlflow", "numpy", "timm", "torch")


@dataclass(frozen=True)
class ModelFacts:
    """What a checkpoint says of itself.

    Args:
        name: Of the network.
        options: Of the network.
        epoch: That the weights are of; 0 where it is not told.
        metrics: Of that epoch.
    """

    name: str
    options: Mapping[str, Any]
    epoch: int
    metrics: Mapping[str, float]


def write_model_folder(checkpoint: Path, folder: Path) -> ModelFacts:
    """Writes a trained network as an MLflow model that takes pixels scaled to [0, 1], float32 (N, C, H, W).

    The checkpoint is read as tensors and plain data only. What is written holds a pickle, as MLflow's models of a
    class of one's own do: to load it is to trust it.

    Args:
        checkpoint: A `best.pt`.
        folder: Made here.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
    """
    import mlflow.pytorch
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    import models
    from models.common.pixels import PixelModel
    from orchestrator.training.checkpoints.checkpoint_content import read_best
    from orchestrator.training.checkpoints.checkpoints import load_network_file

    content = read_best(checkpoint, torch.device("cpu"))
    described, data = content["model"], content["data"]
    model = PixelModel(load_network_file(checkpoint), data["pixel_mean"], data["pixel_std"], data["class_names"]).eval()
    shape = (described["in_chans"], described["image_size"], described["image_size"])
    single = np.dtype(np.float32)
    mlflow.pytorch.save_model(
        model,
        folder,
        code_paths=[str(Path(models.__file__).parent)],
        signature=ModelSignature(
            inputs=Schema([TensorSpec(single, (-1, *shape))]),
            outputs=Schema([TensorSpec(single, (-1, described["num_classes"]))]),
        ),
        input_example=_example(shape),
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _REQUIRED],
        metadata={"class_names": list(data["class_names"]), "network": described["name"]},
        serialization_format="pickle",
    )
    metrics = {key: float(value) for key, value in content.get("metrics", {}).items() if math.isfinite(value)}
    return ModelFacts(described["name"], described["options"], int(content.get("epoch", 0)), metrics)


def name_model(folder: Path, model_id: str, run_id: str) -> None:
    """Writes into the folder of a model which model of MLflow's it is."""
    from mlflow.models import Model

    model = Model.load(str(folder))
    model.model_id, model.model_uuid, model.run_id = model_id, model_id, run_id
    model.save(str(folder / "MLmodel"))


def _example(shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """One image: a slope from black to white, in steps that are short to write."""
    slope = np.linspace(0.0, 1.0, shape[-1], dtype=np.float32).round(2)
    return np.ascontiguousarray(np.broadcast_to(slope, (1, *shape)))

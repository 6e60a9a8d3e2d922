"""Folder of an MLflow model: weights, signature, example, requirements, and the code of the networks."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from orchestrator.config.tasks.registry import list_tasks, task_facts

_REQUIRED = ("mlflow", "numpy", "timm", "torch")


@dataclass(frozen=True)
class ModelFacts:
    """Facts of a checkpoint.

    Args:
        name: Registered name of the network.
        options: Options of the network.
        epoch: Epoch of the weights; 0 where it is unknown.
        metrics: Metrics of that epoch.
    """

    name: str
    options: Mapping[str, Any]
    epoch: int
    metrics: Mapping[str, float]


def write_model_folder(checkpoint: Path, folder: Path) -> ModelFacts:
    """Write a trained network as an MLflow model whose input is pixels in [0, 1], float32 (N, C, H, W).

    A detector takes images of any size and returns a list of dictionaries, which `mlflow.pytorch.load_model` gives and
    the generic interface of MLflow, for single tensors, does not.

    The checkpoint is read as tensors and plain data only. The folder contains a pickle, as every MLflow model of a
    custom class does: loading it executes code.

    Args:
        checkpoint: Path of a `best.pt`.
        folder: Target folder, which is created.

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
    description, data = content["model"], content["data"]
    trained = load_network_file(checkpoint)
    output = cast(tuple[int, ...] | None, trained.output_shape)
    network = PixelModel(trained, data["pixel_mean"], data["pixel_std"], data["class_names"]).eval()
    shape = (description["in_chans"], description["image_size"], description["image_size"])
    single = np.dtype(np.float32)
    task = cast(str, trained.task)
    is_annotated = task in list_tasks() and bool(task_facts(task).annotation)
    accepted = (shape[0], -1, -1) if is_annotated and output is None else shape
    required = (*_REQUIRED, *(("torchvision",) if is_annotated else ()))
    with _code_of(description["name"]) as code, _requirements_of_this_process():
        mlflow.pytorch.save_model(
            network,
            folder,
            code_paths=[str(Path(models.__file__).parent), *code],
            signature=ModelSignature(
                inputs=Schema([TensorSpec(single, (-1, *accepted))]),
                outputs=None if output is None else Schema([TensorSpec(single, (-1, *output))]),
            ),
            input_example=_example(shape),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in required],
            metadata={
                "class_names": list(data["class_names"]),
                "network": description["name"],
                "task": task,
            },
            serialization_format="pickle",
        )
    metrics = {key: float(value) for key, value in content.get("metrics", {}).items() if math.isfinite(value)}
    return ModelFacts(description["name"], description["options"], int(content.get("epoch", 0)), metrics)


@contextmanager
def _code_of(name: str) -> Iterator[list[str]]:
    """Provide the module of a network of a file, which the pickle refers to; nothing for other networks."""
    import models

    file = models.network_file(name)
    if file is None:
        yield []
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{file.module_name}.py"
        path.write_text(file.text, encoding="utf-8")
        yield [str(path)]


@contextmanager
def _requirements_of_this_process() -> Iterator[None]:
    """Skip MLflow's comparison of a model's requirements with the installed packages, from which they are made.

    It reads the records of every installed package, which takes half a second.
    """
    from mlflow.utils import environment

    names, comparison = vars(environment), "warn_dependency_requirement_mismatches"
    if comparison not in names:  # a private name, which another version may lack
        yield
        return
    before, names[comparison] = names[comparison], lambda _: None
    try:
        yield
    finally:
        names[comparison] = before


def name_model(folder: Path, model_id: str, run_id: str) -> None:
    """Write the ids of an MLflow model and its run into the folder of the model."""
    from mlflow.models import Model

    model = Model.load(str(folder))
    model.model_id, model.model_uuid, model.run_id = model_id, model_id, run_id
    model.save(str(folder / "MLmodel"))


def _example(shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Create one image: a gradient from black to white, with numbers that are short in JSON."""
    slope = np.linspace(0.0, 1.0, shape[-1], dtype=np.float32).round(2)
    return np.ascontiguousarray(np.broadcast_to(slope, (1, *shape)))

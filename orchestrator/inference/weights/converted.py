"""Weights of another program as a `best.pt`, so that evaluation, export, explanation and registration take them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config.network_files import read_network_files
from orchestrator.errors import CheckpointError
from orchestrator.files.known_code import note_code
from orchestrator.inference.weights.sources import SourceWeights, read_source

if TYPE_CHECKING:
    from torch import nn

    from orchestrator.data.datasets import DatasetFacts

__all__ = ["Converted", "WeightsOf", "converted_weights"]

_SMALL_SIDE = 224  # of image files for a network whose description names no size
_INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class WeightsOf:
    """Network that weights of another program belong to.

    Args:
        model: Name of the network.
        kind: `ema` or `plain`, for a file that holds both; None takes the moving average.
        dataset: Name or URI of the dataset whose classes the network has; None names them by their numbers.
    """

    model: str
    kind: str | None = None
    dataset: str | None = None


@dataclass(frozen=True)
class Converted:
    """Weights of another program in our format.

    Args:
        path: Path of the `best.pt`.
        sha256: Hash of the bytes of the source.
        bytes: Size of the source.
        notes: What was read and with which images the network works, a line each.
    """

    path: Path
    sha256: str
    bytes: int
    notes: tuple[str, ...]


@contextmanager
def converted_weights(
    source: str | Path,
    of: WeightsOf,
    *,
    tracking_uri: str | None = None,
    datasets_folder: Path = Path("runs/datasets"),
) -> Iterator[Converted]:
    """Provide weights of another program as a `best.pt` within the context; blocks while they are downloaded.

    Images are normalised, cropped and resized as the network's description for timm says, which is that of its paper.

    Args:
        source: Weights, see `read_source`.
        of: Network of the weights.
        tracking_uri: MLflow address of a run; None takes the database in `runs`.
        datasets_folder: Folder of the registered datasets.

    Raises:
        CheckpointError: There is no such source or network, the weights are not of it, have no classifier, or are a
            checkpoint of SpatialSweep.
        DataError: There is no such dataset.
    """
    import models
    from orchestrator.training.checkpoints.checkpoint_file import save_checkpoint
    from orchestrator.training.checkpoints.checkpoints import code_entry

    read = _read(source, of, tracking_uri)
    facts, class_names = _dataset(of.dataset, datasets_folder)
    network, keywords, notes = _network(source, of.model, read)
    num_classes = keywords.pop("num_classes")
    in_chans = keywords.pop("in_chans")
    if class_names is not None and len(class_names) != num_classes:
        raise CheckpointError(
            f"{source}: its {num_classes} classes are not the {len(class_names)} of {of.dataset}; use images of the "
            "classes it was trained on"
        )
    images, about_images = _images(network, keywords, facts, in_chans)
    names = class_names or tuple(map(str, range(num_classes)))
    content = {
        "model": {
            "name": of.model,
            "options": models.options_to_record(of.model, keywords),
            "num_classes": num_classes,
            "in_chans": in_chans,
            "image_size": images.pop("image_size"),
            **code_entry(of.model),
        },
        "data": {key: images.pop(key) for key in ("pixel_mean", "pixel_std")} | {"class_names": list(names)},
        "evaluation": {"precision": "float32", "channels_last": False, **images},
        "state_dict": {key: tensor.detach().clone() for key, tensor in network.state_dict().items()},
    }
    with tempfile.TemporaryDirectory(prefix="spatialsweep-weights-") as folder:
        path = Path(folder) / "best.pt"
        save_checkpoint(path, content)
        yield Converted(path, read.sha256, read.bytes, (*read.weights.notes, *notes, about_images))


def _read(source: str | Path, of: WeightsOf, tracking_uri: str | None) -> SourceWeights:
    """Read the weights of another program.

    Raises:
        CheckpointError: There is no such source or network, or it is a checkpoint of SpatialSweep, whose options,
            precision and preparation of images are not those that the name of its network stands for.
    """
    _run_its_file(of.model)
    read = read_source(source, model=of.model, kind=of.kind, tracking_uri=tracking_uri)
    if read.ours:
        raise CheckpointError(
            f"{source}: is a checkpoint of SpatialSweep, which holds its network and how images are prepared for it. "
            "Leave out --model; `register` takes the name of the sweep"
        )
    return read


def _dataset(dataset: str | None, datasets_folder: Path) -> tuple[DatasetFacts | None, tuple[str, ...] | None]:
    """Return the facts about a dataset and the names of its classes; None where none is named."""
    from orchestrator.data import dataset_facts, list_datasets, locate_dataset, open_dataset

    if dataset is None:
        return None, None
    name, uri = (dataset, None) if dataset in list_datasets() else (None, dataset)
    return dataset_facts(name, uri, _SMALL_SIDE), open_dataset(locate_dataset(name, uri, datasets_folder)).class_names


def _run_its_file(model: str) -> None:
    """Read and run the file of a network `FILE.py:FACTORY` in the current folder, which the user names.

    Raises:
        CheckpointError: There is no such file, or it cannot be run.
    """
    files, problems = read_network_files({"model": {"name": model}})
    if problems:
        raise CheckpointError(f"--model {model}: {problems[0].message}")
    for sha256 in files.hashes.values():
        note_code(sha256)


def _network(source: str | Path, model: str, read: SourceWeights) -> tuple[nn.Module, dict[str, Any], tuple[str, ...]]:
    """Build the network of weights, load them, and return it with its keywords and notes."""
    import models

    try:
        keywords = models.keywords_for(model, read.weights.shapes)
        network = models.create_model(model, **keywords)
    except models.ModelOptionError as error:
        if (fault := models.name_problem(model)) is not None:
            raise CheckpointError(f"--model {model}: there is no such network. {fault.remedy}") from None
        raise CheckpointError(f"--model {model}: {error}") from None
    try:
        fit = models.load_weights(network, read.weights)
    except (models.AuthorsCheckpointError, models.AuthorsOptionError) as error:
        raise CheckpointError(f"{source}: is not of {model}: {error}") from None
    if fit.new_head:
        raise CheckpointError(
            f"{source}: {fit.notes[-1]}. There is nothing to evaluate; train one with model.checkpoint in a sweep"
        )
    return network, keywords, fit.notes


def _images(
    network: nn.Module, keywords: Mapping[str, Any], facts: DatasetFacts | None, in_chans: int
) -> tuple[dict[str, Any], str]:
    """Return size, normalisation and crop of the images of a network, and a line about them."""
    described: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    sides = keywords.get("img_size") or described.get("input_size", (3, _SMALL_SIDE, _SMALL_SIDE))[1:]
    is_small = facts is not None and not facts.files
    side = facts.image_size if facts is not None and is_small and "img_size" not in keywords else int(sides[0])
    mean, std = (_per_channel(described.get(key, (0.5,)), in_chans) for key in ("mean", "std"))
    interpolation = described.get("interpolation", "bicubic")
    crop = {
        "crop_pct": None if is_small else float(described.get("crop_pct") or 0.875),
        "interpolation": None if is_small else interpolation if interpolation in _INTERPOLATIONS else "bicubic",
    }
    of_files = "" if is_small else f", crop_pct {crop['crop_pct']:g}, {crop['interpolation']}"
    about = ", ".join(
        f"{name} {' '.join(f'{value:.4g}' for value in values)}" for name, values in (("mean", mean), ("std", std))
    )
    return {"image_size": side, "pixel_mean": mean, "pixel_std": std, **crop}, f"images of {side} px, {about}{of_files}"


def _per_channel(values: Any, in_chans: int) -> list[float]:
    """Return a number for each channel: those of the network, or their mean where it reads another number of them."""
    numbers = [float(value) for value in values]
    return numbers if len(numbers) == in_chans else [sum(numbers) / len(numbers)] * in_chans

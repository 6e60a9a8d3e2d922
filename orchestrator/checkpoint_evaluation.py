"""How well a trained network does on a split of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from orchestrator.checkpoint_source import load_model
from orchestrator.errors import CheckpointError, DataError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["Evaluation", "evaluate_checkpoint"]


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Args:
        images: Of the split.
        top1: Share of images whose class comes first.
        top5: Share of images whose class is among the first five; 1 with fewer than five classes.
        loss: Mean cross-entropy.
    """

    images: int
    top1: float
    top5: float
    loss: float


@dataclass(frozen=True)
class _Loaded:
    """A network on its device, as the evaluation of a trial takes it."""

    evaluated: nn.Module
    device: torch.device

    def predict(self, images: Tensor) -> Tensor:
        """Logits, (B, num_classes)."""
        logits: Tensor = self.evaluated(images)
        return logits


def evaluate_checkpoint(
    source: str | Path,
    dataset: str,
    *,
    split: str = "test",
    crop_pct: float = 0.875,
    tracking_uri: str | None = None,
    datasets_folder: Path = Path("runs/datasets"),
) -> Evaluation:
    """Evaluates a checkpoint in this process, on a GPU where there is one.

    Images are normalised as the network was trained.

    Args:
        source: As `load_model` takes it.
        dataset: A registered dataset, or the URI of a prepared one.
        split: Of the dataset.
        crop_pct: Share of the shorter side that is kept of image files.
        tracking_uri: Where MLflow runs are recorded.
        datasets_folder: Where registered datasets are kept.

    Raises:
        CheckpointError: There is no such checkpoint, or its classes are others.
        DataError: There is no such dataset or split.
    """
    import torch

    from orchestrator.config.schema import DatasetConfig
    from orchestrator.data import list_datasets, locate_dataset, open_dataset
    from orchestrator.training.evaluation import evaluate
    from orchestrator.training.placement import Normalisation, place_split, splits_of
    from orchestrator.training.workers import Workers

    model = load_model(source, tracking_uri=tracking_uri)
    named = dataset in list_datasets()
    images = open_dataset(locate_dataset(dataset if named else None, None if named else dataset, datasets_folder))
    known, class_names = splits_of(images)
    if split not in known:
        raise DataError(f"{dataset}: has no split '{split}'. {did_you_mean(split, known)}")
    if class_names != model.class_names:
        raise CheckpointError(
            f"{source}: tells {len(cast(tuple[str, ...], model.class_names))} classes apart that are not the "
            f"{len(class_names)} of {dataset}; evaluate it on images of the classes it was trained on"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = cast(int, model.trained_image_size)
    config = DatasetConfig(uri=dataset, image_size=size, crop_pct=crop_pct)
    told = Normalisation(cast(tuple[float, ...], model.pixel_mean), cast(tuple[float, ...], model.pixel_std))
    placed = place_split(images, split, device, config, told)
    if (placed.image_size, placed.in_chans) != (size, len(told.mean)):
        raise DataError(
            f"{dataset}: has images of {placed.in_chans} channels and {placed.image_size} px; the checkpoint was "
            f"trained on {len(told.mean)} channels and {size} px"
        )
    result = evaluate(_Loaded(model.to(device), device), placed, Workers(device=device))
    return Evaluation(len(placed), result["top1"], result["top5"], result["loss"])

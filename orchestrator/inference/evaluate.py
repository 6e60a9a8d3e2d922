"""How well a trained network does on a split of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Problem
from orchestrator.inference.images import CROP_PCT, INTERPOLATION, place_for_network, recorded_settings
from orchestrator.inference.load import load_model
from orchestrator.inference.trained_network import find_network

if TYPE_CHECKING:
    from torch import Tensor, nn

    from orchestrator.training.evaluation_settings import EvaluationSettings
    from orchestrator.training.images.decoded_images import DecodedSplit
    from orchestrator.training.images.device_images import DeviceSplit

__all__ = ["Evaluation", "evaluate_checkpoint"]


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Args:
        images: Of the split.
        top1: Share of images whose class comes first.
        top5: Share of images whose class is among the first five; 1 with fewer than five classes.
        loss: Mean cross-entropy.
        notes: Where images were looked at in another way than the run of the network did.
    """

    images: int
    top1: float
    top5: float
    loss: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Loaded:
    """A network on its device, as the evaluation of a trial takes it."""

    evaluated: nn.Module
    settings: EvaluationSettings

    def predict(self, images: Tensor) -> Tensor:
        """Logits, (B, num_classes), in float32."""
        return self.settings.predict(self.evaluated, images)


def evaluate_checkpoint(
    source: str | Path,
    dataset: str,
    *,
    split: str = "test",
    crop_pct: float | None = None,
    tracking_uri: str | None = None,
    datasets_folder: Path = Path("runs/datasets"),
) -> Evaluation:
    """Evaluates a checkpoint in this process, on a GPU where there is one, as its run evaluates.

    Images are normalised, cropped and resized as in the run, and the arithmetic has the type it had there, so that on
    the same images and kind of device the accuracy is that of the run (`test/top1`).

    Args:
        source: As `load_model` takes it.
        dataset: A registered dataset, or the URI of a prepared one.
        split: Of the dataset.
        crop_pct: Share of the shorter side that is kept of image files; None keeps what the run kept.
        tracking_uri: Where MLflow runs are recorded.
        datasets_folder: Where registered datasets are kept.

    Raises:
        ConfigError: `crop_pct` is no share.
        CheckpointError: There is no such checkpoint, or its classes are others.
        DataError: There is no such dataset or split.
    """
    import torch

    from orchestrator.training.evaluation import evaluate
    from orchestrator.training.evaluation_settings import EvaluationSettings
    from orchestrator.training.workers import Workers

    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise ConfigError([Problem("crop_pct", f"got {crop_pct:g}; a share is above 0 and at most 1. Use 0.875")])
    model = load_model(source, tracking_uri=tracking_uri)
    own = recorded_settings(model, {}, {})
    if own is None:  # a checkpoint from before they were kept; its sweep may tell
        trained = find_network(source, tracking_uri=tracking_uri)
        own = recorded_settings(model, trained.dataset, trained.training)
    settings = own or EvaluationSettings()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    placed = place_for_network(
        model,
        dataset,
        split=split,
        crop_pct=next(share for share in (crop_pct, settings.crop_pct, CROP_PCT) if share is not None),
        interpolation=settings.interpolation or INTERPOLATION,
        datasets_folder=datasets_folder,
        device=device,
        shown=str(source),
    )
    loaded = _Loaded(settings.place(model, device), settings)
    # as a trial has them; other algorithms of cuDNN round otherwise
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=True):
        result = evaluate(loaded, placed, Workers(device=device))
    notes = tuple(_notes(own, placed, crop_pct))
    return Evaluation(len(placed), result["top1"], result["top5"], result["loss"], notes)


def _notes(own: EvaluationSettings | None, placed: DeviceSplit | DecodedSplit, crop_pct: float | None) -> Iterator[str]:
    """In what the images were looked at otherwise than the run did, a line each."""
    from orchestrator.training.images.decoded_images import DecodedSplit

    if own is None:
        yield "the checkpoint does not tell how its run evaluated; the arithmetic is float32"
    if not isinstance(placed, DecodedSplit):
        if crop_pct is not None:
            yield f"crop_pct {crop_pct:g} has no effect: these images are seen whole"
        return
    seen = f"crop_pct {placed.transforms.crop_pct:g}, {placed.transforms.interpolation}"
    if own is None or own.crop_pct is None:
        yield f"{seen}: {'how the run cropped is not known' if own is None else 'the run saw its images whole'}"
    elif crop_pct is not None and crop_pct != own.crop_pct:
        yield f"{seen}: the run had crop_pct {own.crop_pct:g}"

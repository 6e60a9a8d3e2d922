"""How well a trained network does on a split of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.checkpoint_source import load_model
from orchestrator.network_images import images_for

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

    from orchestrator.training.evaluation import evaluate
    from orchestrator.training.workers import Workers

    model = load_model(source, tracking_uri=tracking_uri)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    placed = images_for(
        model,
        dataset,
        split=split,
        crop_pct=crop_pct,
        datasets_folder=datasets_folder,
        device=device,
        shown=str(source),
    )
    result = evaluate(_Loaded(model.to(device), device), placed, Workers(device=device))
    return Evaluation(len(placed), result["top1"], result["top5"], result["loss"])

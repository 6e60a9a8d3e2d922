"""Interface of the evaluators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from orchestrator.training.workers import Workers

__all__ = ["Evaluator"]


class Evaluator(Protocol):
    """Metrics of a split, of which each rank evaluates a share.

    Every rank calls `update` for its images, then `all_reduce` once, then `compute`, which returns the same on all
    ranks. Images are known by `image_id`: one that several ranks evaluate, as the samples with which a distributed
    sampler fills its last batch, counts once.
    """

    def update(self, predictions: Sequence[Any], targets: Sequence[Mapping[str, Any]]) -> None:
        """Add the images of a batch.

        Args:
            predictions: Prediction of each image, at its original size.
            targets: Annotations of each image, at its original size.
        """

    def all_reduce(self, workers: Workers) -> None:
        """Combine the images of all ranks; a collective operation, after which no image may be added."""

    def compute(self) -> dict[str, float]:
        """Return the metrics by name; one that no annotation defines is NaN."""

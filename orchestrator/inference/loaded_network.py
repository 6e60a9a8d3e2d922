"""Trained network on its device, run as the evaluations of its trial ran it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from orchestrator.training.evaluation_settings import EvaluationSettings

__all__ = ["LoadedNetwork", "trial_algorithms"]


@dataclass(frozen=True)
class LoadedNetwork:
    """Network on its device, as a `Predictor`.

    Args:
        evaluated: Network in evaluation mode, placed by `EvaluationSettings.place`.
        settings: Precision and memory format.
    """

    evaluated: nn.Module
    settings: EvaluationSettings

    def predict(self, images: Any) -> Any:
        """Return the outputs of the network in float32."""
        return self.settings.predict(self.evaluated, images)


@contextmanager
def trial_algorithms() -> Iterator[None]:
    """Choose the algorithms of cuDNN that a trial uses within the context: others round differently."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=True):
        yield

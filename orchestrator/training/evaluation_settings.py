"""How a run looks at images to evaluate them, kept with its best weights so that others look alike."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from orchestrator.config.sections.section import Section
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.errors import CheckpointError
from orchestrator.training.images.decoded_images import DecodedSplit
from orchestrator.training.images.device_images import DeviceSplit

__all__ = ["EvaluationSettings", "autocast"]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class EvaluationSettings(Section):
    """Settings of an evaluation.

    Args:
        precision: Type of the arithmetic.
        channels_last: Whether images and weights have their channels together in memory.
        crop_pct: Share of the shorter side of an image file that is kept; None for images that are seen whole.
        interpolation: Of image files, likewise; `random`, which is for training, is `bicubic` here.
    """

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    crop_pct: float | None = Field(None, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic", "random"] | None = None

    @classmethod
    def of(cls, training: TrainingConfig, split: DeviceSplit | DecodedSplit) -> EvaluationSettings:
        """Those of a trial.

        Args:
            training: Of the trial.
            split: Any of its splits.
        """
        seen = split.transforms if isinstance(split, DecodedSplit) else None
        return cls(
            precision=training.precision,
            channels_last=training.channels_last,
            crop_pct=None if seen is None else seen.crop_pct,
            interpolation=None if seen is None else seen.interpolation,  # type: ignore[arg-type]  # checked when read
        )

    @classmethod
    def read(cls, content: Mapping[str, Any], path: Path) -> EvaluationSettings | None:
        """Those in a `best.pt`; None in one that was written before they were kept.

        Raises:
            CheckpointError: They are none.
        """
        if "evaluation" not in content:
            return None
        try:
            return cls.model_validate(content["evaluation"])
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, ("evaluation", *fault["loc"])))
            raise CheckpointError(f"{path}: {where} is {fault['input']!r}; {fault['msg']}") from None

    def predict(self, network: nn.Module, images: Tensor) -> Tensor:
        """Logits of a network, (B, num_classes), in float32."""
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        with autocast(images.device.type, self.precision):
            logits: Tensor = network(images.contiguous(memory_format=order))
        return logits.float()

    def place(self, network: nn.Module, device: torch.device) -> nn.Module:
        """A network on a device, its weights in the order they were trained in."""
        network = network.to(device)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network


def autocast(device_type: str, precision: str) -> AbstractContextManager[Any]:
    """The type of the arithmetic, while the context lasts.

    Args:
        device_type: As torch calls it.
        precision: As `training.precision` has it.
    """
    dtype = _DTYPES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype)

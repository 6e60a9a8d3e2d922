"""Settings with which a trial evaluates, stored with its best weights so that later evaluations use the same."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import nn

from orchestrator.config.sections.dataset import Resize, TestTimeAugmentation
from orchestrator.config.sections.section import Section
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.errors import CheckpointError
from orchestrator.training.images.decoded_images import DecodedSplit
from orchestrator.training.images.split import Split
from orchestrator.training.tasks.trees import device_type, in_float32, in_memory_format

__all__ = ["EvaluationSettings", "autocast"]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class EvaluationSettings(Section):
    """Settings of an evaluation.

    Args:
        precision: Floating-point type of the network's arithmetic.
        channels_last: Stores images and weights with their channels together in memory.
        crop_pct: Share of the shorter side of an image file that is kept; None for images that are not cropped.
        interpolation: Interpolation of image files, None likewise; `random`, which is for training, is `bicubic` here.
        tta: Test-time augmentation, see `dataset.tta`.
        resize: Ratio of the sides of resized images, see `dataset.resize`.
    """

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    crop_pct: float | None = Field(None, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic", "random"] | None = None
    tta: TestTimeAugmentation = "none"
    resize: Resize = "keep_ratio"

    @classmethod
    def of(cls, training: TrainingConfig, split: Split) -> EvaluationSettings:
        """Return the settings of a trial.

        Args:
            training: Training settings of the trial.
            split: Any split of the trial.
        """
        cropped = split.transforms if isinstance(split, DecodedSplit) else None
        return cls(
            precision=training.precision,
            channels_last=training.channels_last,
            crop_pct=None if cropped is None else cropped.crop_pct,
            interpolation=None if cropped is None else cropped.interpolation,  # type: ignore[arg-type]  # checked when read
            tta=split.tta,
            resize=getattr(split, "resize", "keep_ratio"),  # of splits of annotated images
        )

    @classmethod
    def read(cls, content: Mapping[str, Any], path: Path) -> EvaluationSettings | None:
        """Read the settings from the content of a `best.pt`; None for a file of a version that did not store them.

        Args:
            content: Content of the file.
            path: Path of the file, for the error.

        Raises:
            CheckpointError: A setting is unknown or invalid.
        """
        if "evaluation" not in content:
            return None
        try:
            return cls.model_validate(content["evaluation"])
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, ("evaluation", *fault["loc"])))
            raise CheckpointError(f"{path}: {where} is {fault['input']!r}; {fault['msg']}") from None

    def predict(self, network: nn.Module, images: Any) -> Any:
        """Return the outputs of a network, such as logits (B, num_classes), in float32.

        Args:
            network: Network in evaluation mode.
            images: Images of a batch, such as a tensor (B, C, H, W) or a list of tensors.
        """
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        with autocast(device_type(images), self.precision):
            outputs = network(in_memory_format(images, order))
        return in_float32(outputs)

    def place(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Move a network to a device, its weights in the memory format of the training."""
        network = network.to(device)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network


def autocast(device_type: str, precision: str) -> AbstractContextManager[Any]:
    """Return the context in which a network computes in a precision.

    Args:
        device_type: Torch's name of the device type, such as `cuda`.
        precision: A value of `training.precision`.
    """
    dtype = _DTYPES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype)

"""The images of a sweep and their splits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from orchestrator.config.sections.path_text import LocationText
from orchestrator.config.sections.section import Section, Seed


class DatasetConfig(Section):
    """Which images, and how they are split. They have a name or a URI.

    Args:
        name: A registered dataset.
        uri: A dataset that `spatialsweep data prepare` made: a folder, or an object store.
        validation_fraction: Share of the training images held out for validation, drawn per class.
        split_seed: Seed of that draw; the same for every trial of a sweep.
        select_on: `test` chooses epochs and trials on the test images, as many papers' scripts do, and trains on all
            others. The accuracy found so is too good, and results say it.
        image_size: Side of the square that image files are cropped to, in pixels; None is 224. Small images keep
            their size.
        crop_pct: Share of the shorter side of an image file that is kept to evaluate it.
        interpolation: Of image files; `random` draws one of the others for each training image.
        decode_processes: Processes of each worker that decode image files.
    """

    name: str | None = None
    uri: LocationText | None = None
    validation_fraction: float = Field(0.2, gt=0, lt=1)
    split_seed: Seed = 0
    select_on: Literal["validation", "test"] = "validation"
    image_size: PositiveInt | None = None
    crop_pct: float = Field(0.875, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic"
    decode_processes: NonNegativeInt = 4

    @property
    def crop_size(self) -> int:
        """Side of the square that image files are cropped to, in pixels."""
        return self.image_size or 224

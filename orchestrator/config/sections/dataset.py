"""The images of a sweep and their splits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from orchestrator.config.sections.path_text import LocationText
from orchestrator.config.sections.section import Section, Seed


class DatasetConfig(Section):
    """Images and their splits; the dataset has a name or a URI.

    Args:
        name: Name of a dataset that needs no preparation: `digits` or `fashion-mnist`.
        uri: Folder or object store address of a dataset made by `spatialsweep data prepare`.
        validation_fraction: Share of the training images held out for validation, drawn per class.
        split_seed: Seed of the draw of the validation images; the same for every trial of a sweep.
        select_on: Images that choose epochs and trials. `test` takes the test images, as many papers' scripts do, and
            trains on all others; the accuracy is then optimistic, and the results note it.
        image_size: Side of the square to which image files are cropped, in pixels; None is 224. Small images keep
            their size.
        crop_pct: Share of the shorter side of an image file that is kept in evaluation.
        interpolation: Interpolation of image files; `random` draws one of the others for each training image.
        decode_processes: Number of processes per worker that decode image files.
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
        """Side of the square to which image files are cropped, in pixels."""
        return self.image_size or 224

"""The images of a sweep and their splits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PlainSerializer, PlainValidator, PositiveInt

from orchestrator.config.sections.path_text import LocationText
from orchestrator.config.sections.section import Section, Seed


def _per_channel(given: Any) -> tuple[float, ...]:
    numbers = given if isinstance(given, list | tuple) else ()
    if not numbers or any(type(number) not in (int, float) or not 0 <= number <= 1 for number in numbers):
        rule = "must hold a number for each channel, for pixels in [0, 1]"
        raise ValueError(f"{rule}. Use [0.4914, 0.4822, 0.4465], and divide numbers for 0..255 by 255")
    return tuple(map(float, numbers))


def _positive(given: tuple[float, ...]) -> tuple[float, ...]:
    if 0 in given:
        raise ValueError("holds 0, and pixels are divided by it. Use the deviation of each channel")
    return given


PerChannel = Annotated[tuple[float, ...], PlainValidator(_per_channel), PlainSerializer(lambda given: given, Any)]
"""A number per channel; YAML writes a list."""

TestTimeAugmentation = Literal["none", "hflip"]
"""Views of an image whose predictions are averaged."""

Resize = Literal["keep_ratio", "square"]
"""Ratio of the sides of an annotated image after it is resized: its own, or 1."""


Decoder = Literal["torchvision", "pillow", "nvjpeg"]
"""Library that decodes and resizes the training images of image files."""


class DatasetConfig(Section):
    """Images and their splits; the dataset has a name or a URI.

    Args:
        name: Name of a dataset that needs no preparation: `digits`, `fashion-mnist` or `digits-scenes`.
        uri: Folder or object store address of a dataset made by `spatialsweep data prepare`.
        validation_fraction: Share of the training images held out for validation, drawn per class; of annotated images
            without regard to classes.
        split_seed: Seed of the draw of the validation images; the same for every trial of a sweep.
        select_on: Images that choose epochs and trials. `test` takes the test images, as many papers' scripts do, and
            trains on all others; the accuracy is then optimistic, and the results note it.
        image_size: Side of the square to which image files are cropped, in pixels; None is 224. Small images keep
            their size. Of annotated images the side to which the shorter one is resized; see `scene_side` for None.
        resize: Ratio of the sides of resized images, in training and in evaluations: `keep_ratio` keeps that of each
            annotated image, `square` makes squares of `image_size`.
        crop_pct: Share of the shorter side of an image file that is kept in evaluation.
        interpolation: Interpolation of image files; `random` draws one of the others for each training image.
        decode_processes: Number of processes per worker that decode image files.
        decoder: Library that decodes, resizes and colours training images of image files: `torchvision`, or `pillow`,
            which is slower and differs by rounding, or `nvjpeg`, which decodes JPEG files on the worker's GPU, and
            elsewhere is `torchvision`. Evaluations always use `pillow`.
        scaled_decoding: Decodes a JPEG file at 1/2, 1/4 or 1/8 of its size where a training crop keeps twice
            `image_size` on each side; faster for photographs of many megapixels, whose pixels change a little.
        train_fraction: Share of the training images, drawn per class after the validation images, that trials train on;
            at least one of each class. A smaller share is part of a larger one.
        normalization: Mean and deviation of the pixels: `measured` on the training images, or the usual numbers of
            `imagenet`.
        mean: Mean per channel, of pixels in [0, 1], instead of the measured one; together with `std`.
        std: Deviation per channel, likewise.
        tta: Test-time augmentation of all evaluations: `hflip` averages the class probabilities of an image and its
            mirror image.
    """

    name: str | None = None
    uri: LocationText | None = None
    validation_fraction: float = Field(0.2, gt=0, lt=1)
    split_seed: Seed = 0
    select_on: Literal["validation", "test"] = "validation"
    image_size: PositiveInt | None = None
    resize: Resize = "keep_ratio"
    crop_pct: float = Field(0.875, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic"
    decode_processes: NonNegativeInt = 4
    decoder: Decoder = "torchvision"
    scaled_decoding: bool = False
    train_fraction: float = Field(1.0, gt=0, le=1)
    normalization: Literal["measured", "imagenet"] = "measured"
    mean: PerChannel | None = None
    std: Annotated[PerChannel, AfterValidator(_positive)] | None = None
    tta: TestTimeAugmentation = "none"

    @property
    def crop_size(self) -> int:
        """Side of the square to which image files are cropped, in pixels."""
        return self.image_size or 224

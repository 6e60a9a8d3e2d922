"""Option `img_size` of networks whose layers depend on the size of the images."""

import dataclasses
from collections.abc import Mapping, Sequence

from models.common.options import ImageShape, ModelOption, OptionProblem, OptionValue

__all__ = ["IMG_SIZE", "ImageSizeOption", "image_size_option", "matches_images"]

IMG_SIZE = "img_size"
SMALLEST_SIDE = 8  # in pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSizeOption(ModelOption):
    """Option for height and width in pixels; one number stands for both."""

    @property
    def rule(self) -> str:
        """Allowed values as a clause."""
        return f"the side of the images in pixels, or their height and width, at least {self.low:g}"

    def normalise(self, given: object) -> OptionValue:
        """Return `given` as a pair of height and width.

        Raises:
            ModelOptionError: The option does not take this value.
        """
        if isinstance(given, int) and self._allows(given):
            return (given, given)
        return super().normalise(given)

    def nearest(self, given: object) -> OptionValue:
        """Return the smallest side for a number that is too small, else the default."""
        is_number = isinstance(given, int) and not isinstance(given, bool)
        return int(self.low or 1) if is_number else self.default

    def _allows(self, given: object) -> bool:
        sides = [given, given] if isinstance(given, int) else given
        if isinstance(sides, str) or not isinstance(sides, Sequence) or len(sides) != self.length:
            return False
        return all(isinstance(side, int) and not isinstance(side, bool) and side >= (self.low or 1) for side in sides)


def image_size_option(side: int, description: str) -> ImageSizeOption:
    """Make the option with square images of `side` pixels as its default."""
    return ImageSizeOption(
        name=IMG_SIZE, type=tuple, default=(side, side), length=2, low=SMALLEST_SIDE, description=description
    )


def matches_images(values: Mapping[str, OptionValue], image: ImageShape | None) -> Sequence[OptionProblem]:
    """Return the problem of a network built for another size than that of the images, if any."""
    if image is None or IMG_SIZE not in values or values[IMG_SIZE] == (image.height, image.width):
        return ()
    rule = f"the images are {image.height} x {image.width} px"
    return [OptionProblem(IMG_SIZE, values[IMG_SIZE], rule, f"Leave it out, or use {(image.height, image.width)}.")]

"""Random choice of the anchors and boxes that a detector trains on, and the number that were chosen.

torchvision draws from the global generator, image after image. Where every target has the key `draw`, the choice in an
image follows from that number alone: it is the same on any rank, in any batch of images of that padded size, and after
a restart.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from models.common.options import ModelOptionError, OptionProblem

__all__ = ["DRAW", "ImageSampler", "StepDraws"]

DRAW = "draw"
"""Key of the targets with the seed of an image in a step, a whole number as an int64 scalar."""
_BITS = 2**64


class StepDraws:
    """Seeds of the images of one step, which the samplers of a network share.

    Each call of a sampler gets other generators: those of its place in the order of calls in the step.
    """

    def __init__(self) -> None:
        self._seeds: list[int] | None = None
        self._calls = 0

    def begin(self, targets: Sequence[dict[str, Tensor]] | None) -> None:
        """Take the seeds of the targets of a step, or none where no target has one.

        Raises:
            ModelOptionError: Some targets have a seed and others have none.
        """
        seeds = [target[DRAW] for target in targets or () if DRAW in target]
        if seeds and len(seeds) != len(targets or ()):
            rule = "all targets of a batch have a seed, or none has"
            problem = OptionProblem(DRAW, f"{len(seeds)} of {len(targets or ())} targets", rule, "Give it to all.")
            raise ModelOptionError([problem])
        self._seeds = torch.stack(seeds).tolist() if seeds else None
        self._calls = 0

    def generators(self, device: torch.device) -> list[torch.Generator] | None:
        """Return a generator for each image, for one call of a sampler; None where no target has a seed."""
        if self._seeds is None:
            return None
        call, self._calls = self._calls, self._calls + 1
        return [torch.Generator(device).manual_seed(_mixed(seed, call)) for seed in self._seeds]


class ImageSampler(BalancedPositiveNegativeSampler):  # type: ignore[misc, unused-ignore]
    """torchvision's sampler, which can draw for each image by itself, and notes how many it chose.

    Args:
        batch_size_per_image: Samples of an image.
        positive_fraction: Largest share of positive ones among them.
        draws: Seeds of the step.

    Attributes:
        chosen: Samples of the last call, over all images; an int64 scalar.
        positives: Positive ones among them.
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float, draws: StepDraws) -> None:
        super().__init__(batch_size_per_image, positive_fraction)
        self.draws = draws
        self.chosen = self.positives = torch.zeros((), dtype=torch.int64)

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Choose samples: for each image a mask of the positive ones, and a mask of the negative ones.

        Args:
            matched_idxs: For each image -1 for what is ignored, 0 for negatives, more for positives.
        """
        generators = self.draws.generators(matched_idxs[0].device)
        if generators is None:
            positive, negative = super().__call__(matched_idxs)
        else:
            pairs = [self._draw(*each) for each in zip(matched_idxs, generators, strict=True)]
            positive, negative = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        self.positives = torch.stack([mask.sum() for mask in positive]).sum()
        self.chosen = self.positives + torch.stack([mask.sum() for mask in negative]).sum()
        return positive, negative

    def _draw(self, matched: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose the samples of one image as torchvision does, with a generator of its own."""
        most = int(self.batch_size_per_image * self.positive_fraction)
        positive = _some_of(matched >= 1, most, generator)
        left = self.batch_size_per_image - min(most, int((matched >= 1).sum()))
        return positive, _some_of(matched == 0, left, generator)


def _some_of(candidates: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Choose at most so many of the candidates (N,), and return a mask of them."""
    places = torch.where(candidates)[0]
    drawn = torch.randperm(len(places), generator=generator, device=places.device)[:most]
    mask = torch.zeros_like(candidates, dtype=torch.uint8)
    mask[places[drawn]] = 1
    return mask


def _mixed(seed: int, call: int) -> int:
    """Return a seed in which every bit depends on both numbers: torch's generator on a CPU reads 32 bits of it."""
    state = np.random.SeedSequence(seed % _BITS, spawn_key=(call,)).generate_state(1, np.uint64)
    return int(state[0]) >> 1  # torch takes an int64

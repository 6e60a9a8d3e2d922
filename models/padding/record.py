"""Padding of images of different sizes in one batch, for layers that read the whole map.

Images are padded at the bottom and to the right. A layer that averages, normalises or attends over the whole map holds
a `PaddingRecord`, which a detector fills in for each batch; without one, or where no image is padded, the layer works
as for images of one size. The record keeps its content until the next batch, so that a second computation of a block in
the backward pass reads the same.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Padding", "PaddingRecord", "WholeMapLayer", "share_padding"]


@dataclasses.dataclass(frozen=True)
class Padding:
    """Sizes of the images of a batch, and the size they are padded to, all as height and width in pixels."""

    sizes: tuple[tuple[int, int], ...]
    padded: tuple[int, int]

    def extents(self, x: Tensor) -> list[tuple[int, int]]:
        """Return height and width of the part of each map of x (B, C, H, W) that its image covers, rounded up."""
        (height, width), (full_h, full_w) = x.shape[-2:], self.padded
        return [(-(-h * height // full_h), -(-w * width // full_w)) for h, w in self.sizes]

    def mask(self, x: Tensor) -> Tensor:
        """Return the positions of x (B, C, H, W) that the images cover, as bools (B, 1, H, W)."""
        height, width = x.shape[-2:]
        extents = torch.tensor(self.extents(x), device=x.device)
        rows = torch.arange(height, device=x.device) < extents[:, :1]
        columns = torch.arange(width, device=x.device) < extents[:, 1:]
        return (rows[:, :, None] & columns[:, None, :])[:, None]


class PaddingRecord:
    """Padding of the present batch, shared by the layers of a network; None where no image is padded."""

    def __init__(self) -> None:
        self.current: Padding | None = None

    def set(self, sizes: Sequence[tuple[int, int]], padded: tuple[int, int]) -> None:
        """Note the sizes of the images of a batch and the one they are padded to, in pixels."""
        whole = all(tuple(size) == tuple(padded) for size in sizes)
        self.current = None if whole else Padding(tuple((h, w) for h, w in sizes), (padded[0], padded[1]))

    def drop_unless_of(self, images: Tensor) -> None:
        """Drop the padding of another batch than these images (B, C, H, W)."""
        found = self.current
        if found and (len(found.sizes) != len(images) or found.padded != tuple(images.shape[-2:])):
            self.current = None


class WholeMapLayer(nn.Module):
    """Base of the layers that read the whole map, and leave padding out where a record says that there is some."""

    padding_record: PaddingRecord | None = None

    @property
    def padding_of_batch(self) -> Padding | None:
        """Padding of the present batch; None where there is none."""
        return None if self.padding_record is None else self.padding_record.current


def share_padding(network: nn.Module, record: PaddingRecord) -> int:
    """Give the record to all layers of a network that read the whole map; return their number."""
    layers = [module for module in network.modules() if isinstance(module, WholeMapLayer)]
    for layer in layers:
        layer.padding_record = record
    return len(layers)

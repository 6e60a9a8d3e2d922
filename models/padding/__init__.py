"""Padding of images of different sizes in one batch, which layers that read the whole map leave out."""

from models.padding.layers import MapNorm, grid_means, padded_grid, padded_map_mean, unpadded_resize
from models.padding.record import Padding, PaddingRecord, WholeMapLayer, share_padding
from models.padding.traced import is_traced_to_file

__all__ = [
    "MapNorm",
    "Padding",
    "PaddingRecord",
    "WholeMapLayer",
    "grid_means",
    "is_traced_to_file",
    "padded_grid",
    "padded_map_mean",
    "share_padding",
    "unpadded_resize",
]

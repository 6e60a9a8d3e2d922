"""Layouts of the maps that the kernels write, known without Triton."""

import torch
from torch import Tensor

__all__ = ["like_queries"]


def like_queries(q: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Make an empty map in the layout of the queries: channels last, or dense in the order of the dimensions."""
    layout = torch.channels_last if q.stride(1) == 1 else torch.contiguous_format
    return torch.empty(q.shape, dtype=dtype or q.dtype, device=q.device, memory_format=layout)

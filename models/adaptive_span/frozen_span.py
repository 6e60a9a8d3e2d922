"""Adaptive attention with constant spans: constant masks, and windows cut to the part above zero.

A head whose mask ends at ring r needs the window of radius r alone: what lies beyond has no weight, and the division
after the mask undoes what the smaller softmax changes, but for the epsilon of 1e-8 in it, which a mask before the
softmax does not have. Heads of one layer whose windows differ enough are computed apart.

Source: Parker, Kumar, Roussy 2020, "Adaptive Attention Span in Computer Vision" (arXiv 2004.08708).
"""

import copy
from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.adaptive_span.attention import AdaptiveAttention
from models.local_attention.operator import attend_by_head, in_order_of, tables_by_head

__all__ = ["FrozenSpanAttention", "freeze_spans", "heads_by_radius"]

LEAST_SAVING = 0.1  # share of a layer's window entries that a group of heads of its own must save


class FrozenSpanAttention(nn.Module):
    """Adaptive attention as computed in evaluation, for inference alone.

    Shape: x (B, dim, H, W) -> (B, dim, H, W).

    Args:
        source: Trained layer, which is not changed.
        by_head: True for smaller windows of heads with shorter spans, where that pays; else all have the largest
            window, and results are those of `source` to the bit.
    """

    def __init__(self, source: AdaptiveAttention, *, by_head: bool = True) -> None:
        super().__init__()
        radii = source.head_radii()
        self.groups = heads_by_radius(radii) if by_head else [list(range(len(radii)))]
        self.radii = [max(radii[head] for head in heads) for heads in self.groups]
        self.mask_before_softmax = source.mask_before_softmax
        self.scale = source.scale
        self.qkv = _sorted_by_group(source.qkv, len(radii), self.groups)
        for index, (heads, radius) in enumerate(zip(self.groups, self.radii, strict=True)):
            rel = tables_by_head(*source.position_tables(radius), len(radii))[heads]
            self.register_buffer(f"rel{index}", rel.detach().clone())
            self.register_buffer(f"mask{index}", source.ring_mask(radius)[heads].detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Attend, each group of heads within its window."""
        head_dim = x.shape[1] // sum(map(len, self.groups))
        sizes = [len(heads) * head_dim for heads in self.groups]
        q, k, v = self.qkv(x).chunk(3, dim=1)
        q = q if self.scale == 1.0 else q * self.scale
        parts = zip(*(part.split(sizes, dim=1) for part in (q, k, v)), strict=True)
        attended = [
            attend_by_head(
                q,
                k,
                v,
                self.get_buffer(f"rel{index}"),
                self.get_buffer(f"mask{index}"),
                mask_before_softmax=self.mask_before_softmax,
            )
            for index, (q, k, v) in enumerate(parts)
        ]
        if len(attended) == 1:
            return in_order_of(x, attended[0])
        by_head = [head for group in attended for head in group.split(head_dim, dim=1)]
        places = [head for heads in self.groups for head in heads]
        return in_order_of(x, torch.cat([by_head[places.index(head)] for head in range(len(places))], dim=1))


def heads_by_radius(radii: Sequence[int]) -> list[list[int]]:
    """Return the groups of heads to be computed together, those with small windows first.

    Args:
        radii: Radius of the window of each head, in pixels.
    """
    groups = [[head for head, own in enumerate(radii) if own == radius] for radius in sorted(set(radii))]
    worth = LEAST_SAVING * len(radii) * _entries(max(radii))
    while len(groups) > 1:
        costs = [  # the last head of a group has its largest window
            len(inner) * (_entries(radii[outer[-1]]) - _entries(radii[inner[-1]])) for inner, outer in pairwise(groups)
        ]
        cheapest = min(range(len(costs)), key=costs.__getitem__)
        if costs[cheapest] >= worth:
            break
        groups[cheapest : cheapest + 2] = [groups[cheapest] + groups[cheapest + 1]]
    return [sorted(heads) for heads in groups]


def _entries(radius: int) -> int:
    """Return the pixels of a window."""
    return (2 * radius + 1) ** 2


def freeze_spans(network: nn.Module, *, whole: Collection[str] = ()) -> nn.Module:
    """Copy a network in evaluation mode, with constant spans and windows cut to them.

    A network without spans is just copied.

    Args:
        network: Trained network, which is not changed.
        whole: Names of layers whose heads all keep the largest window.
    """
    frozen = copy.deepcopy(network).eval()
    for name, module in list(frozen.named_modules()):
        if isinstance(module, AdaptiveAttention):
            parent, _, child = name.rpartition(".")
            setattr(frozen.get_submodule(parent), child, FrozenSpanAttention(module, by_head=name not in whole))
    return frozen.requires_grad_(False)


@torch.no_grad()
def _sorted_by_group(qkv: nn.Conv2d, num_heads: int, groups: Sequence[Sequence[int]]) -> nn.Conv2d:
    """Copy the projection with its output channels in the order of the groups."""
    order = torch.tensor([head for heads in groups for head in heads], device=qkv.weight.device)
    ordered = copy.deepcopy(qkv)
    by_head = qkv.weight.unflatten(0, (3, num_heads, -1))
    ordered.weight.copy_(by_head[:, order].flatten(0, 2))
    return ordered

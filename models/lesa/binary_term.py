"""Binary term of LESA: self-attention of all positions to all, whose logits are batch-normed sums.

The logits are the sum of up to three products, each with a batch norm of its own per head: query and key, query
and position, key and position. A shift of all logits of a query leaves its softmax as it is, so of these norms
only the scales matter, and the scales follow from second moments of small tensors. No norm ever visits a map
of positions times positions: the queries and keys are scaled, and the products are summed as they are made.

Source: Yang et al. 2021, "Locally Enhanced Self-Attention" (arXiv 2107.05637).
Differs: maps need not be square; no position embedding is a choice.
"""

import contextlib
from typing import Any

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from models.common.bottleneck import ConvNorm
from models.common.options import ModelOptionError, OptionProblem
from models.common.sync_batch_norm import sums_for, update_statistics
from models.compiled.eager import is_eager, is_intercepted
from models.lesa.attending import AttentionTerms, attend
from models.lesa.moments import product_moments
from models.lesa.paired_norm import normed_pairs
from models.lesa.positions import POSITIONS, AxialPositions, FlattenedPositions, at_least_float32
from models.padding import WholeMapLayer

__all__ = ["BinaryTerm"]


@register_notrace_module
class BinaryTerm(WholeMapLayer):
    """Global multi-head self-attention with positions and batch-normed logits.

    Shape: x (B, dim, H, W) -> the same.

    Args:
        dim: Channels; divisible by twice the groups.
        map_size: H and W, which the position tables are made for: those of every map with `classification`, of the
            largest one with `detection`; without positions maps of any size work.
        groups: Heads; each has dim / (2 groups) channels of query and key, and dim / groups of value.
        position_embedding: `classification` (positions on the flattened map meet queries, keys and values),
            `detection` (rows and columns meet queries) or `none`.

    Raises:
        ModelOptionError: The groups do not fit the channels, or there is no such embedding.

    Source: Yang et al. 2021, and their code. The norms stand in for the scale 1 / sqrt(d).
    """

    def __init__(self, dim: int, *, map_size: tuple[int, int], groups: int, position_embedding: str) -> None:
        super().__init__()
        if dim % (2 * groups):
            rule = f"twice the groups divide the {dim} channels of the layer"
            raise ModelOptionError([OptionProblem("groups", groups, rule, "Use 8, or another power of 2.")])
        if position_embedding not in POSITIONS:
            rule = f"position_embedding is one of {', '.join(map(repr, POSITIONS))}"
            raise ModelOptionError([OptionProblem("position_embedding", position_embedding, rule, "Use one of them.")])
        self.groups, self.map_size = groups, map_size
        self.qk_chs, self.v_chs = dim // groups // 2, dim // groups
        self.qkv = ConvNorm(dim, 2 * dim, act=False)
        self.flattened = self.axial = None
        if position_embedding == "classification":
            self.flattened = FlattenedPositions(map_size, qk_chs=self.qk_chs, v_chs=self.v_chs)
        elif position_embedding == "detection":
            self.axial = AxialPositions(map_size, qk_chs=self.qk_chs)
        terms = {"classification": 3, "detection": 2, "none": 1}[position_embedding]
        self.bn_logits = nn.BatchNorm2d(terms * groups)
        self.bn_output = nn.BatchNorm2d(2 * dim if self.flattened else dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to the whole map.

        Raises:
            ValueError: The map is not of a size the layer was built for.
        """
        if not self._takes(tuple(x.shape[2:])):
            raise ValueError(
                f"img_size: got a map of {tuple(x.shape[2:])}, the network was built for one of {self.map_size} here. "
                "Build it with the size of the images, as img_size."
            )
        size = tuple(x.shape[2:])
        values = [self._as_map(part, size) for part in self._values(x)]
        if len(values) == 1:
            normed: Tensor = self.bn_output(values[0])
            return normed
        return normed_pairs(self.bn_output, *values)

    def _values(self, x: Tensor) -> list[Tensor]:
        """Compute the values of every position and, on the flattened map, the share of the positions in them.

        Shape: x (B, dim, H, W) -> (B * groups, N, v_chs) each.
        """
        if is_eager(x) and not is_intercepted():  # counters of operations see the formula, on any device
            return attend(self._attention_terms(x))
        attention, v = self._attention_and_values(x)
        values = [torch.bmm(attention, v)]
        return values if self.flattened is None else [*values, self.flattened.values(attention)]

    def _as_map(self, values: Tensor, size: tuple[int, ...]) -> Tensor:
        """Put the channels of all heads side by side: (B * groups, N, v_chs) -> (B, dim, H, W), channels last."""
        by_position = values.unflatten(0, (-1, self.groups)).transpose(1, 2).flatten(2)
        as_map: Tensor = by_position.transpose(1, 2).unflatten(2, size)
        return as_map

    def _takes(self, size: tuple[int, ...]) -> bool:
        if self.flattened is not None:
            return size == self.map_size
        fits = size[0] <= self.map_size[0] and size[1] <= self.map_size[1]
        return self.axial is None or fits

    def attention(self, x: Tensor) -> Tensor:
        """Compute the attention of all positions: x (B, dim, H, W) -> (B, groups, N, N), N = H * W, last the keys."""
        weights, _ = self._attention_and_values(x)
        weights = weights.unflatten(0, (-1, self.groups))
        ordered: Tensor = weights.flip(3) if self.flattened is not None else weights
        return ordered

    def _attention_terms(self, x: Tensor) -> AttentionTerms:
        """Compute the scaled operands of the logits, and the values."""
        q, k, v = self._queries_keys_values(x)
        scales, axial = self._scales_of(q, k, (x.shape[2], x.shape[3]))
        terms = {"outside": self._outside(x)}
        if self.flattened is not None:
            tables = (table.to(q.dtype) for table in self.flattened.tables())
            terms |= dict(zip(("q_table", "k_table", "v_table"), tables, strict=True))
            terms |= {"q_at": q * scales[1], "k_at": k * scales[2]}
        elif axial is not None:
            rows, columns = ((product * scales[1][..., None]).flatten(1, 2) for product in axial)
            terms |= {"rows": rows, "columns": columns}
        return AttentionTerms(q * scales[0], k, v, **terms)

    def _attention_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute attention (B * groups, N, N), and values (B * groups, N, v_chs), keys in the same order."""
        q, k, v = self._queries_keys_values(x)
        logits, outside = self.logits(q, k, (x.shape[2], x.shape[3])), self._outside(x)
        if outside is not None:
            logits = logits.masked_fill_(outside, -torch.inf)
        return logits.softmax(-1), v

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = _rows_of_heads(self.qkv(x), self.groups).split([self.qk_chs, self.qk_chs, self.v_chs], dim=2)
        if self.flattened is not None:
            # with the keys in reverse order, distances grow along rows and columns of the logits alike
            k, v = k.flip(1), v.flip(1)
        return q, k, v

    def _outside(self, x: Tensor) -> Tensor | None:
        """Return which keys are padding, (B * groups, 1, N), in their order; None where there is none."""
        padding = self.padding_of_batch
        if padding is None:
            return None
        outside = ~padding.mask(x).flatten(2)
        outside = outside.flip(2) if self.flattened is not None else outside
        return outside.repeat_interleave(self.groups, dim=0)

    def logits(self, q: Tensor, k: Tensor, map_size: tuple[int, int] | None = None) -> Tensor:
        """Compute the normed and summed products, except for terms that are equal for all keys of a query.

        Args:
            q: Queries (B * groups, N, qk_chs).
            k: Keys in the order in which the values are; the same shape.
            map_size: H and W; those of the layer when left out.

        Returns:
            Logits (B * groups, N, N), last the keys.
        """
        scales, axial = self._scales_of(q, k, map_size)
        logits = torch.bmm(q * scales[0], k.transpose(1, 2))
        if self.flattened is not None:
            self.flattened.add_logits_(logits, q * scales[1], k * scales[2])
        elif self.axial is not None and axial is not None:
            rows, columns = (product * scales[1][..., None] for product in axial)
            logits = self.axial.add_logits_(logits, rows, columns)
        return logits

    def _scales_of(
        self, q: Tensor, k: Tensor, map_size: tuple[int, int] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Compute the scale of each product, (terms, B * groups, 1, 1), and the products with rows and columns."""
        terms = self.bn_logits.num_features // self.groups
        axial = self.axial.products(q, map_size) if self.axial is not None else None
        with _without_autocast(q.device.type):
            variances = self.variances(q, k, axial)
            factors = self.scales(variances).to(q.dtype).unflatten(0, (terms, 1, self.groups, 1, 1))
        return factors.expand(-1, q.shape[0] // self.groups, -1, 1, 1).flatten(1, 2), axial

    def variances(self, q: Tensor, k: Tensor, axial: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the variance of each product of each head, (terms * groups,).

        They are those of the batch, in evaluation the running ones.
        """
        norm = self.bn_logits
        assert norm.running_mean is not None and norm.running_var is not None
        if not norm.training:
            return norm.running_var
        moments = [product_moments(at_least_float32(q), at_least_float32(k))]
        if self.flattened is not None:
            moments += self.flattened.moments(q, k)
        elif self.axial is not None and axial is not None:
            moments.append(self.axial.moments(*axial))
        # in double precision: a variance is the small difference of moments where queries and keys are biased
        sums = torch.stack(moments, dim=1).double().unflatten(2, (-1, self.groups)).sum(2).flatten(1)
        products = q.shape[0] // self.groups * q.shape[1] * k.shape[1]
        sums, counts = sums_for(norm, torch.stack([*sums, sums.new_full(sums.shape[1:], products)])).split([2, 1])
        count = counts[0]
        mean = sums[0] / count
        variance: Tensor = (sums[1] / count - mean.square()).clamp_min(0)
        update_statistics(norm, mean, variance * (count / (count - 1).clamp_min(1)))
        return variance

    def scales(self, variance: Tensor) -> Tensor:
        """Return the factor of each product of each head, (terms * groups,), that its batch norm amounts to."""
        norm = self.bn_logits
        # the shift has no effect on the result, and so a gradient of exactly zero
        factors: Tensor = norm.weight * torch.rsqrt(variance + norm.eps).to(norm.weight.dtype) + 0.0 * norm.bias
        return factors


def _rows_of_heads(x: Tensor, groups: int) -> Tensor:
    """Return the channels of each head at each position: (B, groups * c, H, W) -> (B * groups, N, c).

    The gradient has the layout of the map: the norm ahead of it takes ten times as long where the two differ.
    """
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        by_head: Tensor = x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(2, (groups, -1)).transpose(1, 2)
    else:
        by_head = x.flatten(2).unflatten(1, (groups, -1)).transpose(2, 3)
    return by_head.flatten(0, 1)


def _without_autocast(device_type: str) -> contextlib.AbstractContextManager[Any]:
    """Disable automatic casts on a device.

    Shapes without one, on the device `meta`, never have any.
    """
    has_autocast = torch.amp.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if has_autocast else contextlib.nullcontext()

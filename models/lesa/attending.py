"""Attention of LESA's binary term with a backward pass of its own, over chunks of queries where the map is large.

The formula in `binary_term.py` keeps several maps of positions times positions for its gradients. Here there is one,
the weights, up to a size; beyond it the weights are computed again in the backward pass, a chunk of queries at a time,
so that memory is linear in the positions of the map.

Shape legend: M images times heads, N positions of the map, d channels of a query, T = 2 N - 1 distances.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.compiled.eager import gradients_of
from models.lesa.kernel import kernel_attend, lesa_kernel_serves

__all__ = ["AttentionTerms", "attend", "overlap_sum", "windows"]

KEPT_WEIGHTS = 1 << 26  # elements of the weights of a layer that are kept for the backward pass
LARGEST_WEIGHTS = 1 << 23  # elements that are computed at once where they are more


@dataclasses.dataclass(frozen=True)
class AttentionTerms:
    """Scaled operands of the logits, and the values.

    With `flattened` positions keys and values come in reverse order, and query i meets key j' at entry i + j'.

    Args:
        q: Queries for the product with the keys, (M, N, d).
        k: Keys, (M, N, d).
        v: Values, (M, N, channels).
        q_at: Queries for the product with positions, (M, N, d); with positions on the flattened map.
        k_at: Keys for the product with positions, (M, N, d); the same.
        q_table: Entries that the queries meet, (d, T); the same.
        k_table: Entries that the keys meet, (d, T); the same.
        v_table: Entries that join the values, (channels, T); the same.
        rows: Products of the queries with the rows of the map, (M, N, H); with positions of rows and columns.
        columns: Products of the queries with the columns of the map, (M, N, W); the same.
        outside: True for keys in the padding, (M, 1, N); None for none.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_at: Tensor | None = None
    k_at: Tensor | None = None
    q_table: Tensor | None = None
    k_table: Tensor | None = None
    v_table: Tensor | None = None
    rows: Tensor | None = None
    columns: Tensor | None = None
    outside: Tensor | None = None

    def tensors(self) -> list[Tensor | None]:
        """Return the operands in the order of the fields."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def chunks(self, kept: int, largest: int) -> list[tuple[int, int]]:
        """Return first and last query, exclusive, of each chunk; a single one where there are few weights.

        Args:
            kept: Most elements of all weights in one chunk.
            largest: Most elements of the weights of a chunk where there are several; one query is the least.
        """
        maps, count = self.q.shape[:2]
        size = count if maps * count * count <= kept else max(1, min(count, largest // (maps * count)))
        return [(first, min(first + size, count)) for first in range(0, count, size)]

    def weights(self, first: int, last: int) -> Tensor:
        """Compute the attention of the queries from `first` on, up to `last`: (M, last - first, N)."""
        logits = self._logits(first, last)
        if self.outside is not None:
            logits.masked_fill_(self.outside, -torch.inf)
        wide = torch.float32 if logits.itemsize < 4 else logits.dtype
        return torch.softmax(logits, -1, dtype=wide).to(logits.dtype)

    def _logits(self, first: int, last: int) -> Tensor:
        q, k_turned = self.q[:, first:last], self.k.transpose(1, 2)
        if self.q_at is not None and self.k_at is not None and self.q_table is not None and self.k_table is not None:
            by_key = torch.bmm(self.k_at.transpose(0, 1), self.near(self.k_table, first, last, last - first))
            logits: Tensor = _turned(by_key.flatten(1)).unflatten(0, (q.shape[0], -1)).baddbmm_(q, k_turned)
            at = self.q_at[:, first:last].transpose(0, 1)
            logits += torch.bmm(at, self.near(self.q_table, first, last)).transpose(0, 1)
            return logits
        logits = torch.bmm(q, k_turned)
        if self.rows is not None and self.columns is not None:
            grid = logits.unflatten(2, (self.rows.shape[2], self.columns.shape[2]))
            grid.add_(self.rows[:, first:last, :, None]).add_(self.columns[:, first:last, None, :])
        return logits

    def near(self, table: Tensor, first: int, last: int, width: int | None = None) -> Tensor:
        """Return the windows of a table that the queries from `first` up to `last` meet; each as wide as the map."""
        count = self.k.shape[1]
        return windows(table[:, first : last - 1 + count], count if width is None else width)

    def formula(self) -> list[Tensor]:
        """Compute what `attend` does by operations that have gradients of any order."""
        weights = self.weights(0, self.q.shape[1])
        values = [torch.bmm(weights, self.v)]
        if self.v_table is not None:
            near = self.near(self.v_table, 0, self.q.shape[1]).transpose(1, 2)
            values.append(torch.bmm(weights.transpose(0, 1), near).transpose(0, 1))
        return values


def attend(terms: AttentionTerms, *, kept: int | None = None, largest: int | None = None) -> list[Tensor]:
    """Attend to the whole map: values (M, N, channels) and, on the flattened map, the share of the positions in them.

    Args:
        terms: Operands.
        kept: Elements of the weights that are kept for the backward pass; `KEPT_WEIGHTS` when left out.
        largest: Elements that are computed at once where they are more; `LARGEST_WEIGHTS` when left out.
    """
    if kept is None and largest is None and lesa_kernel_serves(terms.tensors()[:8], terms.outside):
        operands = [x for x in terms.tensors() if x is not None]
        return list(kernel_attend(operands, lambda *given: _terms_of(given).formula()))
    chunks = terms.chunks(KEPT_WEIGHTS if kept is None else kept, LARGEST_WEIGHTS if largest is None else largest)
    values, at = _Attend.apply(chunks, *terms.tensors())
    return [values] if at is None else [values, at]


def windows(table: Tensor, width: int) -> Tensor:
    """Return all windows of a table, a view: (channels, T) -> (T - width + 1, channels, width)."""
    return table.unfold(1, width, 1).transpose(0, 1)


def overlap_sum(parts: Tensor) -> Tensor:
    """Sum windows at their places, the adjoint of `windows`: (count, channels, width) -> (channels, count + width - 1).

    Each row of a buffer that is one wider than the sum begins one place later when it is read without that column.
    Places and widths can change roles; the fewer of them are the rows.
    """
    parts = parts if len(parts) <= parts.shape[2] else parts.permute(2, 1, 0)
    count, channels, width = parts.shape
    whole = count + width - 1
    buffer = parts.new_zeros(channels, count, whole + 1)
    buffer[:, :, :width] = parts.transpose(0, 1)
    summed: Tensor = buffer.flatten(1)[:, : count * whole].unflatten(1, (count, whole)).sum(1)
    return summed


def _terms_of(tensors: Sequence[Tensor | None]) -> AttentionTerms:
    q, k, v, *more = tensors
    assert q is not None and k is not None and v is not None
    return AttentionTerms(q, k, v, *more)


def _turned(x: Tensor) -> Tensor:
    """Transpose a matrix in memory; of two dimensions, torch has a fast way."""
    return x.t().contiguous()


class _Attend(torch.autograd.Function):
    """Forward and backward pass over chunks of queries."""

    @staticmethod
    def forward(ctx: Any, chunks: list[tuple[int, int]], *tensors: Tensor | None) -> tuple[Tensor, Tensor | None]:
        terms = _terms_of(tensors)
        parts, parts_at = [], []
        for first, last in chunks:
            weights = terms.weights(first, last)
            parts.append(torch.bmm(weights, terms.v))
            if terms.v_table is not None:
                near = terms.near(terms.v_table, first, last).transpose(1, 2)
                parts_at.append(torch.bmm(weights.transpose(0, 1), near).transpose(0, 1))
        ctx.chunks = chunks
        ctx.save_for_backward(weights if len(chunks) == 1 else None, *tensors)
        return _joined(parts), _joined(parts_at) if parts_at else None

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_at: Tensor | None) -> tuple[Tensor | None, ...]:
        kept, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of gradients
            grads = [grad] if grad_at is None else [grad, grad_at]
            return None, *gradients_of(lambda *x: _terms_of(x).formula(), tensors, grads)
        terms = _terms_of(tensors)
        found = _Gradients(terms, len(ctx.chunks))
        for first, last in ctx.chunks:
            weights = terms.weights(first, last) if kept is None else kept
            at = None if grad_at is None else grad_at[:, first:last]
            found.add_chunk(weights, (first, last), grad[:, first:last], at)
        return None, *found.all()


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class _Gradients:
    """Gradients of the operands, collected over chunks of queries; sums over several chunks in float32 at least."""

    def __init__(self, terms: AttentionTerms, chunks: int) -> None:
        self.terms, self.chunks = terms, chunks
        self.sums: dict[str, Tensor] = {}
        self.parts: dict[str, list[Tensor]] = {}

    def all(self) -> list[Tensor | None]:
        """Return the gradients in the order of the operands; None for those without."""
        found = {**self.sums, **{name: _joined(parts) for name, parts in self.parts.items()}}
        names = [field.name for field in dataclasses.fields(self.terms)]
        return [found[name].to(self.terms.q.dtype) if name in found else None for name in names]

    def add_chunk(self, weights: Tensor, span: tuple[int, int], grad: Tensor, grad_at: Tensor | None) -> None:
        """Add what the queries of a span contribute.

        Args:
            weights: Their attention.
            span: First and last query, exclusive.
            grad: Gradient of their values.
            grad_at: Gradient of the share of the positions in them.
        """
        terms, (first, last) = self.terms, span
        by_weight = torch.bmm(grad, terms.v.transpose(1, 2))
        self._add("v", torch.bmm(weights.transpose(1, 2), grad))
        if terms.v_table is not None and grad_at is not None:
            at = grad_at.transpose(0, 1)
            by_weight.add_(torch.bmm(at, terms.near(terms.v_table, first, last)).transpose(0, 1))
            self._add_near("v_table", first, torch.bmm(at.transpose(1, 2), weights.transpose(0, 1)))
        by_logit = torch._softmax_backward_data(by_weight, weights, -1, weights.dtype)
        self._append("q", torch.bmm(by_logit, terms.k))
        self._add("k", torch.bmm(by_logit.transpose(1, 2), terms.q[:, first:last]))
        if terms.rows is not None and terms.columns is not None:
            grid = by_logit.unflatten(2, (terms.rows.shape[2], terms.columns.shape[2]))
            self._append("rows", grid.sum(3))
            self._append("columns", grid.sum(2))
        if terms.q_at is not None:
            self._add_positions(by_logit, first, last)

    def _add_positions(self, by_logit: Tensor, first: int, last: int) -> None:
        terms = self.terms
        assert terms.q_at is not None and terms.k_at is not None
        assert terms.q_table is not None and terms.k_table is not None
        by_query, queries = by_logit.transpose(0, 1), terms.q_at[:, first:last].transpose(0, 1)
        met = terms.near(terms.q_table, first, last).transpose(1, 2)
        self._append("q_at", torch.bmm(by_query, met).transpose(0, 1))
        self._add_near("q_table", first, torch.bmm(queries.transpose(1, 2), by_query))
        by_key = _turned(by_logit.flatten(0, 1)).unflatten(1, (by_logit.shape[0], -1))
        met = terms.near(terms.k_table, first, last, last - first).transpose(1, 2)
        self._add("k_at", torch.bmm(by_key, met).transpose(0, 1))
        self._add_near("k_table", first, torch.bmm(terms.k_at.transpose(0, 1).transpose(1, 2), by_key))

    def _append(self, name: str, grad: Tensor) -> None:
        self.parts.setdefault(name, []).append(grad)

    def _add(self, name: str, grad: Tensor) -> None:
        if name in self.sums:
            self.sums[name] += grad
        else:
            self.sums[name] = grad.float() if self.chunks > 1 and grad.itemsize < 4 else grad

    def _add_near(self, name: str, first: int, parts: Tensor) -> None:
        """Add gradients of the windows of a table that begin at `first` and after."""
        grad, table = overlap_sum(parts), getattr(self.terms, name)
        if self.chunks > 1:
            whole = torch.zeros_like(table, dtype=torch.promote_types(table.dtype, torch.float32))
            whole[:, first : first + grad.shape[1]] = grad
            grad = whole
        self._add(name, grad)

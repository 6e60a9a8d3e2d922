"""Moments of the logits of LESA's binary term, from which the scales of their batch norms follow.

Sum and sum of squares over all pairs of positions come from second moments of the factors, matrices of channels times
channels, and so do their gradients: nothing of the size positions x positions is computed.

Shape legend: M images times heads, N positions of the map, d channels of a query, T = 2 N - 1 distances.
"""

from typing import Any

import torch
from torch import Tensor

from models.compiled.eager import gradients_of, is_eager

__all__ = ["product_moments", "window_moments"]


def product_moments(q: Tensor, k: Tensor) -> Tensor:
    """Compute sum and sum of squares of all products of queries and keys (M, N, d) of a head: (2, M)."""
    first = (q.sum(1) * k.sum(1)).sum(1)
    second = (torch.bmm(q.transpose(1, 2), q) * torch.bmm(k.transpose(1, 2), k)).sum((1, 2))
    return torch.stack([first, second])


def window_moments(x: Tensor, table: Tensor) -> Tensor:
    """Compute sum and sum of squares of the products of x_i with the entries i to i + N - 1 of a table.

    Shape: x (M, N, d), table (d, T) -> (2, M).
    """
    moments: Tensor = _WindowMoments.apply(x, table) if is_eager(x, table) else _formula(x, table)
    return moments


def _formula(x: Tensor, table: Tensor) -> Tensor:
    sums, squares = _window_sums(x, table)
    return torch.stack([(x * sums).sum((1, 2)), (x * _turned(x, squares)).sum((1, 2))])


def _window_sums(x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Compute sums of entries (N, d) and of their outer products (N, d, d) over the window of each position."""
    entries = table.double().t()
    both = torch.cat([entries, (entries[:, :, None] * entries[:, None, :]).flatten(1)], dim=1)
    running = torch.cat([torch.zeros_like(both[:1]), both.cumsum(0)])
    found = (running[x.shape[1] :] - running[: x.shape[1]]).to(x.dtype)
    return found[:, : x.shape[2]], found[:, x.shape[2] :].unflatten(1, (x.shape[2], -1))


def _turned(x: Tensor, squares: Tensor) -> Tensor:
    return torch.bmm(x.transpose(0, 1), squares).transpose(0, 1)


class _WindowMoments(torch.autograd.Function):
    """The formula with a backward pass that computes nothing twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor) -> Tensor:
        sums, squares = _window_sums(x, table)
        turned = _turned(x, squares)
        ctx.save_for_backward(x, table, sums, turned)
        return torch.stack([(x * sums).sum((1, 2)), (x * turned).sum((1, 2))])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, table, sums, turned = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of gradients
            return tuple(gradients_of(lambda *given: [_formula(*given)], (x, table), [grad]))
        by_first, by_second = (part[:, None, None] for part in grad)
        by_position = x.transpose(0, 1)
        by_squares = torch.bmm(by_position.transpose(1, 2), (2 * by_second * x).transpose(0, 1))
        spread = _spread(torch.cat([(by_first * x).sum(0), by_squares.flatten(1)], dim=1).double())
        d = x.shape[2]
        by_entries = (
            spread[:, :d] + torch.bmm(spread[:, d:].unflatten(1, (d, d)), table.double().t()[..., None])[..., 0]
        )
        return torch.addcmul(by_first * sums, turned, 2 * by_second), by_entries.t().to(table.dtype)


def _spread(x: Tensor) -> Tensor:
    """Sum over the windows that hold an entry, the adjoint of the sums over windows: (N, ...) -> (T, ...)."""
    running = torch.cat([torch.zeros_like(x[:1]), x.cumsum(0)])
    rest = len(x) - 1
    upper = torch.cat([running[1:], running[-1:].expand(rest, -1)])
    return upper - torch.cat([torch.zeros_like(x), running[1 : rest + 1]])

"""Naive attention of LESA, as in its formulas: tables gathered, logits stacked, normed and summed."""

from typing import Any

import torch
from torch import Tensor


def plain_binary(term: Any, x: Tensor) -> Tensor:
    """Compute the binary term of a map, from a `BinaryTerm`; in train mode its norms see the logits."""
    batch, dim, height, width = x.shape
    positions, groups, d = height * width, term.groups, term.qk_chs
    qkv = term.qkv(x).reshape(batch, groups, 2 * d + term.v_chs, positions)
    q, k, v = qkv.split([d, d, term.v_chs], dim=2)
    logits = [torch.einsum("bgci,bgcj->bgij", q, k)]
    v_embedding = None
    place = torch.arange(positions)
    if term.flattened is not None:
        gathered = term.flattened.table[:, place[:, None] - place + positions - 1]
        q_embedding, k_embedding, v_embedding = gathered.split([d, d, term.v_chs])
        logits.append(torch.einsum("bgci,cij->bgij", q, q_embedding))
        logits.append(torch.einsum("bgcj,cji->bgij", k, k_embedding))
    elif term.axial is not None:
        row, column = place // width, place % width
        rows = term.axial.rel_height[row[None, :] - row[:, None] + height - 1]
        columns = term.axial.rel_width[column[None, :] - column[:, None] + width - 1]
        logits.append(torch.einsum("bgci,ijc->bgij", q, rows + columns))
    normed = term.bn_logits(torch.cat(logits, dim=1))
    attention = normed.reshape(batch, len(logits), groups, positions, positions).sum(1).softmax(-1)
    values = torch.einsum("bgij,bgcj->bgci", attention, v)
    if v_embedding is None:
        output: Tensor = term.bn_output(values.reshape(batch, dim, height, width))
        return output
    embedded = torch.einsum("bgij,cij->bgci", attention, v_embedding)
    stacked = torch.cat([values, embedded], dim=-1).reshape(batch, 2 * dim, height, width)
    return term.bn_output(stacked).reshape(batch, dim, 2, height, width).sum(2)  # type: ignore[no-any-return]

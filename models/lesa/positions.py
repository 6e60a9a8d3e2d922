"""Position embeddings of LESA's attention, each with the moments of the logits that it makes.

Tables are read as overlapping windows, views of which the matrix products read in place: nothing of the size
positions x positions x channels is gathered.

Source: Yang et al. 2021, "Locally Enhanced Self-Attention" (arXiv 2107.05637), and their code.
Shape legend: M images times heads, N positions of the map, d channels of a query.
"""

import torch
from torch import Tensor, nn

from models.lesa.moments import window_moments
from models.padding import is_traced_to_file

__all__ = ["POSITIONS", "AxialPositions", "FlattenedPositions", "at_least_float32"]

POSITIONS = ("classification", "detection", "none")


class FlattenedPositions(nn.Module):
    """Distance on the flattened map, for queries, keys and values; one table for all heads.

    Keys and values come in reverse order, so that query i and key j' are at entry i + j' of the table. Keys have
    the table reversed: their distance is the negative one.

    Args:
        map_size: H and W.
        qk_chs: Channels of queries and keys.
        v_chs: Channels of values.
    """

    def __init__(self, map_size: tuple[int, int], *, qk_chs: int, v_chs: int) -> None:
        super().__init__()
        self.positions = map_size[0] * map_size[1]
        self.qk_chs, self.v_chs = qk_chs, v_chs
        self.table = nn.Parameter(torch.randn(2 * qk_chs + v_chs, 2 * self.positions - 1) * v_chs**-0.5)

    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tables of queries, keys and values, channels first, in the order of entries i + j'."""
        q_table, k_table, v_table = self.table.split([self.qk_chs, self.qk_chs, self.v_chs])
        return q_table, k_table.flip(1), v_table

    def moments(self, q: Tensor, k: Tensor) -> list[Tensor]:
        """Compute sum and sum of squares of the logits: of queries, then of keys with positions, two of (2, M)."""
        q_table, k_table, _ = self.tables()
        return [window_moments(at_least_float32(x), table) for x, table in ((q, q_table), (k, k_table))]

    def _windows(self, table: Tensor) -> Tensor:
        """Return the N entries from each of the first N on, (N, channels, N).

        A view, except in compiled and traced programs.
        """
        if torch.compiler.is_compiling() or is_traced_to_file():
            start = torch.arange(self.positions, device=table.device)
            return table[:, start[:, None] + start].transpose(0, 1)
        return table.unfold(1, self.positions, 1).transpose(0, 1)

    def add_logits_(self, logits: Tensor, q: Tensor, k: Tensor) -> None:
        """Add the products of queries and of keys (M, N, d) with positions to (M, N, N), in place."""
        q_table, k_table, _ = self.tables()
        logits.add_(torch.bmm(q.transpose(0, 1), self._windows(q_table)).transpose(0, 1))
        logits.add_(torch.bmm(k.transpose(0, 1), self._windows(k_table)).permute(1, 2, 0))

    def values(self, attention: Tensor) -> Tensor:
        """Compute the share of the positions alone in the output: (M, N, N) -> (M, N, v_chs)."""
        windows = self._windows(self.tables()[2]).transpose(1, 2)
        return torch.bmm(attention.transpose(0, 1), windows).transpose(0, 1)


class AxialPositions(nn.Module):
    """Distance along rows and along columns, for queries; one pair of tables for all heads.

    Args:
        map_size: H and W of the largest map.
        qk_chs: Channels of queries.
    """

    def __init__(self, map_size: tuple[int, int], *, qk_chs: int) -> None:
        super().__init__()
        self.map_size = map_size
        height, width = map_size
        self.rel_height = nn.Parameter(torch.randn(2 * height - 1, qk_chs) * qk_chs**-0.5)
        self.rel_width = nn.Parameter(torch.randn(2 * width - 1, qk_chs) * qk_chs**-0.5)

    def products(self, q: Tensor, map_size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Multiply queries (M, N, d) by the rows and columns of the keys: (M, H, W, H) and (M, H, W, W).

        Args:
            q: Queries.
            map_size: H and W, no larger than those of the tables; theirs when left out. A smaller map reads the
                middle of the tables, the distances that it has.
        """
        height, width = map_size or self.map_size
        q = q.unflatten(1, (height, width))
        rows = torch.einsum("myxd,ykd->myxk", q, _distances(_middle(self.rel_height, height)).to(q.dtype))
        columns = torch.einsum("myxd,xkd->myxk", q, _distances(_middle(self.rel_width, width)).to(q.dtype))
        return rows, columns

    def moments(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Compute sum and sum of squares of the logits, each the sum of a row's and a column's: (2, M)."""
        rows, columns = at_least_float32(rows), at_least_float32(columns)
        height, width = rows.shape[1:3]
        row_sums, column_sums = rows.sum(3), columns.sum(3)
        first = width * row_sums.sum((1, 2)) + height * column_sums.sum((1, 2))
        second = width * rows.square().sum((1, 2, 3)) + height * columns.square().sum((1, 2, 3))
        return torch.stack([first, second + 2 * (row_sums * column_sums).sum((1, 2))])

    def add_logits_(self, logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Add the products of queries with rows and columns to (M, N, N), in place, and return the sum."""
        map_size = rows.shape[1:3]
        grid = logits.view(-1, *map_size, *map_size)
        if is_traced_to_file():  # a file of ONNX loses what is changed through a view
            return (grid + rows[..., :, None] + columns[..., None, :]).reshape(logits.shape)
        grid.add_(rows[..., :, None]).add_(columns[..., None, :])
        return logits


def _middle(table: Tensor, length: int) -> Tensor:
    """Return the entries of the distances along `length` places: (2L - 1, d) -> (2 length - 1, d)."""
    beyond = (len(table) + 1) // 2 - length
    return table[beyond : len(table) - beyond]


def _distances(table: Tensor) -> Tensor:
    """Return the entry of every pair of places along one axis: (2L - 1, d) -> (L, L, d)."""
    place = torch.arange((len(table) + 1) // 2, device=table.device)
    return table[place - place[:, None] + len(place) - 1]


def at_least_float32(x: Tensor) -> Tensor:
    """Return the tensor in single precision at least, in which moments are taken."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()

"""Attention of the last block of vision transformers at chosen query points, by network and by head.

Source: Ma et al. 2022 (arXiv 2212.12552), whose figures show the last head of the last block beside its query point for
several networks, and all heads of a ViT beside the groups of FCViT. The numbers are SpatialSweep's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from orchestrator.errors import ExplainError
from orchestrator.inference.explain.compared import ComparedNetwork, patch_grid
from orchestrator.inference.explain.irrelevance import attention_of_vit, irrelevance, mean_pairwise_cosine
from orchestrator.inference.explain.pictures import (
    SHARE,
    SIGNED,
    colour_bar,
    grid,
    heat,
    mark,
    overlay,
    save,
    show_image,
)
from orchestrator.inference.explain.subject import Numbers, Subject

__all__ = ["QUERIES", "Reading", "draw_last_block", "draw_query_maps", "query_points", "read_attention"]

QUERIES = ((0.5, 0.5), (0.25, 0.25))
"""Query points when none are given: the centre, and a point of the upper left quarter."""

_BATCH = 8  # images: the attention of all blocks of a large network is held for one batch
_LARGEST = 5  # patches whose share of the attention is reported

Point = tuple[float, float]


@dataclass(frozen=True)
class Reading:
    """Attention of a network, over all images and of the last block.

    Args:
        network: Network that was read.
        layers: Results of `irrelevance` for each block.
        block: Name of the last block.
        cells: Row and column of the patch of each query.
        maps: Attention of each query to the patches, without other tokens, (N, heads, queries, rows, columns).
    """

    network: ComparedNetwork
    layers: dict[str, Numbers]
    block: str
    cells: tuple[tuple[int, int], ...]
    maps: Tensor

    def numbers(self) -> Numbers:
        """Return the numbers of the last head of the last block at the queries."""
        last = self.maps[:, -1].flatten(2)
        shares = last / last.sum(-1, keepdim=True).clamp_min(1e-12)
        largest = shares.topk(min(_LARGEST, shares.shape[-1])).values.sum(-1)
        return {
            "block": self.block,
            "head": self.maps.shape[1] - 1,
            "patches": list(self.maps.shape[3:]),
            "query_cells": [list(cell) for cell in self.cells],
            "weight_on_patches": float(last.sum(-1).mean()),
            f"share_of_{_LARGEST}_largest": float(largest.mean()),
            "cosine_between_queries": mean_pairwise_cosine(last),
            "cosine_between_heads": mean_pairwise_cosine(self.maps.flatten(3).transpose(1, 2)),
        }


def query_points(texts: Sequence[str]) -> tuple[Point, ...]:
    """Return query points `X,Y`, shares of width and height from the upper left corner.

    Raises:
        ExplainError: A text is no such point.
    """
    return tuple(_point(text) for text in texts)


def _point(text: str) -> Point:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = -1.0
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ExplainError(
            f"--query {text}: give X,Y as shares of width and height from the upper left corner, 0 to 1: 0.5,0.5"
        )
    return x, y


def read_attention(compared: ComparedNetwork, queries: Sequence[Point]) -> Reading:
    """Run a network over its images and read the attention of all blocks, and of the last one at the queries.

    Args:
        compared: Network with a grid of patches.
        queries: Query points, see `query_points`.
    """
    shape = patch_grid(compared.network)
    assert shape is not None
    rows, cols = shape
    cells = tuple((min(rows - 1, int(y * rows)), min(cols - 1, int(x * cols))) for x, y in queries)
    prefix = cast(Any, compared.network).num_prefix_tokens
    tokens = [prefix + row * cols + col for row, col in cells]
    sums: dict[str, dict[str, float]] = {}
    maps, block = [], ""
    for batch in compared.inputs.split(_BATCH):
        seen = attention_of_vit(compared.network, batch)
        for block, attention in seen.items():
            total = sums.setdefault(block, {})
            for key, value in irrelevance(attention).items():
                total[key] = total.get(key, 0.0) + value * len(batch)
        maps.append(seen[block][:, :, tokens, prefix:].unflatten(-1, (rows, cols)))
    count = len(compared.inputs)
    layers = {name: {key: value / count for key, value in total.items()} for name, total in sums.items()}
    return Reading(compared, layers, block, cells, torch.cat(maps))


def draw_query_maps(subject: Subject, readings: Sequence[Reading], queries: Sequence[Point]) -> None:
    """Draw `query_maps`: a row for each image and query point, the last head of each network side by side.

    Args:
        subject: Explained network and its images.
        readings: Attention of each network.
        queries: Query points.
    """
    shown = min(subject.drawn, len(subject.images.pixels))
    title = f"{subject.title}\nattention of the query point, last block and last head"
    figure, axes = grid(shown * len(queries), 1 + len(readings), title)
    drawn = None
    for row in range(shown * len(queries)):
        image, query = divmod(row, len(queries))
        show_image(axes[row, 0], subject.images.pixels[image])
        height, width = subject.images.pixels.shape[2:]
        patch_rows, patch_cols = readings[0].maps.shape[3:]
        mark(axes[row, 0], readings[0].cells[query], size=(height / patch_rows, width / patch_cols))
        for ax, reading in zip(axes[row, 1:], readings, strict=True):
            drawn = heat(ax, _scaled(reading.maps[image, -1, query]), SHARE, low=0, high=1)
            mark(ax, reading.cells[query], size=(1, 1))
    axes[0, 0].set_title("query point")
    for ax, reading in zip(axes[0, 1:], readings, strict=True):
        ax.set_title(_wrapped(reading.network.label), fontsize=6)
    colour_bar(figure, drawn, axes, "attention over its largest")
    save(figure, subject.folder, "query_maps")


def draw_last_block(subject: Subject, reading: Reading, similarity: tuple[str, Tensor] | None) -> None:
    """Draw `last_block_maps_<network>`: all heads of the last block at the first query, beside the groups of FCViT.

    Args:
        subject: Explained network and its images.
        reading: Attention of the network to compare with.
        similarity: Output of `last_similarity_maps` for the explained network.
    """
    name, groups = similarity or ("", None)
    shown, heads = min(subject.drawn, len(subject.images.pixels)), reading.maps.shape[1]
    left = 0 if groups is None else -(-groups.shape[1] // 2)
    right, gap = -(-heads // 2), int(left > 0)
    beside = f"{name} by group, " if left else ""
    title = f"{subject.title}\n{beside}{reading.network.label}, {reading.block} by head"
    figure, axes = grid(2 * shown, left + gap + right, title)
    for ax in axes.flat:
        ax.set_visible(False)
    limit = 1e-6 if groups is None else max(1e-6, float(groups[:shown].abs().max()))
    bars: dict[str, Any] = {}
    for image in range(shown):
        pixels = subject.images.pixels[image]
        for group in range(0 if groups is None else groups.shape[1]):
            ax = axes[2 * image + group // left, group % left]
            assert groups is not None
            bars["similarity (standardised)"] = overlay(ax, pixels, groups[image, group], SIGNED, (-limit, limit))
            ax.set(visible=True, title=f"group {group}")
        for head in range(heads):
            ax = axes[2 * image + head // right, left + gap + head % right]
            found = _scaled(reading.maps[image, head, 0])
            bars["attention over its largest"] = overlay(ax, pixels, found, SHARE, (0, 1))
            cell = (pixels.shape[1] / found.shape[0], pixels.shape[2] / found.shape[1])
            mark(ax, reading.cells[0], size=cell)
            ax.set(visible=True, title=f"head {head}")
    for label, drawn in bars.items():
        colour_bar(figure, drawn, axes, label)
    save(figure, subject.folder, f"last_block_maps_{_file_name(reading.network.label)}")


def _scaled(attention: Tensor) -> Tensor:
    """Divide a map by its largest value."""
    return attention / attention.max().clamp_min(1e-12)


def _wrapped(label: str) -> str:
    """Break a long label into lines."""
    return label.replace("_patch", "\npatch").replace(" (", "\n(")


def _file_name(label: str) -> str:
    """Return a label as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", label).strip("_")

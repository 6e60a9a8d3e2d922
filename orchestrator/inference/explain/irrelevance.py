"""Query irrelevance: similarity of the attention of different queries, and of different heads.

Source: Ma et al. 2022 (arXiv 2212.12552) show maps that are almost the same for every query. The number is
SpatialSweep's: the mean cosine over all pairs of rows of an attention matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from orchestrator.inference.explain.pictures import LINES, plot_figure, save
from orchestrator.inference.explain.subject import Numbers, layers_of

__all__ = ["attention_of_vit", "draw_irrelevance", "irrelevance", "mean_pairwise_cosine"]


def mean_pairwise_cosine(rows: Tensor) -> float:
    """Return the mean cosine of all pairs of different rows: (..., N, C) over the second last axis; 1 for one row.

    The sum over all pairs is the squared length of the sum of the normed rows.
    """
    count = rows.shape[-2]
    if count < 2:
        return 1.0
    normed = torch.nn.functional.normalize(rows.double(), dim=-1)
    lengths = normed.square().sum((-1, -2))
    pairs = normed.sum(-2).square().sum(-1) - lengths
    return float((pairs / (count * (count - 1))).mean())


def irrelevance(attention: Tensor) -> dict[str, float]:
    """Return the mean pairwise cosine over queries and over heads, and the entropy of the rows.

    Args:
        attention: Attention matrices, (B, heads, N, N), keys last.
    """
    entropy = -(attention * attention.clamp_min(1e-12).log()).sum(-1).mean()
    uniform = torch.tensor(float(attention.shape[-1])).log()
    return {
        "cosine_over_queries": mean_pairwise_cosine(attention),
        "cosine_over_heads": mean_pairwise_cosine(attention.transpose(1, 2)),
        "entropy_over_uniform": float(entropy / uniform.clamp_min(1e-12)),
    }


def attention_of_vit(network: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Compute the attention of every block: (B, heads, N, N), class token included.

    Args:
        network: ViT of timm; its fused attention, which keeps no matrices, is off meanwhile.
        inputs: Input of the network.
    """
    seen: dict[str, Tensor] = {}
    layers: dict[str, Any] = dict(layers_of(network, Attention))
    fused = {name: layer.fused_attn for name, layer in layers.items()}
    handles = []
    for name, layer in layers.items():
        layer.fused_attn = False

        def note(_: nn.Module, given: tuple[Any, ...], name: str = name) -> None:
            seen[name] = given[0].detach()

        handles.append(layer.attn_drop.register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        for handle in handles:
            handle.remove()
        for name, layer in layers.items():
            layer.fused_attn = fused[name]
    return seen


def draw_irrelevance(title: str, by_network: Mapping[str, Mapping[str, Numbers]], folder: Path) -> None:
    """Draw `query_irrelevance`, both cosines of every layer.

    Args:
        title: Title of the picture.
        by_network: Results of `irrelevance` for each layer of each network, in the order of the layers.
        folder: Folder of the picture.
    """
    figure, axes = plot_figure(1, 2, f"{title}\nquery irrelevance", width_in=3.0, height_in=2.3)
    topics = {"cosine_over_queries": "pairs of queries", "cosine_over_heads": "pairs of heads"}
    for ax, (key, topic) in zip(axes[0], topics.items(), strict=True):
        for index, (network, layers) in enumerate(by_network.items()):
            values = [numbers[key] for numbers in layers.values()]
            depth = [index / max(1, len(values) - 1) for index in range(len(values))]
            ax.plot(depth, values, color=LINES[index % len(LINES)], marker="o", label=network)
        ax.set(title=topic, xlabel="depth (0 first layer, 1 last)", ylim=(-0.05, 1.05))
        ax.grid()
    axes[0, 0].set_ylabel("mean cosine of attention rows")
    axes[0, 0].legend()
    save(figure, folder, "query_irrelevance")

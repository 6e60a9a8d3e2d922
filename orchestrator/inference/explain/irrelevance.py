"""Query irrelevance: similarity of the attention of different queries, and of different heads.

Source: Ma et al. 2022 (arXiv 2212.12552) show maps that are almost the same for every query. The number is
SpatialSweep's: the mean cosine over all pairs of rows of an attention matrix.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.attention import Attention
from timm.models import load_checkpoint
from torch import Tensor, nn

from orchestrator.errors import CheckpointError, did_you_mean, first_line
from orchestrator.inference.explain.pictures import LINES, plot_figure, save
from orchestrator.inference.explain.subject import Numbers, layers_of
from orchestrator.inference.images import NetworkImages

__all__ = ["attention_of_vit", "draw_irrelevance", "irrelevance", "load_compared_vit", "mean_pairwise_cosine"]

_FEWEST_TOKENS = 4  # per side


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


def irrelevance(attention: Tensor) -> Numbers:
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


def load_compared_vit(
    name: str, images: NetworkImages, num_classes: int, checkpoint: Path | None
) -> tuple[nn.Module, Tensor]:
    """Load a ViT of timm to compare with, and convert the images to its input.

    Args:
        name: timm's name of the network.
        images: Images of the explained network.
        num_classes: Number of classes of the ViT without a checkpoint.
        checkpoint: Path of weights that timm reads; the images are resized for them and converted to RGB. None leaves
            the ViT untrained, at the size of the images, with patches small enough for 4 x 4 tokens.

    Raises:
        CheckpointError: timm has no such network, its blocks have no attention, or the weights do not fit.
    """
    known = timm.list_models("*vit*")
    if not timm.is_model(name):
        raise CheckpointError(f"--compare {name}: timm has no such network. {did_you_mean(name, known)[:200]}")
    side, channels = images.inputs.shape[-1], images.inputs.shape[1]
    inputs = images.inputs
    try:
        if checkpoint is None:
            patch = max(1, min(16, side // _FEWEST_TOKENS))
            network = timm.create_model(
                name, num_classes=num_classes, in_chans=channels, img_size=side, patch_size=patch
            )
        else:
            network = timm.create_model(name)
            load_checkpoint(
                network, str(checkpoint), weights_only=True
            )  # create_model's default varies with timm's version
            config: Any = network.default_cfg
            own = config["input_size"]
            inputs = torch.nn.functional.interpolate(inputs, own[1:], mode="bilinear", antialias=True)
            inputs = inputs if channels == own[0] else inputs.mean(1, keepdim=True).expand(-1, own[0], -1, -1)
    except (TypeError, RuntimeError, AssertionError, OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = first_line(error)
        raise CheckpointError(f"--compare {name}: cannot be built ({reason})") from None
    if not layers_of(network, Attention):
        raise CheckpointError(f"--compare {name}: has no self-attention as timm's ViTs have")
    return network.eval(), inputs


def attention_of_vit(network: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Compute the attention of every block: (B, heads, N, N), class token included.

    Args:
        network: ViT of timm; its fused attention is switched off.
        inputs: Input of the network.
    """
    seen: dict[str, Tensor] = {}
    handles = []
    for name, layer in layers_of(network, Attention).items():
        layer.fused_attn = False  # type: ignore[misc]

        def note(_: nn.Module, given: tuple[Any, ...], name: str = name) -> None:
            seen[name] = given[0].detach()

        handles.append(layer.attn_drop.register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        for handle in handles:
            handle.remove()
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
        for colour, (network, layers) in zip(LINES, by_network.items(), strict=False):
            values = [numbers[key] for numbers in layers.values()]
            depth = [index / max(1, len(values) - 1) for index in range(len(values))]
            ax.plot(depth, values, color=colour, marker="o", label=network)
        ax.set(title=topic, xlabel="depth (0 first layer, 1 last)", ylim=(-0.05, 1.05))
        ax.grid()
    axes[0, 0].set_ylabel("mean cosine of attention rows")
    axes[0, 0].legend()
    save(figure, folder, "query_irrelevance")

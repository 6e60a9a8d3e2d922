"""Explanation of Spatial Bias: the channels it appends, and the weights between the cells of its grid."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.spatial_bias.bias import SpatialBias
from orchestrator.inference.explain.pictures import (
    AMOUNT,
    SIGNED,
    colour_bar,
    grid,
    heat,
    plot_figure,
    save,
    show_image,
)
from orchestrator.inference.explain.subject import Numbers, Subject, explains, layers_of, recording, stage_of

__all__ = ["explain_bias_channels"]


@explains("spatial_bias", SpatialBias)
def explain_bias_channels(subject: Subject) -> Numbers:
    """Draw `bias_channels` (last layer of each stage) and `bias_weights`; return the numbers of every layer."""
    layers = layers_of(subject.network, SpatialBias)
    with recording(layers, SpatialBias.forward) as channels:
        subject.run()
    last = {stage_of(name): name for name in layers}
    _draw_channels(subject, {name: channels[name] for name in last.values()})
    _draw_weights(subject, {name: layers[name].position_weights() for name in last.values()})
    return {name: _numbers(layer.position_weights(), channels[name]) for name, layer in layers.items()}


def _numbers(weights: Tensor, channels: Tensor) -> Numbers:
    """Summarise the weights (N, N) and channels (B, n, r, r) of a layer."""
    strength = weights / weights.sum(1, keepdim=True).clamp_min(1e-12)
    side = channels.shape[-1]
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float() / side
    distance = torch.cdist(place, place)
    return {
        "grid_cells": side,
        "weight_on_itself": float(strength.diagonal().mean()),
        "mean_distance_of_weights": float((strength * distance).sum(1).mean()),
        "mean_distance_uniform": float(distance.mean()),
        "std_over_cells": float(channels.flatten(2).std(-1).mean()) if side > 1 else 0.0,
        "std_over_images": float(channels.std(0).mean()) if len(channels) > 1 else 0.0,
    }


def _draw_channels(subject: Subject, channels: Mapping[str, Tensor]) -> None:
    count = min(subject.drawn, len(subject.images.pixels))
    widths = [found.shape[1] for found in channels.values()]
    figure, axes = grid(count, 1 + sum(widths), f"{subject.title}\nbias channels, last layer of each stage")
    limit = max(float(found[:count].abs().max()) for found in channels.values())
    drawn = None
    for row in range(count):
        show_image(axes[row, 0], subject.images.pixels[row])
        column = 1
        for found in channels.values():
            for channel in found[row]:
                drawn = heat(axes[row, column], channel, SIGNED, low=-limit, high=limit)
                column += 1
    axes[0, 0].set_title("image")
    column = 1
    for name, width in zip(channels, widths, strict=True):
        for channel in range(width):
            axes[0, column + channel].set_title(f"stage {stage_of(name)}\nchannel {channel}")
        column += width
    colour_bar(figure, drawn, axes, "value of the channel")
    save(figure, subject.folder, "bias_channels")


def _draw_weights(subject: Subject, weights: Mapping[str, Tensor]) -> None:
    figure, axes = plot_figure(
        1, len(weights), f"{subject.title}\nlearned weights from cell to cell", width_in=2.6, height_in=2.9
    )
    highest = max(float(found.max()) for found in weights.values())
    drawn = None
    for ax, (name, found) in zip(axes[0], weights.items(), strict=True):
        drawn = heat(ax, found, AMOUNT, low=0, high=highest)
        side = round(len(found) ** 0.5)
        ticks = range(0, len(found), side)
        ax.set_xticks([tick - 0.5 for tick in ticks], [f"{tick // side}" for tick in ticks], ha="left")
        ax.set_yticks([tick - 0.5 for tick in ticks], [f"{tick // side}" for tick in ticks], va="top")
        ax.set(title=f"stage {stage_of(name)}, {side}×{side} cells", xlabel="cell that feeds, by row of the grid")
    axes[0, 0].set_ylabel("cell that is fed, by row")
    colour_bar(figure, drawn, axes, "length of the weight")
    save(figure, subject.folder, "bias_weights")

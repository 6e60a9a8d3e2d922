"""Explanation of adaptive span: span of each head, its values over the epochs, and the resulting masks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from models.adaptive_span.attention import AdaptiveAttention
from orchestrator.inference.explain.pictures import AMOUNT, LINES, SHARE, colour_bar, grid, heat, plot_figure, save
from orchestrator.inference.explain.subject import Numbers, Subject, explains, layers_of

__all__ = ["explain_spans", "span_records"]

_RECORDED = re.compile(r"^span/layer(?P<layer>\d+)(?:[/_]?head(?P<head>\d+))?_px$")


@explains("adaptive_span", AdaptiveAttention)
def explain_spans(subject: Subject) -> Numbers:
    """Draw `spans`, `span_masks` and, where epochs are recorded, `span_trajectories`; return all numbers."""
    layers = layers_of(subject.network, AdaptiveAttention)
    _draw_spans(subject, layers)
    _draw_masks(subject, layers)
    records = span_records(subject.reports)
    if records:
        _draw_trajectories(subject, records)
    return {
        "layers": {
            name: {
                "span_px": layer.spans_px(),
                "window_px": [2 * radius + 1 for radius in layer.head_radii()],
                "max_span_px": layer.max_span,
                "ramp_px": layer.ramp,
            }
            for name, layer in layers.items()
        },
        "trajectories_px": {_line_name(*key): line for key, line in records.items()},
        "trajectories_of": _recorded_for(records),
    }


def span_records(reports: Mapping[int, Mapping[str, float]]) -> dict[tuple[int, int | None], dict[int, float]]:
    """Return spans in pixels by epoch for each layer and head; the mean of a layer where its heads are not recorded.

    Args:
        reports: Metrics by epoch.
    """
    lines: dict[tuple[int, int | None], dict[int, float]] = {}
    for epoch, metrics in sorted(reports.items()):
        for key, value in metrics.items():
            match = _RECORDED.match(key)
            if match is not None:
                head = None if match["head"] is None else int(match["head"])
                lines.setdefault((int(match["layer"]), head), {})[epoch] = value
    detailed = {layer for layer, head in lines if head is not None}
    kept = {key: line for key, line in lines.items() if key[1] is not None or key[0] not in detailed}
    return dict(sorted(kept.items(), key=lambda item: (item[0][0], -1 if item[0][1] is None else item[0][1])))


def _recorded_for(records: Mapping[tuple[int, int | None], Any]) -> str:
    if not records:
        return "nothing: no epochs are recorded with this network"
    return "heads" if any(head is not None for _, head in records) else "layers (means over their heads)"


def _line_name(layer: int, head: int | None) -> str:
    return f"layer {layer}" if head is None else f"layer {layer}, head {head}"


def _draw_spans(subject: Subject, layers: Mapping[str, AdaptiveAttention]) -> None:
    heads = max(layer.num_heads for layer in layers.values())
    spans = np.full((len(layers), heads), np.nan)
    for row, layer in enumerate(layers.values()):
        spans[row, : layer.num_heads] = layer.spans_px()
    highest = max(layer.max_span for layer in layers.values())
    figure, axes = plot_figure(
        1,
        1,
        f"{subject.title}\nlearned spans, and windows they need",
        width_in=1.6 + 0.62 * heads,
        height_in=1.0 + 0.42 * len(layers),
    )
    ax = axes[0, 0]
    drawn = ax.imshow(spans, cmap=AMOUNT, vmin=0, vmax=highest, aspect="auto")
    for row, layer in enumerate(layers.values()):
        for head, radius in enumerate(layer.head_radii()):
            side, is_dark = 2 * radius + 1, spans[row, head] < 0.6 * highest
            text = f"{spans[row, head]:.1f}\n{side}×{side}"
            ax.text(head, row, text, ha="center", va="center", fontsize=7, color="white" if is_dark else "black")
    ax.set(xticks=range(heads), yticks=range(len(layers)), xlabel="head", ylabel="layer")
    colour_bar(figure, drawn, ax, "span z·S (px)")
    save(figure, subject.folder, "spans")


def _draw_masks(subject: Subject, layers: Mapping[str, AdaptiveAttention]) -> None:
    heads = max(layer.num_heads for layer in layers.values())
    radius = max(layer.max_span for layer in layers.values())
    offset = torch.arange(-radius, radius + 1).abs()
    ring = torch.maximum(offset[:, None], offset[None, :])
    figure, axes = grid(len(layers), heads, f"{subject.title}\nmask m of every head", cell_in=0.95)
    drawn = None
    for row, layer in enumerate(layers.values()):
        masks = layer.ring_mask(layer.max_span).detach()
        # Offsets beyond the largest window of a layer have no weight.
        masks = torch.cat([masks, masks.new_zeros(len(masks), radius - layer.max_span)], dim=1)
        for head in range(heads):
            if head >= layer.num_heads:
                axes[row, head].set_visible(False)
                continue
            drawn = heat(axes[row, head], masks[head][ring], SHARE, low=0, high=1)
            axes[row, head].plot(radius, radius, "+", color=LINES[5], markersize=4)
        axes[row, 0].set_ylabel(f"layer {row}")
    for head in range(heads):
        axes[0, head].set_title(f"head {head}")
        axes[-1, head].set_xticks([0, radius, 2 * radius], [f"−{radius}", "0", f"{radius}"])
    axes[-1, 0].set_xlabel("offset (px)")
    colour_bar(figure, drawn, axes, "weight of the mask")
    save(figure, subject.folder, "span_masks")


def _draw_trajectories(subject: Subject, records: Mapping[tuple[int, int | None], Mapping[int, float]]) -> None:
    layers = sorted({layer for layer, _ in records})
    figure, axes = plot_figure(1, len(layers), f"{subject.title}\nspans over the epochs", width_in=2.1, height_in=2.2)
    highest = max(max(line.values()) for line in records.values())
    for column, layer in enumerate(layers):
        ax = axes[0, column]
        for (owner, head), line in records.items():
            if owner == layer:
                colour = LINES[(head or 0) % len(LINES)]
                label = "mean of heads" if head is None else f"head {head}"
                ax.plot(list(line), list(line.values()), color=colour, marker=".", label=label)
        ax.set(title=f"layer {layer}", xlabel="epoch", ylim=(-0.03 * max(highest, 0.1), 1.08 * max(highest, 0.1)))
        ax.grid()
    axes[0, 0].set_ylabel("span z·S (px)")
    axes[0, -1].legend()
    save(figure, subject.folder, "span_trajectories")

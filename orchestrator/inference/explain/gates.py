"""Explanation of LSAS: values of its gates by order and stage."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.lsas.sub_attention import SubAttention
from orchestrator.inference.explain.pictures import LINES, plot_figure, save
from orchestrator.inference.explain.subject import (
    Numbers,
    Subject,
    copy_input,
    explains,
    layers_of,
    recording,
    stage_of,
)

__all__ = ["explain_gates"]

_BINS = 40
_CLOSED = 0.1


@explains("lsas", SubAttention)
def explain_gates(subject: Subject) -> Numbers:
    """Draw `gates`, histograms by stage of the gates and their factors; return the numbers of every stage."""
    layers = layers_of(subject.network, SubAttention)
    with recording(layers, copy_input) as inputs:
        subject.run()
    by_stage: dict[str, list[list[Tensor]]] = {}
    for name, layer in layers.items():
        with torch.no_grad():
            factors = layer.factors(inputs[name])
        gate = torch.stack(factors).prod(0)
        columns = by_stage.setdefault(f"stage {stage_of(name)}", [[] for _ in range(len(factors) + 1)])
        for column, values in zip(columns, [*factors, gate], strict=True):
            column.append(values.flatten())
    stages = {stage: [torch.cat(parts) for parts in columns] for stage, columns in by_stage.items()}
    _draw(subject, stages)
    return {
        "stages": {
            stage: {_label(index, len(columns)): _numbers(values) for index, values in enumerate(columns)}
            for stage, columns in stages.items()
        },
        "layers": {name: _learned(layer) for name, layer in layers.items()},
    }


def _label(index: int, count: int) -> str:
    return "gate" if index == count - 1 else f"order {index}"


def _numbers(values: Tensor) -> Numbers:
    low, middle, high = torch.quantile(values[: 2**24].float(), torch.tensor([0.05, 0.5, 0.95])).tolist()
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "p05": low,
        "median": middle,
        "p95": high,
        "share_below_0.1": float((values < _CLOSED).float().mean()),
    }


def _learned(layer: SubAttention) -> Numbers:
    """Return the means of the scales w and shifts b of each order."""
    if layer.scale is None or layer.shift is None:
        return {"scale": [], "shift": []}
    return {"scale": layer.scale.detach().mean(1).tolist(), "shift": layer.shift.detach().mean(1).tolist()}


def _draw(subject: Subject, stages: Mapping[str, list[Tensor]]) -> None:
    columns = max(len(values) for values in stages.values())
    figure, axes = plot_figure(
        len(stages),
        columns,
        f"{subject.title}\nfactors of the gate by order, and the gate",
        width_in=2.2,
        height_in=1.7,
    )
    for row, (stage, values) in zip(axes, stages.items(), strict=True):
        for index, ax in enumerate(row):
            if index >= len(values):
                ax.set_visible(False)
                continue
            label = _label(index, len(values))
            colour = LINES[1] if label == "gate" else LINES[0]
            weights = torch.full_like(values[index], 1 / len(values[index]))
            ax.hist(values[index].numpy(), bins=_BINS, range=(0, 1), weights=weights.numpy(), color=colour)
            ax.axvline(float(values[index].mean()), color="black", lw=0.8, ls="--")
            sign = "σ(v₀)" if index == 0 else f"σ(v{chr(0x2080 + index)})"
            ax.set_title(f"{label}, product a" if label == "gate" else f"{label}, {sign}")
            ax.set_xlim(0, 1)
        row[0].set_ylabel(f"{stage}\nshare of channels")
    for ax in axes[-1]:
        ax.set_xlabel("value (dashed: mean)")
    save(figure, subject.folder, "gates")

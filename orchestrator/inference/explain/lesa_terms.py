"""Explanation of LESA: shares of its two terms, weight of each position's own value, and values of the gate."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from models.lesa.attention import LocallyEnhancedAttention
from models.lesa.binary_term import BinaryTerm
from orchestrator.inference.explain.irrelevance import irrelevance
from orchestrator.inference.explain.pictures import LINES, SHARE, colour_bar, grid, heat, plot_figure, save, show_image
from orchestrator.inference.explain.subject import (
    Numbers,
    Subject,
    block_of,
    copy_input,
    explains,
    layers_of,
    recording,
)

__all__ = ["explain_terms"]


@explains("lesa", BinaryTerm)
def explain_terms(subject: Subject) -> Numbers:
    """Draw `lesa_terms` and, where there are gates, `lesa_gates`; return the numbers of every layer."""
    layers = layers_of(subject.network, LocallyEnhancedAttention)
    with recording(layers, copy_input) as inputs:
        subject.run()
    numbers: dict[str, Numbers] = {}
    gates: dict[str, Tensor] = {}
    for name, layer in layers.items():
        with torch.no_grad():
            unary, gate, binary = layer.terms(inputs[name])
            assert layer.binary is not None and binary is not None
            attention = layer.binary.attention(inputs[name])
        numbers[name] = {**_shares(unary, gate, binary), **_self_weight(attention), **irrelevance(attention)}
        if gate is not None:
            gates[name] = gate.mean(1)
            numbers[name] |= {"gate_mean": float(gate.mean()), "gate_std": float(gate.std())}
    _draw_terms(subject, numbers)
    if gates:
        _draw_gates(subject, gates)
    return numbers


def _shares(unary: Tensor | None, gate: Tensor | None, binary: Tensor) -> Numbers:
    """Return the mean lengths of both terms as shares of their sum, the binary term multiplied by its gate."""
    gated = binary if gate is None else gate * binary
    binary_length = torch.linalg.vector_norm(gated, dim=1)
    if unary is None:
        return {"unary_share": 0.0, "binary_share": 1.0}
    unary_length = torch.linalg.vector_norm(unary, dim=1)
    share = float((unary_length / (unary_length + binary_length).clamp_min(1e-12)).mean())
    return {"unary_share": share, "binary_share": 1 - share}


def _self_weight(attention: Tensor) -> Numbers:
    """Return the mean diagonal of the attention, and that of uniform attention."""
    return {
        "self_weight": float(attention.diagonal(dim1=-2, dim2=-1).mean()),
        "uniform_weight": 1.0 / attention.shape[-1],
    }


def _draw_terms(subject: Subject, numbers: Mapping[str, Numbers]) -> None:
    figure, axes = plot_figure(1, 2, f"{subject.title}\nunary and binary term", width_in=3.1, height_in=2.4)
    places, labels = range(len(numbers)), [block_of(name) for name in numbers]
    unary = [row["unary_share"] for row in numbers.values()]
    left, right = axes[0]
    left.bar(places, unary, color=LINES[0], label="unary, ‖U‖")
    left.bar(places, [1 - share for share in unary], bottom=unary, color=LINES[1], label="binary, ‖ω⊙B‖")
    left.set(ylabel="share of the length", ylim=(0, 1.25), yticks=[0, 0.25, 0.5, 0.75, 1])
    left.legend(ncols=2, loc="upper center")
    right.plot(places, [row["self_weight"] for row in numbers.values()], "o-", color=LINES[2], label="learned")
    right.plot(places, [row["uniform_weight"] for row in numbers.values()], "--", color=LINES[6], lw=1, label="uniform")
    highest = max(max(row["self_weight"], row["uniform_weight"]) for row in numbers.values())
    right.set(ylabel="mean self-weight a_ii", ylim=(0, 1.15 * highest), xlim=(-0.5, len(numbers) - 0.5))
    right.legend()
    for ax in axes[0]:
        ax.set_xticks(list(places), labels)
        ax.set_xlabel("layer (stage.block)")
    save(figure, subject.folder, "lesa_terms")


def _draw_gates(subject: Subject, gates: Mapping[str, Tensor]) -> None:
    count = min(subject.drawn, len(subject.images.pixels))
    figure, axes = grid(count, 1 + len(gates), f"{subject.title}\ngate ω of the binary term, mean over channels")
    shown = torch.cat([gate[:count].flatten() for gate in gates.values()])
    low, high = _tenths(float(shown.min()), float(shown.max()))
    drawn = None
    for row in range(count):
        show_image(axes[row, 0], subject.images.pixels[row])
        for column, gate in enumerate(gates.values(), start=1):
            drawn = heat(axes[row, column], gate[row], SHARE, low=low, high=high)
    axes[0, 0].set_title("image")
    for column, name in enumerate(gates, start=1):
        axes[0, column].set_title(f"layer {block_of(name)}")
    colour_bar(figure, drawn, axes, "gate ω")
    save(figure, subject.folder, "lesa_gates")


def _tenths(low: float, high: float) -> tuple[float, float]:
    """Round the bounds of a range outwards to tenths."""
    return math.floor(10 * low) / 10, max(math.ceil(10 * high) / 10, math.floor(10 * low) / 10 + 0.1)

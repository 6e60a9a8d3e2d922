"""Explanation of FCViT: the share of the global context that each position takes, by group."""

from __future__ import annotations

from torch import Tensor

from models.fcvit.context import GlobalContext
from orchestrator.inference.explain.irrelevance import mean_pairwise_cosine
from orchestrator.inference.explain.pictures import SIGNED, colour_bar, grid, heat, save, show_image
from orchestrator.inference.explain.subject import Numbers, Subject, explains, layers_of, recording

__all__ = ["explain_contexts"]

_FEWEST_CELLS = 4  # per side: a coarser map shows nothing of an image


@explains("fcvit", GlobalContext)
def explain_contexts(subject: Subject) -> Numbers:
    """Draw `similarity_maps` of the last context whose map has at least 4 cells per side; return all numbers."""
    contexts = layers_of(subject.network, GlobalContext)
    with recording(contexts, GlobalContext.similarity_maps) as maps:
        subject.run()
    shown = [name for name, found in maps.items() if min(found.shape[2:]) >= _FEWEST_CELLS] or list(maps)
    with_similarity = [name for name in shown if contexts[name].scale is not None]
    if with_similarity:
        _draw(subject, with_similarity[-1], maps[with_similarity[-1]])
    return {
        "drawn": with_similarity[-1] if with_similarity else "nothing: the context has no similarity",
        "contexts": {name: _numbers(found) for name, found in maps.items() if contexts[name].scale is not None},
    }


def _numbers(maps: Tensor) -> Numbers:
    """Summarise similarity maps (B, heads, H, W)."""
    by_head = maps.flatten(2)
    return {
        "map_cells": list(maps.shape[2:]),
        "cosine_between_groups": mean_pairwise_cosine(by_head),
        "share_negative": float((maps < 0).float().mean()),
        "largest": float(maps.abs().max()),
    }


def _draw(subject: Subject, name: str, maps: Tensor) -> None:
    count, heads = min(subject.drawn, len(maps)), maps.shape[1]
    title = f"{subject.title}\nsimilarity to the global context, {name} ({maps.shape[2]}×{maps.shape[3]} cells)"
    figure, axes = grid(count, heads + 1, title)
    limit = max(float(maps[:count].abs().max()), 1e-6)
    drawn = None
    for row in range(count):
        show_image(axes[row, 0], subject.images.pixels[row])
        for head in range(heads):
            drawn = heat(axes[row, head + 1], maps[row, head], SIGNED, low=-limit, high=limit)
    axes[0, 0].set_title("image")
    for head in range(heads):
        axes[0, head + 1].set_title(f"group {head}")
    colour_bar(figure, drawn, axes, "similarity (standardised)")
    save(figure, subject.folder, "similarity_maps")

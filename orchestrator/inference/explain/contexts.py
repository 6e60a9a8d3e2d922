"""Explanation of FCViT: the share of the global context that each position takes, by group."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from models.fcvit.context import GlobalContext
from orchestrator.inference.explain.irrelevance import mean_pairwise_cosine
from orchestrator.inference.explain.pictures import SIGNED, colour_bar, grid, heat, save, show_image
from orchestrator.inference.explain.subject import Numbers, Subject, explains, layers_of, recording

__all__ = ["explain_contexts", "last_similarity_maps"]

_FEWEST_CELLS = 4  # per side: a coarser map shows nothing of an image


@explains("fcvit", GlobalContext)
def explain_contexts(subject: Subject) -> Numbers:
    """Draw `similarity_maps` of the last context whose map has at least 4 cells per side; return all numbers."""
    maps = _similarity_maps(subject)
    drawn = _last(maps)
    if drawn is not None:
        _draw(subject, drawn, maps[drawn])
    return {
        "drawn": drawn or "nothing: the context has no similarity",
        "contexts": {name: _numbers(found) for name, found in maps.items()},
    }


def last_similarity_maps(subject: Subject) -> tuple[str, Tensor] | None:
    """Return name and maps, (N, heads, h, w), of the context that `similarity_maps` draws; None without similarity."""
    maps = _similarity_maps(subject)
    drawn = _last(maps)
    return None if drawn is None else (drawn, maps[drawn])


def _similarity_maps(subject: Subject) -> dict[str, Tensor]:
    """Return the similarity of all contexts that have it, by name."""
    contexts = layers_of(subject.network, GlobalContext)
    contexts = {name: layer for name, layer in contexts.items() if layer.scale is not None}
    with recording(contexts, GlobalContext.similarity_maps) as maps:
        if contexts:
            subject.run()
    return maps


def _last(maps: Mapping[str, Tensor]) -> str | None:
    """Return the name of the last map that is fine enough, or of the last map; None for none."""
    fine = [name for name, found in maps.items() if min(found.shape[2:]) >= _FEWEST_CELLS] or list(maps)
    return fine[-1] if fine else None


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

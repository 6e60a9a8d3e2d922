"""Weights of a classifier in a backbone: everything but the classifier and the position tables, or nothing at all.

The rules are those of the detection code of the families' authors: the state dict stands under `net`, `state_dict` or
`model`, `module.` is removed, the classifier and tables of relative positions are skipped.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from models.backbones.stage_maps import StageMaps
from models.registry.authors import AuthorsCheckpointError, fit_weights, read_weights

__all__ = ["LoadedBackbone", "load_backbone"]

MOST_NAMED = 5
DEFORMABLE = "deformable_stages"  # option of networks whose convolutions can be deformable
TABLES = (".axial.rel_height", ".axial.rel_width", ".flattened.table")
"""Ends of the names of position tables whose size follows from that of the map."""
OFFSETS = (".offset.weight", ".offset.bias")
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LoadedBackbone:
    """Result of loading weights into a backbone.

    Args:
        loaded: Names of the tensors of the file that were loaded.
        skipped: Names of those that were not: classifier, layers behind the last map, position tables.
        kept: Names of the tensors of the backbone that keep their first values: position tables, offsets of
            deformable convolutions.
    """

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    kept: tuple[str, ...]


def load_backbone(
    backbone: StageMaps, source: str | Path | Mapping[str, Any], *, weights: str | None = None
) -> LoadedBackbone:
    """Load the weights of a classifier, under our names, timm's or those of the authors, into a backbone.

    Norms of the maps and feature pyramids, which no classifier has, stay as they are. What was skipped is logged.

    Args:
        backbone: Backbone, such as the attribute `backbone` of a detector or a segmentor.
        source: File, or its content.
        weights: `ema` or `plain`; None takes the moving average where there is one.

    Raises:
        AuthorsCheckpointError: The file cannot be read, or anything else than the classifier and the position tables is
            missing, unexpected or of another shape; the backbone is left as it was.
    """
    found = read_weights(source, weights=weights)
    fit = fit_weights(_classifier_like(backbone, found.shapes), found.shapes)
    ours = backbone.body.state_dict()
    places = {key: _name_in(ours, entry.ours) for key, entry in fit.entries.items()}
    loaded = {key: place for key, place in places.items() if place is not None and not place.endswith(TABLES)}
    kept = [name for name in ours if name not in set(loaded.values()) and not name.endswith("num_batches_tracked")]
    lost = [name for name in kept if not name.endswith((*TABLES, *OFFSETS))]
    if lost:
        raise AuthorsCheckpointError(f"the weights have no entries for {_listed(lost)} of the backbone")
    with torch.no_grad():
        for key, place in loaded.items():
            target = fit.entries[key].slice(ours[place])
            target.copy_(found.tensors[key].reshape(target.shape))
    result = LoadedBackbone(tuple(loaded), tuple(key for key in found.tensors if key not in loaded), tuple(kept))
    for note in (*found.notes, *fit.notes):
        _LOG.warning("%s", note)
    _LOG.info("backbone: loaded %d tensors, skipped %s", len(loaded), _listed(result.skipped))
    if kept:
        _LOG.info("backbone: first values stay in %s", _listed(kept))
    return result


def _classifier_like(backbone: StageMaps, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """Build the classifier of a backbone on shapes alone.

    Its convolutions are plain where the weights have no offsets: a classifier is trained with plain ones.
    """
    settings = backbone.settings
    options = dict(settings.options)
    if not any(".offset." in key for key in shapes):
        options.pop(DEFORMABLE, None)
        if options.get("unary") == "dcn":
            options["unary"] = "grouped"
    with torch.device("meta"):
        network: nn.Module = timm.create_model(settings.name, num_classes=1, in_chans=settings.in_chans, **options)
    return network


def _name_in(ours: Mapping[str, Any], name: str) -> str | None:
    """Return the name that a tensor of the classifier has in timm's `features_only`; None where it is left out."""
    spellings = (name, f"model.{name}", name.replace(".", "_", 1))
    return next((spelling for spelling in spellings if spelling in ours), None)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return (", ".join(names[:MOST_NAMED]) or "none") + more

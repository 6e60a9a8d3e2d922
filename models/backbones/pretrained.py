"""Weights of a classifier in a backbone: everything but the classifier and the position tables, or nothing at all.

The rules are those of the detection code of the families' authors: the state dict stands under `net`, `state_dict` or
`model`, `module.` is removed, the classifier and tables of relative positions are skipped. The backbone of a detector,
of this package or of torchvision, or of a segmentation network serves as well: the rest of the network is skipped.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from models.backbones.head_options import build_on_meta
from models.backbones.stage_maps import StageMaps
from models.registry.authors import AuthorsCheckpointError, Weights, fit_weights, read_weights
from models.registry.authors.family import Entry

__all__ = ["BackboneFit", "LoadedBackbone", "fit_backbone", "load_backbone"]

MOST_NAMED = 5
DEFORMABLE = "deformable_stages"  # option of networks whose convolutions can be deformable
TABLES = (".axial.rel_height", ".axial.rel_width", ".flattened.table")
"""Ends of the names of position tables whose size follows from that of the map."""
OFFSETS = (".offset.weight", ".offset.bias")
BODY = "backbone.body."
"""Beginning of the names of a backbone within a network with a head."""
COUNTER = "num_batches_tracked"
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

    @property
    def summary(self) -> str:
        """Numbers and names of the tensors that are loaded, skipped and kept, in one line."""
        kept = f"; first values stay in {_listed(self.kept)}" if self.kept else ""
        return f"{len(self.loaded)} tensors for the backbone, skipped {_listed(self.skipped)}{kept}"


@dataclasses.dataclass(frozen=True)
class BackboneFit:
    """Places of a checkpoint's tensors in a backbone.

    Args:
        places: Name in the backbone, and form, of each tensor that is used, by its name in the checkpoint.
        result: What is loaded, skipped and kept.
        notes: What was left out beside these, a line each.
    """

    places: Mapping[str, tuple[str, Entry]] = dataclasses.field(repr=False)
    result: LoadedBackbone
    notes: tuple[str, ...]


def load_backbone(
    backbone: StageMaps, source: str | Path | Mapping[str, Any] | Weights, *, weights: str | None = None
) -> LoadedBackbone:
    """Load the weights of a classifier, under our names, timm's or those of the authors, into a backbone.

    Norms of the maps and feature pyramids, which no classifier has, stay as they are. What was skipped is logged.

    Args:
        backbone: Backbone, such as the attribute `backbone` of a detector or a segmentor.
        source: File, its content, or what `read_weights` returned.
        weights: `ema` or `plain`; None takes the moving average where there is one.

    Raises:
        AuthorsCheckpointError: The file cannot be read, or anything else than the classifier and the position tables is
            missing, unexpected or of another shape; the backbone is left as it was.
    """
    found = source if isinstance(source, Weights) else read_weights(source, weights=weights)
    fit = fit_backbone(backbone, found.shapes)
    ours = backbone.body.state_dict()
    with torch.no_grad():
        for key, (place, entry) in fit.places.items():
            target = entry.slice(ours[place])
            target.copy_(found.tensors[key].reshape(target.shape))
    for note in (*found.notes, *fit.notes):
        _LOG.warning("%s", note)
    _LOG.info("backbone: loaded %s", fit.result.summary)
    return fit.result


def fit_backbone(backbone: StageMaps, shapes: Mapping[str, tuple[int, ...]]) -> BackboneFit:
    """Find the place of every tensor of a checkpoint in a backbone; nothing is copied.

    The checkpoint is that of a classifier, or of a network with the same backbone, whose tables are used where they
    have the same size.

    Args:
        backbone: Backbone, which may be on the device `meta`.
        shapes: Shapes of the checkpoint's tensors by name.

    Raises:
        AuthorsCheckpointError: See `load_backbone`.
    """
    ours = backbone.body.state_dict()
    within = {key: key.removeprefix(BODY) for key in shapes if key.startswith(BODY)}
    if within:
        return _fit_of_backbone(ours, within, shapes)
    fit = fit_weights(_classifier_like(backbone, shapes), shapes)
    named = {key: (_name_in(ours, entry.ours), entry) for key, entry in fit.entries.items()}
    places = {
        key: (place, entry) for key, (place, entry) in named.items() if place is not None and not place.endswith(TABLES)
    }
    filled = {place for place, _ in places.values()}
    kept = [name for name in ours if name not in filled and not name.endswith(COUNTER)]
    lost = [name for name in kept if not name.endswith((*TABLES, *OFFSETS))]
    if lost:
        raise AuthorsCheckpointError(f"the weights have no entries for {_listed(lost)} of the backbone")
    result = LoadedBackbone(tuple(places), tuple(key for key in shapes if key not in places), tuple(kept))
    return BackboneFit(places, result, fit.unused)


def _fit_of_backbone(
    ours: Mapping[str, Tensor], within: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> BackboneFit:
    """Find the places of the tensors of a backbone in another one.

    Args:
        ours: State dict of the backbone.
        within: Names in the backbone of the tensors of the checkpoint that are of one, by their names there.
        shapes: Shapes of all tensors of the checkpoint by name.
    """
    sizes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
    differing = {key for key, name in within.items() if name in sizes and shapes[key] != sizes[name]}
    resized = {key for key in differing if key.endswith(TABLES)}
    places = {key: (name, Entry(name)) for key, name in within.items() if key not in resized}
    filled = {name for name, _ in places.values()}
    kept = tuple(name for name in ours if name not in filled and not name.endswith(COUNTER))
    missing = tuple(f"{BODY}{name}" for name in kept if not name.endswith((*TABLES, *OFFSETS)))
    unexpected = tuple(key for key, (name, _) in places.items() if name not in sizes)
    wrong_shape = tuple((key, sizes[within[key]], shapes[key]) for key in sorted(differing - resized))
    if missing or unexpected or wrong_shape:
        raise AuthorsCheckpointError(missing=missing, unexpected=unexpected, wrong_shape=wrong_shape)
    skipped = tuple(key for key in shapes if key not in places)
    return BackboneFit(places, LoadedBackbone(tuple(places), skipped, kept), ())


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

    def build() -> nn.Module:
        network: nn.Module = timm.create_model(settings.name, num_classes=1, in_chans=settings.in_chans, **options)
        return network

    return build_on_meta(build)


def _name_in(ours: Mapping[str, Any], name: str) -> str | None:
    """Return the name that a tensor of the classifier has in timm's `features_only`; None where it is left out."""
    spellings = (name, f"model.{name}", name.replace(".", "_", 1))
    return next((spelling for spelling in spellings if spelling in ours), None)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return (", ".join(names[:MOST_NAMED]) or "none") + more

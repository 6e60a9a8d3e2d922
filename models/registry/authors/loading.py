"""Loading of weights into networks: under our names or those of the authors, whole or not at all.

Only two parts may differ, and then keep their random weights: the classifier, where a checkpoint has another number of
classes or none, and tables whose shapes follow from the size of the images.
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from models.registry.authors.family import FAMILIES, AuthorsFamily, AuthorsOptionError, Entry
from models.registry.authors.mismatch import MOST_NAMED, AuthorsCheckpointError, printable
from models.registry.authors.weights_file import Weights, read_weights
from models.registry.catalogue import create_model, list_models, model_family

__all__ = [
    "AuthorsCheckpointError",
    "Fit",
    "create_model_for",
    "family_of",
    "fit_weights",
    "from_authors",
    "keywords_for",
    "load_authors_checkpoint",
    "load_weights",
]

BACKBONE = "backbone."  # of detectors and segmentors of OpenMMLab
_LOG = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Fit:
    """Places of a checkpoint's tensors in a network.

    Args:
        entries: Place of each tensor that is used, by its name in the checkpoint.
        new_head: True where the classifier keeps its random weights.
        notes: What was left out, a line each.
        unused: Those of the notes that concern neither the classifier nor tables for another size of images.
    """

    entries: Mapping[str, Entry] = dataclasses.field(repr=False)
    new_head: bool
    notes: tuple[str, ...]
    unused: tuple[str, ...] = ()


def from_authors(family: str, options: Mapping[str, Any]) -> nn.Module:
    """Build our network from the arguments of the authors' constructor.

    Args:
        family: One of `FAMILIES`, such as `spatial_bias`.
        options: Their arguments under their names; those left out have their default.

    Raises:
        AuthorsOptionError: The family or an argument is unknown, or their code makes no network of them
            either.
    """
    if family not in FAMILIES:
        raise AuthorsOptionError(f"unknown family {family!r}; known are {sorted(FAMILIES)}")
    return FAMILIES[family].build(options)


def family_of(network: nn.Module) -> AuthorsFamily:
    """Return the family that a network of ours belongs to.

    Raises:
        AuthorsCheckpointError: It belongs to none.
    """
    for family in FAMILIES.values():
        if isinstance(network, family.networks):
            return family
    raise AuthorsCheckpointError(f"{type(network).__name__} is of none of the families {sorted(FAMILIES)}")


def load_authors_checkpoint(
    name_or_model: str | nn.Module, path_or_state_dict: str | Path | Mapping[str, Any], *, weights: str | None = None
) -> nn.Module:
    """Load a checkpoint of the authors' scripts into a network of ours.

    A file is read as `read_weights` reads it. Entries that take no part in the result, such as the span masks of
    attention with fixed windows, are left out. Where the checkpoint has another number of classes than a given network,
    or no classifier, the network's own stays as it is; a warning is logged.

    Args:
        name_or_model: Network, or the name of one, which is then built with the classes, the image channels and the
            position embedding of the checkpoint.
        path_or_state_dict: File, or its content.
        weights: `ema` or `plain`; None takes the moving average where there is one.

    Returns:
        The network, in the mode and on the device it was in.

    Raises:
        AuthorsCheckpointError: The file cannot be read, or entries are missing, unexpected or of another shape; the
            network is left as it was.
        ModelOptionError: There is no network of that name.
    """
    if isinstance(name_or_model, str):
        if model_family(name_or_model) not in FAMILIES:
            raise AuthorsCheckpointError(
                f"{name_or_model}: there is no code of its authors; families with such code: {sorted(FAMILIES)}"
            )
        found = read_weights(path_or_state_dict, weights=weights)
        network = create_model_for(name_or_model, found.shapes)
    else:
        network = name_or_model
        family_of(network)
        found = read_weights(path_or_state_dict, weights=weights)
    for note in (*found.notes, *load_weights(network, found).notes):
        _LOG.warning("%s", note)
    return network


def load_weights(network: nn.Module, weights: Weights) -> Fit:
    """Load weights into a network; return what was used.

    Args:
        network: Any network.
        weights: Result of `read_weights`, under the names of the network or, of our networks, those of the authors.

    Raises:
        AuthorsCheckpointError: See `fit_weights`; the network is left as it was.
    """
    fit = fit_weights(network, weights.shapes)
    ours = network.state_dict()
    with torch.no_grad():
        for key, entry in fit.entries.items():
            target = entry.slice(ours[entry.ours])
            target.copy_(weights.tensors[key].reshape(target.shape))
    return fit


def fit_weights(network: nn.Module, shapes: Shapes) -> Fit:
    """Find the place of every tensor of a checkpoint in a network; nothing is copied.

    Args:
        network: Any network, which may be on the device `meta`.
        shapes: Shapes of the checkpoint's tensors by name.

    Raises:
        AuthorsCheckpointError: Entries are missing, unexpected or of another shape, beside those of the classifier and
            of tables for another size of images.
        AuthorsOptionError: The names are not the network's own, and the authors' code makes no such network.
    """
    ours = network.state_dict()
    given, left_out = _of_backbone(shapes, ours)
    shapes = {key: shapes[full] for key, full in given.items()}
    table, family = _best_table(network, shapes)
    needed = {key: entry.authors_shape(ours[entry.ours]) for key, entry in table.items()}
    head = _keys_of_head(network, table, family, shapes)
    fault = _head_fault(head, needed, shapes)
    new_head = bool(fault)
    resized = _resized(table, family, needed, shapes)
    used = {key: entry for key, entry in table.items() if not (new_head and key in head) and key not in resized}
    idle = [key for key in shapes if key not in table and family is not None and family.takes_no_part(key, network)]
    missing = tuple(key for key in used if key not in shapes)
    unexpected = tuple(key for key in shapes if key not in table and key not in idle)
    wrong_shape = tuple((key, needed[key], shapes[key]) for key in used if key in shapes and needed[key] != shapes[key])
    if missing or unexpected or wrong_shape:
        raise AuthorsCheckpointError(missing=missing, unexpected=unexpected, wrong_shape=wrong_shape)
    without_effect = ""
    if idle:
        more = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
        without_effect = f"left out, as they have no effect on the result: {printable(idle[0])}{more}"
    notes = tuple(text for text in (left_out, fault, _about_resized(resized), without_effect) if text)
    unused = tuple(text for text in (left_out, without_effect) if text)
    return Fit({given[key]: entry for key, entry in used.items()}, new_head, notes, unused)


def create_model_for(name: str, shapes: Shapes, **options: Any) -> nn.Module:
    """Build a network by name with the classes, image channels and options that follow from a checkpoint.

    Args:
        name: Name of a network.
        shapes: Shapes of the checkpoint's tensors by name.
        options: Options of the network, which take precedence.

    Raises:
        ModelOptionError: There is no such network, or an option is wrong.
    """
    return create_model(name, **keywords_for(name, shapes, **options))


def keywords_for(name: str, shapes: Shapes, **options: Any) -> dict[str, Any]:
    """Return the keywords of `create_model` that follow from a checkpoint: `num_classes`, `in_chans` and options.

    Args:
        name: Name of a network.
        shapes: Shapes of the checkpoint's tensors by name.
        options: Options of the network, which take precedence.

    Raises:
        ModelOptionError: There is no such network, or an option is wrong.
    """
    family = FAMILIES.get(model_family(name)) if name in list_models() else None
    given = {**(family.options_of(name, shapes) if family else {}), **options}
    with torch.device("meta"):
        probe = create_model(name, num_classes=1, **given)
    shapes = {key: shapes[full] for key, full in _of_backbone(shapes, probe.state_dict())[0].items()}
    table, family = _best_table(probe, shapes)
    theirs = {entry.ours: key for key, entry in table.items()}
    head = [theirs.get(f"{part}.weight", "") for part in _classifiers(probe)]
    classes = next((shapes[key][0] for key in head if shapes.get(key)), None)
    first = _first_conv(probe)
    stem = shapes.get(theirs.get(f"{first}.weight", ""), ())
    cfg = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    return {
        "num_classes": classes or (cfg.num_classes if cfg else 1000),
        "in_chans": stem[1] if len(stem) == 4 and first else 3,
        **given,
    }


def _of_backbone(shapes: Shapes, ours: Collection[str]) -> tuple[dict[str, str], str]:
    """Return the names of a detector's or segmentor's backbone without their prefix, and a note about the others.

    Args:
        shapes: Shapes of the checkpoint's tensors by name.
        ours: Names of the network, which may have such a prefix of its own.

    Returns:
        Name in the checkpoint by name without the prefix; all names where there is no backbone.
    """
    if not any(key.startswith(BACKBONE) for key in shapes) or any(key.startswith(BACKBONE) for key in ours):
        return {key: key for key in shapes}, ""
    others = Counter(key.partition(".")[0] for key in shapes if not key.startswith(BACKBONE))
    listed = ", ".join(f"{printable(part)} ({count})" for part, count in sorted(others.items())[:MOST_NAMED])
    note = f"only the backbone of the checkpoint is used; left out: {listed}" if others else ""
    return {key.removeprefix(BACKBONE): key for key in shapes if key.startswith(BACKBONE)}, note


def _best_table(network: nn.Module, shapes: Shapes) -> tuple[Mapping[str, Entry], AuthorsFamily | None]:
    """Return the table from a checkpoint's names to ours: our own names or the authors', of which it has more."""
    own = {key: Entry(key) for key in network.state_dict()}
    family = next((family for family in FAMILIES.values() if isinstance(network, family.networks)), None)
    if family is None:
        return own, None
    try:
        theirs = family.entries(network)
    except AuthorsOptionError:  # the network has parts that their code lacks: only our own names can fit
        if own.keys().isdisjoint(shapes):
            raise
        return own, None
    return own if len(own.keys() & shapes.keys()) > len(theirs.keys() & shapes.keys()) else theirs, family


def _classifiers(network: nn.Module) -> list[str]:
    """Return the names of the classifier's layers; none where the network has no classifier."""
    find: Any = getattr(network, "get_classifier", tuple)
    layers = find()
    wanted = layers if isinstance(layers, Sequence) else (layers,)
    return [name for name, module in network.named_modules() if any(module is layer for layer in wanted)]


def _first_conv(network: nn.Module) -> str:
    """Return the name of the convolution that reads the images; empty where there is none of one convolution."""
    first = next((name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)), "")
    described = getattr(network, "pretrained_cfg", None) or {}
    named = described.get("first_conv") if isinstance(described, Mapping) else None
    return named if isinstance(named, str) else first


def _keys_of_head(
    network: nn.Module, table: Mapping[str, Entry], family: AuthorsFamily | None, shapes: Shapes
) -> dict[str, bool]:
    """Return the checkpoint's names of the classifier, with False for those that only go with it."""
    parts = tuple(f"{name}." for name in _classifiers(network))
    head = {key: True for key, entry in table.items() if parts and entry.ours.startswith(parts)}
    if head and family is not None and not any(key in shapes for key in head):
        lost = [key for key in table if family.lost_with_head and key.startswith(family.lost_with_head)]
        head |= {key: False for key in lost if key not in shapes}
    return head


def _resized(table: Mapping[str, Entry], family: AuthorsFamily | None, needed: Shapes, shapes: Shapes) -> list[str]:
    """Return the checkpoint's names of tables that are of another size of images."""
    ends = family.sized if family is not None else ()
    sized = [key for key, entry in table.items() if ends and entry.ours.endswith(ends)]
    return [key for key in sized if key in shapes and len(shapes[key]) == 2 and shapes[key] != needed[key]]


def _about_resized(resized: Sequence[str]) -> str:
    if not resized:
        return ""
    more = f" and {len(resized) - 1} more" if len(resized) > 1 else ""
    return f"tables for another size of images keep their random weights: {printable(resized[0])}{more}"


def _head_fault(head: Mapping[str, bool], needed: Shapes, shapes: Shapes) -> str:
    """Return why the classifier of a checkpoint cannot be used; empty where it can, or is damaged."""
    own = [key for key, is_classifier in head.items() if is_classifier]
    if not own:
        return ""
    lost = [key for key, is_classifier in head.items() if not is_classifier]
    with_it = f", and so do {', '.join(lost)}" if lost else ""
    if not any(key in shapes for key in own):
        return f"the checkpoint has no classifier: the network's keeps its random weights{with_it}"
    if not all(key in shapes and shapes[key] and shapes[key][1:] == needed[key][1:] for key in own):
        return ""
    counts, wanted = {shapes[key][0] for key in own}, {needed[key][0] for key in own}
    if len(counts) != 1 or len(wanted) != 1 or counts == wanted:
        return ""
    return (
        f"the checkpoint has {counts.pop()} classes and the network {wanted.pop()}: "
        "its classifier keeps its random weights"
    )

"""Vision transformers of timm shown beside the explained network: their weights, and images for their input."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from timm.layers.attention import Attention
from timm.models import load_checkpoint, load_state_dict
from torch import Tensor, nn

from orchestrator.data.sources.archives import PARSER_FAULTS
from orchestrator.errors import CheckpointError, did_you_mean, first_line
from orchestrator.files.home_paths import expanded_path
from orchestrator.inference.explain.subject import layers_of
from orchestrator.inference.images import NetworkImages

__all__ = ["PRETRAINED", "UNTRAINED", "ComparedNetwork", "Comparison", "comparisons", "load_compared", "patch_grid"]

PRETRAINED, UNTRAINED = "pretrained", "untrained"
"""Weights that are no file: those timm downloads, and random ones."""

_FEWEST_TOKENS = 4  # per side
_UNREADABLE = (*PARSER_FAULTS, pickle.UnpicklingError, SafetensorError)


@dataclass(frozen=True)
class Comparison:
    """Network to compare with.

    Args:
        name: timm's name of the network.
        weights: `untrained`, `pretrained`, or the path of a file of weights.
    """

    name: str
    weights: str = UNTRAINED


@dataclass(frozen=True)
class ComparedNetwork:
    """Vision transformer with images for its input.

    Args:
        label: Name in pictures and in the table.
        weights: Origin of its weights.
        network: Network in evaluation mode.
        inputs: Its input, (N, C, H, W).
    """

    label: str
    weights: str
    network: nn.Module
    inputs: Tensor


def comparisons(names: Sequence[str], weights: Sequence[str]) -> tuple[Comparison, ...]:
    """Pair the networks of `--compare` with the weights of `--compare-checkpoint`, in their order.

    Args:
        names: timm's names.
        weights: Files, `pretrained` or `untrained`, one for each name; none for untrained networks; a single
            `pretrained` or `untrained` is for all of them.

    Raises:
        CheckpointError: The numbers differ, or a pair occurs twice.
    """
    given = list(weights) or [UNTRAINED] * len(names)
    if names and len(given) == 1 and given[0] in (PRETRAINED, UNTRAINED):
        given *= len(names)
    if len(given) != len(names):
        raise CheckpointError(
            f"--compare-checkpoint: got {len(weights)} for {len(names)} of --compare. Give one for each, in the same "
            f"order: a file, '{PRETRAINED}' or '{UNTRAINED}'; a single '{PRETRAINED}' is for all"
        )
    pairs = tuple(Comparison(name, weight) for name, weight in zip(names, given, strict=True))
    twice = next((pair for pair in pairs if pairs.count(pair) > 1), None)
    if twice is not None:
        raise CheckpointError(f"--compare {twice.name}: given twice with the same weights ({twice.weights})")
    return pairs


def load_compared(wanted: Sequence[Comparison], images: NetworkImages, num_classes: int) -> tuple[ComparedNetwork, ...]:
    """Load networks to compare with, and convert the images to the input of each.

    Untrained networks have the size of the images, with patches small enough for 4 x 4 tokens. Trained ones keep the
    input they were trained on: the images are resized to it; in colour they are normalised as timm says.

    Args:
        wanted: Networks and their weights.
        images: Images of the explained network.
        num_classes: Number of classes of untrained networks.

    Raises:
        CheckpointError: timm has no such network, it is no transformer of patches, its weights do not fit or cannot
            be downloaded.
    """
    names = [one.name for one in wanted]
    compared: list[ComparedNetwork] = []
    for one in wanted:
        if not timm.is_model(one.name):
            known = timm.list_models("*vit*") + timm.list_models("deit*")
            remedy = did_you_mean(one.name, known, "`spatialsweep models --timm '*vit*'` lists names")
            raise CheckpointError(f"--compare {one.name}: timm has no such network. {remedy}")
        try:
            network, inputs = _load(one, images, num_classes)
        except _UNREADABLE as error:
            raise CheckpointError(_reason(one, error)) from None
        if patch_grid(network) is None:
            raise CheckpointError(f"--compare {one.name}: has no self-attention between patches as timm's ViTs have")
        weights = one.weights if one.weights in (PRETRAINED, UNTRAINED) else Path(one.weights).name
        shown = weights if names.count(one.name) > 1 or one.weights == UNTRAINED else ""
        label = f"{one.name} ({shown})" if shown else one.name
        if any(label == other.label for other in compared):
            label = f"{one.name} ({weights}, {len(compared) + 1})"
        compared.append(ComparedNetwork(label, weights, network.eval(), inputs))
    return tuple(compared)


def patch_grid(network: nn.Module) -> tuple[int, int] | None:
    """Return the rows and columns of a network's patches; None unless it has timm's self-attention between patches."""
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    has_prefix = isinstance(getattr(network, "num_prefix_tokens", None), int)
    if grid is None or not has_prefix or not layers_of(network, Attention):
        return None
    rows, cols = grid
    return int(rows), int(cols)


def _reason(one: Comparison, error: Exception) -> str:
    reason = first_line(error) or type(error).__name__
    if one.weights == PRETRAINED:
        remedy = "Download the weights where the network is reachable, and give the file to --compare-checkpoint"
        return f"--compare {one.name}: its pretrained weights cannot be loaded ({reason}). {remedy}"
    return f"--compare {one.name}: cannot be built ({reason})"


def _load(one: Comparison, images: NetworkImages, num_classes: int) -> tuple[nn.Module, Tensor]:
    side, channels = images.inputs.shape[-1], images.inputs.shape[1]
    if one.weights == UNTRAINED:
        patch = max(1, min(16, side // _FEWEST_TOKENS))
        network = timm.create_model(
            one.name, num_classes=num_classes, in_chans=channels, img_size=side, patch_size=patch
        )
        return network, images.inputs
    if one.weights == PRETRAINED:
        network = timm.create_model(one.name, pretrained=True)
        return network, _converted(images, network, cast(Any, network).default_cfg["input_size"])
    path = str(expanded_path(one.weights))
    shape: dict[str, Any] = {} if path.endswith((".npz", ".npy")) else _shape_of(one.name, path)
    network = timm.create_model(one.name, **shape)
    load_checkpoint(network, path, weights_only=True)  # create_model's default varies with timm's version
    config = cast(Any, network).default_cfg
    own = shape.get("img_size", config["input_size"][-1])
    return network, _converted(images, network, (shape.get("in_chans", config["input_size"][0]), own, own))


def _shape_of(name: str, path: str) -> dict[str, Any]:
    """Return the keywords with which weights of a file fit a network, where they differ from its defaults."""
    state = load_state_dict(path, weights_only=True)
    with torch.device("meta"):
        usual: Any = timm.create_model(name)
    patches, positions = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    shape: dict[str, int] = {}
    if patches is not None and patches.shape[1:] != usual.patch_embed.proj.weight.shape[1:]:
        shape |= {"in_chans": patches.shape[1], "patch_size": patches.shape[2]}
    if positions is not None and (shape or positions.shape[1] != usual.pos_embed.shape[1]):
        prefix = usual.pos_embed.shape[1] - usual.patch_embed.num_patches
        patch = shape.get("patch_size", usual.patch_embed.patch_size[0])
        shape["img_size"] = patch * math.isqrt(positions.shape[1] - prefix)
    if (head := state.get("head.weight")) is not None and len(head) != usual.num_classes:
        shape["num_classes"] = len(head)
    return shape


def _converted(images: NetworkImages, network: nn.Module, input_size: Sequence[int]) -> Tensor:
    """Resize images to the input of a network; in colour also normalise them as timm says, else as they are."""
    channels, *sides = input_size
    config = cast(Any, network).default_cfg
    found = images.inputs
    if channels != 1:
        pixels = images.pixels.mean(1, keepdim=True) if images.pixels.shape[1] != channels else images.pixels
        mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        found = (pixels.expand(-1, channels, -1, -1) - mean) / std
    elif found.shape[1] != 1:
        found = found.mean(1, keepdim=True)
    if tuple(found.shape[2:]) == tuple(sides):
        return found
    return torch.nn.functional.interpolate(found, tuple(sides), mode="bilinear", antialias=True)

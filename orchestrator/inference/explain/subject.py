"""Network to explain with its images, and the registry of explainers: one function per class of layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from orchestrator.inference.images import NetworkImages, logits_in_batches

__all__ = [
    "BATCH",
    "EXPLAINERS",
    "NO_CLASS",
    "Numbers",
    "Subject",
    "batch_of",
    "block_of",
    "copy_input",
    "explains",
    "layers_of",
    "recording",
    "stage_of",
]

BATCH = 32
"""Largest number of images per forward pass."""

NO_CLASS = -1
"""Label of an image of which no class is explained."""

_BATCH_VALUES = 2**23  # of a batch: large images are passed through the network a few at a time
_STAGE = re.compile(r"(?:^|\.)stages[._](\d+)(?:\.(\d+))?(?:\.|$)")

Numbers = dict[str, Any]
"""Numbers and texts by name, which JSON can hold."""

Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True)
class Subject:
    """Trained network, its images and the folder of the pictures.

    Args:
        network: Network in evaluation mode on the CPU.
        title: Title of the pictures.
        images: Images that are passed through the network.
        folder: Folder of the pictures.
        reports: Metrics of every recorded epoch, by epoch.
        regions: Region of the object of each image, (N, H, W), of the images' size; None where they are unknown.
        layer: Name of the layer whose map Grad-CAM reads; None chooses one.
        drawn: Number of images in the pictures; numbers are of all images.
        forward: Function from images to a number for each class; None for the network itself, a classifier.
        body: Beginning of the names of the layers that may be chosen for Grad-CAM, such as `backbone.body.`.
    """

    network: nn.Module
    title: str
    images: NetworkImages
    folder: Path
    reports: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    regions: Tensor | None = None
    layer: str | None = None
    drawn: int = 4
    forward: Callable[[Tensor], Tensor] | None = None
    body: str = ""

    @property
    def scores(self) -> Callable[[Tensor], Tensor]:
        """Numbers for each class, such as logits, as a function: images (B, C, H, W) -> (B, num_classes)."""
        return self.forward or self.network

    def run(self) -> Tensor:
        """Return a number for each class of all images."""
        return logits_in_batches(self.scores, self.images.inputs, batch_of(self.images.inputs))

    def with_class(self) -> Subject:
        """Return the same subject without the images of which no class is explained."""
        known = self.images.labels != NO_CLASS
        if known.all():
            return self
        images = replace(
            self.images,
            inputs=self.images.inputs[known],
            pixels=self.images.pixels[known],
            labels=self.images.labels[known],
            positions=tuple(place for place, is_known in zip(self.images.positions, known, strict=True) if is_known),
        )
        return replace(self, images=images, regions=None if self.regions is None else self.regions[known])


def batch_of(images: Tensor) -> int:
    """Return the number of images per forward pass: fewer of larger ones.

    Args:
        images: Images, (N, C, H, W).
    """
    return max(1, min(BATCH, _BATCH_VALUES // images[0].numel())) if len(images) else 1


Explainer = Callable[[Subject], Numbers]

EXPLAINERS: dict[str, tuple[type[nn.Module], Explainer]] = {}
"""Class of layer and explainer of every topic; an explainer draws pictures and returns their numbers."""


def explains(topic: str, layer: type[nn.Module]) -> Callable[[Explainer], Explainer]:
    """Register a function in `EXPLAINERS`, which is called for networks with a layer of a class.

    Args:
        topic: Name of its section in the table of numbers.
        layer: Class of the layer; `nn.Module` for any network.
    """

    def enter(explainer: Explainer) -> Explainer:
        EXPLAINERS[topic] = (layer, explainer)
        return explainer

    return enter


def layers_of(network: nn.Module, kind: type[Layer]) -> dict[str, Layer]:
    """Return the layers of a class by name, in the order of the network."""
    return {name: module for name, module in network.named_modules() if isinstance(module, kind)}


def stage_of(name: str) -> int | None:
    """Return the stage in a layer's name, from 0; None outside of stages."""
    match = _STAGE.search(name)
    return None if match is None else int(match[1])


def block_of(name: str) -> str:
    """Return stage and block in a layer's name, such as `3.0`; the name itself outside of blocks."""
    match = _STAGE.search(name)
    return name if match is None or match[2] is None else f"{match[1]}.{match[2]}"


@contextmanager
def recording(layers: Mapping[str, Layer], select: Callable[[Layer, Tensor], Tensor]) -> Iterator[dict[str, Tensor]]:
    """Record a tensor per layer while the network runs; the dictionary is filled when the context ends.

    Args:
        layers: Layers by name.
        select: Function of a layer and its first input, images first, that returns the tensor to record; it may call
            the layer's methods, not the layer.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in layers}
    recorded: dict[str, Tensor] = {}

    def hook_of(name: str, layer: Layer) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            with torch.no_grad():
                parts[name].append(select(layer, given[0]))

        return hook

    handles = [layer.register_forward_pre_hook(hook_of(name, layer)) for name, layer in layers.items()]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
    recorded.update({name: torch.cat(tensors) for name, tensors in parts.items()})


def copy_input(_: nn.Module, given: Tensor) -> Tensor:
    """Copy the input of a layer, for `recording`: later layers may work in place."""
    return given.detach().clone()

"""What is looked into, and the list of those who look: one function per kind of layer, found by its class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from orchestrator.inference.images import NetworkImages

__all__ = ["BATCH", "EXPLAINERS", "Numbers", "Subject", "a_copy", "explains", "layers_of", "stage_of", "watching"]

BATCH = 32
"""Images that run at once."""

Numbers = dict[str, Any]
"""What JSON can hold."""

Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True)
class Subject:
    """One trained network with images, and where pictures go.

    Args:
        network: In evaluation mode on the CPU.
        title: Of the pictures.
        images: It is looked at with.
        folder: For the pictures.
        reports: Metrics of every known epoch, by epoch.
        regions: Where the object of each image is, (N, H, W), of the images' size; None where nobody knows.
        layer: Name of the layer whose map Grad-CAM reads; None chooses.
        drawn: Images that are shown; numbers are of all.
    """

    network: nn.Module
    title: str
    images: NetworkImages
    folder: Path
    reports: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    regions: Tensor | None = None
    layer: str | None = None
    drawn: int = 4

    def run(self) -> Tensor:
        """Logits of all images."""
        with torch.no_grad():
            return torch.cat([self.network(batch) for batch in self.images.inputs.split(BATCH)])


Explainer = Callable[[Subject], Numbers]

EXPLAINERS: dict[str, tuple[type[nn.Module], Explainer]] = {}
"""Topic to the class of layer it is about, and the function that draws it and returns its numbers."""


def explains(topic: str, layer: type[nn.Module]) -> Callable[[Explainer], Explainer]:
    """Enters a function into `EXPLAINERS`; it is called for networks that hold such a layer.

    Args:
        topic: Name of its section in the table of numbers.
        layer: The class; `nn.Module` is any network.
    """

    def enter(explainer: Explainer) -> Explainer:
        EXPLAINERS[topic] = (layer, explainer)
        return explainer

    return enter


def layers_of(network: nn.Module, kind: type[Layer]) -> dict[str, Layer]:
    """Layers of a kind by their names, in the order of the network."""
    return {name: module for name, module in network.named_modules() if isinstance(module, kind)}


def stage_of(name: str) -> int | None:
    """The stage a layer belongs to, by its name, from 0; None outside of stages."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "stages" else None


@contextmanager
def watching(layers: Mapping[str, Layer], keep: Callable[[Layer, Tensor], Tensor]) -> Iterator[dict[str, Tensor]]:
    """What is kept of each layer, of all images, once the network has run and the context has ended.

    Args:
        layers: By name.
        keep: Makes what is kept of a layer and the first of its inputs, images first; it may not call the layer,
            but its methods.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    kept: dict[str, Tensor] = {}

    def note(name: str, layer: Layer) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            with torch.no_grad():
                seen[name].append(keep(layer, given[0]))

        return hook

    handles = [layer.register_forward_pre_hook(note(name, layer)) for name, layer in layers.items()]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
    kept.update({name: torch.cat(parts) for name, parts in seen.items()})


def a_copy(_: nn.Module, given: Tensor) -> Tensor:
    """For `watching`, the input itself: layers behind it may work in place."""
    return given.detach().clone()

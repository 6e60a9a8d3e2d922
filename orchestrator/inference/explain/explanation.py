"""Explanation of one network: all its pictures, and the table of their numbers."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from orchestrator.errors import ExplainError
from orchestrator.inference.explain.irrelevance import (
    attention_of_vit,
    draw_irrelevance,
    irrelevance,
    load_compared_vit,
)
from orchestrator.inference.explain.pictures import style
from orchestrator.inference.explain.subject import EXPLAINERS, Numbers, Subject, layers_of
from orchestrator.inference.images import NetworkImages
from orchestrator.inference.trained_network import TrainedNetwork

__all__ = ["TABLE", "Explanation", "explain_network"]

TABLE = "explain.json"
_MODULES = ("spans", "contexts", "lesa_terms", "bias_channels", "gates", "grad_cam")


@dataclass(frozen=True)
class Explanation:
    """Result of an explanation.

    Args:
        folder: Folder of all files.
        pictures: PNG files, sorted by name.
        numbers: Content of the table.
    """

    folder: Path
    pictures: tuple[Path, ...]
    numbers: Numbers


def explain_network(
    trained: TrainedNetwork,
    images: NetworkImages,
    folder: Path,
    *,
    regions: Tensor | None = None,
    regions_from: str = "unknown",
    layer: str | None = None,
    drawn: int = 4,
    compare: str | None = None,
    compare_checkpoint: Path | None = None,
) -> Explanation:
    """Draw the pictures of a network and write the table of their numbers; blocks.

    Args:
        trained: Network to explain.
        images: Images that are passed through the network.
        folder: Folder for all files; created where it is missing.
        regions: Region of the object of each image, (N, H, W).
        regions_from: Origin of the regions, for the table.
        layer: Name of the layer whose map Grad-CAM reads; None chooses one.
        drawn: Number of images in the pictures.
        compare: timm's name of a ViT whose attention is compared.
        compare_checkpoint: Path of the weights of that ViT; None leaves it untrained.

    Raises:
        ExplainError: The folder cannot be written, or a layer or package is missing.
        CheckpointError: There is no such ViT, or its weights do not fit.
    """
    for module in _MODULES:
        importlib.import_module(f"orchestrator.inference.explain.{module}")
    compared, class_names = None, cast(tuple[str, ...], trained.network.class_names)
    if compare is not None:
        compared = load_compared_vit(compare, images, len(class_names), compare_checkpoint)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExplainError(f"--output {folder}: cannot be made ({error.strerror})") from None
    title = f"{trained.name}, {trained.label}"
    subject = Subject(trained.network, title, images, folder, trained.reports, regions, layer, drawn)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    numbers = {**_facts(trained, images), "regions": regions_from}
    with style():
        for topic, (kind, explainer) in EXPLAINERS.items():
            if layers_of(trained.network, kind):
                numbers[topic] = explainer(subject)
        own = _own_irrelevance(numbers, trained.name)
        if compared is not None:
            found = {block: irrelevance(rows) for block, rows in attention_of_vit(*compared).items()}
            numbers["query_irrelevance"] = {
                "network": compare,
                "trained": compare_checkpoint is not None,
                "layers": found,
            }
            own[f"{compare}{'' if compare_checkpoint else ' (untrained)'}"] = found
        if own:
            draw_irrelevance(title, own, folder)
    (folder / TABLE).write_text(json.dumps(_plain(numbers), indent=2) + "\n")
    pictures = sorted(path for path in folder.glob("*.png") if before.get(path) != path.stat().st_mtime_ns)
    return Explanation(folder, tuple(pictures), numbers)


def _facts(trained: TrainedNetwork, images: NetworkImages) -> Numbers:
    """Return the facts of the network and its images."""
    return {
        "network": trained.name,
        "options": dict(trained.options),
        "source": trained.label,
        "epoch": trained.epoch,
        "dataset": images.dataset,
        "split": images.split,
        "images": len(images.positions),
    }


def _own_irrelevance(numbers: Numbers, name: str) -> dict[str, dict[str, Numbers]]:
    """Return the irrelevance of the network's own global attention, where it has any."""
    return {name: numbers["lesa"]} if numbers.get("lesa") else {}


def _plain(value: Any) -> Any:
    """Convert a value for JSON: a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""All pictures of one network, and the table of numbers beside them."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from orchestrator.errors import ExplainError
from orchestrator.inference.explain.irrelevance import attention_of_vit, draw_irrelevance, irrelevance, vit_beside
from orchestrator.inference.explain.pictures import style
from orchestrator.inference.explain.subject import EXPLAINERS, Numbers, Subject, layers_of
from orchestrator.inference.images import NetworkImages
from orchestrator.inference.trained_network import TrainedNetwork

__all__ = ["TABLE", "Explanation", "explain_network"]

TABLE = "explain.json"
_MODULES = ("spans", "contexts", "lesa_terms", "bias_channels", "gates", "grad_cam")


@dataclass(frozen=True)
class Explanation:
    """What was written.

    Args:
        folder: Holds all of it.
        pictures: PNG files, by name.
        numbers: What the table holds.
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
    """Draws what there is to see in a network and writes the numbers beside it.

    Args:
        trained: The network.
        images: It is looked at with.
        folder: For all files; made where it is missing.
        regions: Where the object of each image is, (N, H, W).
        regions_from: Where they are from, for the table.
        layer: Whose map Grad-CAM reads; None chooses.
        drawn: Images that are shown.
        compare: A ViT of timm whose attention is held beside.
        compare_checkpoint: Its weights; None leaves it untrained.

    Raises:
        ExplainError: The folder cannot be written, or a layer or package is missing.
        CheckpointError: There is no such ViT.
    """
    for module in _MODULES:
        importlib.import_module(f"orchestrator.inference.explain.{module}")
    beside, class_names = None, cast(tuple[str, ...], trained.network.class_names)
    if compare is not None:
        beside = vit_beside(compare, images, len(class_names), compare_checkpoint)
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
        if beside is not None:
            found = {block: irrelevance(rows) for block, rows in attention_of_vit(*beside).items()}
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
    """What was looked at."""
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
    """Of the network's own global attention, where it has some."""
    return {name: numbers["lesa"]} if numbers.get("lesa") else {}


def _plain(value: Any) -> Any:
    """As JSON can hold it: what is no number is null."""
    if isinstance(value, dict):
        return {str(key): _plain(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

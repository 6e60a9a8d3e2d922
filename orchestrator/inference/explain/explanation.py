"""Explanation of one network: all its pictures, and the table of their numbers."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from orchestrator.config.tasks.registry import task_facts
from orchestrator.errors import ExplainError
from orchestrator.inference.explain.backbones import BODY, class_scores, with_predicted_classes
from orchestrator.inference.explain.compared import (
    UNTRAINED,
    ComparedNetwork,
    Comparison,
    load_compared,
    patch_grid,
)
from orchestrator.inference.explain.contexts import last_similarity_maps
from orchestrator.inference.explain.irrelevance import draw_irrelevance
from orchestrator.inference.explain.pictures import style
from orchestrator.inference.explain.query_maps import (
    QUERIES,
    Reading,
    draw_last_block,
    draw_query_maps,
    read_attention,
)
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
    compare: Sequence[Comparison] = (),
    queries: Sequence[tuple[float, float]] = (),
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
        compare: ViTs of timm whose attention is compared.
        queries: Points whose attention is drawn, as shares of width and height from the upper left corner; none for
            `QUERIES` where there is attention to draw.

    Raises:
        ExplainError: The folder cannot be written, a layer or package is missing, the task has no such pictures, or
            no network has the attention that `queries` ask for.
        CheckpointError: There is no such ViT, or its weights do not fit.
    """
    has_labels = task_facts(trained.task).has_labels
    forward = None if has_labels else class_scores(trained)
    _require_drawable(trained, compares=bool(compare), queries=bool(queries), regions=regions is not None)
    for module in _MODULES:
        importlib.import_module(f"orchestrator.inference.explain.{module}")
    if folder.exists() and not folder.is_dir():
        raise ExplainError(f"--output {folder}: is a file; name a folder, such as {folder}-explained")
    compared = load_compared(compare, images, len(cast(tuple[str, ...], trained.network.class_names)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExplainError(f"--output {folder}: cannot be made ({error.strerror})") from None
    title = f"{trained.name}, {trained.label}"
    seen = images if has_labels else with_predicted_classes(trained, images)
    body = "" if has_labels else BODY
    subject = Subject(trained.network, title, seen, folder, trained.reports, regions, layer, drawn, forward, body)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    numbers = {**_facts(trained, images), "regions": regions_from if has_labels else "none"}
    with style():
        for topic, (kind, explainer) in EXPLAINERS.items():
            if layers_of(trained.network, kind):
                numbers[topic] = explainer(subject)
        _compare_attention(subject, trained.name, compared, queries or QUERIES, numbers)
    (folder / TABLE).write_text(json.dumps(_plain(numbers), indent=2) + "\n")
    pictures = sorted(path for path in folder.glob("*.png") if before.get(path) != path.stat().st_mtime_ns)
    return Explanation(folder, tuple(pictures), numbers)


def _require_drawable(trained: TrainedNetwork, *, compares: bool, queries: bool, regions: bool) -> None:
    """Check that the network has the pictures that were asked for, before any is drawn.

    Raises:
        ExplainError: Its task has no comparison or regions, or there is no attention for queries.
    """
    if not task_facts(trained.task).has_labels and (compares or regions):
        raise ExplainError(
            f"{trained.label}: its task is {trained.task}; --compare and --regions are for classifiers. Without them "
            "its layers and Grad-CAM of predicted classes are drawn"
        )
    if queries and not compares and patch_grid(trained.network) is None:
        raise ExplainError(
            f"--query: {trained.name} is no vision transformer, so that it has no attention at a point; name one to "
            "draw with --compare, such as vit_tiny_patch16_224"
        )


def _compare_attention(
    subject: Subject,
    name: str,
    compared: Sequence[ComparedNetwork],
    queries: Sequence[tuple[float, float]],
    numbers: Numbers,
) -> None:
    """Draw the attention of transformers, the explained network among them, and add their numbers to the table."""
    own = _own_irrelevance(numbers, name)
    if patch_grid(subject.network) is not None:
        compared = [ComparedNetwork(name, "its own", subject.network, subject.images.inputs), *compared]
    readings = [read_attention(network, queries) for network in compared]
    lines = own | {reading.network.label: reading.layers for reading in readings}
    if lines:
        draw_irrelevance(subject.title, lines, subject.folder)
    if not readings:
        return
    numbers["query_irrelevance"] = {
        "networks": {reading.network.label: _irrelevance_of(reading) for reading in readings},
    }
    numbers["query_maps"] = {
        "queries": [list(point) for point in queries],
        "networks": {reading.network.label: reading.numbers() for reading in readings},
    }
    draw_query_maps(subject, readings, queries)
    similarity = last_similarity_maps(subject)
    for reading in readings:
        draw_last_block(subject, reading, similarity)


def _irrelevance_of(reading: Reading) -> Numbers:
    weights = reading.network.weights
    return {"weights": weights, "trained": weights != UNTRAINED, "layers": reading.layers}


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

"""Predictions beside annotations on a few images of a dataset, for the report of a sweep and for MLflow."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image, ImageDraw

from orchestrator.config.tasks.registry import task_facts
from orchestrator.data.scenes.drawing import text_font
from orchestrator.errors import first_line
from orchestrator.inference.images import dataset_of, place_for_network, recorded_settings
from orchestrator.inference.loaded_network import LoadedNetwork, trial_algorithms
from orchestrator.inference.predict.pictures import Drawing, drawn_map, drawn_objects, map_legend, with_legend
from orchestrator.inference.predict.results import class_shares, detected_objects
from orchestrator.inference.trained_network import find_network
from orchestrator.results.sample_pictures import MOST_PICTURES, SamplePictures, stored_pictures
from orchestrator.results.stored_sweep import StoredSweep
from orchestrator.uris import without_secrets

if TYPE_CHECKING:
    from orchestrator.inference.trained_network import TrainedNetwork
    from orchestrator.training.tasks.predictions import PredictedMap, PredictedObjects
    from orchestrator.training.tasks.scenes import SceneSplit

__all__ = ["draw_samples", "sweep_pictures"]

_SPLIT = "test"
_SCORE = 0.3  # lower than that of `predict`: the networks of a sweep are often trained briefly
_LONGEST_PX = (384, 384)
_TITLE_PX, _GAP_PX, _TEXT_PX = 18, 4, 13
_MOST_S = 60.0


def sweep_pictures(sweep: StoredSweep) -> SamplePictures:
    """Return the pictures of the best trial of a sweep on annotated images: the stored ones, else drawn now.

    Images on a server that only the journal names are not read, see decision 11.

    Args:
        sweep: Stored sweep, in any state.
    """
    best = sweep.result.best
    if best is None:
        return SamplePictures(note="no trial has finished an epoch")
    stored = stored_pictures(sweep.folder, best.number)
    if stored.pictures:
        return stored
    uri = (sweep.config.get("dataset") or {}).get("uri")
    if uri is not None and "://" in str(uri):
        return SamplePictures(best.number, note="they are drawn where the sweep ends, and its images are on a server")
    try:
        return SamplePictures(best.number, draw_samples(find_network(sweep.folder, trial=best.number)))
    except Exception as error:  # whatever fails, the report is written, and has the reason in it
        return SamplePictures(best.number, note=without_secrets(first_line(error)))


def draw_samples(trained: TrainedNetwork) -> list[bytes]:
    """Draw annotations and predictions side by side on images spread over the test split: PNG files as bytes.

    After a minute no further image is begun.

    Args:
        trained: Network of a task on annotated images, in evaluation mode on the CPU.

    Raises:
        CheckpointError: The classes of the network differ from the dataset's.
        DataError: The dataset is missing or damaged, or the task has no predictions that can be shown.
    """
    import torch

    from orchestrator.training.evaluation_settings import EvaluationSettings

    settings = recorded_settings(trained.network, trained.dataset, trained.training)
    uri = dataset_of(trained, None)
    split = place_for_network(
        trained.network,
        uri,
        split=_SPLIT,
        settings=settings,
        datasets_folder=trained.runs_dir / "datasets",
        device=torch.device("cpu"),
        label=trained.label,
    )
    used = settings or EvaluationSettings()
    network = LoadedNetwork(used.place(trained.network, torch.device("cpu")), used)
    places = np.unique(np.linspace(0, len(split) - 1, min(MOST_PICTURES, len(split))).round().astype(int)).tolist()
    drawn: list[bytes] = []
    until_s = time.monotonic() + _MOST_S
    for place in places:
        if drawn and time.monotonic() > until_s:
            break
        drawn.append(_png(_pair(trained, network, cast("SceneSplit", split), place)))
    return drawn


def _pair(trained: TrainedNetwork, network: LoadedNetwork, split: SceneSplit, place: int) -> Image.Image:
    """Draw one image twice: with its annotations, and with the predictions."""
    import torch

    from orchestrator.training.tasks.predictions import PredictedMap

    task, names = split.task, cast(tuple[str, ...], trained.network.class_names)
    image, target = split.samples.sample(int(split.positions[place]), masks="masks" in task.reads)
    pixels = image.permute(1, 2, 0).numpy()
    with torch.no_grad(), trial_algorithms():
        images, targets = split.batch(torch.tensor([place]))
        (found,) = task.predictions(task.predict(network, images, split.tta), targets, least_score=_SCORE)
    truth = _truth(target, task_facts(trained.task).annotation)
    if isinstance(truth, PredictedMap):
        assert isinstance(found, PredictedMap)
        maps = [each.class_map.as_subclass(torch.Tensor) for each in (truth, found)]
        panels = [drawn_map(pixels, each, longest_px=_LONGEST_PX) for each in maps]
        both = class_shares(torch.cat([each.long().flatten() for each in maps]), names)
        legend = map_legend(both, with_shares=False)
    else:
        objects = [detected_objects(cast("PredictedObjects", each), names) for each in (truth, found)]
        panels = [
            drawn_objects(pixels, each, with_scores=bool(number), longest_px=_LONGEST_PX)
            for number, each in enumerate(objects)
        ]
        legend = ()
    return with_legend(Drawing(_side_by_side(panels), legend))


def _truth(target: Mapping[str, Any], annotation: str) -> PredictedMap | PredictedObjects:
    """Return the annotations of an image in the form of predictions."""
    import torch

    from orchestrator.training.tasks.predictions import PredictedMap, PredictedObjects

    if annotation == "class_map":
        return PredictedMap(target["class_map"])
    boxes = target["boxes"].as_subclass(torch.Tensor)
    masks = target["masks"].as_subclass(torch.Tensor).bool() if "masks" in target else None
    return PredictedObjects(boxes, target["labels"], torch.ones(len(boxes)), masks)


def _side_by_side(panels: list[Image.Image]) -> Image.Image:
    """Return pictures of one size beside each other, below their titles."""
    width, height = panels[0].size
    whole = Image.new("RGB", (2 * width + _GAP_PX, height + _TITLE_PX), "white")
    pen = ImageDraw.Draw(whole)
    for number, (panel, title) in enumerate(zip(panels, ("annotated", "predicted"), strict=True)):
        left = number * (width + _GAP_PX)
        whole.paste(panel, (left, _TITLE_PX))
        pen.text((left + 2, 1), title, fill="black", font=text_font(_TEXT_PX))
    return whole


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()

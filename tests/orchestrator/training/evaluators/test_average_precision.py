"""COCO's metrics: an example by hand, and pycocotools on random detections."""

from __future__ import annotations

import contextlib
import io
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as reference_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from orchestrator.errors import DataError
from orchestrator.training.evaluators.average_precision import BOX_METRICS, MASK_METRICS, DetectionEvaluator
from orchestrator.training.evaluators.scored_image import pack, scored_image, unpack
from tests.support.tasks.random_detections import Pair, random_pairs

Values = dict[str, Any]


def one(number: int, box: list[float], found: list[float], score: float) -> Pair:
    target = {"image_id": number, "boxes": torch.tensor([box]), "labels": torch.tensor([1])}
    prediction = {"boxes": torch.tensor([found]), "labels": torch.tensor([1]), "scores": torch.tensor([score])}
    return prediction, target


def measured(pairs: list[Pair], *, masks: bool = False) -> dict[str, float]:
    evaluator = DetectionEvaluator(masks=masks)
    for prediction, target in pairs:
        evaluator.update([prediction], [target])
    return evaluator.compute()


def test_three_images_by_hand() -> None:
    """Detect three objects: the second detection overlaps its object by 0.62, the others entirely."""
    exact = [10.0, 10.0, 20.0, 20.0]
    pairs = [one(1, exact, exact, 0.9), one(2, exact, [10.0, 10.0, 16.2, 20.0], 0.8), one(3, exact, exact, 0.7)]
    metrics = measured(pairs)
    # Above 0.6, precision is 1 up to a recall of 1/3 (34 of 101 points) and 2/3 up to 2/3 (33 points).
    strict = (34 + 33 * 2 / 3) / 101
    expected = {"ap": (3 + 7 * strict) / 10, "ap50": 1.0, "ap75": strict, "ap_small": (3 + 7 * strict) / 10}
    recall = (3 + 7 * 2 / 3) / 10
    expected |= {"ar1": recall, "ar10": recall, "ar100": recall, "ar_small": recall}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert all(math.isnan(metrics[f"{kind}_{size}"]) for kind in ("ap", "ar") for size in ("medium", "large"))


def reference(pairs: list[Pair], kind: str) -> list[float]:
    """Score by pycocotools, from annotations and results as their files hold them."""
    annotations, results = [], []
    for prediction, target in pairs:
        for place, box in enumerate(target["boxes"].tolist()):
            entry = {"id": len(annotations) + 1, "image_id": target["image_id"], "area": float(target["area"][place])}
            entry |= {"category_id": int(target["labels"][place]), "iscrowd": int(target["iscrowd"][place])}
            entry |= {"bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
            entry |= {"segmentation": reference_masks.encode(np.asfortranarray(target["masks"][place].numpy()))}
            annotations.append(entry)
        for place, box in enumerate(prediction["boxes"].tolist()):
            entry = {"image_id": target["image_id"], "category_id": int(prediction["labels"][place])}
            entry |= {"score": float(prediction["scores"][place])}
            if kind == "bbox":
                entry |= {"bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
            else:
                binary = (prediction["masks"][place, 0] >= 0.5).numpy().astype(np.uint8)
                entry |= {"segmentation": reference_masks.encode(np.asfortranarray(binary))}
            results.append(entry)
    truth = COCO()
    height, width = pairs[0][1]["masks"].shape[1:]
    truth.dataset = {
        "info": {},
        "images": [{"id": target["image_id"], "height": height, "width": width} for _, target in pairs],
        "annotations": annotations,
        "categories": [{"id": each} for each in range(1, 60)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [math.nan if value < 0 else float(value) for value in evaluation.stats]


@pytest.mark.parametrize(("seed", "classes"), [(0, 3), (1, 40)])
def test_equals_pycocotools(seed: int, classes: int) -> None:
    """Compare on images with crowds, without objects, without detections, with ties and with many detections."""
    pairs = random_pairs(seed, images=25, classes=classes)
    metrics = measured(pairs, masks=True)
    for names, kind in ((BOX_METRICS, "bbox"), (MASK_METRICS, "segm")):
        found = [metrics[name] for name in names]
        assert found == pytest.approx(reference(pairs, kind), abs=1e-6, nan_ok=True)
        assert 0.1 < found[0] < 0.9


def test_more_than_a_hundred_detections_of_a_class_do_not_count() -> None:
    """Add the detection that fits as the 101st by score: its recall is not reached."""
    prediction, target = one(1, [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0], 0.1)
    others = torch.tensor([[50.0, 50.0, 60.0, 60.0]]).repeat(100, 1)
    full = {
        "boxes": torch.cat([prediction["boxes"], others]),
        "labels": torch.ones(101, dtype=torch.int64),
        "scores": torch.cat([prediction["scores"], torch.full((100,), 0.5)]),
    }
    assert measured([(full, target)])["ar100"] == 0
    full["labels"][100] = 2  # of another class, so that the first is the hundredth of its own
    assert measured([(full, target)])["ar100"] == 1
    assert len(scored_image(full, target, masks=False).detections) == 101


def test_nothing_annotated_and_nothing_found() -> None:
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "scores": torch.zeros(0)}
    prediction, target = one(1, [0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0], 0.5)
    assert measured([(nothing, target)])["ap"] == 0
    assert all(math.isnan(value) for value in measured([(prediction, {**nothing, "image_id": 1})]).values())
    assert all(math.isnan(value) for value in measured([]).values())


def test_an_image_counts_once() -> None:
    pairs = [one(1, [0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0], 0.5), one(2, [0.0, 0.0, 9.0, 9.0], [5.0, 5, 9, 9], 0.9)]
    assert measured([*pairs, pairs[1]]) == pytest.approx(measured(pairs), nan_ok=True)
    with pytest.raises(DataError, match=r"image_id: 2 comes twice, with different annotations"):
        measured([*pairs, one(2, [1.0, 0.0, 9.0, 9.0], [5.0, 5.0, 9.0, 9.0], 0.9)])


def test_packed_images_are_read_again() -> None:
    pairs = random_pairs(3, images=6, classes=3)
    images = {target["image_id"]: scored_image(prediction, target, masks=True) for prediction, target in pairs}
    again = unpack(pack(images))
    assert list(again) == list(images)
    for number, image in images.items():
        assert np.array_equal(again[number].detections, image.detections)
        assert np.array_equal(again[number].annotations, image.annotations)
        assert (again[number].size, again[number].masks) == (image.size, image.masks)
    assert unpack(pack({})) == {}


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        (1, {"image_id": None}, "target.image_id: missing"),
        (0, {"scores": None}, "image 1: prediction.scores is missing; it has boxes, labels"),
        (0, {"scores": torch.ones(3)}, r"prediction.scores has the shape \(3,\); with 1 boxes it is \(1,\)"),
        (0, {"boxes": torch.tensor([[0.0, 0.0, math.nan, 1.0]])}, "prediction.boxes has a value that is not a finite"),
        (0, {"labels": torch.tensor([0])}, "prediction.labels has 0; labels are from 1"),
        (1, {"area": torch.ones(2)}, r"target.area has the shape \(2,\)"),
        (0, {}, "prediction.masks is missing; give masks, or evaluate boxes alone"),
        (0, {"masks": torch.ones(2, 9, 9)}, r"prediction.masks has the shape \(2, 9, 9\); with 1 boxes"),
        (0, {"masks": torch.ones(1, 1, 5, 9)}, r"masks have the sizes \(5, 9\) and \(9, 9\) in prediction and target"),
    ],
)
def test_faults_are_named(where: int, change: Values, message: str) -> None:
    pair = one(1, [0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0], 0.5)
    pair[1]["masks"] = torch.ones(1, 9, 9, dtype=torch.uint8)
    pair[where].update(change)
    for key in [key for key, value in change.items() if value is None]:
        del pair[where][key]
    with pytest.raises(DataError, match=message):
        measured([pair], masks=True)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(DataError, match=r"pip install 'spatialsweep\[detection\]'"):
        DetectionEvaluator()

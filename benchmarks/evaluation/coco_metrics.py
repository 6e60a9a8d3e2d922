"""Seconds that COCO's metrics of boxes and masks take, and pycocotools takes for the same images.

    python benchmarks/evaluation/coco_metrics.py [--images 5000] [--classes 80] [--json PATH]

The images are synthetic, 160 x 120 px, with up to six objects and sixteen detections; 250 of them are repeated under
new numbers. Adding them to the evaluator, which encodes the masks, is timed apart from scoring; pycocotools starts from
encoded masks. Processor seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from orchestrator.training.evaluators.average_precision import BOX_METRICS, MASK_METRICS, DetectionEvaluator
from orchestrator.training.evaluators.scored_image import scored_image
from tests.support.tasks.random_detections import HEIGHT, WIDTH, Pair, random_pairs

DISTINCT = 250


def repeated(pairs: list[Pair], images: int) -> Iterator[Pair]:
    for number in range(images):
        prediction, target = pairs[number % len(pairs)]
        yield prediction, {**target, "image_id": number + 1}


def reference(images: list[Pair], kind: str, classes: int) -> tuple[float, list[float]]:
    """Return the processor seconds of pycocotools, and its metrics."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    encoded: dict[int, Any] = {}
    for prediction, target in images:
        image = encoded.setdefault(id(prediction), scored_image(prediction, target, masks=True))
        masks = [{"size": list(image.size), "counts": counts} for counts in image.masks]
        found = len(image.detections)
        for place, (left, top, right, bottom, score, label) in enumerate(image.detections.tolist()):
            where = (
                {"bbox": [left, top, right - left, bottom - top]} if kind == "bbox" else {"segmentation": masks[place]}
            )
            results.append({"image_id": target["image_id"], "category_id": int(label), "score": score, **where})
        for place, (left, top, right, bottom, label, crowd, area) in enumerate(image.annotations.tolist()):
            where = {"bbox": [left, top, right - left, bottom - top], "segmentation": masks[found + place]}
            entry = {"image_id": target["image_id"], "category_id": int(label), "iscrowd": int(crowd), "area": area}
            annotations.append({"id": len(annotations) + 1, **entry, **where})
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": target["image_id"], "height": HEIGHT, "width": WIDTH} for _, target in images],
            "annotations": annotations,
            "categories": [{"id": each} for each in range(1, classes + 1)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return time.process_time() - began, evaluation.stats.tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = list(repeated(random_pairs(0, images=DISTINCT, classes=arguments.classes), arguments.images))
    evaluator = DetectionEvaluator(masks=True)
    began = time.process_time()
    for prediction, target in images:
        evaluator.update([prediction], [target])
    added = time.process_time()
    metrics = evaluator.compute()
    scored_s = time.process_time() - added
    theirs_s, differences = 0.0, []
    for kind, names in (("bbox", BOX_METRICS), ("segm", MASK_METRICS)):
        took_s, stats = reference(images, kind, arguments.classes)
        theirs_s += took_s
        differences += [abs(metrics[name] - value) for name, value in zip(names, stats, strict=True) if value >= 0]
    print(f"images added: {added - began:.1f} s ({(added - began) / len(images) * 1e3:.2f} ms each)")
    print(f"scored: {scored_s:.1f} s, by pycocotools {theirs_s:.1f} s: {theirs_s / scored_s:.1f} times as fast")
    print(f"largest difference of {len(differences)} metrics: {max(differences):.1e}")
    if arguments.json:
        found = {
            "added_s": added - began,
            "scored_s": scored_s,
            "pycocotools_s": theirs_s,
            "difference": max(differences),
        }
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""Tiny datasets in each format of annotated images, and what they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.data.conversion.prepare import prepare
from orchestrator.errors import DataError
from tests.support.tiny_archives import images, png

Json = dict[str, Any]
WIDTH, HEIGHT = 40, 30
SQUARE = [[4.0, 5.0, 14.0, 5.0, 14.0, 15.0, 4.0, 15.0]]
"""Polygon of a square of 10 x 10 px at (4, 5)."""


def picture(path: Path, seed: int, width: int = WIDTH, height: int = HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(images(1, (3, height, width), seed)[0], "JPEG"))


def class_map(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def annotation(number: int, image_id: int, category: int = 3, **changes: Any) -> Json:
    plain = {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": [4.0, 5.0, 10.0, 10.0],
        "area": 100.0,
        "iscrowd": 0,
        "segmentation": SQUARE,
    }
    return {key: value for key, value in {**plain, **changes}.items() if value is not ...}


def instances(count: int, annotations: Sequence[Any], *, first: int = 1) -> Json:
    """Return COCO's JSON for images of 40 x 30 px; categories 3 and 7 have the labels 1 and 2."""
    listed = [
        {"id": number, "file_name": f"{number:04d}.jpg", "width": WIDTH, "height": HEIGHT}
        for number in range(first, first + count)
    ]
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    return {"info": {}, "images": listed, "annotations": list(annotations), "categories": categories}


def coco_tree(
    root: Path, train: Sequence[Any] | None = None, change: Callable[[Json], object] = lambda _: None
) -> Path:
    """Write COCO 2017 with five training and two validation images.

    Args:
        root: Folder to create.
        train: Annotations of the training images; None takes one for each image.
        change: Function that changes the JSON of the training images.
    """
    content = instances(5, [annotation(number, number) for number in range(1, 6)] if train is None else train)
    change(content)
    write(root / "annotations/instances_train2017.json", content)
    validation = [annotation(1, 11), annotation(2, 12, 7)]
    write(root / "annotations/instances_val2017.json", instances(2, validation, first=11))
    for number in range(1, 6):
        picture(root / f"train2017/{number:04d}.jpg", number)
    for number in (11, 12):
        picture(root / f"val2017/{number:04d}.jpg", number)
    return root


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def ade_tree(root: Path, maps: Mapping[str, np.ndarray]) -> Path:
    """Write ADE20K with the given maps, by `training/NAME` or `validation/NAME`."""
    rows = [f"{number}\t0.1\t1\t1\t0\tclass {number}, thing" for number in range(1, 151)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows]) + "\n")
    for number, (name, values) in enumerate(maps.items()):
        picture(root / f"images/{name}.jpg", number, values.shape[1], values.shape[0])
        class_map(root / f"annotations/{name}.png", values)
    return root


def voc_tree(root: Path, objects: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> Path:
    """Write a year of Pascal VOC; `objects` has the XML within `<annotation>` of each image."""
    for number, (name, content) in enumerate(objects.items()):
        picture(root / f"JPEGImages/{name}.jpg", number)
        (root / "Annotations").mkdir(parents=True, exist_ok=True)
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        (root / f"Annotations/{name}.xml").write_text(f"<annotation>{size}{content}</annotation>")
    for task in ("Main", "Segmentation"):
        for split, names in lists.items():
            (root / "ImageSets" / task).mkdir(parents=True, exist_ok=True)
            (root / "ImageSets" / task / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def voc_object(name: str, box: Sequence[object], difficult: int = 0) -> str:
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def refusal(name: str, root: Path, target: Path, **options: Any) -> str:
    """Return the error of a conversion; nothing may be left of it that opens."""
    with pytest.raises(DataError) as caught:
        prepare(name, root, str(target), **options)
    assert not (target / "manifest.json").exists()
    message = str(caught.value)
    assert all(line.isprintable() for line in message.splitlines())
    return message

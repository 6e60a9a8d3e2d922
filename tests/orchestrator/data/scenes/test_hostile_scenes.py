"""Faulty and hostile annotations: each is named with file, image and annotation before any image is converted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.scenes import open_scenes
from orchestrator.data.sources import open_source
from orchestrator.data.sources.scenes import json_stream
from orchestrator.errors import DataError
from tests.orchestrator.data.scenes.tiny_scenes import (
    HEIGHT,
    SQUARE,
    WIDTH,
    Json,
    annotation,
    class_map,
    coco_tree,
    picture,
    refusal,
)

NAN, INF = float("nan"), float("inf")
RUNS = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
FAULTS: list[tuple[Any, str, str]] = [
    (
        annotation(9, 2, bbox=[30, 5, 20, 10]),
        "box outside the image",
        "bbox [30, 5, 20, 10] leaves its image of 40 x 30",
    ),
    (annotation(9, 2, bbox=[-5, 5, 20, 10]), "box outside the image", "bbox [-5, 5, 20, 10] leaves its image"),
    (annotation(9, 2, bbox=[5, 5, 0, 10]), "empty box", "bbox [5, 5, 0, 10] has no area"),
    (annotation(9, 2, bbox=[5, 5, 3, -1]), "empty box", "bbox [5, 5, 3, -1] has no area"),
    (annotation(9, 2, bbox=[40, 5, 0.5, 3]), "empty box", "has no area within its image"),
    (annotation(9, 2, bbox=[5, 5, 1e-9, 3]), "empty box", "has no area within its image"),
    (annotation(9, 2, bbox=[NAN, 5, 3, 3]), "not finite", "is nan"),
    (annotation(9, 2, bbox=[5, 5, INF, 3]), "not finite", "is inf"),
    (annotation(9, 2, bbox=[5, 5, 10**400, 3]), "not finite", "is inf"),
    (annotation(9, 2, bbox=[5, 5, 1e30, 3]), "box outside the image", "bbox [5, 5, 1e+30, 3] leaves"),
    (annotation(9, 2, bbox=["5", 5, 3, 3]), "no number", "a value is '5', not a number"),
    (annotation(9, 2, bbox=[True, 5, 3, 3]), "no number", "bbox [True, 5, 3, 3]: a value is True"),
    (annotation(9, 2, bbox=[1, 2, 3]), "no box", "bbox is [1, 2, 3]"),
    (annotation(9, 2, bbox=...), "no box", "bbox is None"),
    (annotation(9, 2, category=4), "unknown category", "category_id 4 is not among the 2 categories"),
    (annotation(9, 2, category="3"), "unknown category", "category_id '3' is no whole number"),
    (annotation(9, 77), "unknown image", "no image of the file has this id"),
    (annotation(1, 2), "duplicate annotation id", "an earlier annotation has this id"),
    (annotation("x", 2), "no annotation", "its id is no whole number"),
    (annotation(9, 2, iscrowd=2), "no annotation", "iscrowd is 2, not 0 or 1"),
    (annotation(9, 2, area=-1), "impossible area", "area is -1; its image has 1200 px"),
    (annotation(9, 2, area=1e9), "impossible area", "area is 1e+09"),
    (annotation(9, 2, area=NAN), "not finite", "area is nan"),
    (annotation(9, 2, segmentation=[]), "no mask", "has no segmentation, as other objects have"),
    (annotation(9, 2, segmentation=[[1, 2, 3, 4]]), "no mask", "has no polygon of three points"),
    (annotation(9, 2, segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "no mask", "7 coordinates, an odd number"),
    (annotation(9, 2, segmentation=[[1, 2, 3, 4, NAN, 6]]), "not finite", "no finite numbers"),
    (annotation(9, 2, segmentation=[[1, 2, 3, 4, "5", 6]]), "not finite", "no finite numbers"),
    (annotation(9, 2, segmentation=[[1, 2, 1e9, 4, 5, 6]]), "mask outside the image", "by 1e+09 px"),
    (annotation(9, 2, segmentation="x"), "no mask", "segmentation is 'x'"),
    (annotation(9, 2, segmentation={**RUNS, "size": [WIDTH, HEIGHT]}), "mask of another size", "size [40, 30]"),
    (annotation(9, 2, segmentation={**RUNS, "size": [10**9, 10**9]}), "mask of another size", "1000000000"),
    (annotation(9, 2, segmentation={**RUNS, "counts": [5]}), "damaged mask", "add up to 5 px"),
    (annotation(9, 2, segmentation={**RUNS, "counts": [-5, 1205]}), "damaged mask", "not all whole numbers from 0"),
    (annotation(9, 2, segmentation={**RUNS, "counts": [5.0, 1195]}), "damaged mask", "not all whole numbers"),
    (annotation(9, 2, segmentation={**RUNS, "counts": "P2P2"}), "damaged mask", "no mask of 30 x 40 px"),
    (annotation(9, 2, segmentation={**RUNS, "counts": "\u00e9"}), "damaged mask", "its run lengths are"),
    (annotation(9, 2, segmentation={**RUNS, "counts": None}), "damaged mask", "its run lengths are None"),
    (None, "no annotation", "is None, not an object"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write COCO 2017 whose training annotations each test replaces."""
    return coco_tree(tmp_path_factory.mktemp("pictures") / "coco")


def test_every_faulty_annotation_is_named_at_once(tmp_path: Path) -> None:
    """Convert with all faults at once: left out together, they are in the manifest with their numbers."""
    entries = [
        {**entry, "id": 100 + place} if entry and entry["id"] == 9 else entry
        for place, (entry, _, _) in enumerate(FAULTS)
    ]
    root = coco_tree(tmp_path / "coco", [annotation(1, 1), *entries])
    count = len(FAULTS)
    message = refusal("coco", root, tmp_path / "to", max_bad_annotations=count - 1)
    assert f"{count} annotations and 0 images have faults. Mend them, or leave them out with" in message
    assert f"--max-bad-annotations {count}:" in message
    assert "annotations/instances_train2017.json: image 2, annotation 100: " in message
    kinds: dict[str, int] = {}
    for _, kind, _ in FAULTS:
        kinds[kind] = kinds.get(kind, 0) + 1
    assert all(f"\n  {kind}: {number}\n" in message for kind, number in kinds.items())
    assert not (tmp_path / "to").exists()  # no image was converted
    manifest = prepare("coco", root, str(tmp_path / "to"), max_bad_annotations=count)
    assert {group.kind: group.count for group in manifest.bad_annotations} == kinds
    examples = [example for group in manifest.bad_annotations for example in group.examples]
    for _, _, reason in FAULTS:
        assert any(reason in example for example in examples), reason
    assert open_scenes(tmp_path / "to").splits["train"].objects.tolist() == [1, 0, 0, 0, 0]


def images(*entries: Any) -> Callable[[Json], object]:
    return lambda content: content["images"].extend(entries)


def listed(**changes: Any) -> Json:
    return {"id": 6, "file_name": "0001.jpg", "width": WIDTH, "height": HEIGHT, **changes}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (images(listed(id=1)), "image 1, train2017/0001.jpg: has the id of an earlier image"),
        (images(listed(id=-1)), "images[5]: has the id -1; ids of images are whole numbers from 0"),
        (images(listed(id="6")), "images[5]: has the id '6'"),
        (images(listed(id=True)), "images[5]: has the id True"),
        (images(None), "images[5]: has the id None"),
        (images(listed(file_name="none.jpg")), "image 6, train2017/none.jpg: is missing: there is no such file"),
        (images(listed(file_name="../val2017/0011.jpg")), "which leaves its folder"),
        (images(listed(file_name="/etc/passwd")), "file_name /etc/passwd, which leaves its folder"),
        (images(listed(file_name="a\\..\\b.jpg")), "which leaves its folder"),
        (images(listed(file_name="a\x00b.jpg")), "file_name a\\x00b.jpg, which leaves its folder"),
        (images(listed(file_name="a//b.jpg")), "which leaves its folder"),
        (images(listed(file_name=7)), "has the file_name 7, which is no text"),
        (images(listed(file_name="\ud800.jpg")), "which is no text"),
        (images(listed(width=0)), "has the size 0 x 30"),
        (images(listed(width=10**12)), "has the size 1000000000000 x 30"),
        (images(listed(width=65536, height=65536)), "has the size 65536 x 65536, more than 89478485 px in all"),
        (images(listed(height=30.0)), "has the size 40 x 30.0; sides are whole numbers"),
    ],
)
def test_faulty_images_are_named_before_any_is_read(
    change: Callable[[Json], object], reason: str, tmp_path: Path
) -> None:
    root = coco_tree(tmp_path / "coco", change=change)
    message = refusal("coco", root, tmp_path / "to")
    assert "0 annotations and 1 images have faults" in message
    assert reason in message
    manifest = prepare("coco", root, str(tmp_path / "to"), max_bad=1)
    assert manifest.splits["train"].images == 5
    assert reason in f"{manifest.bad_images[0].image}: {manifest.bad_images[0].reason}"


def test_images_that_do_not_fit_their_annotations_are_left_out(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "coco")
    picture(root / "train2017/0002.jpg", 2, WIDTH + 1, HEIGHT)
    (root / "train2017/0003.jpg").write_bytes(b"words")
    message = refusal("coco", root, tmp_path / "to")
    assert "2 images cannot be read" in message
    assert "train2017/0002.jpg: has 41 x 30 px, its annotations are for 40 x 30 px" in message
    assert "train2017/0003.jpg: is no image file" in message
    manifest = prepare("coco", root, str(tmp_path / "to"), max_bad=2)
    assert manifest.splits["train"].objects == (3, 0)
    assert open_scenes(tmp_path / "to").splits["train"].image_ids.tolist() == [1, 4, 5]


def test_the_annotations_of_a_missing_image_go_with_it(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "coco")
    (root / "train2017/0002.jpg").unlink()
    message = refusal("coco", root, tmp_path / "to")
    assert "0 annotations and 1 images have faults" in message
    assert prepare("coco", root, str(tmp_path / "to"), max_bad=1).splits["train"].objects == (4, 0)


NO_ANNOTATIONS = {
    "empty": (b"", "the end where { is expected"),
    "a list": (b"[]", "[ where { is expected"),
    "cut": (b'{"images": [{"id": 1}, {"id"', "Expecting ':' delimiter"),
    "deep": (b'{"images": [' + b"[" * 200_000, ""),
    "a long number": (b'{"images": [' + b"9" * 5000 + b"]}", "digits"),
    "no UTF-8": (b'{"images": ["\xff"]}', "can't decode byte 0xff"),
    "text after the end": (b'{"images": []} x', "text after the end"),
    "a key twice": (b'{"images": [], "images": []}', "the key images comes twice"),
    "no key": (b"{1: []}", "a key that is no text"),
    "no categories": (b'{"images": [{"id": 1}], "annotations": []}', "has no categories"),
}


@pytest.mark.parametrize(("raw", "reason"), NO_ANNOTATIONS.values(), ids=NO_ANNOTATIONS.keys())
def test_a_file_that_is_no_annotations_is_named(raw: bytes, reason: str, pictures: Path, tmp_path: Path) -> None:
    file = pictures / "annotations/instances_train2017.json"
    before = file.read_bytes()
    file.write_bytes(raw)
    try:
        message = refusal("coco", pictures, tmp_path / "to")
    finally:
        file.write_bytes(before)
    assert "annotations/instances_train2017.json: " in message
    assert reason in message
    assert "\n" not in message
    assert len(message) < 600


def test_an_entry_without_an_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", 100)
    monkeypatch.setattr(json_stream, "_MOST_ENTRY_CHARACTERS", 1000)
    path = tmp_path / "a.json"
    path.write_text('{"images": ["' + "x" * 100_000)
    with pytest.raises(DataError, match="an entry of more than 1000 characters"):
        list(json_stream.JsonArrays(path, "a.json").entries())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c["categories"].append({"id": 3, "name": "cow"}), "category id 3 comes twice (cat, cow)"),
        (lambda c: c["categories"].append({"id": 4, "name": "cat"}), "class cat comes twice"),
        (lambda c: c["categories"].append({"name": "cow"}), "category 2 has no id or name"),
        (lambda c: c.update(annotations=[]), "the training images have no object"),
        (lambda c: c.update(images=[]), "names no image"),
    ],
)
def test_contradictions_of_a_file_are_named(change: Callable[[Json], object], reason: str, tmp_path: Path) -> None:
    def both(content: Json) -> None:
        change(content)

    root = coco_tree(tmp_path / "coco", change=both)
    validation = root / "annotations/instances_val2017.json"
    content, train = json.loads(validation.read_text()), (root / "annotations/instances_train2017.json").read_text()
    validation.write_text(json.dumps({**content, "categories": json.loads(train)["categories"]}))
    message = refusal("coco", root, tmp_path / "to")
    assert reason in message
    assert "\n" not in message


def test_the_command_leaves_faulty_annotations_out(tmp_path: Path) -> None:
    entries = [annotation(1, 1), annotation(2, 2, bbox=[0, 0, 99, 9]), annotation(3, 3, segmentation=SQUARE)]
    root = coco_tree(tmp_path / "coco", entries)
    command = ["data", "prepare", "coco", "--from", str(root), "--to", str(tmp_path / "to")]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, DataError)
    assert "--max-bad-annotations 1:" in str(refused.exception)
    result = CliRunner().invoke(app, [*command, "--max-bad-annotations", "1"], catch_exceptions=False)
    assert "5 train, 2 test, annotations: boxes (2 classes), masks, " in result.output
    assert "1 faulty annotations left out" in result.output


def test_maps_that_are_no_maps_are_left_out(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "coco")
    plain = np.zeros((HEIGHT, WIDTH))
    for file in [*root.glob("train2017/*.jpg"), *root.glob("val2017/*.jpg")]:
        class_map(root / "stuffthingmaps" / file.parent.name / f"{file.stem}.png", plain)
    maps = root / "stuffthingmaps/train2017"
    class_map(maps / "0001.png", np.zeros((HEIGHT, WIDTH + 2)))
    Image.new("RGB", (WIDTH, HEIGHT)).save(maps / "0002.png")
    (maps / "0003.png").write_bytes(b"words")
    class_map(maps / "0004.png", np.full((HEIGHT, WIDTH), 200))
    message = refusal("coco-stuffthings", root, tmp_path / "to")
    assert "4 images cannot be read" in message
    assert "0001.jpg: has 40 x 30 px, its map of classes 42 x 30 px" in message
    assert "0002.png is no map of classes: it has the mode RGB" in message
    assert "0003.png cannot be read as a map of classes" in message
    assert "0004.png has the value 200, which no class has" in message
    (maps / "0003.png").unlink()
    message = refusal("coco-stuff", root, tmp_path / "stuff")
    assert "0 annotations and 1 images have faults" in message
    assert "train2017/0003.jpg: has no map of classes: stuffthingmaps/train2017/0003.png is missing" in message


def test_every_cut_and_flip_of_annotations_is_an_error_or_a_dataset(pictures: Path, tmp_path: Path) -> None:
    file = pictures / "annotations/instances_train2017.json"
    content = file.read_bytes()
    generator = np.random.default_rng(0)
    outcomes = {"error": 0, "faults": 0, "whole": 0}
    try:
        for place in generator.integers(0, len(content), 200):
            damaged = bytearray(content[:place] if place % 4 == 0 else content)
            if place % 4:
                damaged[place] ^= 1 << int(generator.integers(8))
            file.write_bytes(damaged)
            try:
                with open_source("coco", pictures) as source:
                    samples = list(source.read("train", 0, source.splits["train"]))
                    outcomes["faults" if source.faulty_images or source.faulty_annotations else "whole"] += 1
            except DataError as error:
                assert str(error).isprintable()
                outcomes["error"] += 1
            else:
                assert all(sample.fault or sample.target for sample in samples)
    finally:
        file.write_bytes(content)
    assert min(outcomes.values()) > 0

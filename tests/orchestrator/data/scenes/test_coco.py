"""COCO's instances and own images in its format: boxes, masks, groups, labels and splits as in the files."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as reference

from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.scenes import open_scenes
from orchestrator.data.scenes.manifest import read_scene_manifest
from orchestrator.data.storage import open_folder
from orchestrator.errors import DataError
from tests.orchestrator.data.scenes.tiny_scenes import (
    HEIGHT,
    SQUARE,
    WIDTH,
    annotation,
    class_map,
    coco_tree,
    instances,
    picture,
    refusal,
    write,
)

TRIANGLE = [[20.3, 1.2, 39.9, 1.2, 30.1, 20.7]]
CROWD = {"size": [HEIGHT, WIDTH], "counts": [30, 15, HEIGHT * WIDTH - 45]}  # half of the second column


def test_the_targets_are_those_of_the_file(tmp_path: Path) -> None:
    both = [*SQUARE, *TRIANGLE]
    compressed = reference.frPyObjects(TRIANGLE, HEIGHT, WIDTH)[0]
    entries = [
        annotation(1, 1, 7, segmentation=both, bbox=[4, 1.25, 35.5, 19], area=321.5),
        annotation(2, 1, 3, segmentation=CROWD, bbox=[1, 0, 1, 15], iscrowd=1, area=...),
        annotation(3, 4, 3, segmentation={"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()}),
    ]
    manifest = prepare("coco", coco_tree(tmp_path / "coco", entries), str(tmp_path / "to"))
    data = open_scenes(tmp_path / "to")
    assert (data.class_names, data.annotations, data.map_class_names) == (("cat", "dog"), ("boxes", "masks"), ())
    assert list(data.splits) == ["train", "test"]
    train = data.splits["train"]
    image, target = train[0]
    assert (image.shape, str(image.dtype)) == ((3, HEIGHT, WIDTH), "torch.uint8")
    assert set(target) == {"image_id", "boxes", "labels", "iscrowd", "area", "masks"}
    assert target["boxes"].tolist() == [[4, 1.25, 39.5, 20.25], [1, 0, 2, 15]]
    assert target["labels"].tolist() == [2, 1]
    assert target["iscrowd"].tolist() == [0, 1]
    assert target["area"].tolist() == [321.5, 15]
    drawn = reference.decode(reference.merge(reference.frPyObjects(both, HEIGHT, WIDTH)))
    np.testing.assert_array_equal(target["masks"][0].numpy(), drawn)
    assert target["masks"][1].numpy()[:15, 1].all()
    assert target["masks"][1].sum() == 15
    np.testing.assert_array_equal(train[3][1]["masks"][0].numpy(), reference.decode(compressed))
    assert train.objects.tolist() == [2, 0, 0, 1, 0]
    empty = train[1][1]
    assert {key: tuple(empty[key].shape) for key in ("boxes", "labels", "masks")} == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, HEIGHT, WIDTH),
    }
    assert [train.file_name(place) for place in (0, 4)] == ["train2017/0001.jpg", "train2017/0005.jpg"]
    assert train.image_file(0) == (tmp_path / "coco/train2017/0001.jpg").read_bytes()
    assert data.splits["test"].image_ids.tolist() == [11, 12]
    assert read_scene_manifest(open_folder(tmp_path / "to")) == manifest
    assert (manifest.splits["train"].objects, manifest.splits["test"].objects) == ((2, 1), (1, 1))


def test_boxes_and_maps_follow_transforms_of_torchvision(tmp_path: Path) -> None:
    from torchvision.transforms import v2

    prepare("coco", coco_tree(tmp_path / "coco"), str(tmp_path / "to"))
    image, target = open_scenes(tmp_path / "to").splits["train"][0]
    flipped, mirrored = v2.RandomHorizontalFlip(p=1)(image, target)
    assert mirrored["boxes"].tolist() == [[WIDTH - 14, 5, WIDTH - 4, 15]]
    assert (mirrored["masks"].flip(-1) == target["masks"]).all()
    assert (flipped.flip(-1) == image).all()
    assert mirrored["labels"].tolist() == [1]


def test_rounding_is_corrected_and_counted(tmp_path: Path) -> None:
    notices: list[str] = []
    entries = [
        annotation(1, 1, bbox=[30.5, -0.75, 10.25, 20]),
        annotation(2, 2, segmentation=[*SQUARE, [1, 1, 2, 2]]),
        annotation(3, 3),
    ]
    prepare("coco", coco_tree(tmp_path / "coco", entries), str(tmp_path / "to"), notice=notices.append)
    train = open_scenes(tmp_path / "to").splits["train"]
    assert train[0][1]["boxes"].tolist() == [[30.5, 0, 40, 19.25]]
    assert train[1][1]["masks"].sum() == 100
    told = "\n".join(notices)
    assert "boxes that reached up to a pixel out of their image and were clipped: 1" in told
    assert "polygons of fewer than three points were left out: 1" in told
    assert "train has 2 images without objects; they are kept" in told
    assert "train has no object of dog" in told


def test_boxes_alone_need_no_masks(tmp_path: Path) -> None:
    entries = [annotation(number, number, segmentation=[], area=...) for number in range(1, 6)]
    prepare("coco", coco_tree(tmp_path / "coco", entries), str(tmp_path / "to"))
    data = open_scenes(tmp_path / "to")
    assert data.annotations == ("boxes",)
    assert "masks" not in data.splits["train"][0][1]
    assert data.splits["train"][0][1]["area"].tolist() == [100]


def test_things_and_stuff_together_and_stuff_alone(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "coco")
    values = np.full((HEIGHT, WIDTH), 16)  # cat
    values[:10], values[20:] = 156, 255  # sky-other, none
    for file in [*root.glob("train2017/*.jpg"), *root.glob("val2017/*.jpg")]:
        class_map(root / "stuffthingmaps" / file.parent.name / f"{file.stem}.png", values)
    prepare("coco-stuffthings", root, str(tmp_path / "both"))
    both = open_scenes(tmp_path / "both")
    assert both.annotations == ("boxes", "masks", "class_map")
    assert (len(both.map_class_names), both.map_class_names[16], both.map_class_names[156]) == (182, "cat", "sky-other")
    np.testing.assert_array_equal(both.splits["train"][0][1]["class_map"].numpy(), values)
    manifest = prepare("coco-stuff", root, str(tmp_path / "stuff"))
    stuff = open_scenes(tmp_path / "stuff")
    assert (stuff.annotations, stuff.class_names, len(stuff.map_class_names)) == (("class_map",), (), 171)
    target = stuff.splits["train"][0][1]
    assert set(target) == {"image_id", "class_map"}
    names = [stuff.map_class_names[value] for value in np.unique(target["class_map"].numpy())[:-1]]
    assert names == ["cat", "sky-other"]
    assert sum(manifest.splits["train"].pixels) == 5 * 20 * WIDTH  # a third is ignored
    class_map(root / "stuffthingmaps/train2017/0001.png", np.full((HEIGHT, WIDTH), 11))
    assert "0001.png has the value 11, which no class has" in refusal("coco-stuff", root, tmp_path / "bad")


@pytest.mark.parametrize("layout", ["one", "files", "folders"])
def test_own_images_in_several_layouts(layout: str, tmp_path: Path) -> None:
    root = tmp_path / "own"
    if layout == "one":
        write(root / "instances_default.json", instances(10, [annotation(number, number) for number in range(1, 11)]))
        for number in range(1, 11):
            picture(root / f"images/{number:04d}.jpg", number)
        expected = {"train": 8, "test": 2}
    else:
        expected = {"train": 3, "validation": 2, "test": 1}
        first = 1
        for name, count in zip(("train", "valid", "test"), expected.values(), strict=True):
            content = instances(count, [annotation(first, first)], first=first)
            json_file = f"{name}/_annotations.coco.json" if layout == "folders" else f"annotations/{name}.json"
            write(root / json_file, content)
            for number in range(first, first + count):
                picture(root / (name if layout == "folders" else "images") / f"{number:04d}.jpg", number)
            first += count
    manifest = prepare("coco-json", root, str(tmp_path / "to"))
    assert {name: split.images for name, split in manifest.splits.items()} == expected
    data = open_scenes(tmp_path / "to")
    ids = [data.splits[split].image_ids.tolist() for split in expected]
    assert sorted(number for each in ids for number in each) == list(range(1, sum(expected.values()) + 1))
    assert prepare("coco-json", root, str(tmp_path / "again")).content_hash == manifest.content_hash


def test_own_images_in_an_archive(tmp_path: Path) -> None:
    root = tmp_path / "own"
    write(root / "annotations.json", instances(5, [annotation(number, number) for number in range(1, 6)]))
    for number in range(1, 6):
        picture(root / f"{number:04d}.jpg", number)
    with tarfile.open(tmp_path / "own.tar", "w") as tar:
        tar.add(root, "own")
    packed = prepare("coco-json", tmp_path / "own.tar", str(tmp_path / "packed"))
    assert packed.content_hash == prepare("coco-json", root, str(tmp_path / "plain")).content_hash


def test_masks_need_the_extra_and_boxes_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core", None)
    with pytest.raises(DataError, match=r"Install it: pip install 'spatialsweep\[detection\]'"):
        prepare("coco", coco_tree(tmp_path / "masks"), str(tmp_path / "to"))
    root = coco_tree(tmp_path / "boxes", [annotation(1, 1, segmentation=...)])
    assert prepare("coco", root, str(tmp_path / "boxes-to")).splits["train"].images == 5


def test_an_image_in_two_splits_is_rejected(tmp_path: Path) -> None:
    root = tmp_path / "own"
    for name in ("train", "val"):
        write(root / f"annotations/{name}.json", instances(2, [annotation(1, 1)]))
    for number in (1, 2):
        picture(root / f"images/{number:04d}.jpg", number)
    message = refusal("coco-json", root, tmp_path / "to")
    assert "names image files twice: images/0001.jpg (train and test), images/0002.jpg (train and test)" in message


def test_categories_must_agree(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "coco", change=lambda content: content["categories"].append({"id": 9, "name": "cow"}))
    message = refusal("coco", root, tmp_path / "to")
    assert "instances_val2017.json: has other categories than those of train (9 cow)" in message


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.json", "b.json"], "whose name has no train, val or test"),
        (["train.json", "my_train.json"], "two files for 'train'"),
        (["val.json", "test.json"], "holds no annotations of training images"),
    ],
)
def test_ambiguous_files_are_named(names: list[str], reason: str, tmp_path: Path) -> None:
    for name in names:
        write(tmp_path / "own" / name, instances(1, []))
    assert reason in refusal("coco-json", tmp_path / "own", tmp_path / "to")


def test_a_hash_covers_every_annotation(tmp_path: Path) -> None:
    def hash_of(name: str, **changes: Any) -> str:
        entries = [annotation(1, 1, **changes), annotation(2, 2)]
        return prepare("coco", coco_tree(tmp_path / name, entries), str(tmp_path / f"{name}-to")).content_hash

    plain = hash_of("a")
    assert hash_of("b") == plain
    changed = [
        hash_of("c", bbox=[4, 5, 10, 9]),
        hash_of("d", category=7),
        hash_of("e", iscrowd=1),
        hash_of("f", area=99),
        hash_of("g", segmentation=TRIANGLE),
    ]
    assert len({plain, *changed}) == 6


def test_json_entries_may_be_split_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.data.sources.scenes import json_stream

    content = {"a": [1, 23, {"b": "ü\\"}], "skipped": {"c": [1]}, "d": [], "e": [-1.5e3, "x", None]}
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8-sig")
    expected = [("a", 0, 1), ("a", 1, 23), ("a", 2, {"b": "ü\\"}), ("e", 0, -1500.0), ("e", 1, "x"), ("e", 2, None)]
    for size in (1, 2, 3, 7, 1000):
        monkeypatch.setattr(json_stream, "_CHUNK_BYTES", size)
        assert list(json_stream.JsonArrays(path, "file.json").entries()) == expected

"""ADE20K and Pascal VOC as distributed: classes, ignored pixels, boxes, masks and the authors' lists."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.manifest import combined_hash
from orchestrator.data.scenes import open_scenes
from orchestrator.data.sources.scenes.scene_source import listing_fingerprint
from orchestrator.data.sources.scenes.voc import VOC_CLASSES
from orchestrator.errors import DataError
from tests.orchestrator.data.scenes.tiny_scenes import (
    HEIGHT,
    WIDTH,
    ade_tree,
    class_map,
    picture,
    refusal,
    voc_object,
    voc_tree,
)

AT = "Annotations/a.xml: image 1, annotation 1"


def test_ade20k_has_150_classes_and_ignores_zero(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [150, 149, 0]])
    root = ade_tree(tmp_path / "ade", {"training/b": values, "training/a": values + 0, "validation/c": values[:, :2]})
    manifest = prepare("ade20k", root, str(tmp_path / "to"))
    data = open_scenes(tmp_path / "to")
    assert (data.annotations, data.class_names, len(data.map_class_names)) == (("class_map",), (), 150)
    assert (data.map_class_names[0], data.map_class_names[149]) == ("class 1, thing", "class 150, thing")
    image, target = data.splits["train"][0]
    assert target["class_map"].tolist() == [[255, 0, 1], [149, 148, 255]]
    assert (target["image_id"], tuple(image.shape)) == (1, (3, 2, 3))
    assert [data.splits["train"].file_name(place) for place in (0, 1)] == [
        "images/training/a.jpg",
        "images/training/b.jpg",
    ]
    assert sum(manifest.splits["train"].pixels) == 8
    assert [manifest.splits["test"].pixels[label] for label in (0, 148, 149)] == [1, 1, 1]


def test_ade20k_names_faulty_maps(tmp_path: Path) -> None:
    values = np.ones((HEIGHT, WIDTH))
    root = ade_tree(tmp_path / "ade", {f"training/{name}": values for name in "abc"} | {"validation/d": values})
    class_map(root / "annotations/training/a.png", values * 151)
    class_map(root / "annotations/training/b.png", np.ones((HEIGHT, WIDTH - 1)))
    message = refusal("ade20k", root, tmp_path / "to")
    assert "images/training/a.jpg: its map annotations/training/a.png has the value 151, which no class has" in message
    assert "images/training/b.jpg: has 40 x 30 px, its annotations are for 39 x 30 px" in message
    (root / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n")
    assert "does not list the 150 classes in order" in refusal("ade20k", root, tmp_path / "to")


def test_voc_boxes_count_from_one_and_difficult_ones_are_ignored(tmp_path: Path) -> None:
    objects = {
        "a": voc_object("cat", [1, 1, 40, 30]) + voc_object("dog", [11, 6, 20, 15], difficult=1),
        "b": voc_object("person", [2.5, 3, 4, 5]),
        "c": "",
        "d": voc_object("car", [5, 5, 9, 9]),
    }
    root = voc_tree(tmp_path / "VOCdevkit/VOC2012", objects, {"train": ["a", "b"], "val": ["c", "d"], "test": ["x"]})
    prepare("voc", root.parents[1], str(tmp_path / "to"))
    data = open_scenes(tmp_path / "to")
    assert (data.annotations, len(data.class_names)) == (("boxes",), 20)
    target = data.splits["train"][0][1]
    assert target["boxes"].tolist() == [[0, 0, 40, 30], [10, 5, 20, 15]]
    assert [data.class_names[label - 1] for label in target["labels"]] == ["cat", "dog"]
    assert target["iscrowd"].tolist() == [0, 1]
    assert target["area"].tolist() == [1200, 100]
    assert {name: split.objects.tolist() for name, split in data.splits.items()} == {"train": [2, 1], "test": [0, 1]}


def test_voc_keeps_all_three_lists_where_the_test_images_are_annotated(tmp_path: Path) -> None:
    objects = {name: voc_object("cat", [2, 2, 9, 9]) for name in "abc"}
    root = voc_tree(tmp_path / "VOC2007", objects, {"train": ["a"], "val": ["b"], "test": ["c"]})
    prepare("voc", root, str(tmp_path / "to"))
    assert list(open_scenes(tmp_path / "to").splits) == ["train", "validation", "test"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (voc_object("unicorn", [1, 1, 5, 5]), f"unknown category: 1\n    {AT}: name 'unicorn'"),
        (voc_object("cat", [1, 1, 60, 5]), f"box outside the image: 1\n    {AT}: bbox [0, 0, 60, 5]"),
        (voc_object("cat", [9, 1, 5, 5]), "empty box: 1"),
        (voc_object("cat", ["x", 1, 5, 5]), "no box: 1"),
        (voc_object("cat", ["nan", 1, 5, 5]), "not finite: 1"),
        ("<object><name>cat</name></object>", "no box: 1"),
        ("<size>", "its Annotations/a.xml cannot be used: mismatched tag"),
    ],
)
def test_voc_names_faulty_objects(content: str, reason: str, tmp_path: Path) -> None:
    root = voc_tree(
        tmp_path / "VOC", {"a": content, "b": voc_object("cat", [1, 1, 5, 5])}, {"train": ["a"], "val": ["b"]}
    )
    assert reason in refusal("voc", root, tmp_path / "to")


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "it declares a document type or entities"),
        ("<annotation>" + " " * (1 << 20) + "</annotation>", "it has more than 1048576 bytes"),
        (
            "<annotation><size><width>10000000</width><height>5</height></size></annotation>",
            "has the size 10000000 x",
        ),
        ("<annotation></annotation>", "has the size '' x ''"),
        ("<annotation>\udcff</annotation>", "'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_voc_rejects_hostile_xml(xml: str, reason: str, tmp_path: Path) -> None:
    root = voc_tree(tmp_path / "VOC", {"a": "", "b": voc_object("cat", [1, 1, 5, 5])}, {"train": ["a"], "val": ["b"]})
    (root / "Annotations/a.xml").write_bytes(xml.encode("utf-8", "surrogateescape"))
    assert f"its Annotations/a.xml cannot be used: {reason}" in refusal("voc", root, tmp_path / "to")


def test_voc_lists_stay_within_the_dataset(tmp_path: Path) -> None:
    objects = {"a": voc_object("cat", [1, 1, 5, 5])}
    for names, reason in (
        (["../../secret"], "cannot be read as a list of images"),
        (["a"], "a is listed in train and test"),
    ):
        root = voc_tree(tmp_path / names[0].strip("./"), objects, {"train": ["a"], "val": names})
        assert reason in refusal("voc", root, tmp_path / "to")
    voc_tree(tmp_path / "kit/VOC2007", objects, {})
    voc_tree(tmp_path / "kit/VOC2012", objects, {"train": ["a"]})
    (tmp_path / "kit/VOC2007/ImageSets").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=r"holds several years \(VOC2007, VOC2012\); name one with --from"):
        prepare("voc", tmp_path / "kit", str(tmp_path / "to"))


def masked_voc(root: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """Write a training and a test image with a map of classes and one of objects; return root and maps."""
    voc_tree(root, {}, {"train": ["a"], "val": ["b"]})
    classes, objects = np.zeros((HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH))
    classes[5:15, 4:14], objects[5:15, 4:14] = 8, 1
    classes[5:15, 14:24], objects[5:15, 14:24] = 8, 2
    classes[20:, 30:], objects[20:, 30:] = 15, 3
    classes[4], objects[4] = 255, 255
    for seed, name in enumerate("ab"):
        picture(root / f"JPEGImages/{name}.jpg", seed)
        class_map(root / f"SegmentationClass/{name}.png", classes)
        class_map(root / f"SegmentationObject/{name}.png", objects)
    return root, classes, objects


def test_voc_maps_and_masks(tmp_path: Path) -> None:
    root, classes, objects = masked_voc(tmp_path / "VOC2012")
    prepare("voc-segmentation", root, str(tmp_path / "maps"))
    maps = open_scenes(tmp_path / "maps")
    np.testing.assert_array_equal(maps.splits["train"][0][1]["class_map"].numpy(), classes)
    assert (len(maps.map_class_names), maps.map_class_names[8], maps.map_class_names[15]) == (21, "cat", "person")
    prepare("voc-instances", root, str(tmp_path / "masks"))
    target = open_scenes(tmp_path / "masks").splits["train"][0][1]
    assert target["boxes"].tolist() == [[4, 5, 14, 15], [14, 5, 24, 15], [30, 20, 40, 30]]
    assert target["labels"].tolist() == [8, 8, 15]
    for number, mask in enumerate(target["masks"].numpy(), start=1):
        np.testing.assert_array_equal(mask, objects == number)
    class_map(root / "SegmentationClass/a.png", np.zeros((HEIGHT, WIDTH)))
    assert "its object 1 has no class in the map of classes" in refusal("voc-instances", root, tmp_path / "bad")


@pytest.mark.parametrize("name", ["JPEGImages/a.jpg", "SegmentationObject/a.png"])
def test_voc_masks_are_converted_again_when_an_image_or_a_map_of_objects_is_mended(name: str, tmp_path: Path) -> None:
    root, _, _ = masked_voc(tmp_path / "VOC2012")
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[:60])
    message = refusal("voc-instances", root, tmp_path / "to")
    assert "JPEGImages/a.jpg: " in message
    (root / name).write_bytes(content)
    assert prepare("voc-instances", root, str(tmp_path / "to")).bad_images == ()
    (root / name).write_bytes(content + b"changed")
    with pytest.raises(DataError, match="holds voc-instances, made from other files"):
        prepare("voc-instances", root, str(tmp_path / "to"))


def test_voc_masks_that_an_earlier_version_prepared_are_recognised(tmp_path: Path) -> None:
    root, _, _ = masked_voc(tmp_path / "VOC2012")
    manifest = prepare("voc-instances", root, str(tmp_path / "to"))
    path = tmp_path / "to/manifest.json"
    maps = {"train": ["SegmentationClass/a.png"], "test": ["SegmentationClass/b.png"]}
    fingerprint = listing_fingerprint(root, maps, "instances")
    earlier = {"plan": combined_hash([fingerprint, "1024", "None", *VOC_CLASSES]), "fingerprint": fingerprint}
    path.write_text(json.dumps({**json.loads(path.read_text()), "source": {**manifest.source, **earlier}}))
    found = prepare("voc-instances", root, str(tmp_path / "to"))
    assert (found.content_hash, found.source["plan"]) == (manifest.content_hash, earlier["plan"])

"""Shards of annotated images: read in shares, from a bucket, resumed, and rejected where they are damaged."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import fs
from typer.testing import CliRunner

from orchestrator import ConfigError, load_sweep
from orchestrator.cli.main import app
from orchestrator.data.conversion.prepare import prepare, run_here
from orchestrator.data.conversion.scene_sheet import draw_annotations
from orchestrator.data.manifest import read_manifest
from orchestrator.data.scenes import SceneTarget, open_scenes, scene_batches
from orchestrator.data.scenes.masks import MaskError, decode_masks, encode_mask
from orchestrator.data.scenes.tensors import image_tensor
from orchestrator.data.storage import open_folder
from orchestrator.errors import DataError
from tests.orchestrator.data.scenes.tiny_scenes import annotation, coco_tree, picture

Content = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare COCO 2017 with five training images in shards of two, which no test changes."""
    folder = tmp_path_factory.mktemp("whole")
    entries = [annotation(1, 1), annotation(2, 1, 7, bbox=[0, 0, 9, 9]), annotation(3, 4)]
    prepare("coco", coco_tree(folder / "coco", entries), str(folder / "to"), images_per_shard=2)
    return folder / "to"


@pytest.fixture
def scenes(whole: Path, tmp_path: Path) -> Path:
    """Copy the dataset, for a test to damage."""
    (tmp_path / "scenes").mkdir()
    for path in whole.iterdir():
        (tmp_path / "scenes" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "scenes"


def error_of(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        for split in open_scenes(folder).splits.values():
            list(split)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_read_every_image_once_and_agree_on_batches(world_size: int, whole: Path) -> None:
    train = pickle.loads(pickle.dumps(open_scenes(whole).splits["train"]))

    def ids(seed: int | None, epoch: int = 1) -> list[list[int]]:
        shares = [
            [
                [target["image_id"] for _, target in batch]
                for batch in scene_batches(train, 2, rank=rank, world_size=world_size, seed=seed, epoch=epoch)
            ]
            for rank in range(world_size)
        ]
        return [[number for share in step for number in share] for step in zip(*shares, strict=True)]

    assert ids(None) == [[1, 2], [3, 4], [5]]
    single = [[target["image_id"] for _, target in batch] for batch in scene_batches(train, 2, seed=7)]
    assert ids(7) == single
    assert sorted(number for batch in single for number in batch) == [1, 2, 3, 4, 5]
    assert ids(7, epoch=2) != single
    some = [target["image_id"] for batch in scene_batches(train, 2, positions=np.array([3, 0])) for _, target in batch]
    assert some == [4, 1]


def test_a_conversion_resumes_with_the_shards_that_are_finished(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "coco")
    (root / "train2017/0003.jpg").write_bytes(b"words")
    with pytest.raises(DataError, match="1 images cannot be read"):
        prepare("coco", root, str(tmp_path / "to"), images_per_shard=2)
    converted: list[str] = []

    def run(source: Any, tasks: Any) -> Iterator[Any]:
        for record in run_here(source, tasks):
            converted.append(record.shard.file)
            yield record

    picture(root / "train2017/0003.jpg", 9)  # another size, so another source
    manifest = prepare("coco", root, str(tmp_path / "to"), images_per_shard=2, run=run)
    assert len(converted) == 4
    assert manifest.content_hash == prepare("coco", root, str(tmp_path / "whole"), images_per_shard=2).content_hash
    assert prepare("coco", root, str(tmp_path / "to"), images_per_shard=2, run=run) == manifest
    assert len(converted) == 4


def edit(folder: Path, change: Callable[[Content], object]) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    (folder / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(schema_version=3), "has format 3, this version reads 1"),
        (lambda c: c.update(kind="encoded"), "has format 2, this version reads 1"),
        (lambda c: c.update(annotations=["masks"]), "annotations masks are no possible combination"),
        (lambda c: c.update(annotations=[]), "is no manifest of SpatialSweep's ('annotations'"),
        (lambda c: c.update(annotations=["words"]), "is no manifest of SpatialSweep's ('annotations.0'"),
        (lambda c: c.update(more=1), "is no manifest of SpatialSweep's ('more'"),
        (lambda c: c["splits"].pop("test"), "split 'test' is missing"),
        (lambda c: c["splits"]["train"].update(images=6), "split 'train' announces 6 images, its shards 5"),
        (lambda c: c["splits"]["train"].update(objects=[2]), "counts objects of 1 classes, 2 have names"),
        (lambda c: c["splits"]["train"].update(objects=[9, 9]), "has 5 images with 3 objects, not 5 with 18"),
        (lambda c: c["splits"]["train"].update(objects=[0, 0]), "split 'train' has no object"),
        (lambda c: c["splits"]["train"]["shards"][0].update(file="../x-00000.arrow"), "is no manifest"),
        (lambda c: c["class_names"].append("cat"), "class cat comes twice"),
        (lambda c: c.update(map_class_names=["sky"]), "1 classes of class_map and the annotations"),
        (lambda c: c.update(content_hash="0" * 16), "its hash 0000000000000000 is not that of its shards"),
    ],
)
def test_a_contradictory_manifest_is_reported(change: Callable[[Content], object], reason: str, scenes: Path) -> None:
    edit(scenes, change)
    assert reason in error_of(scenes)


def rewrite(folder: Path, change: Callable[[dict[str, list[Any]]], object]) -> None:
    """Change the columns of the first training shard, with the size that the manifest announces."""
    path = folder / "train-00000.arrow"
    table = pa.ipc.open_file(path).read_all()
    columns = table.to_pydict()
    change(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(pa.table(columns, schema=table.schema))
    edit(folder, lambda content: content["splits"]["train"]["shards"][0].update(bytes=path.stat().st_size))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c["labels"].__setitem__(0, [1, 3]), "labels 1..3; there are 2 classes from 1"),
        (lambda c: c["labels"].__setitem__(0, [0, 1]), "labels 0..1"),
        (lambda c: c["labels"].__setitem__(0, [1]), "rows whose boxes, labels and masks differ in number"),
        (lambda c: c["labels"].__setitem__(0, [1, None]), "boxes, labels or masks that are missing (null)"),
        (lambda c: c["boxes"][0].__setitem__(0, [0, 0, 41, 9]), "a box that is empty or leaves its image"),
        (lambda c: c["boxes"][0].__setitem__(0, [5, 0, 5, 9]), "a box that is empty or leaves its image"),
        (lambda c: c["boxes"][0].__setitem__(0, [0, 0, float("nan"), 9]), "a box that is empty or leaves its image"),
        (lambda c: c["width"].__setitem__(1, 0), "an image without pixels"),
        (lambda c: c["width"].__setitem__(1, 41), "image 2 has 40 x 30 px, not 41 x 30 px"),
        (lambda c: c["masks"][0].__setitem__(0, b"P2P2"), "image 1 its run lengths are no mask of 30 x 40 px"),
        (lambda c: c["image"].__setitem__(1, b"words"), "image 2 is no image file"),
        (lambda c: c["image"].__setitem__(1, None), "images or labels that are missing (null)"),
        (lambda c: [c[name].pop() for name in c], "has 4 images with 3 objects, not 5 with 3"),
    ],
)
def test_a_damaged_shard_is_reported(change: Callable[[Any], object], reason: str, scenes: Path) -> None:
    rewrite(scenes, change)
    assert reason in error_of(scenes)


def test_every_flip_of_a_shard_is_an_error_or_an_image(scenes: Path) -> None:
    path = scenes / "train-00000.arrow"
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    errors = 0
    for place in generator.integers(0, len(content), 40):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            assert all(image.shape[0] == 3 for image, _ in open_scenes(scenes).splits["train"])
        except DataError as error:
            assert str(error).isprintable()
            errors += 1
    assert errors > 0


def test_a_shard_of_other_columns_is_reported(scenes: Path) -> None:
    path = scenes / "train-00000.arrow"
    with pa.OSFile(str(path), "wb") as sink:
        table = pa.table({"image": pa.array([b"x"], pa.binary()), "label": pa.array([1], pa.int32())})
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    edit(scenes, lambda content: content["splits"]["train"]["shards"][0].update(bytes=path.stat().st_size))
    assert "has columns image: binary, label: int32; it is no shard of annotated images" in error_of(scenes)
    (scenes / "train-00001.arrow").unlink()
    assert "train-00001.arrow is missing" in error_of(scenes)


def test_an_image_is_copied_also_where_its_layout_stays() -> None:
    """Pixels of Pillow are not writable, and an image of one pixel has the same layout either way."""
    pixels = np.asarray(Image.new("RGB", (1, 1), (7, 8, 9)))
    tensor = image_tensor(pixels)
    tensor += 1
    assert tensor.flatten().tolist() == [8, 9, 10]
    assert pixels.tolist() == [[[7, 8, 9]]]


def test_run_lengths_of_many_large_masks_are_not_decoded() -> None:
    with pytest.raises(MaskError, match="1000 masks of 9000 x 9000 px take more than 4 GiB"):
        decode_masks([b"0"] * 1000, 9000, 9000)


@pytest.mark.parametrize("height", [1, 7, 30])
def test_masks_survive_their_run_lengths(height: int) -> None:
    generator = np.random.default_rng(height)
    noise = generator.integers(0, 2, (5, height, 9)).astype(np.uint8)
    parts = np.zeros((4, height, 9), np.uint8)
    parts[1, -1, 8], parts[2, :, 4], parts[3, 0] = 1, 1, 1  # and an empty mask
    masks = np.concatenate([noise, parts, np.ones((1, height, 9), np.uint8)])
    np.testing.assert_array_equal(decode_masks([encode_mask(mask) for mask in masks], height, 9), masks)


def test_a_sweep_on_annotated_images_is_one_clear_error(whole: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_sweep({"name": "t", "dataset": {"uri": str(whole)}, "model": {"name": "conv_resnet26_small"}})
    (problem,) = caught.value.problems
    assert problem.where == "dataset.uri"
    assert "holds images annotated with boxes, masks or maps of classes, and classification needs" in problem.message
    with pytest.raises(DataError, match=r"open_scenes$"):
        read_manifest(open_folder(whole))
    with pytest.raises(ConfigError) as caught:
        load_sweep({"name": "t", "dataset": {"name": "digits-scenes"}, "model": {"name": "conv_resnet26_small"}})
    (problem,) = caught.value.problems
    assert (problem.where, problem.message[:35]) == ("dataset.name", "got digits-scenes; its images have ")


def test_labelled_images_are_not_annotated_ones(tmp_path: Path) -> None:
    prepare("digits", None, str(tmp_path / "digits"))
    with pytest.raises(DataError, match=r"holds images with one label each \(digits\), not annotated images"):
        open_scenes(tmp_path / "digits")


def test_inspect_writes_a_sheet(whole: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = CliRunner().invoke(app, ["data", "inspect", str(whole), "--sheet", str(sheet)], catch_exceptions=False)
    assert "5 train, 2 test, annotations: boxes (2 classes), masks, " in " ".join(result.output.split())
    assert "objects of class" in result.output
    assert Image.open(sheet).width == 6 * 244 + 4
    command = ["data", "inspect", str(whole), "--sheet", str(sheet), "--json"]
    assert json.loads(CliRunner().invoke(app, command).output)["kind"] == "scenes"


def test_boxes_and_masks_are_drawn_where_they_are() -> None:
    mask = np.zeros((1, 240, 240), np.uint8)
    mask[:, 100:150, 60:120] = 1
    target = SceneTarget(
        image_id=1,
        width=240,
        height=240,
        boxes=np.array([[60, 100, 120, 150], [200, 10, 230, 40]], np.float32),
        labels=np.array([1, 1], np.int32),
        iscrowd=np.array([0, 1], np.uint8),
        area=np.zeros(2, np.float32),
    )
    grey = np.full((240, 240, 3), 100, np.uint8)
    drawn = draw_annotations(grey, target, mask, ("cat",))
    outline, inside = drawn[130, 60].tolist(), drawn[140, 100].tolist()
    assert outline == drawn[149, 90].tolist() == drawn[130, 119].tolist()
    assert drawn[40, 10].tolist() == [100, 100, 100]
    assert drawn[39, 215].tolist() == [255, 255, 255]  # a group
    assert inside == [round(0.55 * 100 + 0.45 * colour) for colour in outline]


moto_server = pytest.importorskip("moto.server", reason="needs moto, of the development tools")


def test_a_bucket_is_copied_to_the_cache_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{key}", value)
    monkeypatch.setenv("SPATIALSWEEP_CACHE", str(tmp_path / "cache"))
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        store = fs.S3FileSystem(
            endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True, region="us-east-1"
        )
        store.create_dir("scenes")
        root = coco_tree(tmp_path / "coco")
        manifest = prepare("coco", root, f"s3://scenes/a?{options}", images_per_shard=2)
        assert manifest.splits == prepare("coco", root, str(tmp_path / "here"), images_per_shard=2).splits
        train = open_scenes(f"s3://scenes/a?{options}").splits["train"]
        assert [target["image_id"] for _, target in train] == [1, 2, 3, 4, 5]
        assert {path.parent.name for path in train.paths} == {manifest.content_hash}
        prepare("coco", root, f"s3://scenes/b?{options}", images_per_shard=2)
        copy = tmp_path / "cache" / manifest.content_hash / "train-00000.arrow"
        copy.unlink()
        folder = open_folder(f"s3://scenes/b?{options}")
        with folder.filesystem.open_input_file(f"{folder.path}/train-00000.arrow") as file:
            shard = bytearray(file.read())
        shard[len(shard) // 2] ^= 1
        with folder.filesystem.open_output_stream(f"{folder.path}/train-00000.arrow") as stream:
            stream.write(bytes(shard))
        with pytest.raises(DataError, match=r"holds other images than its manifest says|cannot be read as a shard"):
            open_scenes(f"s3://scenes/b?{options}")
        assert not copy.exists()
        result = CliRunner().invoke(
            app, ["data", "inspect", f"s3://scenes/a?{options}", "--sheet", str(tmp_path / "s.png")]
        )
        assert result.exit_code == 0, result.output
    finally:
        server.stop()

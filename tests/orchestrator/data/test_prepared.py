"""Opening of prepared datasets: the original images, or one error that lists all problems."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from orchestrator import ConfigError, load_sweep
from orchestrator.config import DatasetConfig
from orchestrator.data import dataset_facts, locate_dataset, open_dataset, prepare_dataset
from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.conversion.shards import write_pixel_shard
from orchestrator.data.encoded_images import write_encoded_shard
from orchestrator.data.stacked_images import StackedImages
from orchestrator.errors import DataError
from orchestrator.training.images.placement import place_dataset
from tests.support import tiny_archives
from tests.support.tiny_archives import cifar10_splits, photo_tree


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Prepare CIFAR-10 in shards of 20 images: three of training images, one of test images."""
    prepare("cifar10", tiny_archives.cifar10_binary(tmp_path).place, str(tmp_path / "cifar"), images_per_shard=20)
    return tmp_path / "cifar"


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(open_dataset(folder).splits.values())  # each split is opened
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace_shard(folder: Path, file: str, rows: list[tuple[np.ndarray, int]]) -> None:
    """Replace a shard, and update its size in the manifest."""
    size = write_pixel_shard(folder / file, rows, rows[0][0].shape)
    assert size == len(rows)

    def set_size(content: dict[str, Any]) -> None:
        for split in content["splits"].values():
            for shard in split["shards"]:
                if shard["file"] == file:
                    shard["bytes"] = (folder / file).stat().st_size

    edit(folder, set_size)


def test_training_reads_the_prepared_images(cifar: Path) -> None:
    data = open_dataset(locate_dataset(None, str(cifar), cifar.parent))
    for split, (images, labels) in cifar10_splits().items():
        np.testing.assert_array_equal(np.asarray(data.splits[split].images), images)
        np.testing.assert_array_equal(data.splits[split].labels, labels)
    assert data.class_names == tiny_archives.CIFAR10
    facts = dataset_facts(None, str(cifar), 224)
    assert (facts.image_size, facts.in_chans, facts.num_classes, facts.train_images) == (32, 3, 10, 50)


def test_shards_are_mapped_and_copied_only_where_they_are_chosen(cifar: Path) -> None:
    before = pa.total_allocated_bytes()
    splits = open_dataset(cifar).splits
    assert pa.total_allocated_bytes() == before
    mapped = Path("/proc/self/maps").read_text()
    assert all(str(cifar / f"train-0000{number}.arrow") in mapped for number in range(3))
    assert isinstance(splits["test"].images, np.ndarray)  # one shard is one array
    assert not splits["test"].images.flags.owndata
    assert isinstance(splits["train"].images, StackedImages)


def test_stacked_shards_read_as_one_array() -> None:
    generator = np.random.default_rng(0)
    whole = generator.integers(0, 256, (23, 3, 5, 4), dtype=np.uint8)
    stacked = StackedImages([whole[:7], whole[7:7], whole[7:8], whole[8:]])
    assert (len(stacked), stacked.shape) == (23, whole.shape)
    for index in (generator.permutation(23), np.array([22, 0, 7, 7, 6, -1]), np.array([], np.int64), slice(5, 20, 3)):
        np.testing.assert_array_equal(stacked[index], whole[index])
    np.testing.assert_array_equal(np.array(stacked), whole)
    assert np.asarray(stacked, np.float32).dtype == np.float32
    with pytest.raises(IndexError):
        stacked[np.array([23])]


def test_a_prepared_dataset_trains_as_the_named_one(tmp_path: Path) -> None:
    prepare("digits", None, str(tmp_path / "to"), images_per_shard=500)

    def placed(located: str) -> Any:
        return place_dataset(open_dataset(located), torch.device("cpu"), DatasetConfig(name="digits"))

    named, located = placed(str(prepare_dataset("digits", tmp_path))), placed(str(tmp_path / "to"))
    for split in ("train", "validation", "test"):
        one, other = getattr(named, split), getattr(located, split)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.std, other.std)


def test_images_without_labels_stay_out_of_training(tmp_path: Path) -> None:
    prepare("stl10", tiny_archives.stl10(tmp_path).place, str(tmp_path / "to"))
    (tmp_path / "to" / "unlabelled-00000.arrow").unlink()  # nobody needs it
    assert set(open_dataset(tmp_path / "to").splits) == {"train", "test"}


def test_large_images_are_found_by_split(tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    prepare("folder", root, str(tmp_path / "to"), images_per_shard=5)
    files = open_dataset(tmp_path / "to").splits["test"]
    assert files[5] == (root / "val/dog/1.jpg").read_bytes()
    write_encoded_shard(tmp_path / "to" / "test-00000.arrow", [(b"", 1)] * 5)
    edit(
        tmp_path / "to",
        lambda content: content["splits"]["test"]["shards"][0].update(
            bytes=(tmp_path / "to" / "test-00000.arrow").stat().st_size
        ),
    )
    with pytest.raises(DataError, match="split 'test' has other numbers of images per class than its manifest says"):
        open_dataset(tmp_path / "to").splits["test"]


def test_missing_and_cut_shards_are_reported_together(cifar: Path) -> None:
    (cifar / "train-00001.arrow").unlink()
    content = (cifar / "test-00000.arrow").read_bytes()
    (cifar / "test-00000.arrow").write_bytes(content[:-1])
    assert refusal(cifar) == (
        f"{cifar}: train-00001.arrow is missing; test-00000.arrow has {len(content) - 1} bytes, not {len(content)} as "
        "when it was written. Prepare the dataset again"
    )


def test_a_shard_of_other_content_is_reported(cifar: Path) -> None:
    images, labels = cifar10_splits()["train"]
    rows = list(zip(images[:20], labels[:20].tolist(), strict=True))
    replace_shard(cifar, "train-00000.arrow", rows[:19])
    assert "train-00000.arrow: has 19 images, not 20 as announced" in refusal(cifar)
    replace_shard(cifar, "train-00000.arrow", [*rows[:19], (rows[19][0], 3)])
    assert "split 'train' has other numbers of images per class than its manifest says" in refusal(cifar)
    replace_shard(cifar, "train-00000.arrow", [*rows[:19], (rows[19][0], 10)])
    assert "split 'train' has labels 0..10; there are 10 classes" in refusal(cifar)
    replace_shard(cifar, "train-00000.arrow", [(image[:, :31], label) for image, label in rows])
    assert "train-00000.arrow: has images of 2976 values, not 3 x 32 x 32 as announced" in refusal(cifar)
    (cifar / "train-00000.arrow").write_bytes(b"words")
    edit(cifar, lambda content: content["splits"]["train"]["shards"][0].update(bytes=5))
    assert "train-00000.arrow: cannot be read as a shard of images" in refusal(cifar)


def test_a_manifest_that_cannot_be_trained_on_is_reported(cifar: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["class_names"].append("zebra")
        content["splits"]["train"]["per_class"].append(0)
        content["splits"]["test"].update(images=0, shards=[])

    edit(cifar, spoil)
    assert refusal(cifar) == (
        f"{cifar}: split 'train' has no image of zebra; split 'test' is empty. Prepare the dataset again"
    )
    edit(cifar, lambda content: content["splits"]["train"]["per_class"].pop())
    assert "split 'train' counts 10 classes, 11 have names" in refusal(cifar)
    edit(cifar, lambda content: content["splits"].pop("test"))
    assert "split 'test' is missing" in refusal(cifar)


def test_a_class_with_too_few_images_is_reported(cifar: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["splits"]["train"]["per_class"][2:4] = [1, 9]
        content["splits"]["test"]["per_class"][:2] = [4, 0]

    edit(cifar, spoil)
    assert refusal(cifar) == (
        f"{cifar}: split 'train' has a single image of bird; validation and training need one each; "
        "split 'test' has no image of automobile. Prepare the dataset again"
    )


def test_a_sweep_uses_a_prepared_dataset_or_reports_its_problems(cifar: Path) -> None:
    raw = {
        "name": "t",
        "dataset": {"uri": str(cifar), "validation_fraction": 0.3},
        "model": {"name": "lesa_resnet26_cifar", "options": {"img_size": 32}},
        "training": {"global_batch_size": 16},
    }
    assert load_sweep(raw).dataset.uri == str(cifar)
    with pytest.raises(ConfigError, match=r"dataset\.validation_fraction: got 0\.1; .* 50 training images .* Use 0\.2"):
        load_sweep(raw, ["dataset.validation_fraction=0.1"])
    with pytest.raises(ConfigError, match=r"model\.options\.img_size: got .* the images are 32 x 32 px"):
        load_sweep(raw, ["model.options.img_size=8"])  # the size of the images is known from the manifest
    (cifar / "train-00002.arrow").unlink()
    with pytest.raises(ConfigError, match=r"dataset\.uri: .*train-00002\.arrow is missing"):
        load_sweep(raw)

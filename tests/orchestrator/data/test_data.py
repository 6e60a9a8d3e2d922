"""The embedded digits, hashes of datasets, and the order in which workers read images."""

from __future__ import annotations

import gzip
import itertools
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data import (
    ImageDataset,
    PixelImages,
    current_hash,
    dataset_facts,
    describe_dataset,
    epoch_batches,
    list_datasets,
    open_dataset,
    prepare_dataset,
    split_validation,
    worker_share,
)
from orchestrator.data.conversion.prepare import prepare
from orchestrator.errors import DataError
from tests.support import tiny_archives

HASH = "36706e9c749a0738"


def pixels_of(data: ImageDataset, split: str) -> PixelImages:
    images = data.splits[split]
    assert isinstance(images, PixelImages)
    return images


def test_digits_are_complete_stratified_and_always_the_same(tmp_path: Path) -> None:
    data = open_dataset(prepare_dataset("digits", tmp_path / "a"))
    train, test = pixels_of(data, "train"), pixels_of(data, "test")
    facts = dataset_facts("digits", None, 224)
    assert (len(train), len(test)) == (facts.train_images, 360) == (1437, 360)
    assert train.images.shape[1:] == (facts.in_chans, facts.image_size, facts.image_size) == (1, 8, 8)
    assert len(data.class_names) == facts.num_classes
    assert data.class_names == tuple("0123456789")
    pixels = np.asarray(train.images)
    assert pixels.max() == 255
    whole = np.bincount(np.concatenate([train.labels, test.labels]), minlength=10)
    np.testing.assert_allclose(np.bincount(test.labels), whole * 0.2, atol=1)
    np.testing.assert_allclose(data.mean, (pixels / 255).mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(data.std, (pixels / 255).std(axis=(0, 2, 3)))
    again = open_dataset(prepare_dataset("digits", tmp_path / "b"))
    assert again.content_hash == data.content_hash == HASH


def test_digits_equal_those_of_earlier_versions(tmp_path: Path) -> None:
    """Their hash covered name, pixels and labels of each split."""
    import hashlib

    data = open_dataset(prepare_dataset("digits", tmp_path))
    digest = hashlib.sha256()
    for name in data.splits:
        images = pixels_of(data, name)
        digest.update(name.encode())
        digest.update(np.asarray(images.images).tobytes())
        digest.update(images.labels.tobytes())
    assert digest.hexdigest()[:16] == "5663ed2b4eac758a"
    assert current_hash("5663ed2b4eac758a") == current_hash(HASH) == HASH
    assert current_hash("0123456789abcdef") == "0123456789abcdef"
    facts, _ = describe_dataset(str(tmp_path / "digits"))
    assert (facts["name"], facts["content_hash"], facts["image_shape"]) == ("digits", HASH, [1, 8, 8])
    assert [len(part["per_class"]) for part in facts["splits"].values()] == [10, 10]


def test_opening_digits_maps_the_shards_and_copies_no_pixel(tmp_path: Path) -> None:
    path = prepare_dataset("digits", tmp_path)
    before = pa.total_allocated_bytes()
    images = pixels_of(open_dataset(path), "train").images
    assert pa.total_allocated_bytes() == before
    assert isinstance(images, np.ndarray)
    assert not images.flags.owndata
    assert not images.flags.writeable
    assert str(path / "train-00000.arrow") in Path("/proc/self/maps").read_text()


def test_digits_keep_every_image_once_over_both_splits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    data = open_dataset(prepare_dataset("digits", tmp_path))
    bunch = load_digits()

    def pairs(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
        return sorted(
            (image.astype(np.uint8).tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
        )

    parts = [pixels_of(data, name) for name in data.splits]
    stored = [pairs(np.round(np.asarray(part.images) / (255 / 16)), part.labels) for part in parts]
    assert sorted(itertools.chain(*stored)) == pairs(bunch.images, bunch.target)


def test_preparing_twice_converts_once(tmp_path: Path) -> None:
    path = prepare_dataset("digits", tmp_path)
    assert path == tmp_path / "digits"
    assert [found.name for found in tmp_path.iterdir()] == ["digits"]
    written = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    assert prepare_dataset("digits", tmp_path) == path
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == written
    (path / "test-00000.arrow").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"digits: test-00000\.arrow has 7 bytes, .* the next sweep prepares it again"):
        prepare_dataset("digits", tmp_path)
    with pytest.raises(DataError, match=r"unknown dataset 'digit'. Did you mean 'digits'?"):
        prepare_dataset("digit", tmp_path)
    assert "digits" in list_datasets()


def test_processes_that_prepare_at_once_find_one_whole_dataset(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: open_dataset(prepare_dataset("digits", tmp_path)).content_hash, range(4)))
    assert found == [HASH] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_the_hash_changes_with_any_pixel_or_label(tmp_path: Path) -> None:
    source = tiny_archives.mnist(tmp_path).place

    def hash_with(number: int, file: str = "", offset: int = 0, change: int = 0) -> str:
        if file:
            content = bytearray(gzip.decompress((source / file).read_bytes()))
            content[offset] = (content[offset] + change) % 10
            (source / file).write_bytes(gzip.compress(bytes(content)))
        return prepare("mnist", source, str(tmp_path / str(number))).content_hash

    whole = hash_with(0)
    assert hash_with(1) == whole
    changed = {hash_with(2, "train-images-idx3-ubyte.gz", 16 + 99, 1), hash_with(3, "train-labels-idx1-ubyte.gz", 8, 1)}
    assert len({whole} | changed) == 3


def test_validation_images_are_drawn_per_class_and_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)  # a worker does not import it
    labels = np.repeat(np.arange(3, dtype=np.int32), (50, 100, 200))
    train, held_out = split_validation(labels, 0.2, seed=1)
    assert sorted([*train, *held_out]) == list(range(350))
    assert np.bincount(labels[held_out]).tolist() == [10, 20, 40]
    assert (np.diff(train) > 0).all()
    np.testing.assert_array_equal(split_validation(labels, 0.2, seed=1)[1], held_out)
    assert not np.array_equal(split_validation(labels, 0.2, seed=2)[1], held_out)


def test_the_draw_is_that_of_scikit_learn_to_the_last_image() -> None:
    from sklearn.model_selection import train_test_split

    random = np.random.default_rng(0)
    refused = 0
    for seed in range(150):
        counts = random.integers(1 if seed % 10 == 0 else 2, 60, size=random.integers(2, 14))
        labels = random.permutation(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
        fraction = float(random.uniform(0.05, 0.9))
        try:
            theirs = train_test_split(np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed)
        except ValueError as error:
            refused += 1
            with pytest.raises(ValueError, match=re.escape(str(error))):
                split_validation(labels, fraction, seed)
            continue
        for ours, of_sklearn in zip(split_validation(labels, fraction, seed), theirs, strict=True):
            np.testing.assert_array_equal(ours, np.sort(of_sklearn))
    assert 0 < refused < 50


@pytest.mark.parametrize(("count", "size"), [(1149, 32), (1149, 5), (10, 10), (10, 64), (11, 10), (7, 1)])
def test_an_epoch_holds_every_image_once_in_batches_of_nearly_one_size(count: int, size: int) -> None:
    batches = epoch_batches(count, size, seed=3, epoch=2)
    sizes = {len(batch) for batch in batches}
    assert sorted(np.concatenate(batches)) == list(range(count))
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == -(-count // size)


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(epoch_batches(100, 8, seed=seed, epoch=epoch)).tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (1, 2)}) == 4


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_workers_share_all_of_a_batch(world_size: int) -> None:
    (batch,) = epoch_batches(17, 32, seed=0, epoch=1)
    shares = [worker_share(batch, rank, world_size) for rank in range(world_size)]
    np.testing.assert_array_equal(np.concatenate(shares), batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1

"""Images in an Arrow file, the digits, and the order in which workers see them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data import (
    ImageSplit,
    dataset_spec,
    epoch_batches,
    list_datasets,
    open_images,
    prepare_dataset,
    split_validation,
    worker_share,
    write_images,
)
from orchestrator.errors import DataError

CLASSES = ("cat", "dog", "owl")


def some_images(count: int, seed: int = 0, shape: tuple[int, int, int] = (3, 5, 4)) -> ImageSplit:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, *shape), dtype=np.uint8)
    return ImageSplit(images, generator.integers(0, len(CLASSES), count, dtype=np.int32))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "pets.arrow"
    write_images(path, {"train": some_images(40), "test": some_images(10, seed=1)}, CLASSES)
    return path


def test_what_is_written_is_read(file: Path) -> None:
    data = open_images(file)
    train = some_images(40)
    np.testing.assert_array_equal(data.splits["train"].images, train.images)
    np.testing.assert_array_equal(data.splits["train"].labels, train.labels)
    np.testing.assert_array_equal(data.splits["test"].images, some_images(10, seed=1).images)
    assert data.class_names == CLASSES
    assert (len(data.splits["train"]), len(data.splits["test"])) == (40, 10)
    scaled = train.images / 255
    np.testing.assert_allclose(data.mean, scaled.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(data.std, scaled.std(axis=(0, 2, 3)))


def test_opening_maps_the_file_and_copies_no_pixel(tmp_path: Path) -> None:
    path = tmp_path / "many.arrow"
    many = some_images(20_000)
    write_images(path, {"train": many, "test": some_images(10)}, CLASSES)
    before = pa.total_allocated_bytes()
    images = open_images(path).splits["train"].images
    assert pa.total_allocated_bytes() - before < many.images.nbytes / 100
    assert not images.flags.owndata
    assert not images.flags.writeable
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    assert mapped


def test_the_hash_changes_with_any_pixel_or_label(file: Path, tmp_path: Path) -> None:
    def hash_of(train: ImageSplit, test: ImageSplit) -> str:
        path = tmp_path / "other.arrow"
        write_images(path, {"train": train, "test": test}, CLASSES)
        return open_images(path).content_hash

    train, test = some_images(40), some_images(10, seed=1)
    assert hash_of(train, test) == open_images(file).content_hash
    pixel, label = train.images.copy(), test.labels.copy()
    pixel[7, 1, 2, 3] ^= 1
    label[3] = (label[3] + 1) % 3
    hashes = {hash_of(train, test), hash_of(ImageSplit(pixel, train.labels), test)}
    assert len(hashes | {hash_of(train, ImageSplit(test.images, label))}) == 3


def test_a_new_file_takes_the_place_of_the_old_whole(file: Path) -> None:
    old = open_images(file).splits["train"].images
    write_images(file, {"train": some_images(4), "test": some_images(4)}, CLASSES)
    np.testing.assert_array_equal(old, some_images(40).images)  # whoever has it mapped keeps it
    assert len(open_images(file).splits["train"]) == 4
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_splits_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    with pytest.raises(DataError, match="split 'test' is empty"):
        write_images(path, {"train": some_images(4), "test": some_images(0)}, CLASSES)
    with pytest.raises(DataError, match=r"split 'train' has labels outside 0\.\.0"):
        write_images(path, {"train": some_images(40), "test": some_images(4)}, ("cat",))
    with pytest.raises(DataError, match=r"split 'test' has images \(4, 3, 5, 7\), not \(4, 3, 5, 4\)"):
        write_images(path, {"train": some_images(4), "test": some_images(4, shape=(3, 5, 7))}, CLASSES)
    assert not path.exists()


def test_a_file_that_cannot_be_read_says_why(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.arrow: cannot be read"):
        open_images(tmp_path / "nothing.arrow")
    with pytest.raises(DataError, match="cannot be read"):
        open_images(tmp_path)
    content = file.read_bytes()
    for damaged in (b"", b"words", content[: len(content) // 2], content[:-1]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"pets\.arrow: cannot be read as an Arrow file"):
            open_images(file)
    table = pa.table({"x": [1, 2]})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="not a dataset of SpatialSweep's; prepare it again"):
        open_images(file)
    file.write_bytes(content.replace(b'"version": 1', b'"version": 7'))
    with pytest.raises(DataError, match="has format 7, this version reads 1; prepare it again"):
        open_images(file)


def test_digits_are_whole_stratified_and_always_the_same(tmp_path: Path) -> None:
    data = open_images(prepare_dataset("digits", tmp_path / "a"))
    train, test = data.splits["train"], data.splits["test"]
    spec = dataset_spec("digits")
    assert (len(train), len(test)) == (spec.train_images, 360) == (1437, 360)
    assert train.images.shape[1:] == (spec.in_chans, spec.image_size, spec.image_size) == (1, 8, 8)
    assert data.class_names == tuple("0123456789")
    assert train.images.max() == 255
    whole = np.bincount(np.concatenate([train.labels, test.labels]), minlength=10)
    np.testing.assert_allclose(np.bincount(test.labels), whole * 0.2, atol=1)
    again = open_images(prepare_dataset("digits", tmp_path / "b"))
    assert again.content_hash == data.content_hash == "5663ed2b4eac758a"


def test_digits_keep_every_image_once_over_both_splits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    data = open_images(prepare_dataset("digits", tmp_path))
    bunch = load_digits()

    def pairs(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
        return sorted(
            (image.astype(np.uint8).tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
        )

    stored = [pairs(np.round(split.images / (255 / 16)), split.labels) for split in data.splits.values()]
    assert sorted(itertools.chain(*stored)) == pairs(bunch.images, bunch.target)


def test_preparing_twice_converts_once(tmp_path: Path) -> None:
    path = prepare_dataset("digits", tmp_path)
    written = path.stat().st_mtime_ns
    assert prepare_dataset("digits", tmp_path) == path
    assert path.stat().st_mtime_ns == written
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"digits\.arrow: cannot be read"):
        prepare_dataset("digits", tmp_path)
    with pytest.raises(DataError, match=r"unknown dataset 'digit'. Did you mean 'digits'?"):
        prepare_dataset("digit", tmp_path)
    assert "digits" in list_datasets()


def test_validation_images_are_drawn_per_class_and_by_the_seed() -> None:
    labels = np.repeat(np.arange(3, dtype=np.int32), (50, 100, 200))
    train, held_out = split_validation(labels, 0.2, seed=1)
    assert sorted([*train, *held_out]) == list(range(350))
    assert np.bincount(labels[held_out]).tolist() == [10, 20, 40]
    assert (np.diff(train) > 0).all()
    np.testing.assert_array_equal(split_validation(labels, 0.2, seed=1)[1], held_out)
    assert not np.array_equal(split_validation(labels, 0.2, seed=2)[1], held_out)


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
def test_workers_share_a_batch_without_rest(world_size: int) -> None:
    (batch,) = epoch_batches(17, 32, seed=0, epoch=1)
    shares = [worker_share(batch, rank, world_size) for rank in range(world_size)]
    np.testing.assert_array_equal(np.concatenate(shares), batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1

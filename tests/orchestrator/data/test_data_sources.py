"""Readers of distributed datasets: every pixel is read; cut, incomplete and hostile archives are rejected."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orchestrator.data import dataset_facts, locate_dataset, open_dataset
from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.sources import EMBEDDED, INSTALLED, SOURCES, digits, open_source
from orchestrator.errors import DataError
from tests.support import tiny_archives
from tests.support.tiny_archives import Tiny, photo_tree, tar_gz

ARCHIVES: list[tuple[str, Callable[[Path], Tiny]]] = [
    ("cifar10", tiny_archives.cifar10_python),
    ("cifar10", tiny_archives.cifar10_binary),
    ("cifar100", tiny_archives.cifar100_python),
    ("cifar100", tiny_archives.cifar100_binary),
    ("stl10", tiny_archives.stl10),
    ("mnist", tiny_archives.mnist),
    ("tinyimagenet", tiny_archives.tiny_imagenet),
]


def refusal(name: str, place: Path | None) -> str:
    with pytest.raises(DataError) as caught, open_source(name, place) as source:
        for split, count in source.splits.items():
            list(source.read(split, 0, count))
    return str(caught.value)


@pytest.mark.parametrize(("name", "pack"), ARCHIVES, ids=[pack.__name__ for _, pack in ARCHIVES])
def test_a_dataset_is_read_from_its_archive(name: str, pack: Callable[[Path], Tiny], tmp_path: Path) -> None:
    tiny = pack(tmp_path)
    with open_source(name, tiny.place) as source:
        assert source.class_names == tiny.class_names
        assert source.splits == {split: len(marks) for split, (_, marks) in tiny.splits.items()}
        for split, (images, marks) in tiny.splits.items():
            samples = list(source.read(split, 0, len(marks)))
            assert [sample.label for sample in samples] == marks.tolist()
            middle = list(source.read(split, 2, 5))
            assert [sample.name for sample in middle] == [sample.name for sample in samples[2:5]]
            if not isinstance(samples[0].image, bytes):
                assert source.image_shape == images.shape[1:]
                np.testing.assert_array_equal(np.stack([sample.image for sample in samples]), images)
    assert not source.root.exists() or tiny.place.is_dir()  # what was unpacked is gone


def test_the_same_files_unpacked_are_the_same_dataset(tmp_path: Path) -> None:
    tiny = tiny_archives.cifar10_binary(tmp_path)
    with tarfile.open(tiny.place) as tar:
        tar.extractall(tmp_path / "deep" / "er", filter="data")
    with open_source("cifar10", tiny.place) as packed, open_source("cifar10", tmp_path / "deep") as unpacked:
        assert packed.fingerprint == unpacked.fingerprint
        first = unpacked.root / "data_batch_1.bin"
        content = bytearray(first.read_bytes())
        content[100] ^= 1
        first.write_bytes(content)
        with open_source("cifar10", tmp_path / "deep") as changed:
            assert changed.fingerprint != packed.fingerprint


def test_fashion_mnist_has_the_files_of_mnist_and_names_of_its_own(tmp_path: Path) -> None:
    tiny = tiny_archives.mnist(tmp_path)
    with open_source("mnist", tiny.place) as digits, open_source("fashion-mnist", tiny.place) as clothes:
        assert digits.class_names[9] == "9"
        assert (clothes.class_names[0], clothes.class_names[9]) == ("T-shirt/top", "Ankle boot")
        assert clothes.splits == digits.splits


def test_fashion_mnist_comes_from_a_package_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.data.sources.INSTALLED", {"fashion-mnist": (tmp_path / "none", "a-package")})
    assert "fashion-mnist is not installed" in refusal("fashion-mnist", None)
    assert "apt-get install -y a-package" in refusal("fashion-mnist", None)


@pytest.mark.skipif(not INSTALLED["fashion-mnist"][0].is_dir(), reason="apt-get install -y dataset-fashion-mnist")
def test_the_installed_fashion_mnist_is_a_dataset_with_a_name(tmp_path: Path) -> None:
    located = locate_dataset("fashion-mnist", None, tmp_path)
    facts, found = dataset_facts("fashion-mnist", None, 224), open_dataset(located)
    train, test = found.splits["train"], found.splits["test"]
    assert (len(train.labels), len(test.labels)) == (facts.train_images, 10_000)
    assert found.class_names[int(train.labels[0])] == "Ankle boot"  # as on the page of the dataset
    assert np.bincount(train.labels).tolist() == [6_000] * facts.num_classes
    assert train.images.shape == (60_000, facts.in_chans, facts.image_size, facts.image_size)
    assert locate_dataset("fashion-mnist", None, tmp_path) == located


def test_a_tree_of_folders(tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / ".cache").mkdir()
    with open_source("folder", root) as source:
        assert source.class_names == ("cat", "dog", "owl")
        assert source.splits == {"train": 12, "test": 12}  # without test/, val/ takes its place
        assert source.image_shape is None  # kept as files
        samples = list(source.read("train", 3, 6))
    assert [(sample.name, sample.label) for sample in samples] == [
        ("train/cat/3.jpg", 0),
        ("train/dog/0.jpg", 1),
        ("train/dog/1.jpg", 1),
    ]
    assert samples[1].image == (root / "train/dog/0.jpg").read_bytes()
    photo_tree(tmp_path / "both", splits=("train", "val", "test"))
    with open_source("imagenet", tmp_path / "both") as source:
        assert set(source.splits) == {"train", "test", "validation"}


def test_imagenet_is_read_from_its_archives_in_place(tmp_path: Path) -> None:
    place, splits = tiny_archives.imagenet(tmp_path)
    with open_source("imagenet", place) as source:
        assert source.class_names == ("n01440764", "n02100735", "n02110185", "n02119789")
        assert source.splits == {"train": 12, "test": 5}
        for split, images in splits.items():
            samples = list(source.read(split, 0, len(images)))
            assert [(sample.image, sample.label) for sample in samples] == images
            assert list(source.read(split, 2, 4)) == samples[2:4]
    manifest = prepare("imagenet", place, str(tmp_path / "to"), images_per_shard=4)
    assert manifest.splits["test"].per_class == (2, 1, 1, 1)


def test_missing_parts_of_imagenet_are_named(tmp_path: Path) -> None:
    place, _ = tiny_archives.imagenet(tmp_path)
    train, kit = place / "ILSVRC2012_img_train.tar", place / "ILSVRC2012_devkit_t12.tar.gz"
    content = train.read_bytes()
    train.write_bytes(content[: len(content) // 2])
    assert "ILSVRC2012_img_train.tar: is cut within n02110185.tar; fetch it again" in refusal("imagenet", place)
    train.write_bytes(tiny_archives.tar({"n01440764.tar": tiny_archives.tar({"a.JPEG": b"x"})}))
    assert "3 of 4 classes are not there; fetch it again" in refusal("imagenet", place)
    train.write_bytes(tiny_archives.tar({"n09999999.tar": tiny_archives.tar({"a.JPEG": b"x"})}))
    assert "holds n09999999.tar, which is no class of the development kit" in refusal("imagenet", place)
    train.write_bytes(content)
    (place / "ILSVRC2012_img_val.tar").write_bytes(tiny_archives.tar({"ILSVRC2012_val_00000001.JPEG": b"x"}))
    assert "has 1 images, the development kit 5 labels" in refusal("imagenet", place)
    kit.write_bytes(b"words")
    assert "devkit_t12.tar.gz: is no development kit" in refusal("imagenet", place)
    kit.unlink()
    assert "ILSVRC2012_devkit_t12.tar.gz not there" in refusal("imagenet", place)
    (place / "ILSVRC2012_img_val.tar").unlink()
    assert "ILSVRC2012_img_val.tar: not there" in refusal("imagenet", place)


def test_missing_files_are_named(tmp_path: Path) -> None:
    assert refusal("cifar11", tmp_path) == "unknown dataset 'cifar11'. Did you mean 'cifar10'?"
    assert refusal("cifar10", None) == "cifar10 is not embedded; say where it lies: --from DIR_OR_ARCHIVE"
    assert refusal("mnist", tmp_path / "nowhere").endswith("nowhere: no such folder or archive")
    words = tmp_path / "words.tar.gz"
    words.write_bytes(b"words")
    assert refusal("stl10", words).endswith("words.tar.gz: is no archive (tar or zip)")
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in SOURCES:
        if name not in EMBEDDED:
            assert refusal(name, empty).startswith(f"{empty}: holds n")
    (photo_tree(tmp_path) / "val").rename(tmp_path / "photos" / "odd")
    assert "a dataset needs a test split" in refusal("folder", tmp_path / "photos")
    (tmp_path / "photos" / "odd").rename(tmp_path / "photos" / "test")
    (tmp_path / "photos" / "test" / "cat").rename(tmp_path / "photos" / "test" / "cats")
    assert "class 'cats' is not among those of train. Did you mean 'cat'?" in refusal("folder", tmp_path / "photos")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    tiny = tiny_archives.stl10(tmp_path)
    tiny.place.write_bytes(tiny.place.read_bytes()[:-5000])
    assert "stl10_binary.tar.gz: cannot be unpacked" in refusal("stl10", tiny.place)
    place = tiny_archives.mnist(tmp_path).place
    labels = place / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(labels.read_bytes()[:-9])
    assert "t10k-labels-idx1-ubyte.gz: cannot be decompressed" in refusal("mnist", place)
    labels.unlink()
    assert "t10k-labels-idx1-ubyte not there" in refusal("mnist", place)
    with tarfile.open(tiny_archives.cifar10_binary(tmp_path).place) as tar:
        tar.extractall(tmp_path, filter="data")
    batch = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    assert "data_batch_3.bin: has 30729 bytes, which is no whole number" in refusal("cifar10", tmp_path)
    batch.unlink()
    assert "data_batch_3.bin not there" in refusal("cifar10", tmp_path)


class _Command:
    """Code that a hostile pickle would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/never",)


def test_no_code_runs_from_an_archive(tmp_path: Path) -> None:
    with tarfile.open(tiny_archives.cifar10_python(tmp_path).place) as tar:
        tar.extractall(tmp_path, filter="data")
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    hostile = pickle.dumps({"data": _Command(), "labels": []}, protocol=2)
    for content, reason in ((hostile, "it calls posix.system"), (b"words", ""), (b"", "")):
        batch.write_bytes(content)
        assert f"data_batch_2: is no file of CIFAR's ({reason}" in refusal("cifar10", tmp_path)


def test_an_archive_writes_only_where_it_is_unpacked(tmp_path: Path) -> None:
    place = tar_gz(tmp_path / "climbing.tar.gz", {"../../climbed.txt": b"x"})
    assert "cannot be unpacked" in refusal("cifar10", place)
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        tar.addfile(link, io.BytesIO())
    assert "cannot be unpacked" in refusal("cifar10", tmp_path / "link.tar")
    assert not list(tmp_path.parent.rglob("climbed.txt"))


def test_digits_are_the_same_from_scikit_learn_and_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read() -> tuple[str, bytes]:
        digits.digit_images.cache_clear()
        source = digits.open_digits(tmp_path)
        return source.fingerprint, source.load("test")[1].tobytes()

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # in which nothing can be cached
    expected = read()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert read() == expected
    monkeypatch.setattr(digits, "_write_digits", lambda path: pytest.fail("scikit-learn was read again"))
    assert read() == expected
    digits.digit_images.cache_clear()

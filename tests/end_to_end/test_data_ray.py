"""Conversion as Ray tasks: the same dataset, and a task whose worker dies is done again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from orchestrator.data import sources
from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.sources import open_source
from orchestrator.data.sources.image_files import ImageFiles
from orchestrator.data.sources.source import Sample
from orchestrator.errors import DataError
from orchestrator.runtime.conversion_tasks import ray_tasks
from tests.orchestrator.data.scenes.tiny_scenes import coco_tree
from tests.support import tiny_archives

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def ray_instance() -> Iterator[None]:
    """One Ray instance for all conversions here."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def deadly(plain: ImageFiles, grave: Path) -> ImageFiles:
    """Return the same images, except that the first process to read the middle of the training images is killed."""

    @dataclass(frozen=True, kw_only=True)
    class Deadly(ImageFiles):  # in a function, so that it travels to the workers whole
        def read(self, split: str, start: int, stop: int) -> Iterator[Sample]:
            if split == "train" and start == 4 and not grave.exists():
                grave.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return ImageFiles.read(self, split, start, stop)

    return Deadly(**vars(plain))


def test_tasks_make_the_same_dataset(tmp_path: Path) -> None:
    tiny = tiny_archives.cifar10_binary(tmp_path)
    here = prepare("cifar10", tiny.place, str(tmp_path / "here"), images_per_shard=7)
    seen: list[int] = []
    with ray_tasks() as run:
        there = prepare(
            "cifar10",
            tiny.place,
            str(tmp_path / "there"),
            images_per_shard=7,
            run=run,
            progress=lambda done, _: seen.append(done),
        )
    assert (there.splits, there.mean, there.content_hash) == (here.splits, here.mean, here.content_hash)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1], len(seen)) == (0, 70, 12)
    for shard in there.splits["train"].shards:
        assert (tmp_path / "here" / shard.file).read_bytes() == (tmp_path / "there" / shard.file).read_bytes()


def test_annotated_images_are_converted_in_tasks(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "coco")
    here = prepare("coco", root, str(tmp_path / "here"), images_per_shard=2)
    with ray_tasks() as run:
        there = prepare("coco", root, str(tmp_path / "there"), images_per_shard=2, run=run)
    assert (there.splits, there.mean, there.content_hash) == (here.splits, here.mean, here.content_hash)
    for shard in there.splits["train"].shards:
        assert (tmp_path / "here" / shard.file).read_bytes() == (tmp_path / "there" / shard.file).read_bytes()


def test_unreadable_images_are_told_from_tasks_too(tmp_path: Path) -> None:
    root = tiny_archives.photo_tree(tmp_path)
    (root / "train/dog/2.jpg").write_bytes(b"words")
    with ray_tasks() as run, pytest.raises(DataError, match=r"1 images cannot be read(.|\n)*train/dog/2\.jpg"):
        prepare("folder", root, str(tmp_path / "to"), images_per_shard=3, run=run)


def test_a_fault_in_a_task_reads_as_it_would_here(tmp_path: Path) -> None:
    tiny = tiny_archives.cifar10_binary(tmp_path)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "train-00000.arrow").mkdir()  # a folder where a shard should go
    with ray_tasks() as run, pytest.raises(DataError) as caught:
        prepare("cifar10", tiny.place, str(tmp_path / "to"), run=run)
    assert str(caught.value).startswith(f"{tmp_path / 'to'}/train-00000.arrow: the storage refuses (")
    assert "\n" not in str(caught.value)


def test_a_shard_whose_worker_dies_is_converted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny_archives.photo_tree(tmp_path)
    whole = prepare("folder", root, str(tmp_path / "whole"), images_per_shard=4)
    with open_source("folder", root) as plain:
        assert isinstance(plain, ImageFiles)
    grave = tmp_path / "grave"
    monkeypatch.setattr(sources, "SOURCES", {"folder": lambda _: deadly(plain, grave)})
    with ray_tasks() as run:
        manifest = prepare("folder", root, str(tmp_path / "to"), images_per_shard=4, run=run)
    assert grave.exists()
    assert manifest.splits == whole.splits
    assert {path.name for path in (tmp_path / "to").iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}

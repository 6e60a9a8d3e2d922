"""Large images: shards, and batches that separate processes decode from them."""

import io
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator.data import epoch_batches, worker_share
from orchestrator.data.encoded_images import EncodedImages, write_encoded_shard
from orchestrator.errors import DataError
from orchestrator.training.images.image_loader import ImageLoader, ImageTransforms, SampleKey, repeated_keys

TRANSFORMS = ImageTransforms(image_size=16, color_jitter=0.4, auto_augment="rand-m9-mstd0.5-inc1")
COUNT = 23


def picture(number: int) -> bytes:
    """Create a JPEG file whose size and colours depend on a number."""
    pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 40, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG")
    return target.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"train-{index}.arrow" for index in range(3)]
    for path, numbers in zip(paths, np.array_split(np.arange(COUNT), 3), strict=True):
        assert write_encoded_shard(path, ((picture(number), number % 5) for number in numbers)) == len(numbers)
    return paths


def sample_keys(epoch: int = 1, repeats: int = 1) -> list[list[SampleKey]]:
    return repeated_keys(epoch_batches(COUNT, 8, seed=3, epoch=epoch), seed=3, epoch=epoch, repeats=repeats)


def by_key(images: EncodedImages, keys: list[list[SampleKey]], processes: int) -> dict[SampleKey, torch.Tensor]:
    loader = ImageLoader(images, TRANSFORMS.for_training(), processes=processes)
    seen = {}
    for batch, (pixels, labels) in zip(keys, loader.batches(keys), strict=True):
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (len(batch), 3, 16, 16)
        assert labels.tolist() == [key.place % 5 for key in batch]
        seen |= dict(zip(batch, pixels, strict=True))
    return seen


def test_stored_images_are_read_back_unchanged(shards: list[Path]) -> None:
    images = pickle.loads(pickle.dumps(EncodedImages(shards)))
    assert len(images) == COUNT
    assert list(images) == [picture(number) for number in range(COUNT)]
    assert images.labels.tolist() == [number % 5 for number in range(COUNT)]
    with pytest.raises(IndexError):
        images[COUNT]


def test_batches_do_not_depend_on_processes_or_ranks(shards: list[Path]) -> None:
    images = EncodedImages(shards)
    alone = by_key(images, sample_keys(), processes=0)
    assert sorted(key.place for key in alone) == list(range(COUNT))
    seen: dict[SampleKey, torch.Tensor] = {}
    for rank in range(2):
        mine = [[batch[place] for place in worker_share(np.arange(len(batch)), rank, 2)] for batch in sample_keys()]
        part = by_key(images, mine, processes=2)
        assert not seen.keys() & part.keys()
        seen |= part
    assert seen.keys() == alone.keys()
    assert all(torch.equal(seen[key], alone[key]) for key in alone)


def test_every_epoch_has_its_own_draws_in_the_same_processes(shards: list[Path]) -> None:
    loader = ImageLoader(EncodedImages(shards), TRANSFORMS.for_training(), processes=1)
    first, second, again = (
        dict(zip([key.place for batch in sample_keys(epoch) for key in batch], torch.cat([*pixels]), strict=True))
        for epoch in (1, 2, 1)
        for pixels, _ in [zip(*loader.batches(sample_keys(epoch)), strict=True)]
    )
    assert all(torch.equal(first[index], again[index]) for index in first)
    assert not all(torch.equal(first[index], second[index]) for index in first)


def test_an_abandoned_epoch_leaves_no_batches_behind(shards: list[Path]) -> None:
    loader = ImageLoader(EncodedImages(shards), TRANSFORMS.for_training(), processes=2)
    expected = [labels.tolist() for _, labels in loader.batches(sample_keys(2))]
    next(loader.batches(sample_keys(1)))
    assert [labels.tolist() for _, labels in loader.batches(sample_keys(2))] == expected


def test_repeats_give_several_samples_of_fewer_images(shards: list[Path]) -> None:
    keys = [key for batch in sample_keys(repeats=3) for key in batch]
    assert len(set(keys)) == len(keys) == COUNT
    assert len({key.place for key in keys}) == -(-COUNT // 3)
    seen = by_key(EncodedImages(shards), sample_keys(repeats=3), processes=0)
    one, other = (pixels for key, pixels in seen.items() if key.place == keys[0].place and key.copy < 2)
    assert not torch.equal(one, other)


def test_the_random_states_of_this_process_are_restored(shards: list[Path]) -> None:
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    by_key(EncodedImages(shards), sample_keys(), processes=0)
    assert (torch.rand(1), random.random(), np.random.rand()) == expected


def test_evaluation_takes_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[12:28, 22:38] = 255
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    write_encoded_shard(tmp_path / "s.arrow", [(target.getvalue(), 0)])
    transforms = ImageTransforms(image_size=16, crop_pct=16 / 40)
    loader = ImageLoader(EncodedImages([tmp_path / "s.arrow"]), transforms.for_evaluation(), processes=0)
    ((seen, _),) = loader.batches([[SampleKey(0)]])
    assert seen.min() == 255


def test_damaged_shards_and_images_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.arrow.*prepare the dataset again"):
        EncodedImages([tmp_path / "gone.arrow"])
    write_encoded_shard(tmp_path / "s.arrow", [(picture(0), 0), (picture(1)[:200], 0)])
    loader = ImageLoader(EncodedImages([tmp_path / "s.arrow"]), TRANSFORMS.for_training(), processes=0)
    with pytest.raises(DataError, match="image 1 cannot be decoded"):
        list(loader.batches([[SampleKey(0), SampleKey(1)]]))

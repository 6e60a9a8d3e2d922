"""Training batches of every rank: the same images for every number of ranks."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from orchestrator.data import epoch_batches
from orchestrator.data.encoded_images import EncodedImages, write_encoded_shard
from orchestrator.training.images.batch_augment import BatchAugmentation
from orchestrator.training.images.decoded_images import DecodedSplit
from orchestrator.training.images.device_images import DeviceSplit
from orchestrator.training.images.draws import SampleDraws
from orchestrator.training.images.image_loader import ImageTransforms
from orchestrator.training.images.training_batches import DecodedBatches, ResidentBatches, TrainingBatches
from orchestrator.training.workers import Workers

COUNT, CLASSES = 30, 3
MEAN, STD = torch.full((1, 3, 1, 1), 127.0), torch.full((1, 3, 1, 1), 60.0)
EVERYTHING = BatchAugmentation(
    crop_padding=2, hflip=0.5, cutout_px=3, erasing=0.5, mixup_alpha=0.8, cutmix_alpha=1.0, mix_switch=0.5
)
FURTHER = BatchAugmentation(
    crop_px=6,
    hflip=0.5,
    hue=0.2,
    lighting=0.1,
    erasing=0.5,
    erase_after_mixing=True,
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
    mix_prob=0.8,
    mixup_mode="batch",
)
ORDER = epoch_batches(COUNT, 8, seed=1, epoch=2)


def resident(augmentation: BatchAugmentation, workers: Workers) -> ResidentBatches:
    pixels = torch.randint(0, 256, (COUNT, 3, 10, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    split = DeviceSplit(pixels, torch.arange(COUNT) % CLASSES, MEAN, STD)
    return ResidentBatches(split, augmentation, workers, num_classes=CLASSES, seed=1)


@pytest.fixture
def files(tmp_path: Path) -> EncodedImages:
    rows = []
    for number in range(COUNT):
        target = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(target, "PNG")
        rows.append((target.getvalue(), number % CLASSES))
    write_encoded_shard(tmp_path / "train.arrow", rows)
    return EncodedImages([tmp_path / "train.arrow"])


def decoded_split(files: EncodedImages, positions: np.ndarray) -> DecodedSplit:
    return DecodedSplit(files, positions, ImageTransforms(image_size=16, crop_pct=0.8), MEAN, STD, processes=0)


def together(ranks: list[TrainingBatches], first: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Concatenate the shares of all ranks for each step."""
    steps = zip(*(rank.epoch(2, ORDER, first=first) for rank in ranks), strict=True)
    return [(torch.cat([part[0] for part in step]), torch.cat([part[1] for part in step])) for step in steps]


def assert_same(ours: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]) -> None:
    for one, other in zip(ours, others, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@pytest.mark.parametrize(
    "augmentation", [BatchAugmentation(), EVERYTHING, FURTHER], ids=["plain", "everything", "further"]
)
def test_ranks_share_the_batches_of_one_process(augmentation: BatchAugmentation) -> None:
    alone = together([resident(augmentation, Workers())])
    assert_same(together([resident(augmentation, Workers(rank, 3)) for rank in range(3)]), alone)
    assert_same(together([resident(augmentation, Workers())], first=2), alone[2:])


def test_an_image_without_augmentation_is_only_normalised() -> None:
    batches = resident(BatchAugmentation(), Workers())
    for (images, labels), index in zip(batches.epoch(2, ORDER), ORDER, strict=True):
        split = batches._split
        torch.testing.assert_close(images, (split.images[index].float() - MEAN) / STD)
        assert labels.tolist() == [place % CLASSES for place in index]


def test_mixed_targets_name_both_classes() -> None:
    for (_, targets), index in zip(together([resident(EVERYTHING, Workers())]), ORDER, strict=True):
        torch.testing.assert_close(targets.sum(1), torch.ones(len(index)))
        involved = np.stack([index % CLASSES, index[::-1] % CLASSES], axis=1)
        assert all(
            set(row.nonzero().flatten().tolist()) <= set(pair) for row, pair in zip(targets, involved, strict=True)
        )


def test_files_are_shared_among_ranks_and_read_once(files: EncodedImages) -> None:
    positions = np.arange(COUNT)[::-1].copy()

    def rank(number: int, world_size: int, repeats: int = 1) -> DecodedBatches:
        split, transforms = decoded_split(files, positions), ImageTransforms(image_size=16)
        workers, erase = Workers(number, world_size), BatchAugmentation(erasing=0.5)
        kept: dict[str, int] = {"num_classes": CLASSES, "seed": 1, "repeats": repeats}
        return DecodedBatches(split, transforms, erase, workers, **kept)

    alone = together([rank(0, 1)])
    assert [labels.tolist() for _, labels in alone] == [(positions[batch] % CLASSES).tolist() for batch in ORDER]
    assert_same(together([rank(0, 2), rank(1, 2)]), alone)
    assert_same(together([rank(0, 1)], first=2), alone[2:])
    thrice = [[images for images, _ in rank(number, 2, repeats=3).epoch(2, ORDER)] for number in range(2)]
    for number, steps in enumerate(thrice):  # copies of an image are read by different ranks
        for own, (images, _) in zip(steps, together([rank(0, 1, repeats=3)]), strict=True):
            assert torch.equal(own, images[number::2])


def test_colours_and_mixing_of_files_do_not_depend_on_the_step_they_resume_at(files: EncodedImages) -> None:
    split, workers = decoded_split(files, np.arange(COUNT)), Workers()
    plain, changed = (
        DecodedBatches(split, ImageTransforms(image_size=16), change, workers, num_classes=CLASSES, seed=1, repeats=1)
        for change in (BatchAugmentation(), FURTHER)
    )
    whole = together([changed])
    assert_same(together([changed], first=2), whole[2:])
    draws = SampleDraws(1, 2, ORDER[0])
    images, _ = together([plain])[0]
    coloured = FURTHER.colour(images * STD + MEAN, draws)
    normalised = (coloured - MEAN) / STD
    mixing = FURTHER.mixing((16, 16), SampleDraws(1, 2, ORDER[0][:1]), torch.device("cpu"))
    expected = FURTHER.erase_mixed_(FURTHER.mix(normalised, normalised.flip(0), mixing), draws)
    torch.testing.assert_close(whole[0][0], expected, rtol=1e-4, atol=1e-4)


def test_files_are_evaluated_once_over_all_ranks(files: EncodedImages) -> None:
    split = decoded_split(files, np.arange(5, COUNT))
    shares = [list(split.share(Workers(rank, 2))) for rank in range(2)]
    labels = torch.cat([labels for share in shares for _, labels in share])
    assert labels.tolist() == [place % CLASSES for place in range(5, COUNT)]
    images = torch.cat([images for share in shares for images, _ in share])
    assert images.shape == (COUNT - 5, 3, 16, 16)
    assert torch.equal(images, torch.cat([images for images, _ in split.share(Workers())]))

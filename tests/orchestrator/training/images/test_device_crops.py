"""Crops that a device decodes, here the CPU: the samples of the decoding processes, and errors."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.validation.dataset_rules import decoder_problems
from orchestrator.data.decoding import ImageError
from orchestrator.data.encoded_images import EncodedImages, write_encoded_shard
from orchestrator.errors import DataError
from orchestrator.training.images.device_crops import DeferredCrops, crops_on_device, encoded_batch
from orchestrator.training.images.image_loader import ImageLoader, ImageTransforms, SampleKey

CPU = torch.device("cpu")
TRANSFORMS = ImageTransforms(image_size=24, color_jitter=0.4, decoder="nvjpeg")
KEYS = [[SampleKey(place, seed=3, epoch=1) for place in batch] for batch in ([4, 0, 2], [1, 3])]


def photograph(number: int) -> bytes:
    """Return a JPEG file, or for every third number a PNG file."""
    part = load_sample_image("china.jpg")[50 * number : 50 * number + 60, 20 : 110 + number]
    target = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(part)).save(target, "PNG" if number % 3 == 2 else "JPEG")
    return target.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> EncodedImages:
    write_encoded_shard(tmp_path / "s.arrow", [(photograph(number), number) for number in range(5)])
    return EncodedImages([tmp_path / "s.arrow"])


@pytest.mark.parametrize("processes", [0, 1])
def test_a_device_makes_the_crops_of_the_decoding_processes(images: EncodedImages, processes: int) -> None:
    crops = TRANSFORMS.for_training()
    expected = list(ImageLoader(images, crops, processes=0).batches(KEYS))
    loader = ImageLoader(images, DeferredCrops(crops), processes=processes, collate=encoded_batch)
    seen = list(loader.batches(KEYS))
    assert [changes is None for batch, _ in seen for changes in batch.changes] == [False, False, True, False, False]
    for (batch, labels), (pixels, wanted) in zip(seen, expected, strict=True):
        assert labels.tolist() == wanted.tolist()
        assert torch.equal(crops_on_device(batch, (24, 24), CPU), pixels)


def test_a_file_that_no_decoder_reads_is_an_error(images: EncodedImages) -> None:
    content = photograph(0)
    deferred = DeferredCrops(TRANSFORMS.for_training())
    batch, _ = encoded_batch([(deferred(photograph(1)), 0), (deferred(content[:-40]), 1)])
    with pytest.raises(ImageError, match=r"truncated.*, sample 1 of its batch"):
        crops_on_device(batch, (24, 24), CPU)
    loader = ImageLoader([b"words"], deferred, processes=0, collate=encoded_batch)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="image 0 cannot be decoded"):
        list(loader.batches([[SampleKey(0)]]))


def test_policies_of_pillow_are_refused() -> None:
    dataset, policy = DatasetConfig(uri="x", decoder="nvjpeg"), TrainingConfig(auto_augment="rand-m9")
    (problem,) = decoder_problems(dataset, policy, {})
    assert str(problem).startswith("dataset.decoder: got nvjpeg with auto_augment: rand-m9, which changes images on")
    assert not list(decoder_problems(dataset, TrainingConfig(), {}))

"""Decoding processes deliver images where the temporary folder has a long path."""

from __future__ import annotations

import io
import multiprocessing
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from orchestrator.data.encoded_images import EncodedImages, write_encoded_shard
from orchestrator.training.images.image_loader import ImageLoader, ImageTransforms, SampleKey


@pytest.mark.timeout(60)  # the loader would wait for a process that cannot deliver its images
@pytest.mark.parametrize("length", [10, 120])
def test_images_arrive_for_temporary_folders_of_any_length(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * length)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    remembered = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    monkeypatch.setitem(remembered, "tempdir", None)
    picture = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(picture, "JPEG")
    write_encoded_shard(tmp_path / "train-0.arrow", [(picture.getvalue(), 3)])
    transform = ImageTransforms(image_size=16).for_evaluation()
    loader = ImageLoader(EncodedImages([tmp_path / "train-0.arrow"]), transform, processes=1)
    ((pixels, labels),) = loader.batches([[SampleKey(0, 0, 0, 0)]])
    assert pixels.shape == (1, 3, 16, 16)
    assert torch.equal(labels, torch.tensor([3]))
    assert tempfile.gettempdir() == str(folder)

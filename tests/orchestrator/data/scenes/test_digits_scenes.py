"""Scenes of digits: the same on every machine, with exact annotations, and digits of one split only."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.scenes import SceneDataset, open_scenes, prepare_scenes
from orchestrator.data.scenes.masks import decode_masks
from orchestrator.data.sources import open_source
from orchestrator.data.sources.digits import digit_images
from orchestrator.data.sources.scenes import digits_scenes
from orchestrator.data.sources.scenes.scene_source import SceneSample, SceneSource
from orchestrator.errors import DataError

GREYS = {"train": 200, "test": 100}
"""Grey values of digits that replace those of each split."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SceneDataset:
    folder = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits_scenes, "_SCENES", {"train": 60, "test": 20})
        path = prepare_scenes("digits-scenes", folder)
    assert prepare_scenes("digits-scenes", folder) == path
    with pytest.raises(DataError, match=r"unknown annotated images 'digits'\. Did you mean 'digits-scenes'"):
        prepare_scenes("digits", folder)
    return open_scenes(path)


def test_the_first_scenes_are_the_same_on_every_machine() -> None:
    """Compare with a hash that was computed once: a change of a pixel would change all results on scenes."""
    digest = hashlib.sha256()
    with open_source("digits-scenes", None) as source:
        assert isinstance(source, SceneSource)
        assert source.splits == {"train": 1000, "test": 250}
        for split in source.splits:
            for sample in source.read(split, 0, 8):
                assert isinstance(sample.image, bytes)
                assert sample.target is not None
                digest.update(sample.image + sample.target.boxes.tobytes() + sample.target.labels.tobytes())
                digest.update(b"".join(sample.target.masks or ()))
    assert digest.hexdigest()[:16] == "71a9f559690be7ec"


def test_boxes_masks_and_maps_agree(data: SceneDataset) -> None:
    counts = []
    for scenes in data.splits.values():
        for place in range(len(scenes)):
            target = scenes.target(place)
            assert target.masks is not None
            assert target.class_map is not None
            masks = decode_masks(target.masks, 64, 64)
            counts.append(len(masks))
            assert masks.sum(axis=0).max() <= 1  # masks are of visible pixels
            expected = np.zeros((64, 64), np.uint8)
            for mask, box, label, area in zip(masks, target.boxes, target.labels, target.area, strict=True):
                rows, columns = np.nonzero(mask)
                assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert area == mask.sum() > 20
                expected[mask.astype(bool)] = label
            np.testing.assert_array_equal(target.class_map, expected)
    assert {1, 2, 3, 4} <= set(counts) <= {1, 2, 3, 4, 5}
    assert data.map_class_names == ("background", *data.class_names)


def test_training_scenes_use_no_digit_of_test_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    splits, names = digit_images()
    assert not {image.tobytes() for image in splits["train"][0]} & {image.tobytes() for image in splits["test"][0]}
    plain = {split: (np.full((3, 1, 8, 8), grey, np.uint8), np.arange(3)) for split, grey in GREYS.items()}
    monkeypatch.setattr(digits_scenes, "digit_images", lambda: (plain, names))
    with open_source("digits-scenes", None) as source:
        for split, grey in GREYS.items():
            for sample in source.read(split, 0, 20):
                assert isinstance(sample, SceneSample)
                assert sample.target is not None
                assert sample.target.class_map is not None
                pixels = np.frombuffer(bytes(sample.image)[-64 * 64 :], np.uint8).reshape(64, 64)
                assert set(pixels[sample.target.class_map > 0].tolist()) == {grey}


def test_a_digit_is_enlarged_by_linear_interpolation() -> None:
    import torch

    digit = digit_images()[0]["train"][0][3, 0]
    for side in (14, 19, 26):
        smooth = torch.nn.functional.interpolate(
            torch.from_numpy(digit)[None, None].double(), size=(side, side), mode="bilinear", align_corners=False
        )
        np.testing.assert_allclose(digits_scenes._enlarged(digit, side), smooth[0, 0].numpy(), atol=0.51)


def test_scenes_are_prepared_to_the_same_bytes(
    data: SceneDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits_scenes, "_SCENES", {"train": 60, "test": 20})
    prepare("digits-scenes", None, str(tmp_path / "again"))
    for split, scenes in data.splits.items():
        (path,) = scenes.paths
        assert path.read_bytes() == (tmp_path / "again" / f"{split}-00000.arrow").read_bytes()

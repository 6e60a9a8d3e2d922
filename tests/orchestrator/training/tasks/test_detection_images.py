"""Images of detectors: squares or of their own ratio, in training and in evaluations, and their colours."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.config import DatasetConfig, TrainingConfig
from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.datasets import open_any_dataset
from orchestrator.inference.images import place_for_network
from orchestrator.training.evaluation_settings import EvaluationSettings
from orchestrator.training.tasks.registry import find_task
from tests.orchestrator.data.scenes.tiny_scenes import HEIGHT, WIDTH, class_map, coco_tree

SIDE = 60


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prepare images of 40 x 30 px, each with a box from (4, 5) to (14, 15), and maps of one class."""
    folder = tmp_path_factory.mktemp("coco")
    root = coco_tree(folder / "coco")
    for image in root.glob("*2017/*.jpg"):
        class_map(root / "stuffthingmaps" / image.parent.name / f"{image.stem}.png", np.full((HEIGHT, WIDTH), 16))
    prepare("coco-stuffthings", root, str(folder / "to"))
    return str(folder / "to")


def placed(coco: str, resize: str, task: str = "detection") -> Any:
    dataset = DatasetConfig(uri=coco, image_size=SIDE, resize=resize, validation_fraction=0.4)
    return find_task(task).place_dataset(open_any_dataset(coco), torch.device("cpu"), dataset)


@pytest.mark.parametrize(("resize", "size"), [("keep_ratio", (60, 80)), ("square", (60, 60))])
def test_all_images_have_the_ratio_of_the_setting(coco: str, resize: str, size: tuple[int, int]) -> None:
    data = placed(coco, resize)
    image, target = data.train.augmented(0, TrainingConfig(), seed=0, epoch=1)
    assert image.shape == (3, *size)
    across, down = size[1] / WIDTH, size[0] / HEIGHT
    torch.testing.assert_close(target["boxes"], torch.tensor([[4 * across, 5 * down, 14 * across, 15 * down]]))
    for split in (data.validation, data.test):
        image, target = split.evaluated(0)
        assert image.shape == (3, *size)
        assert target["original_size"].tolist() == [HEIGHT, WIDTH]
    assert EvaluationSettings.of(TrainingConfig(), data.test).resize == resize


@pytest.mark.parametrize("resize", ["keep_ratio", "square"])
def test_a_later_evaluation_resizes_as_the_run_did(coco: str, resize: str, tmp_path: Path) -> None:
    data = placed(coco, resize)
    network: Any = SimpleNamespace(
        task="detection",
        class_names=data.class_names,
        trained_image_size=SIDE,
        pixel_mean=(0.5,) * 3,
        pixel_std=(0.25,) * 3,
    )
    settings = EvaluationSettings.of(TrainingConfig(), data.test)
    found = place_for_network(
        network, coco, split="test", settings=settings, datasets_folder=tmp_path, device=torch.device("cpu"), label="n"
    )
    assert isinstance(found, type(data.test))
    assert found.evaluated(0)[0].shape == data.test.evaluated(0)[0].shape


def test_colours_change_and_boxes_do_not(coco: str) -> None:
    split = placed(coco, "square").train
    plain, target = split.augmented(0, TrainingConfig(), seed=0, epoch=1)
    changed = [split.augmented(0, TrainingConfig(photometric=True), seed=0, epoch=epoch) for epoch in range(1, 6)]
    assert any(not torch.equal(image, plain) for image, _ in changed)
    assert all(torch.equal(other["boxes"], target["boxes"]) for _, other in changed)
    again = split.augmented(0, TrainingConfig(photometric=True), seed=0, epoch=3)
    assert torch.equal(again[0], changed[2][0])


def test_maps_of_classes_follow_their_images_where_there_are_some(coco: str) -> None:
    image, target = placed(coco, "square", "instances").train.augmented(0, TrainingConfig(), seed=0, epoch=1)
    assert target["class_map"].shape == image.shape[1:] == target["masks"].shape[1:]
    assert target["class_map"].unique().tolist() == [16]
    assert "class_map" not in placed(coco, "square").train.augmented(0, TrainingConfig(), seed=0, epoch=1)[1]

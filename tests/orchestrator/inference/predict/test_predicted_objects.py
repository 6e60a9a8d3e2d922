"""Prediction of boxes and masks by a network that a trial has trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator import load_model, predict
from orchestrator.data.scenes.masks import decode_masks
from orchestrator.inference.images import sample_images
from orchestrator.inference.predict import DetectedImage
from orchestrator.inference.predict.samples import draw_samples
from orchestrator.inference.trained_network import find_network
from orchestrator.training.augmentations.original_size import prediction_to_original
from tests.support.sweeps.command_line import run_command
from tests.support.tasks.few_scenes import few_scenes, scene_trial, write_scenes
from tests.support.training_pieces import run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a network of instances for a moment, and write two test images as files."""
    folder = tmp_path_factory.mktemp("objects")
    data = few_scenes(write_scenes(folder / "datasets"), "instances")
    options = {"anchor_scale": 2.0, "proposals": 40, "samples": 32, "mask_channels": 8}
    settings = {"task": "instances", "metric": "val/mask_ap", "loss": "detector", "options": options, "epochs": 1}
    run(scene_trial(data, folder / "trial", **settings))
    (folder / "images").mkdir()
    for place in range(2):
        image, _ = data.test.samples[place]  # type: ignore[attr-defined]  # of scenes
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{place}.png")
    return folder


def test_objects_are_those_of_the_evaluation(folder: Path) -> None:
    trained = find_network(folder / "trial/best.pt", runs_dir=folder)
    dataset = str(folder / "datasets/digits-scenes")
    seen = sample_images(trained, dataset, split="test", count=9)
    assert seen.inputs.shape == (9, 3, 32, 32)
    found = predict(load_model(folder / "trial/best.pt"), folder / "images", score=0.0)
    sizes = {"input_size": torch.tensor([32, 32]), "original_size": torch.tensor([64, 64])}
    for number, each in enumerate(found):
        assert isinstance(each, DetectedImage)
        with torch.no_grad():
            (output,) = trained.network([seen.inputs[seen.positions.index(number)]])
        expected = prediction_to_original(output, sizes)
        assert len(each.objects) == len(expected["scores"]) > 0
        torch.testing.assert_close(torch.tensor([one.box for one in each.objects]), expected["boxes"])
        torch.testing.assert_close(torch.tensor([one.score for one in each.objects]), expected["scores"])
        masks = torch.stack([one.mask for one in each.objects if one.mask is not None])
        assert masks.shape == (len(each.objects), 64, 64)
        assert torch.equal(masks, expected["masks"])
        assert [int(one.name) + 1 for one in each.objects] == expected["labels"].tolist()  # the names are digits


def test_the_command_writes_boxes_and_masks(folder: Path, tmp_path: Path) -> None:
    given = ("predict", str(folder / "trial/best.pt"), str(folder / "images/0.png"), "--output", str(tmp_path / "out"))
    code, output = run_command(*given, "--score", "0", "--json")
    assert code == 0, output
    (image,) = json.loads(output)["images"]
    first = image["objects"][0]
    (mask,) = decode_masks([first["mask"]["counts"].encode()], *first["mask"]["size"])
    expected: Any = predict(folder / "trial/best.pt", folder / "images/0.png", score=0.0)
    assert np.array_equal(mask, expected[0].objects[0].mask.numpy())
    assert Image.open(tmp_path / "out/0.png").width == 384
    code, output = run_command(*given, "--score", "1", "--force")
    assert (code, "no object" in output) == (0, True)


def test_annotated_and_predicted_objects_are_drawn_side_by_side(folder: Path) -> None:
    trained = find_network(folder / "trial/best.pt", runs_dir=folder)
    drawn = draw_samples(replace(trained, dataset={"uri": str(folder / "datasets/digits-scenes")}))
    assert len(drawn) == 6

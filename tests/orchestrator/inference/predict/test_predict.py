"""Prediction for image files: the same numbers as in an evaluation, in Python and by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import models
from orchestrator import load_model, predict
from orchestrator.data import PixelImages, open_dataset, prepare_dataset
from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.datasets import open_any_dataset
from orchestrator.errors import CheckpointError, ConfigError, DataError
from orchestrator.inference.images import place_for_network, recorded_settings
from orchestrator.inference.predict import ClassifiedImage, SegmentedImage
from orchestrator.training.checkpoints.checkpoint_file import save_checkpoint
from orchestrator.training.tasks.registry import find_task
from tests.support.sweeps.command_line import run_command
from tests.support.tasks.few_scenes import few_scenes, scene_trial, write_scenes
from tests.support.tiny_archives import photo_tree
from tests.support.training_pieces import few_digits, make_trial, run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a classifier of the digits, and write four test images as files."""
    folder = tmp_path_factory.mktemp("digits")
    run(make_trial(few_digits(folder), folder, epochs=2))
    test = open_dataset(prepare_dataset("digits", folder)).splits["test"]
    assert isinstance(test, PixelImages)
    (folder / "images").mkdir()
    for place in range(4):
        Image.fromarray(np.array(test.images[place, 0])).save(folder / "images" / f"{place}.png")
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a network of segmentation for a moment, and write three test images as files."""
    folder = tmp_path_factory.mktemp("scenes")
    data = few_scenes(write_scenes(folder / "datasets"), "segmentation")
    settings = {"task": "segmentation", "metric": "val/miou", "loss": "pixel_cross_entropy", "epochs": 1}
    run(scene_trial(data, folder / "trial", **settings))
    (folder / "images").mkdir()
    for place in range(3):
        image, _ = data.test.samples[place]  # type: ignore[attr-defined]  # of scenes
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{place}.png")
    return folder


def test_digits_have_the_probabilities_of_their_pixels(digits: Path) -> None:
    model = load_model(digits / "best.pt")
    test = open_dataset(prepare_dataset("digits", digits)).splits["test"]
    assert isinstance(test, PixelImages)
    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (model.pixel_mean, model.pixel_std))
    with torch.no_grad():
        expected = model((torch.tensor(np.array(test.images[:4])) / 255 - mean) / std).softmax(1)
    for given in (digits / "best.pt", model):
        found = predict(given, digits / "images", top=10)
        assert [each.path.name for each in found] == ["0.png", "1.png", "2.png", "3.png"]
        for each, row in zip(found, expected, strict=True):
            assert isinstance(each, ClassifiedImage)
            by_label = torch.tensor([score.probability for score in sorted(each.classes, key=lambda one: one.label)])
            torch.testing.assert_close(by_label, row, rtol=1e-5, atol=1e-6)


def test_photos_are_cropped_and_averaged_as_in_an_evaluation(tmp_path: Path) -> None:
    prepare("folder", photo_tree(tmp_path), str(tmp_path / "prepared"))
    torch.manual_seed(0)
    network = models.create_model("conv_resnet26_small", num_classes=3, in_chans=3, image_size=32)
    described = {"name": "conv_resnet26_small", "options": {}, "num_classes": 3, "in_chans": 3, "image_size": 32}
    data = {"pixel_mean": [0.4, 0.5, 0.6], "pixel_std": [0.2, 0.3, 0.4], "class_names": ["cat", "dog", "owl"]}
    evaluation = {"crop_pct": 0.7, "interpolation": "bilinear", "tta": "hflip"}
    content = {"model": described, "data": data, "state_dict": network.state_dict(), "evaluation": evaluation}
    save_checkpoint(tmp_path / "best.pt", content)
    model = load_model(tmp_path / "best.pt")
    settings = recorded_settings(model, {}, {})
    assert settings is not None
    place: Any = {"split": "test", "settings": settings, "datasets_folder": tmp_path, "label": "x"}
    split: Any = place_for_network(model, str(tmp_path / "prepared"), device=torch.device("cpu"), **place)
    paths = []
    for place in range(len(split)):
        paths.append(tmp_path / f"{place}.jpg")
        paths[-1].write_bytes(split.files[place])
    images, _ = split.batch(torch.arange(len(split)))
    with torch.no_grad():
        expected = (model(images).softmax(1) + model(images.flip(3)).softmax(1)) / 2
    for each, row in zip(predict(model, paths, top=1), expected, strict=True):
        assert isinstance(each, ClassifiedImage)
        assert each.classes[0].label == int(row.argmax())
        assert each.classes[0].probability == pytest.approx(float(row.max()), abs=1e-6)


def test_maps_are_those_of_the_evaluation(scenes: Path) -> None:
    model = load_model(scenes / "trial" / "best.pt")
    source = open_any_dataset(scenes / "datasets" / "digits-scenes")
    found = predict(scenes / "trial" / "best.pt", [scenes / "images"])
    settings = recorded_settings(model, {}, {})
    place: Any = {"split": "test", "settings": settings, "datasets_folder": scenes, "label": "x"}
    split = place_for_network(model, str(scenes / "datasets/digits-scenes"), device=torch.device("cpu"), **place)
    task = find_task("segmentation")
    for number, each in enumerate(found):
        assert isinstance(each, SegmentedImage)
        images, targets = split.batch(torch.tensor([number]))
        with torch.no_grad():
            (expected,) = task.predictions(model(images), targets)
        assert each.class_map.shape == (64, 64)
        assert torch.equal(each.class_map, expected.class_map)  # type: ignore[union-attr]  # of segmentation
        assert sum(share.share for share in each.classes) == pytest.approx(1)
    assert set(source.annotations) >= {"class_map"}


def test_the_command_writes_pictures_maps_and_json(scenes: Path, tmp_path: Path) -> None:
    given = ("predict", str(scenes / "trial/best.pt"), str(scenes / "images"), "--output", str(tmp_path / "out"))
    code, output = run_command(*given, "--device", "cpu")
    assert code == 0, output
    assert "share of pixels" in output
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert (written["task"], len(written["images"])) == ("segmentation", 3)
    class_map = np.asarray(Image.open(tmp_path / "out" / written["images"][0]["class_map"]))
    shares = {each["label"]: each["share"] for each in written["images"][0]["classes"]}
    assert shares == {label: pytest.approx((class_map == label).mean()) for label in np.unique(class_map).tolist()}
    assert Image.open(tmp_path / "out" / "0.png").width == 384
    code, output = run_command(*given)
    assert (code, "replace them with --force" in output) == (2, True)
    code, output = run_command(*given, "--force", "--json")
    assert (code, json.loads(output)) == (0, written)


def test_a_classifier_of_small_images_takes_others_and_says_so(digits: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 30), "white").save(tmp_path / "other.png")
    given = ("predict", str(digits / "best.pt"), str(digits / "images"), str(tmp_path / "other.png"), "--top", "1")
    code, output = run_command(*given, "--to", str(tmp_path / "out"))
    assert code == 0, output
    assert "1 of 5 images are not of 8 x 8 px, as all images of its training were; they are resized" in output
    assert "probability" in output
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())["images"][4]["classes"]) == 1


def test_bad_input_is_refused_before_any_work(digits: Path, tmp_path: Path) -> None:
    images = digits / "images"
    with pytest.raises(
        ConfigError, match=r"score: got 1\.5; a score is from 0 to 1\. Use 0\.5\ntop: got 0; at least 1"
    ):
        predict("gone.pt", images, score=1.5, top=0)
    with pytest.raises(DataError, match=r"gone\.png: no such file or folder"):
        predict("gone.pt", "gone.png")
    with pytest.raises(CheckpointError, match=r"gone\.pt: neither a checkpoint file"):
        predict("gone.pt", images)
    with pytest.raises(CheckpointError, match="model: Linear lacks task, class_names, pixel_mean, trained_image_size"):
        predict(torch.nn.Linear(1, 1), images)
    with pytest.raises(ConfigError, match="--device: got 'cuda:77'"):
        predict(digits / "best.pt", images, device="cuda:77")
    code, output = run_command("predict", "gone.pt", str(images), "--dataset", "digits", "--to", str(tmp_path / "out"))
    assert (code, "names the classes of weights with --model" in output) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_task_without_predictions_refuses() -> None:
    from tests.support.tasks.point_task import PointTask

    with pytest.raises(DataError, match="task points: its predictions have no form that can be drawn"):
        PointTask().predictions([], [])

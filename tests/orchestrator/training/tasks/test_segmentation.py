"""Semantic segmentation as a task: loss, metrics, exact resume, one rank against two, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy, interpolate

from models.segmentation import Segmentor
from orchestrator.config import DatasetConfig, SweepConfig, TrainingConfig
from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.datasets import dataset_facts, locate_dataset, open_any_dataset
from orchestrator.data.description import describe_dataset
from orchestrator.data.scenes import dataset as scenes_dataset
from orchestrator.errors import ConfigError, DataError
from orchestrator.inference.evaluate import evaluate_checkpoint
from orchestrator.training.checkpoints.checkpoints import load_network_file
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.images.step_order import StepOrder, read_steps
from orchestrator.training.tasks import scenes as scene_tasks
from orchestrator.training.tasks.registry import find_task
from orchestrator.training.tasks.segmentation import LogitsEvaluator
from orchestrator.training.trial import Trial
from orchestrator.training.workers import Workers
from tests.orchestrator.data.scenes.tiny_scenes import ade_tree
from tests.support.tasks.few_scenes import few_scenes, scene_trial, write_scenes
from tests.support.training_pieces import differences, join_group, run, run_ranks, timeless

LOSS = {"loss": "pixel_cross_entropy"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def data(scenes: Path) -> DeviceImages:
    return few_scenes(scenes, "segmentation")


def segmentation_trial(data: DeviceImages, folder: Path, **changes: Any) -> Trial:
    return scene_trial(data, folder, task="segmentation", metric="val/miou", **{**LOSS, **changes})


@pytest.mark.usefixtures("one_thread")
def test_a_trial_reports_what_is_counted_pixel_by_pixel(data: DeviceImages, scenes: Path, tmp_path: Path) -> None:
    trial = segmentation_trial(data, tmp_path)
    reports = run(trial)
    last = reports[-1]
    assert last["train/loss"] < reports[0]["train/loss"]
    assert {"val/miou", "val/pixel_accuracy", "val/mean_accuracy"} <= set(last)
    network = load_network_file(trial.checkpoints.best)
    assert (network.task, network.output_shape) == ("segmentation", (11, 32, 32))
    assert network.class_names == ("background", *map(str, range(10)))

    right = counted = 0
    truth_of, found_of = torch.zeros(11), torch.zeros(11)
    both = torch.zeros(11)
    test = data.test
    for place in range(len(test)):
        images, targets = test.batch(torch.tensor([place]))
        truth = targets[0]["class_map"].as_subclass(torch.Tensor).long()
        assert images.shape == (1, 3, 32, 32)
        assert truth.shape == (64, 64)  # scored at the size of the image
        with torch.no_grad():
            logits = interpolate(network(images), (64, 64), mode="bilinear", align_corners=False)
        found = logits[0].argmax(0)
        right, counted = right + int((found == truth).sum()), counted + truth.numel()
        for label in range(11):
            truth_of[label] += (truth == label).sum()
            found_of[label] += (found == label).sum()
            both[label] += ((truth == label) & (found == label)).sum()
    ious = both / (truth_of + found_of - both)
    assert last["test/pixel_accuracy"] == pytest.approx(right / counted, abs=1e-4)  # rounding decides equal logits
    assert last["test/miou"] == pytest.approx(float(ious.nanmean()), abs=1e-4)

    again = evaluate_checkpoint(trial.checkpoints.best, str(scenes))
    assert again.images == 9
    assert {f"test/{name}": value for name, value in again.metrics.items()} == {
        name: value for name, value in last.items() if name.startswith("test/")
    }
    with pytest.raises(ConfigError, match=r"tta: got 'hflip'; segmentation does not have it\. Use none"):
        evaluate_checkpoint(trial.checkpoints.best, str(scenes), tta="hflip")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("every", "more"),
    [
        (2, {}),
        (5, {"epoch_steps": 4, "scale_range": (0.5, 2.0), "cat_max_ratio": 0.6, "photometric": True}),
    ],
)
def test_a_trial_resumes_to_the_bit(data: DeviceImages, tmp_path: Path, every: int, more: dict[str, Any]) -> None:
    """Resume after the first step of the second epoch: of a pass of three steps, or of four steps over its end."""
    settings = {"hflip": 0.5, "crop_px": 24, **more}
    whole = segmentation_trial(data, tmp_path / "whole", **settings)
    reports = run(whole)
    cut = segmentation_trial(data, tmp_path / "cut", checkpoint_every_steps=every, **settings)
    run(cut, cut_before=every + 3 if every == 2 else every + 1)
    resumed = segmentation_trial(data, tmp_path / "cut", checkpoint_every_steps=every, **settings)
    assert (resumed.epoch, resumed.step) == (1, 1)
    assert timeless(run(resumed)) == timeless(reports)
    assert not differences(whole.network.state_dict(), resumed.network.state_dict())


@pytest.mark.usefixtures("one_thread")
def test_augmentation_follows_from_seed_epoch_and_place_alone(data: DeviceImages, tmp_path: Path) -> None:
    training = segmentation_trial(data, tmp_path, hflip=0.5, crop_px=24).config.training
    split: Any = data.train
    image, target = split.augmented(3, training, seed=1, epoch=2)
    torch.rand(5)
    same, same_target = split.augmented(3, training, seed=1, epoch=2)
    assert image.shape == (3, 24, 24)
    assert target["class_map"].shape == (24, 24)
    assert torch.equal(image, same)
    assert torch.equal(target["class_map"], same_target["class_map"])
    assert not all(torch.equal(image, split.augmented(3, training, seed=1, epoch=each)[0]) for each in range(3, 7))


@pytest.mark.usefixtures("one_thread")
def test_ranks_read_together_what_one_reads_over_the_ends_of_passes(data: DeviceImages) -> None:
    training = TrainingConfig(
        global_batch_size=7, epoch_steps=4, crop_px=24, hflip=0.5, scale_range=(0.75, 1.5), photometric=True
    )
    order, task = StepOrder(len(data.train), training, seed=1), find_task("segmentation")

    def read(epoch: int, rank: int = 0, world_size: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
        batches = task.training_batches(data.train, training, Workers(rank, world_size), num_classes=11, seed=1)
        steps = read_steps(batches, order.epoch(epoch), first=0)
        return [(images, targets["class_map"]) for images, targets in steps]

    for epoch in (1, 2):
        shares = zip(read(epoch, 0, 2), read(epoch, 1, 2), strict=True)
        for (images, maps), (first, second) in zip(read(epoch), shares, strict=True):
            assert torch.equal(images, torch.cat([first[0], second[0]]))
            assert torch.equal(maps, torch.cat([first[1], second[1]]))


@pytest.mark.usefixtures("one_thread")
def test_the_loss_is_the_mean_over_the_pixels_with_a_class() -> None:
    task = find_task("segmentation")
    description = {
        "name": "conv_resnet26_small", "num_classes": 11, "in_chans": 3, "image_size": 16,
        "options": {"head": "upernet", "head_channels": 8, "head_dropout": 0.0, "auxiliary": False},
    }  # fmt: skip
    torch.manual_seed(0)
    network = task.build_network(description).train()
    images = torch.randn(3, 3, 16, 16)
    class_map = torch.randint(0, 11, (3, 16, 16))
    class_map[:, :5] = 255
    targets = {"class_map": class_map}
    outputs = task.forward(network, images, targets)
    count = task.loss_count(targets)
    assert count is not None
    assert int(count) == 3 * 11 * 16
    mean = task.loss_sum(outputs, targets, None) / count  # type: ignore[arg-type]  # has one loss
    torch.testing.assert_close(mean, cross_entropy(network(images), class_map, ignore_index=255), rtol=1e-5, atol=1e-6)
    second = task.build_network({**description, "options": {**description["options"], "auxiliary": True}})
    assert set(task.forward(second, images, targets)) == {"loss_semantic", "loss_auxiliary"}


def test_logits_are_cut_and_resized_to_the_image() -> None:
    logits = torch.randn(1, 3, 8, 8)
    target = {"input_size": torch.tensor([6, 8]), "original_size": torch.tensor([9, 12]), "image_id": 4}
    expected = interpolate(logits[:, :, :6], (9, 12), mode="bilinear", align_corners=False)[0].argmax(0)
    evaluator = LogitsEvaluator(3)
    evaluator.update(logits, [{**target, "class_map": expected}])
    evaluator.all_reduce(Workers())
    assert evaluator.compute() == pytest.approx({"miou": 1.0, "pixel_accuracy": 1.0, "mean_accuracy": 1.0})


@pytest.mark.parametrize("most_pixels", [24 * 32 * 2, 2**21])
def test_no_image_is_padded_for_another_in_evaluation(
    most_pixels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_tasks, "_MOST_PIXELS", most_pixels)
    sizes = [(30, 40), (40, 30), (30, 60), (30, 40), (40, 30), (30, 40)]
    maps = {f"{split}/{place}": np.full(size, 1 + place) for split in ("training", "validation")
            for place, size in enumerate(sizes)}  # fmt: skip
    prepare("ade20k", ade_tree(tmp_path / "ade", maps), str(tmp_path / "prepared"))
    dataset = DatasetConfig(uri=str(tmp_path / "prepared"), image_size=24)
    test: Any = (
        find_task("segmentation")
        .place_dataset(open_any_dataset(tmp_path / "prepared"), torch.device("cpu"), dataset)
        .test
    )
    alone = {target["image_id"]: image for image, target in map(test.evaluated, range(len(sizes)))}
    assert {tuple(image.shape[1:]) for image in alone.values()} == {(24, 32), (32, 24), (24, 48)}
    for world_size in (1, 2):
        seen: dict[int, torch.Tensor] = {}
        for rank in range(world_size):
            for images, targets in test.share(Workers(rank, world_size)):
                assert len(images) <= (3 if most_pixels == 2**21 else 2)
                seen |= {target["image_id"]: image for image, target in zip(images, targets, strict=True)}
        assert seen.keys() == alone.keys()
        assert all(torch.equal(seen[number], alone[number]) for number in seen)


def test_masks_are_not_decoded(data: DeviceImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(scenes_dataset, "decode_masks")
    _, targets = data.test.batch(torch.tensor([0]))
    assert {"class_map", "image_id"} <= targets[0].keys()
    assert "masks" not in targets[0]


class WholeNetwork:
    """Network as evaluations read it."""

    def __init__(self, network: Segmentor) -> None:
        self.evaluated = network

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.evaluated(images)
        assert isinstance(logits, torch.Tensor)
        return logits


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("positions", ["classification", "detection"])
def test_a_network_built_for_one_size_reads_longer_images_in_windows(positions: str) -> None:
    task = find_task("segmentation")
    description = {
        "name": "lesa_resnet26_cifar", "num_classes": 3, "in_chans": 3, "image_size": 16,
        "options": {"fpn_channels": 8, "head_channels": 8, "position_embedding": positions},
    }  # fmt: skip
    torch.manual_seed(0)
    network = task.build_network(description).eval()
    assert isinstance(network, Segmentor)
    images = torch.randn(2, 3, 16, 26)
    with torch.no_grad():
        assert torch.equal(task.predict(WholeNetwork(network), images[..., :16], "none"), network(images[..., :16]))
        found = task.predict(WholeNetwork(network), images, "none")
        first, second = network(images[..., :16]), network(images[..., 10:])
    torch.testing.assert_close(found[..., :10], first[..., :10])
    torch.testing.assert_close(found[..., 10:16], (first[..., 10:] + second[..., :6]) / 2)
    torch.testing.assert_close(found[..., 16:], second[..., 6:])
    plain = task.build_network({**description, "name": "conv_resnet26_small", "options": {"head_channels": 8}})
    assert plain.only_px is None


def train_rank(rank: int, world_size: int, folder: str) -> None:
    """Train as one process of a group."""
    place = Path(folder)
    workers = join_group(rank, world_size, place)
    torch.save(
        train_once(few_scenes(place / "digits-scenes", "segmentation"), place / "pair", workers), place / f"{rank}.pt"
    )
    dist.destroy_process_group()


def train_once(data: DeviceImages, folder: Path, workers: Workers) -> dict[str, Any]:
    settings = {
        "sync_batch_norm": True,
        "optimizer": "sgd",
        "lr": 0.05,
        "epochs": 1,
        "hflip": 0.5,
        "global_batch_size": 21,
    }
    trial = segmentation_trial(data, folder, workers=workers, options={"head_dropout": 0.0}, **settings)
    return {"reports": timeless(run(trial)), "weights": trial.train_state.evaluated.state_dict()}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_ranks_train_and_evaluate_as_one_does(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path)
    alone = train_once(few_scenes(scenes, "segmentation"), tmp_path / "alone", Workers())
    run_ranks(train_rank, 2, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for key, value in first["weights"].items():
        torch.testing.assert_close(value, alone["weights"][key], rtol=1e-3, atol=1e-5)
        assert torch.equal(value, second["weights"][key])
    assert first["reports"][0]["train/loss"] == pytest.approx(alone["reports"][0]["train/loss"], rel=1e-4)
    assert first["reports"][0]["val/pixel_accuracy"] == pytest.approx(
        alone["reports"][0]["val/pixel_accuracy"], abs=1e-3
    )


def test_datasets_without_what_the_task_reads_are_refused(scenes: Path, tmp_path: Path) -> None:
    digits = open_any_dataset(locate_dataset("digits", None, tmp_path))
    with pytest.raises(DataError, match="have one label each, and segmentation needs class_map"):
        find_task("segmentation").class_names(digits)
    with pytest.raises(DataError, match="classification needs images with one label each"):
        find_task("classification").class_names(open_any_dataset(scenes))
    facts = dataset_facts(None, str(scenes), 48, "class_map")
    assert (facts.image_size, facts.in_chans, facts.num_classes, facts.train_images) == (48, 3, 11, 28)
    assert dataset_facts("digits-scenes", None, None, "class_map").image_size == 64
    with pytest.raises(DataError, match="unknown dataset 'digits'"):
        dataset_facts("digits", None, None, "class_map")
    with pytest.raises(DataError, match="its images have boxes, masks, class_map, and the task needs polygons"):
        dataset_facts(None, str(scenes), None, "polygons")
    described, _ = describe_dataset(str(scenes))
    assert described["splits"]["test"]["images"] == 9
    assert described["annotations"] == ["boxes", "masks", "class_map"]


def sweep(**settings: Any) -> SweepConfig:
    base = {
        "name": "s",
        "task": "segmentation",
        "dataset": {"name": "digits-scenes"},
        "model": {"name": "conv_resnet26_small", "options": {"head_channels": 16}},
    }
    return SweepConfig(**{**base, **settings})


def test_a_sweep_has_the_objective_and_the_loss_of_the_task() -> None:
    config = sweep(
        search={"head": {"choices": ["semantic_fpn", "upernet"]}, "lr": {"low": 1e-3, "high": 1e-2, "type": "float"}}
    )
    assert (config.objective.metric, config.objective.mode) == ("val/miou", "max")
    assert config.training.loss == "pixel_cross_entropy"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": {"name": "conv_resnet26_small", "options": {"head_chanels": 8}}}, "Did you mean 'head_channels'?"),
        ({"model": {"name": "conv_resnet26_small", "options": {"head": "upernt"}}}, "Use 'upernet'."),
        (
            {"model": {"name": "conv_resnet26_small", "options": {"head": "upernet", "fpn_channels": 8}}},
            "upernet has no such pyramid",
        ),
        ({"training": {"repeats": 2}}, "training.repeats: got 2; segmentation does not use it"),
        ({"training": {"scale_range": [2.0, 0.5]}}, "training.scale_range: got [2.0, 0.5]"),
        ({"training": {"scale_range": [0.01, 1]}}, "images of 64 px would have no pixel left. Use 0.016 or more"),
        ({"dataset": {"name": "digits-scenes", "resize": "square"}}, "dataset.resize: got 'square'; segmentation does"),
        (
            {"training": {"warmup_epochs": 2, "warmup_steps": 5}},
            "training.warmup_steps: got 5; training.warmup_epochs sets",
        ),
        (
            {"training": {"lr_per": "epoch", "warmup_steps": 5}},
            "training.warmup_steps: got 5; training.lr_per is epoch",
        ),
        ({"search": {"fpn_chanels": {"choices": [8, 16]}}}, "Did you mean 'fpn_channels'?"),
        ({"training": {"gradient_checkpointing": True}}, "segmentation does not have it yet"),
        ({"training": {"mixup_alpha": 0.2}}, "training.mixup_alpha: got 0.2; segmentation does not use it"),
        ({"training": {"loss": "cross_entropy"}}, "training.loss: got 'cross_entropy'; segmentation has no such loss"),
        ({"objective": {"metric": "val/top1"}}, "objective.metric: unknown 'val/top1'"),
        (
            {"dataset": {"name": "digits"}},
            "got digits; its images have one label each, and segmentation needs class_map",
        ),
        (
            {"dataset": {"name": "digits-scenes", "interpolation": "bilinear"}},
            "dataset.interpolation: got 'bilinear'; images of segmentation are resized whole",
        ),
        (
            {"dataset": {"name": "digits-scenes", "validation_fraction": 0.9999}},
            "both parts of the 1000 training images need one. Use 0.001 to 0.999",
        ),
        ({"task": "classification"}, "Use digits or fashion-mnist, or task: detection or instances or segmentation"),
        (
            {"task": "classification", "dataset": {"name": "digits"}, "training": {"photometric": True}},
            "training.photometric: got True; classification does not use it",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep(**settings)
    assert message in str(caught.value)

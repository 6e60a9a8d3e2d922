"""`spatialsweep eval` evaluates as the run did: for each recipe, the accuracy is the run's `test/top1`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.config import SweepConfig, resolve_trial
from orchestrator.config.recipe import load_recipe, recipe_sweep
from orchestrator.config.recipes import list_recipes
from orchestrator.data import open_dataset
from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.datasets import open_any_dataset
from orchestrator.errors import CheckpointError, ConfigError
from orchestrator.inference import evaluate as checkpoint_evaluation
from orchestrator.inference.evaluate import evaluate_checkpoint
from orchestrator.records.ledger import TrialStatus
from orchestrator.training.checkpoints.best_weights import share_of_255
from orchestrator.training.checkpoints.checkpoint_file import read_checkpoint, save_checkpoint
from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints
from orchestrator.training.evaluation import evaluate
from orchestrator.training.images.placement import place_dataset
from orchestrator.training.tasks.classification import Classification
from orchestrator.training.tasks.registry import find_task
from orchestrator.training.trial import Trial
from orchestrator.training.workers import Workers
from tests.orchestrator.data.scenes.tiny_scenes import HEIGHT, WIDTH, ade_tree, class_map, coco_tree
from tests.support.sweeps.fake_sweeps import write_sweep
from tests.support.tiny_archives import cifar10_python, cifar100_python, imagenet, photo_tree, stl10
from tests.support.training_pieces import few_digits, make_trial, run

pytestmark = pytest.mark.usefixtures("one_thread")

SOURCES: dict[str, Callable[[Path], Path]] = {
    "cifar10": lambda folder: cifar10_python(folder).place,
    "cifar100": lambda folder: cifar100_python(folder).place,
    "stl10": lambda folder: stl10(folder).place,
    "imagenet": lambda folder: imagenet(folder)[0],
}
SMALLER = (
    "model={name: conv_resnet26_small}",
    "training.epochs=1",
    "training.cooldown_epochs=0",
    "training.decay_milestones=[]",
    "training.anneal_epochs=null",
    "training.lr_schedule=constant",
    "training.global_batch_size=32",
    "dataset.validation_fraction=0.5",
    "dataset.decode_processes=0",
    "resources.workers=1",
)
"""Settings that shorten a recipe; its evaluation settings stay, except the size of photos."""


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    folder = tmp_path_factory.mktemp("data")

    @functools.cache
    def prepared(name: str) -> str:
        prepare(name, SOURCES[name](folder), str(folder / name))
        return str(folder / name)

    return prepared


def train(config: SweepConfig, folder: Path) -> tuple[Trial, dict[str, float]]:
    """Train a shortened recipe; return the trial with its best weights, and its last report."""
    assert config.dataset.uri is not None
    data = place_dataset(open_dataset(config.dataset.uri), torch.device("cpu"), config.dataset)
    trial = Trial(resolve_trial(config, 0, {}), config.objective, data, Workers(), TrialCheckpoints(folder))
    (report,) = run(trial)
    best = read_checkpoint(folder / "best.pt", torch.device("cpu"))
    trial.train_state.evaluated.load_state_dict(best["state_dict"])
    return trial, report


def inputs_of(network: nn.Module, seen: list[Tensor]) -> None:
    """Record the inputs of a network."""
    network.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone(memory_format=torch.preserve_format)))


CLASSIFIERS = [name for name in list_recipes() if load_recipe(name).task.name == "classification"]
CASES = [(name, "validation") for name in CLASSIFIERS]
CASES += [("lsas_cifar10", "test"), ("lesa_resnet50_imagenet", "test")]  # as their papers chose the epoch


@pytest.mark.parametrize(("name", "select_on"), CASES)
def test_an_evaluation_reproduces_the_accuracy_of_the_run(
    name: str, select_on: str, datasets: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(name)
    files = recipe.dataset == "imagenet"
    smaller = (*SMALLER, "dataset.image_size=32") if files else SMALLER
    chosen = (f"dataset.uri={datasets(recipe.dataset)}", f"dataset.select_on={select_on}")
    config = recipe_sweep(name, [*chosen, *smaller])
    for key in ("crop_pct", "interpolation"):
        assert getattr(config.dataset, key) == recipe.settings["dataset"].get(key, getattr(config.dataset, key))
    trial, report = train(config, tmp_path)
    in_run: list[Tensor] = []
    inputs_of(trial.train_state.evaluated, in_run)
    of_run = evaluate(trial.train_state, trial.data.test, Workers(), Classification(), num_classes=10)

    by_eval: list[Tensor] = []
    load = checkpoint_evaluation.load_model

    def load_watched(*given: Any, **more: Any) -> nn.Module:
        model = load(*given, **more)
        inputs_of(model, by_eval)
        return model

    monkeypatch.setattr(checkpoint_evaluation, "load_model", load_watched)
    found = evaluate_checkpoint(tmp_path / "best.pt", datasets(recipe.dataset))
    assert found.notes == ()
    assert (found.top1, found.top5) == (report["test/top1"], report["test/top5"])
    assert found.loss == of_run["loss"]
    assert [batch.stride() for batch in by_eval] == [batch.stride() for batch in in_run]
    assert all(torch.equal(one, other) for one, other in zip(by_eval, in_run, strict=True))
    if files:  # another crop gives another loss
        other = evaluate_checkpoint(tmp_path / "best.pt", datasets(recipe.dataset), crop_pct=0.5)
        assert other.loss != found.loss
        kept = recipe.settings["dataset"]["crop_pct"]
        fixed = config.dataset.interpolation.replace("random", "bicubic")  # `random` is for training
        assert other.notes == (f"crop_pct 0.5, {fixed}: the run had crop_pct {kept:g}",)


def test_an_evaluation_reproduces_the_metrics_of_a_recipe_of_segmentation(tmp_path: Path) -> None:
    """Shorten the recipe to eight steps, each a pass that leaves one image out, on images of several ratios."""
    sizes = {"training/1": (30, 40), "training/2": (40, 30), "training/3": (30, 60), "validation/4": (36, 44)}
    maps = {name: np.indices(size)[1] % 3 // 2 + 1 for name, size in sizes.items()}
    prepare("ade20k", ade_tree(tmp_path / "ade", maps), str(tmp_path / "ade20k"))
    config = recipe_sweep(
        "fcvit_b12_fpn_ade20k",
        [
            f"dataset.uri={tmp_path / 'ade20k'}",
            "dataset.image_size=32",
            "model={name: conv_resnet26_small, options: {fpn_channels: 8, head_channels: 8}, checkpoint: random}",
            "training.epochs=1",
            "training.epoch_steps=8",
            "training.lr=0.02",
            "training.global_batch_size=2",
            "training.crop_px=24",
            "resources.workers=1",
        ],
    )
    found = reproduced(config, tmp_path, steps=8)
    assert found["pixel_accuracy"] > 0.2


def test_an_evaluation_reproduces_the_metrics_of_a_recipe_of_instances(tmp_path: Path) -> None:
    """Shorten the recipe of HTC, whose semantic branch trains on the maps of the images."""
    root = coco_tree(tmp_path / "coco")
    for image in root.glob("*2017/*.jpg"):
        class_map(root / "stuffthingmaps" / image.parent.name / f"{image.stem}.png", np.full((HEIGHT, WIDTH), 16))
    prepare("coco-stuffthings", root, str(tmp_path / "prepared"))
    heads = "head: htc, style: mmdetection, fpn_channels: 8, head_channels: 8, mask_channels: 8, semantic_classes: 182"
    backbone = "frozen_stages: 1, backbone_norm: eval, proposals: 20, samples: 16"
    config = recipe_sweep(
        "lesa_wrn50_htc_coco",
        [
            f"dataset.uri={tmp_path / 'prepared'}",
            "dataset.image_size=64",
            f"model={{name: conv_resnet26_small, options: {{{heads}, {backbone}}}, checkpoint: random}}",
            "training.epochs=1",
            "training.decay_milestones=[1]",
            "training.global_batch_size=2",
            "resources.workers=1",
        ],
    )
    assert reproduced(config, tmp_path, steps=2)["ar100"] > 0


def reproduced(config: SweepConfig, folder: Path, *, steps: int) -> Mapping[str, float]:
    """Train a recipe of another task for an epoch, evaluate its best weights, compare, and return the metrics."""
    uri, task = config.dataset.uri or "", find_task(config.task)
    data = task.place_dataset(open_any_dataset(uri), torch.device("cpu"), config.dataset)
    trial = Trial(resolve_trial(config, 0, {}), config.objective, data, Workers(), TrialCheckpoints(folder / "trial"))
    (report,) = run(trial)
    assert trial.steps_per_epoch == steps
    found = evaluate_checkpoint(folder / "trial" / "best.pt", uri)
    assert found.notes == ()
    assert {f"test/{name}": value for name, value in found.metrics.items()} == {
        name: value for name, value in report.items() if name.startswith("test/")
    }
    return found.metrics


@pytest.mark.parametrize("training", [{"precision": "bfloat16"}, {"channels_last": True}, {"ema_decay": 0.9}], ids=str)
def test_the_arithmetic_of_the_run_is_used(tmp_path: Path, training: dict[str, Any]) -> None:
    prepare("digits", None, str(tmp_path / "digits"))
    data = place_dataset(open_dataset(str(tmp_path / "digits")), torch.device("cpu"), _digits())
    reports = run(make_trial(data, tmp_path, epochs=1, **training))
    found = evaluate_checkpoint(tmp_path / "best.pt", str(tmp_path / "digits"))
    assert found.top1 == reports[-1]["test/top1"]
    content = read_checkpoint(tmp_path / "best.pt")
    plain = {**content, "evaluation": {**content["evaluation"], "precision": "float32"}}
    plain.pop("format")
    save_checkpoint(tmp_path / "plain.pt", plain)
    same = evaluate_checkpoint(tmp_path / "plain.pt", str(tmp_path / "digits")).loss == found.loss
    assert same == ("precision" not in training)


def _digits() -> Any:
    return SweepConfig(name="t", dataset={"name": "digits"}, model={"name": "conv_resnet26_small"}).dataset


@pytest.mark.parametrize("seed", range(20))
def test_mean_and_deviation_are_restored_to_the_last_bit(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scaled = torch.rand(1000, generator=generator) * 255  # as any mean in [0, 1] is placed on a device
    assert torch.equal(torch.tensor(share_of_255(scaled)) * 255, scaled)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, dict[str, float]]:
    """Create a dataset of photos and train a trial of a sweep on it, with a crop that is not the default."""
    folder = tmp_path_factory.mktemp("photos")
    uri = str(folder / "data")
    prepare("folder", photo_tree(folder), uri)
    dataset = {"uri": uri, "crop_pct": 0.7, "interpolation": "bilinear", "image_size": 32, "decode_processes": 0}
    settings: dict[str, Any] = {
        "dataset": {**dataset, "validation_fraction": 0.5},
        "training": {"epochs": 1, "global_batch_size": 6, "precision": "bfloat16", "warmup_epochs": 0},
        "trial_scheduler": {"name": "none"},
        "resources": {"workers": 1},
    }
    sweep = write_sweep(folder, "pilot", [(TrialStatus.FINISHED, [0.5])], **settings)
    config = SweepConfig(name="pilot", model={"name": "conv_resnet26_small"}, **settings)
    best = sweep / "trials" / "trial-00000"
    _, report = train(config, best)
    return uri, best / "best.pt", report


def test_a_checkpoint_without_settings_is_evaluated_with_those_of_its_sweep(
    photos: tuple[str, Path, dict[str, float]], tmp_path: Path
) -> None:
    uri, best, _ = photos
    expected = evaluate_checkpoint(best, uri)
    content = read_checkpoint(best)
    before = {key: value for key, value in content.items() if key not in ("evaluation", "format")}
    save_checkpoint(best, before)
    try:
        assert evaluate_checkpoint(best, uri) == expected
    finally:
        save_checkpoint(best, {**before, "evaluation": content["evaluation"]})
    save_checkpoint(tmp_path / "copied.pt", before)
    notes = evaluate_checkpoint(tmp_path / "copied.pt", uri).notes
    assert notes == (
        "the checkpoint does not record the evaluation settings of its run; the arithmetic is float32",
        "crop_pct 0.875, bicubic: the crop of the run is unknown",
    )


def test_the_command_reports_a_difference_in_one_line(photos: tuple[str, Path, dict[str, float]]) -> None:
    uri, best, report = photos
    own = CliRunner().invoke(app, ["eval", str(best), "--dataset", uri], catch_exceptions=False).output
    assert own.startswith(f"top-1 {report['test/top1']:.2%}")
    assert len(own.splitlines()) == 1
    other = CliRunner().invoke(app, ["eval", str(best), "--dataset", uri, "--crop-pct", "1.0"], catch_exceptions=False)
    assert other.output.splitlines()[1:] == ["Note: crop_pct 1, bilinear: the run had crop_pct 0.7"]
    written = CliRunner().invoke(app, ["eval", str(best), "--dataset", uri, "--json", "--crop-pct", "0.7"])
    assert json.loads(written.output)["top1"] == report["test/top1"]
    assert json.loads(written.output)["notes"] == []
    with pytest.raises(ConfigError, match=r"crop_pct: got 1\.5; a share is above 0 and at most 1"):
        evaluate_checkpoint(best, uri, crop_pct=1.5)


def test_invalid_settings_are_refused_and_a_crop_of_small_images_is_reported(tmp_path: Path) -> None:
    run(make_trial(few_digits(tmp_path, train=80, test=20), tmp_path, epochs=1))
    found = evaluate_checkpoint(tmp_path / "best.pt", "digits", crop_pct=0.5, datasets_folder=tmp_path)
    assert found.notes == ("crop_pct 0.5 has no effect: these images are not cropped",)
    content = read_checkpoint(tmp_path / "best.pt")
    content.pop("format")
    for key, value in (("crop_pct", 7.0), ("interpolation", "cubic"), ("precision", 16), ("other", 1)):
        save_checkpoint(tmp_path / "odd.pt", {**content, "evaluation": {**content["evaluation"], key: value}})
        with pytest.raises(CheckpointError, match=rf"odd\.pt: evaluation\.{key} is "):
            evaluate_checkpoint(tmp_path / "odd.pt", "digits", datasets_folder=tmp_path)

"""Sweeps of networks with heads that start from a classifier's weights: found, checked and stored, then loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import models
from orchestrator import ConfigError, dry_run, load_sweep
from orchestrator.cli.tables.dry_run import plan_lines
from orchestrator.config import ModelConfig, resolve_trial
from orchestrator.config.plans import SweepPlans, resolve_plans
from orchestrator.config.trial import TrialConfig
from orchestrator.inference.weights.initial import find_initial_weights
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.trial_folder import trial_folder
from orchestrator.search.proposals.trial_filter import TrialFilter
from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints, build_network, describe_network
from orchestrator.training.checkpoints.initial_weights import fit_fault, load_initial_weights, store_initial_weights
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.trial import Trial
from orchestrator.training.workers import Workers
from tests.support.tasks.few_scenes import SMALL, few_scenes, write_scenes
from tests.support.training_pieces import differences, run, timeless

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = "conv_resnet26_small"
TRAINING = {"epochs": 2, "global_batch_size": 7, "optimizer": "adamw", "ema_decay": 0.9, "epoch_steps": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DeviceImages:
    return few_scenes(write_scenes(tmp_path_factory.mktemp("scenes")), "segmentation")


def classifier(name: str = NETWORK, **options: Any) -> nn.Module:
    torch.manual_seed(5)
    network = models.create_model(name, num_classes=7, in_chans=3, **options)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.add_(0.25)  # statistics of a training
    return network


def written(path: Path, source: nn.Module) -> Path:
    torch.save({"net": {f"module.{key}": value for key, value in source.state_dict().items()}, "epoch": 3}, path)
    return path


def settings(tmp_path: Path, model: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": "t",
        "task": "segmentation",
        "dataset": {"name": "digits-scenes", "image_size": 32},
        "model": {"name": NETWORK, "options": SMALL, **model},
        "training": TRAINING,
        "resources": {"workers": 1},
        "runs_dir": str(tmp_path),
        **more,
    }


def plans(tmp_path: Path, model: Mapping[str, Any], **more: Any) -> SweepPlans:
    return resolve_plans(load_sweep(settings(tmp_path, model, **more)))


def trial_in(sweep: Path, config: TrialConfig, data: DeviceImages, of: SweepPlans, number: int = 0) -> Trial:
    checkpoints = TrialCheckpoints(SweepFolder(sweep).trials / trial_folder(number))
    return Trial(config, of.search.objectives[0], data, Workers(), checkpoints)


def test_a_backbone_starts_from_a_classifier_and_the_head_from_the_seed(
    data: DeviceImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = classifier()
    path = written(tmp_path / "seven.pth", source)
    of = plans(tmp_path, {"checkpoint": str(path)})
    found = find_initial_weights(of)
    count = len(source.state_dict()) - 2
    text = f"{count} tensors for the backbone, skipped head.fc.weight, head.fc.bias"
    assert found.notes == (f"{path} for {NETWORK}: {text}",)
    found.stored(tmp_path / "sweep")
    config = resolve_trial(of.search, 0, {}, found.by_start)
    with caplog.at_level(logging.INFO, logger="spatialsweep.trial"):
        trial = trial_in(tmp_path / "sweep", config, data, of)
    assert f"starts from {config.initial_weights}: {text}" in caplog.text
    random = trial_in(tmp_path / "sweep", config.model_copy(update={"initial_weights": None}), data, of, 1)
    ours, others = trial.network.state_dict(), random.network.state_dict()
    assert trial.train_state.average is not None
    averaged = trial.train_state.average.module.state_dict()
    body = {key: value for key, value in ours.items() if key.startswith("backbone.body.")}
    assert len(body) == count
    for key, value in source.state_dict().items():
        if key.startswith("head.fc"):
            continue
        (name,) = (each for each in body if each.removeprefix("backbone.body.").removeprefix("model.") == key)
        assert torch.equal(ours[name], value), key
        assert torch.equal(averaged[name], value), key
    assert any(not torch.equal(ours[key], others[key]) for key in body)
    for key in ours.keys() - body.keys():
        assert torch.equal(ours[key], others[key]), key


@pytest.mark.parametrize("task", ["detection", "instances"])
def test_a_detector_starts_from_a_classifier(task: str, tmp_path: Path) -> None:
    source = classifier()
    weights = models.read_weights(written(tmp_path / "seven.pth", source))
    model = ModelConfig(name=NETWORK, options={"fpn_channels": 8, "head_channels": 8})
    description = describe_network(model, num_classes=3, in_chans=3, image_size=32, task=task)
    fault, notes = fit_fault(description, weights.shapes)
    assert not fault
    assert notes[-1].endswith("tensors for the backbone, skipped head.fc.weight, head.fc.bias")
    network = build_network(description)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    name = f"{'0' * 64}-plain.pt"
    store_initial_weights(tmp_path / "sweep", name, weights)
    load_initial_weights(network, SweepFolder(tmp_path / "sweep").trials / trial_folder(0), name)
    body, loaded = "backbone.body.", 0
    for key, value in network.state_dict().items():
        if not key.startswith(body):
            assert torch.equal(value, before[key]), key
            continue
        wanted = source.state_dict()[key.removeprefix(body).removeprefix("model.")]
        assert torch.equal(value, wanted), key
        loaded += 1
    assert loaded == len(source.state_dict()) - 2


def test_such_a_trial_resumes_to_the_bit(data: DeviceImages, tmp_path: Path) -> None:
    of = plans(tmp_path, {"checkpoint": str(written(tmp_path / "seven.pth", classifier()))})
    found = find_initial_weights(of)
    found.stored(tmp_path / "sweep")
    config = resolve_trial(of.search, 0, {}, found.by_start)
    whole = trial_in(tmp_path / "sweep", config, data, of)
    reports = run(whole)
    run(trial_in(tmp_path / "sweep", config, data, of, 1), stop_after=1)
    resumed = trial_in(tmp_path / "sweep", config, data, of, 1)
    assert resumed.epoch == 1
    assert timeless(run(resumed))[-1] == timeless(reports)[-1]
    assert not differences(whole.train_state.state_dict(), resumed.train_state.state_dict())


def test_a_checkpoint_of_another_network_is_refused_before_any_work(tmp_path: Path) -> None:
    other = written(tmp_path / "other.pth", classifier("sb_resnet29_cifar"))
    with pytest.raises(ConfigError, match=r"model.checkpoint: .*other.pth: is not of conv_resnet26_small here"):
        find_initial_weights(plans(tmp_path, {"checkpoint": str(other)}))
    with pytest.raises(ConfigError, match=r"model.checkpoint: .*no such file"):
        dry_run(load_sweep(settings(tmp_path, {"checkpoint": str(tmp_path / "no.pth")}, trials=1)))


def test_a_dry_run_says_what_is_loaded_skipped_and_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "w.pth", classifier())
    search = {"lr": {"type": "float", "low": 1e-3, "high": 1e-2}}
    found = dry_run(load_sweep(settings(tmp_path, {"checkpoint": str(path)}, trials=1, search=search)))
    assert dict(plan_lines(found))["Epochs"] == "2 at most: 1 trials of 2; an epoch has 2 steps"
    (line,) = found.as_dict()["checkpoints"]
    assert line.endswith("tensors for the backbone, skipped head.fc.weight, head.fc.bias")


def test_the_checkpoint_is_searched_and_rejected_with_options_it_does_not_fit(tmp_path: Path) -> None:
    path = written(tmp_path / "sb.pth", classifier("sb_resnet29_cifar", bias_channels=2))
    search = {"checkpoint": ["random", str(path)], "bias_channels": [2, 4], "fpn_channels": [8, 16]}
    of = plans(tmp_path, {"name": "sb_resnet29_cifar", "options": {"head_channels": 8}}, search=search)
    found = find_initial_weights(of)
    of = found.in_plans(of)
    trial_filter = TrialFilter(of.search)
    fits = {}
    for checkpoint in ("random", str(path)):
        for bias_channels in (2, 4):
            params = {"checkpoint": checkpoint, "bias_channels": bias_channels, "fpn_channels": 16}
            rejection = trial_filter.rejection(resolve_trial(of.search, 0, params, of.search.initial_weights))
            fits[checkpoint, bias_channels] = rejection is None
            assert rejection is None or rejection.rule == "checkpoint"
    assert fits == {("random", 2): True, ("random", 4): True, (str(path), 2): True, (str(path), 4): False}

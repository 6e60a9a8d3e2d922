"""Trainings that start from a checkpoint: found, checked and stored by the driver, loaded by the workers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import models
from orchestrator import ConfigError, dry_run, load_sweep
from orchestrator.config import ModelConfig, ObjectiveConfig, TrainingConfig, TrialConfig, resolve_trial
from orchestrator.config.plans import SweepPlans, resolve_plans
from orchestrator.errors import CheckpointError
from orchestrator.inference.weights.initial import find_initial_weights
from orchestrator.inference.weights.sources import read_source
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.trial_folder import trial_folder
from orchestrator.search.proposals.trial_filter import TrialFilter
from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints
from orchestrator.training.checkpoints.initial_weights import stored_path
from orchestrator.training.trial import Trial
from orchestrator.training.workers import Workers
from tests.support.sweeps.settings import BASE, faults
from tests.support.training_pieces import few_digits

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = "conv_resnet26_small"


def network(num_classes: int = 10, name: str = NETWORK, **options: Any) -> nn.Module:
    torch.manual_seed(5)
    return models.create_model(name, num_classes=num_classes, in_chans=1, **options)


def written(path: Path, source: nn.Module) -> Path:
    torch.save({"net": {f"module.{key}": value for key, value in source.state_dict().items()}, "epoch": 3}, path)
    return path


def plans(tmp_path: Path, *, model: Mapping[str, Any] | None = None, **settings: Any) -> SweepPlans:
    content = {**BASE, "runs_dir": str(tmp_path), "resources": {"workers": 1}, **settings}
    return resolve_plans(load_sweep(content if model is None else {**content, "model": model}))


def problems(of: SweepPlans) -> str:
    with pytest.raises(ConfigError) as caught:
        find_initial_weights(of)
    return str(caught.value)


def test_a_trial_starts_from_the_weights_that_the_driver_stored(tmp_path: Path) -> None:
    source = network(7)
    path = written(tmp_path / "seven.pth", source)
    of = plans(tmp_path, model={"name": NETWORK, "checkpoint": str(path)})
    found = find_initial_weights(of)
    classes = "the checkpoint has 7 classes and the network 10: its classifier keeps its random weights"
    assert found.notes == (f"{path} for {NETWORK}: {classes}",)
    config = resolve_trial(of.search, 0, {}, found.in_plans(of).search.initial_weights)
    assert config.model.checkpoint == str(path)
    assert re.fullmatch(r"[0-9a-f]{64}-plain\.pt", config.initial_weights or "")
    sweep = SweepFolder(tmp_path / "sweep")
    found.stored(sweep.path)
    trial = trial_in(sweep, config, tmp_path)
    ours, theirs = trial.network.state_dict(), source.state_dict()
    assert trial.train_state.average is not None
    averaged = trial.train_state.average.module.state_dict()
    for key in theirs:
        if key.startswith("head.fc"):
            assert ours[key].shape != theirs[key].shape
        else:
            assert torch.equal(ours[key], theirs[key]), key
            assert torch.equal(averaged[key], theirs[key]), key
    stored_path(sweep.path, config.initial_weights or "").unlink()
    with pytest.raises(CheckpointError, match=r"not on this node.*name shared storage as runs_dir"):
        trial_in(sweep, config, tmp_path)


def trial_in(sweep: SweepFolder, config: TrialConfig, data: Path) -> Trial:
    training = TrainingConfig(global_batch_size=32, ema_decay=0.9)
    return Trial(
        config.model_copy(update={"training": training}),
        ObjectiveConfig(),
        few_digits(data),
        Workers(),
        TrialCheckpoints(sweep.trials / trial_folder(0)),
    )


def test_the_new_classifier_follows_from_the_seed(tmp_path: Path) -> None:
    path = written(tmp_path / "seven.pth", network(7))
    of = plans(tmp_path, model={"name": NETWORK, "checkpoint": str(path)})
    found = find_initial_weights(of)
    found.stored(tmp_path / "sweep")
    config = resolve_trial(of.search, 0, {}, found.by_start)
    first, again = (trial_in(SweepFolder(tmp_path / "sweep"), config, tmp_path) for _ in range(2))
    random = trial_in(SweepFolder(tmp_path / "sweep"), config.model_copy(update={"initial_weights": None}), tmp_path)
    heads = [trial.network.state_dict()["head.fc.weight"] for trial in (first, again, random)]
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2])


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("gone.pth", r"model.checkpoint: gone.pth: no such file, seen from "),
        ("a1_in1k", r"model.checkpoint: a1_in1k: no such file"),
        ("timm:a1_in1k", rf"timm:a1_in1k: timm has no such weights of {NETWORK}. It has no pretrained weights"),
        ("s3://user:word@bucket/w.pth", r"a password in this address would be recorded"),
        ("ftp://host/w.pth", r"ftp://host/w.pth: cannot be fetched"),
    ],
)
def test_checkpoints_that_are_not_there_are_problems(checkpoint: str, message: str, tmp_path: Path) -> None:
    text = problems(plans(tmp_path, model={"name": NETWORK, "checkpoint": checkpoint}))
    assert re.search(message, text)
    assert "word" not in text.replace("password", "")


def test_a_checkpoint_of_another_network_is_a_problem_of_the_setting(tmp_path: Path) -> None:
    other = written(tmp_path / "other.pth", network(name="sb_resnet29_cifar"))
    own = written(tmp_path / "own.pth", network())
    choices = {"type": "choice", "choices": ["random", str(own), str(other), str(tmp_path / "gone.pth")]}
    text = problems(plans(tmp_path, search={"checkpoint": choices}))
    assert f"search.checkpoint: {other}: is not of {NETWORK} here: the checkpoint does not fit the network" in text
    assert "search.checkpoint: " + str(tmp_path / "gone.pth") + ": no such file" in text
    assert len([line for line in text.splitlines() if line.startswith("  ")]) == 11  # ten entries and their number


def test_the_checkpoint_is_searched_and_rejected_with_options_it_does_not_fit(tmp_path: Path) -> None:
    path = written(tmp_path / "sb.pth", network(name="sb_resnet29_cifar", bias_channels=2))
    search = {"checkpoint": ["random", str(path)], "bias_channels": [2, 4], "lr": [0.1]}
    of = plans(tmp_path, model={"name": "sb_resnet29_cifar"}, search=search)
    found = find_initial_weights(of)
    of = found.in_plans(of)
    trial_filter = TrialFilter(of.search)

    def rejected(checkpoint: str, bias_channels: int) -> str:
        params = {"checkpoint": checkpoint, "bias_channels": bias_channels}
        trial = resolve_trial(of.search, 0, params, of.search.initial_weights)
        assert (trial.initial_weights is None) == (checkpoint == "random")
        rejection = trial_filter.rejection(trial)
        return f"{rejection.rule}: {rejection.text}" if rejection else ""

    assert rejected("random", 4) == rejected("random", 2) == rejected(str(path), 2) == ""
    assert rejected(str(path), 4).startswith(f"checkpoint: got '{path}' for sb_resnet29_cifar; the checkpoint does not")


def test_a_dry_run_says_what_is_left_out_and_refuses_what_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path / "seven.pth", network(7))
    settings = {**BASE, "runs_dir": str(tmp_path), "trials": 1, "resources": {"workers": 1}, "search": {"lr": [0.1]}}
    found = dry_run(load_sweep({**settings, "model": {"name": NETWORK, "checkpoint": str(path)}}))
    assert "7 classes" in found.as_dict()["checkpoints"][0]
    with pytest.raises(ConfigError, match=r"model.checkpoint: .*no such file"):
        dry_run(load_sweep({**settings, "model": {"name": NETWORK, "checkpoint": str(tmp_path / "no.pth")}}))


def test_a_resumed_sweep_knows_the_bytes_and_does_without_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "w.pth", network())
    of = plans(tmp_path, model={"name": NETWORK, "checkpoint": str(path)})
    first = find_initial_weights(of)
    first.stored(tmp_path / "sweep")
    written(path, network(7))
    changed = find_initial_weights(of, folder=tmp_path / "sweep", recorded=first.identity)
    assert changed.identity.keys() == first.identity.keys() == {f"checkpoint {path}"}
    assert changed.identity != first.identity
    path.unlink()
    without = find_initial_weights(of, folder=tmp_path / "sweep", recorded=first.identity)
    assert without.identity == first.identity
    assert without.by_start == first.by_start
    assert not without.read
    with pytest.raises(ConfigError, match="no such file"):
        find_initial_weights(of, folder=tmp_path / "elsewhere", recorded=first.identity)


def test_average_or_plain_weights_as_the_sweep_asks(tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save({"state_dict": state, "state_dict_ema": state}, tmp_path / "both.pth")
    names = set()
    for kind in ("ema", "plain"):
        model = {"name": NETWORK, "checkpoint": str(tmp_path / "both.pth"), "checkpoint_weights": kind}
        of = plans(tmp_path, model=model)
        names |= {resolve_trial(of.search, 0, {}, find_initial_weights(of).by_start).initial_weights}
    assert {str(name).rpartition("-")[2] for name in names} == {"ema.pt", "plain.pt"}


def test_pretrained_weights_of_timm_by_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = timm.create_model("test_resnet", num_classes=1000)
    torch.save(source.state_dict(), tmp_path / "hub.pth")
    described = timm.models.get_pretrained_cfg("test_resnet.r160_in1k")
    local = dataclasses.replace(described, file=str(tmp_path / "hub.pth"), hf_hub_id=None)
    monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, "test_resnet.r160_in1k", local)
    found = read_source("timm:r160_in1k", model="test_resnet")
    assert all(torch.equal(found.weights.tensors[key], value) for key, value in source.state_dict().items())
    assert found.sha256 == read_source("timm:r160_in1k", model="test_resnet").sha256
    with pytest.raises(CheckpointError, match=r"timm has no such weights of test_resnet. Did you mean 'r160_in1k'"):
        read_source("timm:r160_in1", model="test_resnet")
    with pytest.raises(CheckpointError, match=r"For pretrained weights of timm write timm:r160_in1k"):
        read_source("r160_in1k", model="test_resnet")


def test_settings_of_checkpoints_are_checked() -> None:
    assert faults({"search": {"checkpoint": {"type": "choice", "choices": ["a.pth", 3]}}}) == [
        "search.checkpoint: got 3; a checkpoint is a file, runs:/<id> or timm:TAG, and random stands for random "
        "weights. Use choices such as [random, weights.pth]"
    ]
    assert "Did you mean 'checkpoint'" in faults({"search": {"checkpoin": ["a.pth"]}})[0]
    assert "checkpoint_weights" in faults({"model": {"name": NETWORK, "checkpoint_weights": "best"}})[0]
    assert ModelConfig(name=NETWORK, checkpoint="~/w.pth").checkpoint == str(Path.home() / "w.pth")


@pytest.mark.parametrize("name", ["../../../best.pt", "/etc/passwd", f"{'0' * 64}-ema.pt/../x", "best.pt"])
def test_a_record_names_no_file_outside_the_folder_of_the_sweep(name: str) -> None:
    config = {"number": 0, "model": {"name": NETWORK}, "training": {}, "seed": 0}
    assert TrialConfig(**config, initial_weights=f"{'0' * 64}-ema.pt").initial_weights  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="initial_weights"):
        TrialConfig(**config, initial_weights=name)  # type: ignore[arg-type]

"""One trial in one process: learning, reports, resume, failures and learning rates."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from orchestrator.config import ObjectiveConfig
from orchestrator.errors import TrialDivergedError, TrialFailedError
from orchestrator.training import trial as trial_module
from orchestrator.training.checkpoints import best_weights
from orchestrator.training.evaluation import evaluate
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.train_state import TrainState
from tests.support.training_pieces import CLOCKS, differences, few_digits, make_trial, run, timeless, with_everything

ALONE = CLOCKS - {"time/exchange_s"}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DeviceImages:
    return few_digits(tmp_path_factory.mktemp("digits"))


def same_weights(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_a_trial_learns_and_reports_every_epoch(data: DeviceImages, tmp_path: Path) -> None:
    reports = run(make_trial(data, tmp_path, epochs=6))
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4, 5, 6]
    for report in reports[:-1]:
        assert set(report) == {"epoch", "train/loss", "val/loss", "val/top1", "val/top5", "lr", *ALONE}
        assert all(math.isfinite(value) for value in report.values())
        assert min(report["images_per_s"], report["epoch_time_s"]) > 0
    last = reports[-1]
    assert set(last) == {*reports[0], "test/top1", "test/top5", "best_epoch"}
    best = max(reports, key=lambda report: report["val/top1"])
    assert last["best_epoch"] == best["epoch"]
    assert reports[0]["train/loss"] > 2 * last["train/loss"]
    assert best["val/top1"] > 0.8
    assert last["test/top1"] > 0.7
    assert last["test/top1"] * 101 == pytest.approx(round(last["test/top1"] * 101))


def test_the_best_epoch_follows_the_objective(data: DeviceImages, tmp_path: Path) -> None:
    objective = ObjectiveConfig(metric="val/loss", mode="min")
    reports = run(make_trial(data, tmp_path, epochs=4, lr=0.1, objective=objective))
    assert reports[-1]["best_epoch"] == min(reports, key=lambda report: report["val/loss"])["epoch"]


@pytest.mark.parametrize(("mode", "best_epoch"), [("min", 4), ("max", 2)])
def test_an_epoch_without_a_value_is_not_the_best_one(
    data: DeviceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Any, best_epoch: int
) -> None:
    losses = iter([math.nan, 0.4, math.nan, 0.3, 1.0])  # of four epochs, and of the test
    monkeypatch.setattr(trial_module, "evaluate", lambda *_, **__: {"loss": next(losses), "top1": 0.5, "top5": 0.5})
    reports = run(make_trial(data, tmp_path, epochs=4, objective=ObjectiveConfig(metric="val/loss", mode=mode)))
    assert reports[-1]["best_epoch"] == best_epoch


@pytest.mark.parametrize(("mode", "best_epoch"), [("min", 2), ("max", 1)])
def test_the_best_weights_are_tested_without_their_file_to_the_same_bits(
    data: DeviceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Any, best_epoch: int
) -> None:
    def train(folder: str) -> tuple[Any, nn.Module, int]:
        reads.clear()
        trial = make_trial(data, tmp_path / folder, epochs=2, objective=ObjectiveConfig(metric="val/loss", mode=mode))
        return timeless(run(trial)), trial.network, len(reads)

    reads: list[Path] = []
    read_best = trial_module.read_best
    monkeypatch.setattr(trial_module, "read_best", lambda path, *rest: reads.append(path) or read_best(path, *rest))
    reports, network, count = train("held")
    assert (reports[-1]["best_epoch"], count) == (best_epoch, 0)
    assert train("held")[::2] == (reports[-1:], 1)  # repeated by another process, which has the file alone
    monkeypatch.setattr(best_weights, "_MOST_HELD_BYTES", 1)  # as for a large network
    large, same, count = train("large")
    assert (large, count) == (reports, best_epoch % 2)
    assert same_weights(network, same)  # those of the last epoch
    monkeypatch.setattr(TrainState, "buffers_are_shared", False)  # only the file has what all ranks evaluate
    assert train("of a rank")[::2] == (reports, 1)


def test_an_attention_span_is_reported_and_reduced_by_its_penalty(data: DeviceImages, tmp_path: Path) -> None:
    def spans(penalty: float) -> list[float]:
        options = {"span_penalty": penalty, "span_init": 0.5, "max_span": 4}
        trial = make_trial(
            data,
            tmp_path / str(penalty),
            model="adaptive_resnet26_small",
            options=options,
            epochs=2,
            global_batch_size=64,
        )
        return [report["span/mean_px"] for report in run(trial)]

    free, pulled = spans(0.0), spans(5.0)
    assert pulled[-1] < pulled[0]
    assert pulled[-1] < free[-1]


def test_a_trial_interrupted_after_its_last_epoch_only_repeats_its_report(data: DeviceImages, tmp_path: Path) -> None:
    undisturbed = run(make_trial(data, tmp_path, epochs=2))
    weights = (tmp_path / "last.pt").read_bytes()
    assert timeless(run(make_trial(data, tmp_path, epochs=2))) == timeless(undisturbed[-1:])
    assert (tmp_path / "last.pt").read_bytes() == weights


def test_a_seed_determines_weights_and_order(data: DeviceImages, tmp_path: Path) -> None:
    trials = [make_trial(data, tmp_path / str(index), seed=seed, epochs=1) for index, seed in enumerate((0, 0, 1))]
    first, same, other = [timeless(run(trial)) for trial in trials]
    assert first == same != other
    assert same_weights(trials[0].network, trials[1].network)
    assert not same_weights(trials[0].network, trials[2].network)


def test_a_diverging_trial_fails_with_the_step(data: DeviceImages, tmp_path: Path) -> None:
    trial = make_trial(data, tmp_path, optimizer="sgd", lr=1e30, warmup_epochs=0)
    with pytest.raises(TrialDivergedError, match=r"diverged: the training loss of epoch 1 is not finite at step 2$"):
        run(trial)


class MoreMemoryThanThereIs(nn.Module):
    """Network whose forward pass allocates more memory than any machine has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight * torch.empty(2**48)


def test_running_out_of_memory_names_the_batch_size(
    data: DeviceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "build_network", lambda description: MoreMemoryThanThereIs())
    message = (
        r"out of memory with global_batch_size 33: 33 images on each of 1 workers, 17 at a time in 2 parts\. Use a"
    )
    with pytest.raises(TrialFailedError, match=message):
        run(make_trial(data, tmp_path, global_batch_size=33, accumulation_steps=2))


def test_a_trial_in_a_used_process_equals_one_in_a_new_process(
    data: DeviceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(folder: str) -> tuple[Any, list[dict[str, float]]]:
        trial = make_trial(data, tmp_path / folder, epochs=2, crop_padding=1, precision="bfloat16", ema_decay=0.9)
        reports = timeless(run(trial))
        return trial.train_state.state_dict(), reports

    monkeypatch.setattr(trial_module, "build_network", with_everything)
    fresh = train("fresh")
    with pytest.raises(TrialDivergedError):
        run(make_trial(data, tmp_path / "diverged", optimizer="sgd", lr=1e30, warmup_epochs=0))
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.set_anomaly_enabled(True)
    torch.set_float32_matmul_precision("medium")
    torch.rand(17)
    random.random()
    np.random.random(3)
    used = train("used")
    assert differences(used, fresh) == []
    assert torch.get_default_dtype() == torch.float32
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_network_with_a_penalty_is_projected_after_each_step(data: DeviceImages, tmp_path: Path) -> None:
    trial = make_trial(
        data,
        tmp_path,
        model="adaptive_resnet26_small",
        options={"span_penalty": 1e3},
        epochs=1,
        lr=0.5,
        warmup_epochs=0,
    )
    run(trial)
    before = {key: value.clone() for key, value in trial.network.state_dict().items()}
    models.project_(trial.network)
    assert all(torch.equal(before[key], value) for key, value in trial.network.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        (
            {"lr_schedule": "multistep", "decay_milestones": (2, 4), "decay_rate": 0.1},
            [0.4, 0.4, 0.04, 0.04, 0.004, 0.004],
        ),
        ({"lr_schedule": "multistep"}, [0.4, 0.4, 0.4, 0.04, 0.004, 0.004]),
        ({"lr_base_size": 64, "lr_schedule": "constant"}, [0.2] * 6),
        ({"cooldown_epochs": 2, "min_lr": 0.1}, [0.4, 0.3561, 0.25, 0.1439, 0.1, 0.1]),
    ],
)
def test_the_learning_rate_at_the_start_of_each_epoch(
    data: DeviceImages, tmp_path: Path, settings: dict[str, Any], rates: list[float]
) -> None:
    trial = make_trial(data, tmp_path, epochs=6, lr=0.4, global_batch_size=32, warmup_epochs=0, **settings)
    seen = []
    for epoch in range(6):
        trial.train_state.lr_schedule.step_update(epoch * trial.steps_per_epoch)
        seen.append(trial.train_state.lr)
    assert seen == pytest.approx(rates, rel=1e-3)


@pytest.mark.parametrize(
    ("epochs", "every", "expected"), [(5, 2, [2, 4, 5]), (3, 5, [3]), (4, 2, [2, 4]), (2, 1, [1, 2])]
)
def test_only_some_epochs_are_validated_and_reported(
    data: DeviceImages, tmp_path: Path, epochs: int, every: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    validated = []

    def noted(predictor: Any, split: Any, *others: Any, **classes: int) -> dict[str, float]:
        validated.append(split)
        return evaluate(predictor, split, *others, **classes)

    monkeypatch.setattr(trial_module, "evaluate", noted)
    trial = make_trial(data, tmp_path, epochs=epochs, validate_every=every)
    reports = run(trial)
    assert [report["epoch"] for report in reports] == expected
    assert [split is data.validation for split in validated] == [True] * len(expected) + [False]
    best = max(reports, key=lambda report: report["val/top1"])
    assert reports[-1]["best_epoch"] == best["epoch"]
    assert all("val/top1" in report and "train/loss" in report for report in reports)
    again = run(make_trial(data, tmp_path, epochs=epochs, validate_every=every))
    assert timeless(again) == timeless(reports[-1:])


def test_a_state_between_validations_repeats_the_newest_report(data: DeviceImages, tmp_path: Path) -> None:
    first = run(make_trial(data, tmp_path, epochs=4, validate_every=2), cut_before=34)
    trial = make_trial(data, tmp_path, epochs=4, validate_every=2)
    assert trial.epoch == 3
    second = run(trial)
    assert [report["epoch"] for report in first] == [2]
    assert [report["epoch"] for report in second] == [2, 4]
    assert timeless(second[:1]) == timeless(first)


def test_the_warmup_begins_at_its_setting(data: DeviceImages, tmp_path: Path) -> None:
    trial = make_trial(data, tmp_path, lr=0.4, warmup_epochs=1, warmup_lr=0.1)
    trial.train_state.lr_schedule.step_update(0)
    assert trial.train_state.lr == pytest.approx(0.1)


@pytest.mark.parametrize(("shape", "warmup"), [("cosine", 2), ("cosine", 0), ("constant", 2)])
def test_the_learning_rate_rises_then_follows_its_shape(
    data: DeviceImages, tmp_path: Path, shape: str, warmup: int
) -> None:
    trial = make_trial(data, tmp_path, epochs=6, lr=0.4, lr_schedule=shape, warmup_epochs=warmup)
    steps = trial.steps_per_epoch
    assert steps == math.ceil(300 / 32)
    for update in range(6 * steps):
        trial.train_state.lr_schedule.step_update(update)
        if update < warmup * steps:
            expected = 0.004 + (0.4 - 0.004) * update / (warmup * steps)
        elif shape == "constant":
            expected = 0.4
        else:
            expected = 0.2 * (1 + math.cos(math.pi * update / (6 * steps)))
        assert trial.train_state.lr == pytest.approx(expected, rel=1e-6), update

"""Batch size found by trying: the trial that follows equals one with that number, bit for bit."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchestrator.config import ModelConfig, TrainingConfig, TrialConfig
from orchestrator.config.tasks.registry import task_facts
from orchestrator.data.datasets import DatasetFacts
from orchestrator.errors import CheckpointError, TrialFailedError
from orchestrator.training import trial as trial_module
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.memory import batch_size, memory_estimate, steps
from orchestrator.training.memory.batch_size import candidates
from orchestrator.training.memory.steps import take_steps
from tests.support.small_device import SmallDevice
from tests.support.training_pieces import (
    differences,
    few_digits,
    make_trial,
    run,
    run_ranks,
    timeless,
    with_everything,
    without_norm,
)

pytestmark = pytest.mark.usefixtures("one_thread")

_IMAGE = 8 * 8 * 8  # elements of the largest tensor of one image in `with_everything`


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DeviceImages:
    """300 training images."""
    return few_digits(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (trial_module, steps, memory_estimate):
        monkeypatch.setattr(module, "build_network", with_everything)


def fit_images(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """Let the steps that are tried run on a device with memory for a number of images."""

    def tried(*given: Any) -> None:
        with SmallDevice(_IMAGE * images):
            take_steps(*given)

    monkeypatch.setattr(batch_size, "take_steps", tried)


@pytest.mark.parametrize(
    ("settings", "world_size", "images", "expected"),
    [
        ({}, 1, 300, [4, 8, 16, 32, 64, 128, 256]),  # no larger than the training split
        ({"max_global_batch_size": 100}, 1, 300, [4, 8, 16, 32, 64]),
        ({"max_global_batch_size": 100}, 3, 300, [12, 24, 48, 96]),  # 3 x 2^n, at least 2 images each and one to spare
        ({"max_global_batch_size": 64, "accumulation_steps": 4}, 2, 300, [32, 64]),
        ({"max_global_batch_size": 3}, 1, 300, []),
        ({"max_global_batch_size": 8, "drop_last": True}, 1, 300, [2, 4, 8]),  # no batch is short
        ({"max_global_batch_size": 8, "task": "detection"}, 2, 300, [4, 8]),  # an image each and one to spare
        ({"max_global_batch_size": 8, "task": "instances", "drop_last": True}, 2, 300, [2, 4, 8]),
    ],
)
def test_candidates(settings: dict[str, Any], world_size: int, images: int, expected: list[int]) -> None:
    settings = dict(settings)
    task = task_facts(settings.pop("task", "classification"))
    training = TrainingConfig(global_batch_size="auto", **settings)
    assert list(candidates(training, task, world_size, images)) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"ema_decay": 0.9},
        {"mixup_alpha": 0.3, "precision": "bfloat16", "channels_last": True},
        {"lr_base_size": 64, "accumulation_steps": 2, "optimizer": "sgd"},
    ],
)
@pytest.mark.parametrize("fits", [16, 1000])
def test_a_found_number_trains_as_a_fixed_one(
    data: DeviceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], fits: int
) -> None:
    fit_images(monkeypatch, fits)
    torch.rand(7)
    auto = {"global_batch_size": "auto", "max_global_batch_size": 64}
    found = make_trial(data, tmp_path / "auto", epochs=2, **settings, **auto)
    expected = min(64, fits * settings.get("accumulation_steps", 1))
    assert json.loads((tmp_path / "auto" / "batch_size.json").read_text()) == {
        "global_batch_size": expected,
        "workers": 1,
    }
    fixed = make_trial(data, tmp_path / "fixed", epochs=2, **settings, global_batch_size=expected)
    reports = timeless(run(found))
    assert [report.pop("global_batch_size") for report in reports] == [expected, expected]
    assert reports == timeless(run(fixed))
    assert differences(found.train_state.state_dict(), fixed.train_state.state_dict()) == []
    if "lr_base_size" in settings:
        assert found.train_state.lr_schedule.lr < 3e-3
        peak = found.train_state.optimizer.param_groups[0]["initial_lr"]
        assert peak == pytest.approx(3e-3 * expected / 64)


def test_a_resumed_trial_keeps_its_number(data: DeviceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a device that has room for more."""
    auto = {"global_batch_size": "auto", "max_global_batch_size": 64}
    fit_images(monkeypatch, 16)
    run(make_trial(data, tmp_path / "auto", **auto), stop_after=1)
    fit_images(monkeypatch, 1000)
    resumed = make_trial(data, tmp_path / "auto", **auto)
    run(resumed)
    fixed = make_trial(data, tmp_path / "fixed", global_batch_size=16)
    run(fixed)
    assert differences(resumed.train_state.state_dict(), fixed.train_state.state_dict()) == []


@pytest.mark.parametrize("content", ["{", "[]", '{"global_batch_size": "64"}'])
def test_a_damaged_number_is_an_error(data: DeviceImages, tmp_path: Path, content: str) -> None:
    (tmp_path / "batch_size.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"batch_size\.json: does not hold the batch size of this trial"):
        make_trial(data, tmp_path, global_batch_size="auto")


def test_a_network_too_large_for_any_batch_fails(
    data: DeviceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_images(monkeypatch, 3)
    with pytest.raises(TrialFailedError, match=r"got auto; not even 4 images on 1 workers fit into memory\. Use a s"):
        make_trial(data, tmp_path, global_batch_size="auto")
    with pytest.raises(
        TrialFailedError, match="a batch of at most 3 of 300 training images is too small for 1 workers"
    ):
        make_trial(data, tmp_path, global_batch_size="auto", max_global_batch_size=3)


def test_other_errors_are_raised(data: DeviceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "build_network", lambda _: nn.Linear(3, 10))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        make_trial(data, tmp_path, global_batch_size="auto")


@pytest.mark.parametrize(("share", "expected"), [(1.1, 32), (0.9, 16)])
def test_main_memory_bounds_the_estimate(
    data: DeviceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, expected: int
) -> None:
    needs = _estimate_of(32)
    monkeypatch.setattr(batch_size, "available_memory", lambda: int(share * needs / 0.75))
    trial = make_trial(data, tmp_path, global_batch_size="auto")
    assert trial.config.training.global_batch_size == expected


def _estimate_of(images: int) -> int:
    training = TrainingConfig(global_batch_size=images, optimizer="adamw")
    facts = DatasetFacts(image_size=8, in_chans=1, num_classes=10, train_images=300)
    trial = TrialConfig(number=0, model=ModelConfig(name="any"), training=training, seed=0)
    needs = memory_estimate.estimate_memory(trial, facts, 1)
    return needs.total - needs.images


def test_the_control_group_bounds_main_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "_CGROUP", tmp_path)
    whole = batch_size.available_memory()
    assert 0 < whole < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    (tmp_path / "memory.max").write_text("9000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    assert batch_size.available_memory() == 7_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert batch_size.available_memory() > 7_000_000


class Wide(nn.Module):
    """Network that keeps about 8 MB for each image, and has few weights."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.classifier = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        wide = (images.flatten(1).repeat(1, 2**14) * self.scale).sigmoid()
        result: Tensor = self.classifier(wide.view(len(images), 64, -1).mean(-1))
        return result


def find_in_limited_process(rank: int, world_size: int, folder: str) -> None:
    """Find the batch size of `Wide` in a process that may take 600 MB more than it has, and write it."""
    torch.set_num_threads(1)
    for module in (trial_module, steps, memory_estimate):
        module.build_network = lambda _: Wide()
    batch_size._is_room = lambda *_: True  # only the limit of the process counts
    data = few_digits(Path(folder) / "data")
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = in_use + 600 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    trial = make_trial(
        data, Path(folder) / "trial", global_batch_size="auto", optimizer="sgd", max_global_batch_size=256
    )
    Path(folder, "found").write_text(str(trial.config.training.global_batch_size))


@pytest.mark.slow
def test_a_real_limit_of_a_process_is_found(tmp_path: Path) -> None:
    """Images take 4 MB for each of: repeated, scaled, sigmoid, and two gradients; 16 fit, 128 do not."""
    run_ranks(find_in_limited_process, 1, str(tmp_path))
    assert 16 <= int((tmp_path / "found").read_text()) <= 64


def test_steps_are_those_of_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Size of crops, mixed targets, optimiser state; with a scaled loss until the first step that counts."""
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    usual = steps.TrainState.step

    def step(state: Any, images: Tensor, targets: Tensor, **options: Any) -> Tensor:
        seen.append((tuple(images.shape), tuple(targets.shape)))
        return usual(state, images, targets, **options)

    monkeypatch.setattr(steps.TrainState, "step", step)
    monkeypatch.setattr(steps, "build_network", without_norm)
    description = {"image_size": 12, "in_chans": 1, "num_classes": 10}
    training = TrainingConfig(crop_px=8, cutmix_alpha=1.0, optimizer="adamw")
    take_steps(steps.StepShape.of(description, training), training, 6, torch.device("cpu"))
    assert seen == [((6, 1, 8, 8), (6, 10))] * 2

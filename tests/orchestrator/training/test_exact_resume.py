"""A trial that was interrupted at any step and resumed ends bit-equal to an uninterrupted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from orchestrator.config import ObjectiveConfig
from orchestrator.training import trial as trial_module
from orchestrator.training.checkpoints.checkpoints import build_network
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.trial import Trial
from orchestrator.training.workers import Workers
from tests.support.training_pieces import (
    Reports,
    differences,
    few_digits,
    join_group,
    make_trial,
    run,
    run_ranks,
    timeless,
    with_everything,
    without_norm,
)

# 300 images in batches of 32: ten steps an epoch, checkpoints after steps 4, 8, 12, ...
SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "crop_padding": 1,
    "erasing": 0.25,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
    "label_smoothing": 0.1,
    "checkpoint_every_steps": 4,
}
INTERRUPTIONS: dict[str, dict[str, int]] = {
    "after an epoch": {"stop_after": 1},
    "before the first checkpoint": {"cut_before": 2},
    "within the first epoch": {"cut_before": 6},
    "right after a checkpoint": {"cut_before": 8},
    "within a later epoch": {"cut_before": 19},
    "at the start of an epoch": {"cut_before": 10},
    "with its newest state damaged": {"cut_before": 19, "keep_bytes": 5000},
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module, "build_network", with_everything)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DeviceImages:
    return few_digits(tmp_path_factory.mktemp("digits"))


def train(data: DeviceImages, folder: Path, cut: dict[str, int] | None, **options: Any) -> tuple[Trial, Reports]:
    """Train to the end, with one interruption at `cut`, which may truncate the newest state."""
    options = {**SETTINGS, **options}
    if cut:
        keep_bytes = (cut := dict(cut)).pop("keep_bytes", None)
        first = run(make_trial(data, folder, **options), **cut)
        last = folder / "last.pt"
        if keep_bytes is not None and options.get("workers", Workers()).is_first:
            last.write_bytes(last.read_bytes()[:keep_bytes])
        trial = make_trial(data, folder, **options)
        second = run(trial)
        repeated = {report["epoch"] for report in second}
        return trial, [*(report for report in first if report["epoch"] not in repeated), *second]
    trial = make_trial(data, folder, **options)
    return trial, run(trial)


@pytest.fixture(scope="module")
def whole(data: DeviceImages, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trial, Reports]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_module, "build_network", with_everything)
        return train(data, tmp_path_factory.mktemp("whole"), None)


@pytest.mark.parametrize("where", INTERRUPTIONS)
def test_an_interrupted_trial_of_one_worker_ends_bit_equal(
    data: DeviceImages, tmp_path: Path, whole: tuple[Trial, Reports], where: str
) -> None:
    trial, reports = train(data, tmp_path, INTERRUPTIONS[where])
    assert timeless(reports) == timeless(whole[1])
    assert differences(trial.train_state.state_dict(), whole[0].train_state.state_dict()) == []


def test_a_resumed_trial_starts_where_its_newest_checkpoint_was_written(data: DeviceImages, tmp_path: Path) -> None:
    run(make_trial(data, tmp_path, **SETTINGS), cut_before=19)
    trial = make_trial(data, tmp_path, **SETTINGS)
    assert (trial.epoch, trial.step) == (1, 6)


@pytest.mark.parametrize("optimizer", ["sgd", "lamb", "rmsproptf", "nadamw", "lookahead_adamw", "lion", "adafactor"])
def test_the_state_of_every_optimiser_is_restored(data: DeviceImages, tmp_path: Path, optimizer: str) -> None:
    options = {"optimizer": optimizer, "epochs": 2}
    whole, _ = train(data, tmp_path / "whole", None, **options)
    trial, _ = train(data, tmp_path / "cut", {"cut_before": 14}, **options)
    assert differences(trial.train_state.state_dict(), whole.train_state.state_dict()) == []


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_weight_average_and_loss_scale_are_restored(data: DeviceImages, tmp_path: Path, precision: str) -> None:
    options = {"epochs": 2, "precision": precision, "ema_decay": 0.99, "ema_warmup": True, "accumulation_steps": 2}
    whole, reports = train(data, tmp_path / "whole", None, **options)
    trial, resumed = train(data, tmp_path / "cut", {"cut_before": 14}, **options)
    assert bool(trial.train_state.state_dict()["scaler"]) == (precision == "float16")
    assert differences(trial.train_state.state_dict(), whole.train_state.state_dict()) == []
    assert timeless(resumed) == timeless(reports)


def test_a_plateau_and_sparse_validations_resume_bit_equal(data: DeviceImages, tmp_path: Path) -> None:
    """Train for a low accuracy, which rises instead: each validation but the first lowers the rate."""
    options = {
        "epochs": 5,
        "lr_schedule": "plateau",
        "plateau_patience": 0,
        "warmup_epochs": 0,
        "decay_rate": 0.5,
        "validate_every": 2,
        "objective": ObjectiveConfig(metric="val/top1", mode="min"),
    }
    whole, reports = train(data, tmp_path / "whole", None, **options)
    assert [report["epoch"] for report in reports] == [2, 4, 5]
    assert [report["lr"] for report in reports] == pytest.approx([3e-3, 3e-3, 1.5e-3])
    assert whole.train_state.state_dict()["lr_schedule"]["decays"] == 2
    for update in (25, 34, 46):  # within an epoch that is not validated, after one, and after the first decay
        trial, resumed = train(data, tmp_path / str(update), {"cut_before": update}, **options)
        assert timeless(resumed) == timeless(reports)
        assert differences(trial.train_state.state_dict(), whole.train_state.state_dict()) == []


def test_batches_mixed_repeated_and_cut_to_one_size_resume_bit_equal(data: DeviceImages, tmp_path: Path) -> None:
    options = {"epochs": 2, "mixup_mode": "batch", "mix_prob": 0.7, "erase_after_mixing": True, "repeats": 3}
    options |= {"drop_last": True, "global_batch_size": 35, "dist_bn": "reduce"}
    whole, reports = train(data, tmp_path / "whole", None, **options)
    assert whole.steps_per_epoch == 300 // 35
    trial, resumed = train(data, tmp_path / "cut", {"cut_before": 11}, **options)
    assert differences(trial.train_state.state_dict(), whole.train_state.state_dict()) == []
    assert timeless(resumed) == timeless(reports)


def test_epochs_of_a_number_of_steps_resume_bit_equal(data: DeviceImages, tmp_path: Path) -> None:
    """Cut within a pass of ten steps, after its end, and at the end of an epoch, within the next pass."""
    options = {"epochs": 4, "epoch_steps": 7, "warmup_steps": 3, "lr_schedule": "poly", "poly_power": 0.9}
    whole, reports = train(data, tmp_path / "whole", None, **options)
    assert (whole.steps_per_epoch, [report["epoch"] for report in reports]) == (7, [1, 2, 3, 4])
    for update in (9, 11, 14, 24):
        trial, resumed = train(data, tmp_path / str(update), {"cut_before": update}, **options)
        assert timeless(resumed) == timeless(reports)
        assert differences(trial.train_state.state_dict(), whole.train_state.state_dict()) == []


def test_the_length_of_epochs_changes_no_step(
    data: DeviceImages, tmp_path: Path, whole: tuple[Trial, Reports], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give the length of a pass as a number, which changes nothing at all, then another one."""
    trial, reports = train(data, tmp_path / "given", None, epoch_steps=10)
    assert timeless(reports) == timeless(whole[1])
    assert differences(trial.train_state.state_dict(), whole[0].train_state.state_dict()) == []
    monkeypatch.setattr(trial_module, "build_network", without_norm)  # and no draws, which follow from epoch and step
    options = {**SETTINGS, "lr_schedule": "constant", "warmup_epochs": 0}
    curves: list[list[float]] = [[], []]
    for curve, lengths in zip(curves, ({"epochs": 3}, {"epochs": 5, "epoch_steps": 6}), strict=True):
        run(make_trial(data, tmp_path / str(len(lengths)), **{**options, **lengths}), curve=curve)
    assert len(curves[0]) == 30
    assert curves[0] == curves[1]


def test_a_network_with_a_projected_span_resumes_bit_equal(
    data: DeviceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "build_network", build_network)
    options = {"epochs": 1, "model": "adaptive_resnet26_small", "options": {"max_span": 3, "span_penalty": 1.0}}
    whole, _ = train(data, tmp_path / "whole", None, **options)
    trial, _ = train(data, tmp_path / "cut", {"cut_before": 7}, **options)
    assert differences(trial.train_state.state_dict(), whole.train_state.state_dict()) == []


def resume_rank(rank: int, world_size: int, folder: str) -> None:
    """Train the uninterrupted trial, then the interrupted ones, as one of several processes."""
    place = Path(folder)
    workers = join_group(rank, world_size, place)
    trial_module.build_network = with_everything
    data = few_digits(place / f"data-{rank}")
    result: dict[str, Any] = {}
    for where, cut in {"nowhere": None, **INTERRUPTIONS}.items():
        result[where] = _result(data, place / where, cut, workers)
    torch.save(result, place / f"rank-{rank}.pt")
    dist.destroy_process_group()


def _result(data: DeviceImages, folder: Path, cut: dict[str, int] | None, workers: Workers) -> dict[str, Any]:
    trial, reports = train(data, folder, cut, workers=workers)
    return {"state": trial.train_state.state_dict(), "reports": timeless(reports)}


@pytest.mark.slow
def test_an_interrupted_trial_of_two_workers_ends_bit_equal(tmp_path: Path) -> None:
    run_ranks(resume_rank, 2, str(tmp_path))
    for rank in range(2):
        results = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        whole = results.pop("nowhere")
        assert set(results) == set(INTERRUPTIONS)
        for where, result in results.items():
            assert differences(result, whole) == [], (rank, where)

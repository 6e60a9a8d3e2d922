"""One optimiser step under every option of the training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from orchestrator import load_model
from orchestrator.config import TrainingConfig
from orchestrator.training import trial as trial_module
from orchestrator.training.checkpoints.checkpoint_file import read_checkpoint
from orchestrator.training.evaluation import evaluate
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.losses import loss_sum
from orchestrator.training.tasks.classification import Classification
from orchestrator.training.train_state import TrainState
from orchestrator.training.workers import Workers
from tests.support.training_pieces import few_digits, make_trial, run, with_norm, without_norm

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DeviceImages:
    return few_digits(tmp_path_factory.mktemp("digits"))


def state_with(model: nn.Module | None = None, **training: Any) -> TrainState:
    torch.manual_seed(0)
    settings = {
        "optimizer": "momentum",
        "lr": 0.1,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "warmup_epochs": 0,
        **training,
    }
    return TrainState(
        model or without_norm({}), TrainingConfig(**settings), Workers(), steps_per_epoch=10, task=Classification()
    )


def batch(images: int = 11) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(images, 1, 8, 8, generator=generator), torch.randint(10, (images,), generator=generator)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def step(state: TrainState, update: int = 0) -> Tensor:
    state.begin_epoch()
    images, labels = batch()
    return state.step(images, labels, update=update, global_images=len(images))


def test_a_batch_in_parts_gives_the_step_of_the_whole() -> None:
    whole, parts = state_with(), state_with(accumulation_steps=3)
    torch.testing.assert_close(step(whole), step(parts))
    for key, value in weights(whole.network).items():
        torch.testing.assert_close(weights(parts.network)[key], value)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_gradients_are_clipped_to_their_norm(precision: str) -> None:
    def length_of_a_step(**training: Any) -> float:
        state = state_with(precision=precision, **training)
        before = weights(state.network)
        step(state)
        changes = [value - before[key] for key, value in weights(state.network).items()]
        return float(torch.cat([change.flatten() for change in changes]).norm())

    assert length_of_a_step() > 0.1 * 0.05
    assert length_of_a_step(clip_grad_norm=0.05) == pytest.approx(0.1 * 0.05, rel=1e-3)
    assert length_of_a_step(clip_grad_norm=1e6) == length_of_a_step()


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 2e-2), ("float16", 3e-3)])
def test_half_precision_computes_nearly_the_same_and_keeps_float32_weights(precision: str, tolerance: float) -> None:
    exact, half = state_with(), state_with(precision=precision)
    first, other = step(exact), step(half)
    assert first != other
    torch.testing.assert_close(other, first, rtol=tolerance, atol=0)
    for key, value in weights(half.network).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, weights(exact.network)[key], rtol=0, atol=tolerance)
    assert half.predict(batch()[0]).dtype == torch.float32


def test_a_scaled_loss_that_overflows_changes_no_weight_and_halves_the_scale() -> None:
    state = state_with(precision="float16", lr=1.0)
    state._scaler.load_state_dict({**state._scaler.state_dict(), "scale": 2.0**40})
    before = weights(state.network)
    loss = step(state)
    assert torch.isfinite(loss)
    assert all(torch.equal(before[key], value) for key, value in weights(state.network).items())
    assert state.state_dict()["scaler"]["scale"] == 2.0**39


def test_channels_last_reaches_the_weights_and_changes_only_rounding() -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))

    usual, last = state_with(model()), state_with(model(), channels_last=True)
    assert last.network[2].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(step(last), step(usual))
    for key, value in weights(last.network).items():
        torch.testing.assert_close(value, weights(usual.network)[key])


def test_the_average_follows_its_decay_and_is_evaluated() -> None:
    state = state_with(ema_decay=0.75)
    expected: dict[str, Tensor] = {}
    for update in range(3):
        step(state, update)
        now = weights(state.network)
        expected = {key: 0.75 * expected[key] + 0.25 * now[key] if update else now[key] for key in now}
    assert state.evaluated is not state.network
    for key, value in weights(state.evaluated).items():
        torch.testing.assert_close(value, expected[key])
    assert not any(torch.equal(value, now[key]) for key, value in weights(state.evaluated).items())


def test_the_best_checkpoint_holds_the_average(
    data: DeviceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = run(trial := make_trial(data, tmp_path, epochs=1, ema_decay=0.5))
    kept = read_checkpoint(trial.checkpoints.best)["state_dict"]
    assert all(torch.equal(kept[key], value) for key, value in trial.train_state.evaluated.state_dict().items())
    assert any(not torch.equal(kept[key], value) for key, value in trial.network.state_dict().items())
    metrics = evaluate(trial.train_state, data.test, Workers(), Classification(), num_classes=10)
    assert (reports[-1]["test/top1"], reports[-1]["test/top5"]) == (metrics["top1"], metrics["top5"])
    assert load_model(trial.checkpoints.best).num_classes == 10


def test_accuracies_are_counted_over_the_split(data: DeviceImages) -> None:
    state = state_with()
    metrics = evaluate(state, data.test, Workers(), Classification(), num_classes=10)
    images, labels = data.test.batch(torch.arange(len(data.test)))
    logits = state.network(images).detach()
    order = logits.argsort(dim=1, descending=True)
    for name, among in (("top1", 1), ("top5", 5)):
        hits = sum(label in row[:among] for row, label in zip(order.tolist(), labels.tolist(), strict=True))
        assert metrics[name] == pytest.approx(hits / 101)
    assert metrics["loss"] == pytest.approx(float(cross_entropy(logits, labels)))


@pytest.mark.slow
def test_a_compiled_network_learns_the_same() -> None:
    model = with_norm({})
    usual, compiled = state_with(copy.deepcopy(model)), state_with(model, compile=True)
    for update in range(2):
        torch.testing.assert_close(step(compiled, update), step(usual, update), rtol=1e-4, atol=1e-4)
    for key, value in weights(compiled.network).items():
        torch.testing.assert_close(value, weights(usual.network)[key], rtol=1e-4, atol=1e-5)


def one_hot(labels: Tensor) -> Tensor:
    return torch.eye(10)[labels]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.2])
def test_losses_are_those_of_their_formulas(soft: bool, smoothing: float, threshold: float | None) -> None:
    logits, labels = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    dense = 0.7 * one_hot(labels) + 0.3 * one_hot(labels.flip(0)) if soft else one_hot(labels)
    smoothed = dense * (1 - smoothing) + smoothing / 10
    given = dense if soft else labels
    plain = TrainingConfig(label_smoothing=smoothing)
    torch.testing.assert_close(loss_sum(logits, given, plain), -(smoothed * logits.log_softmax(1)).sum())
    binary = TrainingConfig(loss="binary_cross_entropy", label_smoothing=smoothing, bce_target_threshold=threshold)
    targets = smoothed if threshold is None else (smoothed > threshold).float()
    expected = binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1).sum()
    torch.testing.assert_close(loss_sum(logits, given, binary), expected)


def test_a_trial_learns_with_every_option_at_once(
    data: DeviceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(description: Mapping[str, Any]) -> nn.Module:
        return with_norm(description)

    monkeypatch.setattr(trial_module, "build_network", build)
    options = {
        "loss": "binary_cross_entropy",
        "label_smoothing": 0.1,
        "bce_target_threshold": 0.05,
        "accumulation_steps": 2,
        "clip_grad_norm": 5.0,
        "precision": "bfloat16",
        "channels_last": True,
        "sync_batch_norm": True,
        "ema_decay": 0.9,
        "ema_warmup": True,
    }
    reports = run(make_trial(data, tmp_path, epochs=6, lr=2e-2, **options))
    assert reports[-1]["val/top1"] > 0.75
    assert reports[-1]["val/top1"] < reports[-1]["val/top5"]

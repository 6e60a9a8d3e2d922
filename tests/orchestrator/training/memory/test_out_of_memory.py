"""Steps that run out of memory and are computed again in more parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchestrator.config import TrainingConfig
from orchestrator.errors import TrialFailedError
from orchestrator.training import trial as trial_module
from orchestrator.training.tasks.classification import Classification
from orchestrator.training.train_state import TrainState
from orchestrator.training.workers import Workers
from tests.support.small_device import SmallDevice, on_small_device
from tests.support.training_pieces import (
    convolution_without_norm,
    differences,
    few_digits,
    make_trial,
    run,
    timeless,
    with_everything,
)

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = 12
WHOLE = 8 * 8 * 8 * IMAGES  # elements of the largest tensor for a whole batch


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return convolution_without_norm({}) if kind == "without norm" else with_everything({})


def trained(
    kind: str, *, device: SmallDevice | None = None, small_at: int = 0, double: bool = False, **settings: Any
) -> TrainState:
    """Train for four steps; from one of them on the device is small."""
    training = TrainingConfig(optimizer="adamw", lr=1e-2, weight_decay=0.1, ema_decay=0.5, **settings)
    network = build(kind)
    state = TrainState(
        network.double() if double else network, training, Workers(), steps_per_epoch=10, task=Classification()
    )
    generator = torch.Generator().manual_seed(1)
    state.begin_epoch()
    for update in range(4):
        torch.manual_seed(update)
        images = torch.randn(IMAGES, 1, 8, 8, generator=generator)
        images = images.double() if double else images
        labels = torch.arange(IMAGES) % 10
        if device is None or update < small_at:
            state.step(images, labels, update=update, global_images=IMAGES)
        else:
            with device:
                state.step(images, labels, update=update, global_images=IMAGES)
    return state


def tensors(state: TrainState) -> dict[str, Tensor]:
    return {**state.network.state_dict(), **{f"average {k}": v for k, v in state.evaluated.state_dict().items()}}


@pytest.mark.parametrize("kind", ["without norm", "with norm"])
@pytest.mark.parametrize("place", ["forward", "backward"])
def test_a_step_computed_again_equals_fixed_accumulation_bit_for_bit(kind: str, place: str) -> None:
    """Weights, running statistics and their counts, draws of dropout, and the optimiser's state."""
    device = SmallDevice(WHOLE // 3, place)  # a third of the batch fits, so a quarter is computed
    found = trained(kind, device=device, on_out_of_memory="accumulate_always")
    assert device.failures == 2
    assert found.accumulation_steps == 4
    expected = trained(kind, accumulation_steps=4)
    assert expected.accumulation_steps is None
    state = found.state_dict()
    assert state.pop("accumulation_steps") == 4
    assert differences(state, expected.state_dict()) == []


@pytest.mark.parametrize("small_at", [0, 2])
def test_without_batch_norms_the_weights_do_not_depend_on_the_parts(small_at: int) -> None:
    device = SmallDevice(WHOLE // 2)
    found = trained(
        "without norm", device=device, small_at=small_at, double=True, on_out_of_memory="accumulate", clip_grad_norm=0.5
    )
    assert found.accumulation_steps == 2
    for parts in (1, 2):
        expected = tensors(trained("without norm", double=True, accumulation_steps=parts, clip_grad_norm=0.5))
        for name, value in tensors(found).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "elements", "settings", "message"),
    [
        (
            "with norm",
            WHOLE // 2,
            {"on_out_of_memory": "accumulate"},
            "12 images on each of 1 workers; its batch norms wo",
        ),
        (
            "with norm",
            8,
            {"on_out_of_memory": "accumulate_always"},
            "3 at a time in 4 parts; its parts cannot be smaller",
        ),
        (
            "without norm",
            8,
            {"on_out_of_memory": "accumulate"},
            "in 8 parts; its parts cannot be smaller. Use a smaller",
        ),
    ],
)
def test_what_more_parts_cannot_help_fails(kind: str, elements: int, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TrialFailedError, match=message):
        trained(kind, device=SmallDevice(elements, "forward"), global_batch_size=IMAGES, **settings)


def test_by_default_nothing_is_computed_again() -> None:
    device = SmallDevice(WHOLE // 2)
    with pytest.raises(torch.OutOfMemoryError):
        trained("without norm", device=device)
    assert device.failures == 1


def test_other_errors_and_those_of_the_optimiser_are_raised() -> None:
    """Updates that have begun cannot be repeated."""
    state = trained("without norm", on_out_of_memory="accumulate")
    images = torch.randn(IMAGES, 1, 8, 8)
    with pytest.raises(RuntimeError, match="shape"):
        state.step(images[:, :, :7], torch.arange(IMAGES) % 10, update=4, global_images=IMAGES)

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room for the moments")

    state.optimizer.register_step_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError, match="no room for the moments"):
        state.step(images, torch.arange(IMAGES) % 10, update=4, global_images=IMAGES)
    assert state.accumulation_steps == 1


def test_a_resumed_trial_computes_as_many_parts_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where memory is no longer short: the result does not depend on the interruption."""
    monkeypatch.setattr(trial_module, "build_network", with_everything)
    data = few_digits(tmp_path / "data")
    settings = {"on_out_of_memory": "accumulate_always", "checkpoint_every_steps": 4, "epochs": 2}
    most = 8 * 8 * 8 * 20  # of batches of 30 images

    whole = on_small_device(make_trial(data, tmp_path / "whole", **settings), most, first=2, last=3)
    reports = timeless(run(whole))
    assert [report["accumulation_steps"] for report in reports] == [2.0, 2.0]
    cut = on_small_device(make_trial(data, tmp_path / "cut", **settings), most, first=2, last=3)
    run(cut, cut_before=6)
    resumed = make_trial(data, tmp_path / "cut", **settings)
    assert (resumed.step, resumed.train_state.accumulation_steps) == (4, 2)
    assert timeless(run(resumed)) == reports
    assert differences(resumed.train_state.state_dict(), whole.train_state.state_dict()) == []


def test_gradients_of_any_size_are_averaged_in_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def summed(_: Workers, values: Tensor) -> Tensor:
        sizes.append(values.numel())
        return values.mul_(2)

    monkeypatch.setattr(Workers, "sum", summed)
    monkeypatch.setattr("orchestrator.training.workers._BUCKET", 6)
    network = nn.ParameterList([torch.ones(size) for size in (4, 4, 3)])
    network[0].grad, network[2].grad = torch.full((4,), 3.0), torch.full((3,), 5.0)
    Workers(0, 2).average_gradients(network.parameters())
    assert sizes == [8, 3]
    assert [parameter.grad.tolist() for parameter in network] == [[3.0] * 4, [0.0] * 4, [5.0] * 3]

"""Networks divided among ranks: checkpoints of whole tensors, exact resume, and a part of the state on each rank."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from orchestrator import ConfigError, load_sweep
from orchestrator.config import ModelConfig, TrainingConfig, TrialConfig
from orchestrator.data.datasets import DatasetFacts
from orchestrator.errors import TrialFailedError
from orchestrator.training import trial as trial_module
from orchestrator.training.checkpoints.checkpoint_content import read_state
from orchestrator.training.memory.memory_estimate import estimate_memory
from orchestrator.training.sharding import shard, whole
from orchestrator.training.tasks.registry import find_task
from orchestrator.training.train_state import TrainState
from orchestrator.training.trial import Trial
from orchestrator.training.workers import Workers
from tests.support.training_pieces import (
    differences,
    few_digits,
    join_group,
    make_trial,
    run,
    run_ranks,
    timeless,
    with_a_span,
    with_recomputed_norm,
)

SETTINGS: dict[str, Any] = {"epochs": 2, "gradient_checkpointing": True, "sync_batch_norm": True, "lr": 0.01}


def shapes(state: Any) -> Any:
    """Return a state whose tensors are replaced by their type and shape."""
    if isinstance(state, Tensor):
        return type(state).__name__, state.dtype, tuple(state.shape)
    if isinstance(state, dict):
        return {key: shapes(value) for key, value in state.items()}
    return state


def local_numbers(trial: Trial) -> int:
    """Return how many numbers of parameters and optimiser state this rank holds."""
    moments = [value for entry in trial.train_state.optimizer.state.values() for value in entry.values()]
    tensors = [*trial.network.parameters(), *(value for value in moments if value.dim())]
    return sum(getattr(value, "to_local", lambda value=value: value)().numel() for value in tensors)


def train_and_resume(rank: int, world_size: int, folder: str) -> None:
    """Train with and without division, resume from states of both, and write what was seen."""
    place = Path(folder)
    workers = join_group(rank, world_size, place)
    trial_module.build_network = with_recomputed_norm
    data = few_digits(place / f"data-{rank}", train=160)

    def trained(name: str, parallel: str, start: str | None = None) -> dict[str, Any]:
        if start is not None and rank == 0:
            shutil.copytree(place / start, place / name)
            (place / name / "previous.pt").replace(place / name / "last.pt")
        dist.barrier()
        trial = make_trial(data, place / name, workers=workers, parallel=parallel, **SETTINGS)
        reports = timeless(run(trial))
        state = trial.train_state.state_dict()
        return {"reports": reports, "state": state, "held": local_numbers(trial), "epochs": len(reports)}

    seen = {
        "ddp": trained("ddp", "ddp"),
        "fsdp": trained("fsdp", "fsdp"),
        "resumed": trained("resumed", "fsdp", start="fsdp"),
        "changed": trained("changed", "fsdp", start="ddp"),
    }
    torch.save(seen, place / f"seen-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_divided_networks_resume_exactly_from_whole_checkpoints(tmp_path: Path) -> None:
    run_ranks(train_and_resume, 2, str(tmp_path))
    seen, other = (torch.load(tmp_path / f"seen-{rank}.pt", weights_only=True) for rank in range(2))
    assert differences(seen["fsdp"]["state"], other["fsdp"]["state"]) == []
    assert differences(seen["resumed"]["state"], seen["fsdp"]["state"]) == []
    assert seen["resumed"]["reports"][-1] == seen["fsdp"]["reports"][-1]
    assert seen["fsdp"]["held"] + other["fsdp"]["held"] == seen["ddp"]["held"]
    for key, value in seen["ddp"]["state"]["state_dict"].items():
        for name in ("fsdp", "changed"):
            torch.testing.assert_close(seen[name]["state"]["state_dict"][key], value, rtol=1e-3, atol=1e-4)
    files = [shapes(dict(read_state(tmp_path / name / "last.pt"))) for name in ("ddp", "fsdp")]
    for key in ("state_dict", "optimizer", "scaler", "model"):
        assert files[0][key] == files[1][key], key


class Scaled(torch.nn.Linear):
    """Layer with a parameter that is a single number."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.gain = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


@pytest.fixture
def rank_of_two() -> Iterator[Workers]:
    """Make this process one of two ranks whose exchanges are left out."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield Workers(0, 2)
    dist.destroy_process_group()


def test_single_numbers_stay_whole(rank_of_two: Workers) -> None:
    network = torch.nn.Sequential(Scaled(), torch.nn.Linear(4, 2))
    assert shard(network, rank_of_two) == [network[0].gain]
    assert isinstance(network[0].weight, DTensor) and not isinstance(network[0].gain, DTensor)
    network(torch.ones(3, 4)).sum().backward()
    assert network[0].gain.grad is not None


def test_an_optimiser_that_reads_all_gradients_together_refuses_whole_ones(rank_of_two: Workers) -> None:
    training = TrainingConfig(parallel="fsdp", optimizer="lamb")
    with pytest.raises(TrialFailedError, match=r"parallel: got fsdp with optimizer: lamb, which takes divided"):
        TrainState(with_a_span({}), training, rank_of_two, 2, find_task("classification"))


def test_lamb_does_not_train_divided_networks_with_spans() -> None:
    sweep = {"name": "s", "dataset": {"name": "digits"}, "model": {"name": "adaptive_resnet26_small"}}
    with pytest.raises(ConfigError, match=r"training\.parallel: got fsdp with optimizer: lamb, which takes divided"):
        load_sweep({**sweep, "training": {"parallel": "fsdp", "optimizer": "lamb"}})
    assert load_sweep({**sweep, "training": {"parallel": "fsdp", "optimizer": "adamw"}})


def test_the_estimate_of_memory_divides_gradients_and_optimiser_state() -> None:
    facts = DatasetFacts(image_size=8, in_chans=1, num_classes=10, train_images=300)
    model = ModelConfig(name="conv_resnet26_small")
    ddp, fsdp = (
        estimate_memory(TrialConfig(number=0, model=model, training=training, seed=0), facts, 4)
        for training in (TrainingConfig(optimizer="adamw"), TrainingConfig(optimizer="adamw", parallel="fsdp"))
    )
    assert fsdp.gradients == pytest.approx(ddp.gradients / 4, abs=1)
    assert fsdp.optimizer == pytest.approx(ddp.optimizer / 4, abs=1)
    assert (fsdp.weights, fsdp.activations) == (ddp.weights, ddp.activations)


def test_a_state_without_divided_tensors_is_left_as_it_is() -> None:
    state = {"a": torch.ones(2), "b": {"c": 1, "d": [2]}}
    assert whole(state) == state
    assert whole(state)["a"] is state["a"]


@pytest.mark.parametrize(
    ("training", "text"),
    [
        ({"parallel": "fsdp", "ema_decay": 0.9}, "training.parallel: got fsdp with ema_decay: 0.9; an average of the"),
        (
            {"parallel": "fsdp", "optimizer": "adafactor"},
            "got fsdp with optimizer: adafactor; its state is not divided",
        ),
        ({"parallel": "fsdp", "bucket_mb": 5}, "got fsdp with bucket_mb: 5.0; gradients are exchanged block by block"),
        ({"parallel": "fsdp", "precision": "float16"}, "got fsdp with precision: float16; the scale of the loss"),
        ({"static_graph": True, "accumulation_steps": 2}, "training.static_graph: got true with accumulation_steps: 2"),
        ({"bucket_mb": 1, "on_out_of_memory": "accumulate"}, "training.bucket_mb: got 1.0; with on_out_of_memory: acc"),
    ],
)
def test_settings_that_exclude_each_other(training: dict[str, Any], text: str) -> None:
    sweep = {"name": "s", "dataset": {"name": "digits"}, "model": {"name": "conv_resnet26_small"}, "training": training}
    with pytest.raises(ConfigError) as caught:
        load_sweep(sweep)
    assert text in str(caught.value)

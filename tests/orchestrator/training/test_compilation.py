"""Compiled autograd: the same steps as without, in one process and in two, and no trace of it in the next trial."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.testing._internal.distributed.fake_pg import FakeStore

from orchestrator import ConfigError, load_sweep
from orchestrator.config import TrainingConfig
from orchestrator.errors import TrialFailedError
from orchestrator.training import compilation
from orchestrator.training import trial as trial_module
from orchestrator.training.compilation import Compilation
from orchestrator.training.tasks.classification import Classification
from orchestrator.training.train_state import TrainState
from orchestrator.training.workers import Workers
from tests.support.networks.tiny_networks import SIDE, TINY
from tests.support.training_pieces import (
    differences,
    few_digits,
    join_group,
    make_trial,
    run,
    run_ranks,
    timeless,
    with_a_span,
    with_logit_norms,
    with_norm,
    with_recomputed_norm,
    without_norm,
)

pytestmark = pytest.mark.usefixtures("one_thread")

COMPILED = {"compile": True, "compiled_autograd": True}


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run what was captured without generating code, which takes most of the time."""
    monkeypatch.setattr(compilation, "_BACKEND", "aot_eager")
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def train(
    network: nn.Module,
    shape: tuple[int, ...] = (1, 8, 8),
    classes: int = 10,
    workers: Workers | None = None,
    shares: int | None = None,
    sizes: Sequence[int] = (9, 9, 7, 9),
    **training: Any,
) -> dict[str, Any]:
    """Take a step of each number of images, and return weights, gradients and losses."""
    group = workers or Workers()
    settings = {"optimizer": "momentum", "lr": 0.1, "warmup_epochs": 0, **training}
    state = TrainState(network, TrainingConfig(**settings), group, len(sizes), Classification())
    state.begin_epoch()
    generator = torch.Generator().manual_seed(1)
    losses = []
    for update, size in enumerate(sizes):
        images, labels = torch.randn(size, *shape, generator=generator), torch.arange(size) % classes
        own = [part.tensor_split(shares or group.world_size)[group.rank] for part in (images, labels)]
        losses.append(state.step(own[0], own[1], update=update, global_images=size))
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    return {"weights": weights, "gradients": gradients, "losses": losses}


def settings_of_torch() -> tuple[object, ...]:
    """Return the settings of the process that compiled autograd needs to be different."""
    dynamo, inductor = torch._dynamo.config, torch._inductor.config
    return (
        dynamo.optimize_ddp,
        dynamo.compiled_autograd,
        inductor._fuse_ddp_communication,
        inductor._fuse_ddp_bucket_size,
        "torch.nn.parallel.distributed" in torch._dynamo.trace_rules.LEGACY_MOD_INLINELIST,
        torch._dynamo.compiled_autograd.compiled_autograd_enabled,
        torch.autograd.is_multithreading_enabled(),
    )


@pytest.mark.usefixtures("traced")
def test_steps_are_the_same_and_compiled_once() -> None:
    before = settings_of_torch()
    training: dict[str, Any] = {"accumulation_steps": 2, "clip_grad_norm": 1.0, "precision": "float16", "sizes": (9, 9)}
    torch.manual_seed(0)
    network = with_a_span({})
    twin, third = copy.deepcopy(network), copy.deepcopy(network)
    eager = train(network, **training)
    compiled = train(twin, **training, **COMPILED)
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)
    # 9 images have parts of 5 and 4; the last one is added to gradients, with a penalty.
    assert counters["compiled_autograd"]["captures"] == 2
    assert not counters["graph_break"]
    assert settings_of_torch() == before
    assert differences(train(third, **training), eager) == []  # the next trial of the process


def test_generated_code_exchanges_gradients_in_buckets() -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)  # each rank exchanges with itself alone
    try:
        torch.compiler.reset()
        counters.clear()
        torch.manual_seed(0)
        network = without_norm({})
        twin = copy.deepcopy(network)
        training: dict[str, Any] = {"bucket_mb": 0.001, "sizes": (9, 9)}
        eager = train(network, shares=2, **training)  # not of two ranks: torch's own reducer needs a real group
        compiled = train(twin, workers=Workers(0, 2), **training, **COMPILED)
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)
    assert counters["inductor"]["ddp_buckets"] >= 1
    assert counters["compiled_autograd"]["captures"] == 1


def train_on_two_ranks(rank: int, world_size: int, folder: str, name: str) -> None:
    """Train with and without compiled autograd, and write what was computed."""
    workers = join_group(rank, world_size, Path(folder))
    build, compilation._BACKEND, training, _ = CASES[name]
    before = settings_of_torch()
    torch.manual_seed(0)
    network = build({})
    twin = copy.deepcopy(network)
    eager = train(network, workers=workers, **training)
    compiled = train(twin, workers=workers, **training, **COMPILED)
    numbers = {"graph_breaks": len(counters["graph_break"]), **counters["compiled_autograd"]}
    seen = {"eager": eager, "compiled": compiled, "numbers": numbers, "restored": settings_of_torch() == before}
    torch.save(seen, Path(folder) / f"seen-{rank}.pt")
    dist.destroy_process_group()


# Network, backend, training, and graphs that are captured. Shares of 9 images are of 5 and 4.
CASES: dict[str, tuple[Callable[..., nn.Module], str, dict[str, Any], int]] = {
    "in parts": (with_a_span, "aot_eager", {"accumulation_steps": 2, "clip_grad_norm": 1.0, "sizes": (9, 9)}, 2),
    "synchronised": (with_norm, "aot_eager", {"sync_batch_norm": True}, 2),
    "synchronised logits": (with_logit_norms, "aot_eager", {"sync_batch_norm": True}, 2),
    "recomputed": (with_recomputed_norm, "aot_eager", {"gradient_checkpointing": True}, 2),
    "generated": (with_a_span, "inductor", {"accumulation_steps": 2, "bucket_mb": 0.001}, 3),
}


@pytest.mark.parametrize(
    "name", ["in parts", *(pytest.param(name, marks=pytest.mark.long) for name in list(CASES)[1:])]
)
def test_two_ranks_exchange_gradients_within_the_compiled_pass(tmp_path: Path, name: str) -> None:
    run_ranks(train_on_two_ranks, 2, str(tmp_path), name)
    seen, other = (torch.load(tmp_path / f"seen-{rank}.pt", weights_only=True) for rank in range(2))
    torch.testing.assert_close(seen["compiled"], seen["eager"], rtol=1e-5, atol=1e-6)
    assert seen["numbers"] == {"graph_breaks": 0, "captures": CASES[name][3]}
    # Each rank has the mean of both, exactly.
    gradients = seen["compiled"]["gradients"]
    assert differences(gradients, other["compiled"]["gradients"]) == []
    weights, others = ({key: each["compiled"]["weights"][key] for key in gradients} for each in (seen, other))
    assert differences(weights, others) == []
    assert seen["restored"] and other["restored"]


@pytest.mark.usefixtures("traced")
def test_a_resumed_trial_ends_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module, "build_network", without_norm)
    data = few_digits(tmp_path / "data", train=100)
    settings: dict[str, Any] = {"epochs": 2, "global_batch_size": 29, **COMPILED}
    whole = make_trial(data, tmp_path / "whole", **settings)
    reports = timeless(run(whole))
    run(make_trial(data, tmp_path / "cut", **settings), stop_after=1)
    resumed = make_trial(data, tmp_path / "cut", **settings)
    assert timeless(run(resumed))[-1] == reports[-1]
    assert differences(resumed.train_state.state_dict(), whole.train_state.state_dict()) == []


def test_spans_that_a_processor_reads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    training = TrainingConfig(**COMPILED)
    with pytest.raises(TrialFailedError, match=r"compiled_autograd: got True; on this device each change of a learned"):
        Compilation(training, Workers()).compiled(TINY["adaptive"]())
    frozen = TINY["adaptive"]()
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(not name.endswith("span"))
    assert Compilation(training, Workers()).compiled(frozen) is not None
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # as on GPUs
    assert Compilation(training, Workers()).compiled(TINY["adaptive"]()) is not None


@pytest.mark.long
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", [name for name in TINY if not name.startswith("adaptive")])
def test_every_family_learns_the_same(name: str) -> None:
    torch.manual_seed(0)
    network = TINY[name]()
    twin = copy.deepcopy(network)
    eager = train(network, (3, SIDE, SIDE), 3, lr=0.02)
    compiled = train(twin, (3, SIDE, SIDE), 3, lr=0.02, **COMPILED)
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)
    assert counters["compiled_autograd"]["captures"] == 2
    assert not counters["graph_break"]


class Reading(torch.autograd.Function):
    """Function whose gradient depends on a number that is read from a tensor, which no compiler captures."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 2 if float(gradients[0].sum()) > 0 else gradients[0]


class ReadingLayer(nn.Module):
    """Layer of `Reading` that is left out of the compiled network."""

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = Reading.apply(x)
        return result


@pytest.mark.usefixtures("traced")
def test_a_backward_pass_that_cannot_be_captured_fails_with_the_setting_and_restores_torch() -> None:
    before = settings_of_torch()
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), ReadingLayer())
    with pytest.raises(TrialFailedError, match=r"training\.compiled_autograd: got True; torch cannot compile"):
        train(network, **COMPILED)
    assert settings_of_torch() == before


def test_settings_of_torch_are_those_of_one_step() -> None:
    before = settings_of_torch()
    training = TrainingConfig(**COMPILED, bucket_mb=3)
    with pytest.raises(ZeroDivisionError), Compilation(training, Workers(0, 2)).backward():
        within = settings_of_torch()
        raise ZeroDivisionError
    assert within == ("python_reducer", False, True, 3.0, True, True, False)
    assert settings_of_torch() == before
    alone = Compilation(training, Workers())
    with alone.settings():
        assert settings_of_torch() == before
    assert not alone.captures_exchange and not Compilation(TrainingConfig(), Workers(0, 2)).captures_exchange


@pytest.mark.parametrize(
    ("training", "text"),
    [
        ({"compile": False}, "training.compiled_autograd: got true with compile: false; it continues a compiled"),
        ({"static_graph": True}, "training.compiled_autograd: got true with static_graph: true"),
        ({"on_out_of_memory": "accumulate"}, "training.compiled_autograd: got true with on_out_of_memory: accumulate"),
        ({"parallel": "fsdp"}, "training.parallel: got fsdp with compiled_autograd: True; compiled networks are not"),
    ],
)
def test_settings_that_exclude_each_other(training: dict[str, Any], text: str) -> None:
    sweep = {"name": "s", "dataset": {"name": "digits"}, "model": {"name": "conv_resnet26_small"}}
    with pytest.raises(ConfigError) as caught:
        load_sweep({**sweep, "training": {**COMPILED, **training}})
    assert text in str(caught.value)


def test_the_setting_is_searched_like_others() -> None:
    sweep = {"name": "s", "dataset": {"name": "digits"}, "model": {"name": "conv_resnet26_small"}}
    domain = {"choices": [False, True]}
    assert load_sweep({**sweep, "training": {"compile": True}, "search": {"compiled_autograd": domain}})
    with pytest.raises(ConfigError, match=r"search\.compiled_autograd: got true with compile: false"):
        load_sweep({**sweep, "search": {"compiled_autograd": domain}})

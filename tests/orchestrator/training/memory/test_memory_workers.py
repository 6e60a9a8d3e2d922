"""Two workers of which one has less memory: they agree on the batch size, and on the number of parts."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from orchestrator.training import trial as trial_module
from orchestrator.training.memory import batch_size, steps
from tests.support.small_device import SmallDevice, on_small_device
from tests.support.training_pieces import (
    convolution_without_norm,
    differences,
    few_digits,
    join_group,
    make_trial,
    run,
    run_ranks,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

_IMAGE = 8 * 8 * 8  # elements of the largest tensor of one image
SETTINGS: dict[str, dict[str, Any]] = {
    "fixed": {},
    "again": {"on_out_of_memory": "accumulate"},
    "auto": {"global_batch_size": "auto", "max_global_batch_size": 128},
}


def train_rank(rank: int, world_size: int, folder: str) -> None:
    """Train as one of two ranks, of which the second has less memory, and write the weights."""
    place = Path(folder)
    workers = join_group(rank, world_size, place)
    trial_module.build_network = steps.build_network = convolution_without_norm
    batch_size.take_steps = lambda *given: _tried_on_small_device(rank, *given)
    data = few_digits(place / f"data-{rank}")
    found = {}
    for name, settings in SETTINGS.items():
        trial = make_trial(data, place / name, workers=workers, optimizer="sgd", lr=0.1, epochs=1, **settings)
        if name == "again" and rank == 1:
            trial = on_small_device(trial, _IMAGE * 10, first=2, last=2)
        reports = run(trial)
        found[name] = {"weights": trial.network.state_dict(), **reports[-1]}
    torch.save(found, place / f"rank-{rank}.pt")
    dist.destroy_process_group()


def _tried_on_small_device(rank: int, *given: Any) -> None:
    with SmallDevice(_IMAGE * 16) if rank == 1 else contextlib.nullcontext():
        steps.take_steps(*given)


def test_the_smaller_memory_decides(tmp_path: Path) -> None:
    run_ranks(train_rank, 2, str(tmp_path))
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2))
    for name in SETTINGS:
        assert differences(first[name]["weights"], second[name]["weights"]) == []
    assert first["again"]["accumulation_steps"] == second["again"]["accumulation_steps"] == 2.0
    for name, value in first["fixed"]["weights"].items():
        torch.testing.assert_close(first["again"]["weights"][name], value, rtol=1e-5, atol=1e-6)
    assert first["auto"]["global_batch_size"] == 32.0  # 16 on each
    assert differences(first["auto"]["weights"], first["fixed"]["weights"]) == []

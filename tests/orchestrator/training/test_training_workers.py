"""A trial over several processes: the same training as in one process with the same global batch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

import models
from models.common.channel_attention import StyleRecalibrationLogits
from orchestrator.config import TrainingConfig
from orchestrator.data import epoch_batches
from orchestrator.training.tasks.classification import Classification
from orchestrator.training.train_state import TrainState
from orchestrator.training.workers import Workers
from tests.support.training_pieces import CASES, few_digits, join_group, run_rank, run_ranks, train_case

Results = dict[str, dict[str, Any]]
EQUAL = [name for name in CASES if name != "real"]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def train_group(folder: Path, world_size: int, cases: list[str]) -> list[Results]:
    """Train the cases on a group of processes and return the results of each rank."""
    run_ranks(run_rank, world_size, str(folder), cases)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(world_size)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pair")


@pytest.fixture(scope="module")
def pair(folder: Path) -> list[Results]:
    return train_group(folder, 2, list(CASES))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    return train_group(tmp_path_factory.mktemp("four"), 4, EQUAL)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    place = tmp_path_factory.mktemp("alone")
    data = few_digits(place / "data")
    return {name: train_case(name, data, place, Workers()) for name in CASES}


@pytest.mark.parametrize("case", CASES)
def test_all_ranks_have_equal_weights_and_reports(pair: list[Results], case: str) -> None:
    first, second = (rank[case] for rank in pair)
    for key, value in first["weights"].items():
        assert torch.equal(second["weights"][key], value), key
    for one, other in zip(first["reports"], second["reports"], strict=True):
        for key in ("train/loss", "val/loss", "val/top1", "lr"):
            assert one[key] == other[key]
    assert first["reports"][-1]["test/top1"] == second["reports"][-1]["test/top1"]


def test_some_shares_differ_in_size() -> None:
    sizes = {len(batch) for batch in epoch_batches(300, 29, seed=0, epoch=1)}
    assert any(size % 2 for size in sizes)
    assert any(size % 4 for size in sizes)


@pytest.mark.parametrize("case", EQUAL)
@pytest.mark.parametrize("group", ["pair", "four"])
def test_many_workers_train_as_one(alone: Results, case: str, group: str, request: pytest.FixtureRequest) -> None:
    ranks = request.getfixturevalue(group)
    expected = alone[case]
    curve = np.sum([rank[case]["curve"] for rank in ranks], axis=0)
    assert len(curve) == 33
    assert curve[-1] < 0.9 * curve[0]
    np.testing.assert_allclose(curve, expected["curve"], rtol=2e-5)
    for key, value in expected["weights"].items():
        torch.testing.assert_close(ranks[0][case]["weights"][key], value, rtol=1e-4, atol=1e-5)
    for one, many in zip(expected["reports"], ranks[0][case]["reports"], strict=True):
        for key in ("train/loss", "val/loss", "val/top1"):
            assert many[key] == pytest.approx(one[key], rel=2e-5)
    assert ranks[0][case]["reports"][-1]["test/top1"] == expected["reports"][-1]["test/top1"]


def test_a_network_with_batch_norm_learns_alike_though_each_rank_normalises_its_share(
    pair: list[Results], alone: Results
) -> None:
    reports, together = alone["real"]["reports"], pair[0]["real"]["reports"]
    assert together[0]["train/loss"] == pytest.approx(reports[0]["train/loss"], rel=0.15)
    assert together[-1]["train/loss"] == pytest.approx(reports[-1]["train/loss"], abs=0.1)
    assert together[-1]["val/top1"] == pytest.approx(reports[-1]["val/top1"], abs=0.15)


def share_statistics(rank: int, world_size: int, folder: str) -> None:
    """Share buffers that differ between the ranks in every way, and write the results of this rank."""
    workers = join_group(rank, world_size, Path(folder))
    found = {}
    for dist_bn in ("broadcast", "reduce", "none"):
        network = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(2, 1))
        network.register_buffer("table", torch.zeros(3))
        state = TrainState(network, TrainingConfig(dist_bn=dist_bn, ema_decay=0.9), workers, 1, Classification())
        networks = (state.network, state.average.module)
        for each in networks:
            each[0].running_mean.copy_(torch.tensor([1.0, 2.0]) + rank)
            each[0].running_var.fill_(2.0 * rank + 1)
            each.table.fill_(rank)
        state.share_buffers()
        kept = [
            [values.tolist() for values in (each[0].running_mean, each[0].running_var, each.table)] for each in networks
        ]
        found[dist_bn] = (state.buffers_are_shared, kept)
    torch.save(found, Path(folder) / f"statistics-{rank}.pt")
    dist.destroy_process_group()


def test_running_statistics_are_taken_from_the_first_rank_reduced_or_kept(tmp_path: Path) -> None:
    run_ranks(share_statistics, 2, str(tmp_path))
    for rank in range(2):
        found = torch.load(tmp_path / f"statistics-{rank}.pt", weights_only=True)
        own = [[1.0 + rank, 2.0 + rank], [2.0 * rank + 1] * 2, [float(rank)] * 3]
        assert found["broadcast"] == (True, [[[1.0, 2.0], [1.0, 1.0], [0.0] * 3]] * 2)
        assert found["reduce"] == (True, [[[1.5, 2.5], [2.0, 2.0], [0.0] * 3]] * 2)
        assert found["none"] == (False, [own] * 2)


def gate_of_shares(rank: int, world_size: int, folder: str) -> None:
    """Run a channel attention with a norm over all ranks on two images of the first rank and one of the second."""
    join_group(rank, world_size, Path(folder))
    gate = models.synchronise_batch_norm(style_gate(), torch.device("cpu"))
    logits = gate(style_images()[:2] if rank == 0 else style_images()[2:])
    torch.save((logits.detach(), gate.state_dict()), Path(folder) / f"gate-{rank}.pt")
    dist.destroy_process_group()


def style_gate() -> torch.nn.Module:
    torch.manual_seed(0)
    gate = StyleRecalibrationLogits(4)
    torch.nn.init.normal_(gate.style_weight)
    return gate


def style_images() -> torch.Tensor:
    return torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1))


def test_a_rank_with_one_image_takes_part_in_the_norm_of_all(tmp_path: Path) -> None:
    run_ranks(gate_of_shares, 2, str(tmp_path))
    gate = style_gate()
    expected = gate(style_images())
    found = [torch.load(tmp_path / f"gate-{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(torch.cat([logits for logits, _ in found]), expected.detach())
    for _, state in found:
        torch.testing.assert_close(state, dict(gate.state_dict()))


def test_only_the_first_rank_writes(folder: Path, pair: list[Results]) -> None:
    assert pair
    for case in CASES:
        assert sorted(path.name for path in (folder / case).iterdir()) == ["best.pt", "last.pt", "previous.pt"]


@pytest.mark.parametrize("case", EQUAL)
def test_one_worker_resumes_a_trial_of_two(
    folder: Path, pair: list[Results], alone: Results, tmp_path: Path, case: str
) -> None:
    interrupted = tmp_path / case
    interrupted.mkdir()
    shutil.copy(folder / case / "previous.pt", interrupted / "last.pt")  # the state before the last epoch
    shutil.copy(folder / case / "best.pt", interrupted)
    resumed = train_case(case, few_digits(tmp_path / "data"), tmp_path, Workers())
    assert [report["epoch"] for report in resumed["reports"]] == [2, 3]
    np.testing.assert_allclose(resumed["curve"], alone[case]["curve"][-len(resumed["curve"]) :], rtol=2e-5)
    for key, value in alone[case]["weights"].items():
        torch.testing.assert_close(resumed["weights"][key], value, rtol=1e-4, atol=1e-5)

"""A trial over several processes: the same training as one process with the same global batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing
from training_pieces import few_digits, make_trial, run, run_rank, without_norm

from orchestrator.training import trial as trial_module

WORLD_SIZE = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both ranks have left what they found."""
    folder = tmp_path_factory.mktemp("group")
    multiprocessing.spawn(run_rank, args=(WORLD_SIZE, str(folder)), nprocs=WORLD_SIZE)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(WORLD_SIZE)]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["without norm", "real"])
def test_all_ranks_hold_one_network_and_report_one_result(ranks: list[dict[str, Any]], network: str) -> None:
    first, second = (rank[network] for rank in ranks)
    for key, value in first["weights"].items():
        assert torch.equal(second["weights"][key], value), key
    for one, other in zip(first["reports"], second["reports"], strict=True):
        for key in ("train/loss", "val/loss", "val/top1", "lr"):
            assert one[key] == other[key]
    assert first["reports"][-1]["test/top1"] == second["reports"][-1]["test/top1"]


@pytest.mark.slow
def test_two_processes_train_what_one_would(
    ranks: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = few_digits(tmp_path)
    monkeypatch.setattr(trial_module, "build_model", without_norm)
    alone = make_trial(data, tmp_path / "alone", global_batch_size=29, crop_padding=0)
    assert {len(batch) for batch in alone._batches(epoch=1)} == {27, 28}  # so the shares of some steps differ in size
    reports = run(alone)
    for one, two in zip(reports, ranks[0]["without norm"]["reports"], strict=True):
        for key in ("train/loss", "val/loss", "val/top1"):
            assert two[key] == pytest.approx(one[key], rel=1e-4)
    assert ranks[0]["without norm"]["reports"][-1]["test/top1"] == reports[-1]["test/top1"]


@pytest.mark.slow
def test_a_network_with_batch_norm_learns_alike_though_each_rank_normalises_its_share(
    ranks: list[dict[str, Any]], tmp_path: Path
) -> None:
    reports = run(make_trial(few_digits(tmp_path), tmp_path / "alone", global_batch_size=29, crop_padding=0))
    together = ranks[0]["real"]["reports"]
    assert together[0]["train/loss"] == pytest.approx(reports[0]["train/loss"], rel=0.15)
    assert together[-1]["train/loss"] == pytest.approx(reports[-1]["train/loss"], abs=0.1)
    assert together[-1]["val/top1"] == pytest.approx(reports[-1]["val/top1"], abs=0.15)


@pytest.mark.slow
def test_only_the_first_rank_writes(folder: Path, ranks: list[dict[str, Any]]) -> None:
    assert ranks
    for network in ("real", "without norm"):
        assert sorted(path.name for path in (folder / network).iterdir()) == ["best.pt", "last.pt", "previous.pt"]

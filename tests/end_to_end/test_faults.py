"""One of each fault of `tools/chaos/faults.py` hits one sweep: nothing is lost but parts of epochs."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from orchestrator import load_result
from tests.support.networks.own_file import PacedFile

TRIALS, EPOCHS = 2, 12
SCRIPTS = Path(__file__).resolve().parents[2] / "tools" / "chaos"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("faults")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_killed_costs_no_trial_and_leaves_nothing(
    faults: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "LATEST_S", 1.0)
    network = {"model": {"name": PacedFile(tmp_path, step_s=0.03).name}}
    with faults.lasting_cluster(cpus=2) as address:
        kinds = ["worker", "controller", "tune", "hub", "driver"]
        outcome = faults.run_sequence(
            kinds, tmp_path, address, seed=0, trials=TRIALS, epochs=EPOCHS, workers=2, **network
        )
    assert outcome.leaked == []
    assert outcome.harmless, outcome
    assert sum(outcome.faults.values()) == 5
    assert outcome.whole_epochs_lost <= 3
    journals = list(tmp_path.glob("*/*/journal.jsonl"))
    assert journals
    for journal in journals:
        rows = load_result(journal.parent).reports.to_pylist()
        reported = [(row["trial"], row["epoch"]) for row in rows if row["metric"] == "val/top1"]
        assert sorted(reported) == [(trial, epoch) for trial in range(TRIALS) for epoch in range(1, EPOCHS + 1)]

"""Search for a configuration within tight limits: it reports its state, can be stopped, and ends with its counts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from typer.testing import CliRunner

from orchestrator import dry_run, load_sweep
from orchestrator.cli.main import app
from orchestrator.config import SweepConfig
from orchestrator.config.plans import SearchPlan, resolve_plans
from orchestrator.errors import SpaceExhaustedError
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger
from orchestrator.search import searcher
from orchestrator.search.proposals import rejections
from orchestrator.search.searcher import StudySearcher
from orchestrator.search.study import open_study

SETTINGS: dict[str, Any] = {
    "name": "tight",
    "dataset": {"name": "digits"},
    "resources": {"workers": 1},
    "space": "senet",
    "model": {"name": "senet_resnet29_cifar"},
    "limits": {"max_macs": 1e5, "max_params": 1e9},
    "sampler": {"name": "random"},
    "try_first": [],
}


@pytest.fixture
def config() -> SweepConfig:
    return load_sweep(SETTINGS)


@pytest.fixture
def plan(config: SweepConfig) -> SearchPlan:
    return resolve_plans(config).search


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Journal(tmp_path / "journal.jsonl") as journal:
        yield Ledger(journal)


def study_of(plan: SearchPlan) -> optuna.Study:
    return open_study(plan, "t", optuna.storages.InMemoryStorage())


def test_it_reports_how_many_each_limit_rejects(
    plan: SearchPlan, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searcher, "MOST_REJECTED", 12)
    monkeypatch.setattr(rejections, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(rejections, "_WAIT_FACTOR", 0.0)
    said: list[str] = []
    with pytest.raises(SpaceExhaustedError) as caught:
        StudySearcher(study_of(plan), plan, ledger, say=said.append).suggest("tune-0")
    assert len(said) == len(ledger.rejected()) == 12
    counted = [int(trial.reason.split(" has ")[1].split(";")[0].replace(",", "")) for trial in ledger.rejected()]
    nearest = f"Nearest to limits.max_macs: senet_resnet29_cifar has {min(counted[:5]):,}; limits.max_macs is 100,000."
    assert said[4] == (
        "Looking for a configuration that is worth a trial: "
        f"5 configurations in a row were rejected: 5 (max_macs 5). {nearest}"
    )
    assert str(caught.value).startswith(
        "12 configurations in a row were rejected: 12 (max_macs 12). Nearest to limits."
    )


def test_it_reports_early_and_then_at_growing_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(rejections.time, "monotonic", lambda: now[0])
    said: list[float] = []
    row = rejections.RejectionStreak(lambda _: said.append(now[0]))
    for second in range(120):
        now[0] = float(second)
        row.note(rejections.Rejection("pooled_size", "got 10"))
    assert said[0] <= 10
    assert all(later - earlier <= 60 for earlier, later in itertools.pairwise(said))
    assert len(said) < 12


def test_a_stopped_sweep_ends_its_search(plan: SearchPlan, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejections, "_PATIENCE_S", 0.0)

    def stop(_: str) -> None:
        asking.closed = True  # as the sweep's main thread does on Ctrl-C

    asking = StudySearcher(study_of(plan), plan, ledger, say=stop)
    assert asking.suggest("tune-0") == searcher.FINISHED
    assert len(ledger.rejected()) == 1


def test_ctrl_c_ends_the_search_of_a_dry_run(config: SweepConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejections, "_PATIENCE_S", 0.0)

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dry_run(config, say=interrupt)


def test_the_command_reports_it_on_stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejections, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(searcher, "MOST_REJECTED", 3)
    path = tmp_path / "sweep.yaml"
    path.write_text(str(SETTINGS))  # a flow mapping
    asked = CliRunner().invoke(app, ["run", str(path), "--dry-run", "--json", "--runs-dir", str(tmp_path / "runs")])
    assert isinstance(asked.exception, SpaceExhaustedError)
    assert asked.stderr.startswith(
        "Looking for a configuration that is worth a trial: 1 configuration was rejected: 1 ("
    )
    assert asked.stdout == ""

"""Whole sweeps on a real Ray instance: several objectives on a PostgreSQL server that goes away meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from orchestrator import load_sweep, run_sweep
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.search.storage import open_storage
from tests.support.servers.postgresql import PASSWORD, PostgresqlServer
from tests.support.sweeps.local_ray import local_ray

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TINY = {
    "name": "tiny",
    "dataset": {"name": "digits"},
    "training": {"epochs": 2, "global_batch_size": 64, "optimizer": "adamw", "lr": 0.003, "warmup_epochs": 0},
    "trial_scheduler": {"name": "none"},
    "resources": {"workers": 1, "lanes": 1},
}


@pytest.fixture(scope="module", autouse=True)
def ray_instance() -> Iterator[None]:
    """One Ray instance for all sweeps here."""
    with local_ray(num_cpus=2):
        yield


@contextmanager
def restarted_at_the_first_report(server: PostgresqlServer) -> Iterator[None]:
    """Stop the server between the journal's record of the first epoch and the study's; start it 2 s later."""
    record, start = Ledger.trial_reported, threading.Timer(2.0, server.start)
    stopped = threading.Event()

    def stop_once(ledger: Ledger, *report: Any, **where: Any) -> None:
        record(ledger, *report, **where)
        if not stopped.is_set():
            stopped.set()
            server.stop()
            start.start()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "trial_reported", stop_once)
        yield
    assert stopped.is_set()
    start.join()


def test_several_objectives_on_a_server_that_is_restarted(tmp_path: Path, postgresql: PostgresqlServer) -> None:
    sweep = {
        **TINY,
        "search": {
            "model": ["conv_resnet26_small", "sb_resnet29_cifar"],
            "lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True},
        },
        "trials": 4,
        "objective": [{"metric": "val/top1"}, {"metric": "macs"}, {"metric": "latency_ms"}],
        "constraints": ["params <= 1e9"],
        "sampler": {"name": "tpe", "startup_trials": 2},
        "storage": {"uri": postgresql.uri()},
        "runs_dir": str(tmp_path),
    }
    with restarted_at_the_first_report(postgresql):
        result = run_sweep(load_sweep(sweep))

    assert [record.status for record in result.records] == [TrialStatus.FINISHED] * 4
    front = result.pareto_front
    assert front
    assert set(front[0].values) == {"val/top1", "macs", "latency_ms"}
    assert front[0].value == max(trial.value for trial in front if trial.value is not None)
    assert all(row["feasible"] for row in result.trials.to_pylist())
    assert set(result.importance) == {"model", "lr"}

    study = optuna.load_study(study_name="tiny", storage=open_storage(postgresql.uri()))
    assert study.metric_names == ["val/top1", "macs", "latency_ms"]
    assert {trial.number for trial in study.best_trials} == {trial.number for trial in front}
    assert all(trial.constraints["params <= 1e9"] < 0 for trial in study.trials)
    assert all("epoch 00002" in trial.user_attrs for trial in study.trials)

    client = MlflowClient(result.tracking_uri)
    tags = {number: client.get_run(run).data.tags for number, run in result.run_ids.items()}
    marked = {number for number, of_run in tags.items() if of_run.get("spatialsweep.pareto_front") == "true"}
    assert marked == {trial.number for trial in front}
    assert PASSWORD not in (tmp_path / "tiny" / "journal.jsonl").read_text()


def test_a_population_takes_turns_on_a_lane_and_poor_trials_take_over(tmp_path: Path) -> None:
    sweep = {
        **TINY,
        "name": "population",
        "model": {"name": "conv_resnet26_small"},
        "training": {**TINY["training"], "epochs": 4},  # type: ignore[dict-item]
        "search": {"lr": {"type": "float", "low": 1e-9, "high": 1e-2, "log": True}},
        "sampler": {"name": "random"},
        "try_first": [{"lr": lr} for lr in (1e-9, 1e-3, 3e-3, 4e-3)],
        "trials": 4,
        "trial_scheduler": {"name": "pbt", "perturb_every": 2, "resample_probability": 0.0},
        "runs_dir": str(tmp_path),
    }
    result = run_sweep(load_sweep(sweep))
    assert [record.status for record in result.records] == [TrialStatus.FINISHED] * 4

    poor = next(record for record in result.records if record.params["lr"] == 1e-9)
    assert poor.config["training"]["lr"] > 5e-4
    curve = [report["val/top1"] for report in poor.reports]
    assert curve[-1] > curve[0] + 0.3  # random weights that learn nothing, then those of another
    journal = [json.loads(line) for line in (tmp_path / "population" / "journal.jsonl").read_text().splitlines()]
    (change,) = [event for event in journal if event["event"] == "trial_changed" and event["trial"] == poor.number]
    assert (change["epoch"], change["donor"] != poor.number) == (2, True)
    begun = [event["trial"] for event in journal if event["event"] == "trial_reported"]
    assert len(set(begun[:4])) > 1  # on one lane, others come before the first has trained to its end
    metrics = MlflowClient(result.tracking_uri).get_run(result.run_ids[poor.number]).data.metrics
    assert metrics["pbt/donor"] == change["donor"]

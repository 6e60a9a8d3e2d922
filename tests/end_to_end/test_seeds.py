"""A whole sweep with several seeds on a real Ray instance, in two sessions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from orchestrator import load_result, load_sweep, run_sweep, verdict
from orchestrator.records.ledger import TrialStatus
from orchestrator.search.storage import open_storage
from orchestrator.seeds.configurations import seed_of
from tests.support.sweeps.local_ray import local_ray

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def ray_instance() -> Iterator[None]:
    """One Ray instance for all sweeps here."""
    with local_ray(num_cpus=2):
        yield


def test_a_tournament_with_two_seeds_that_is_resumed(tmp_path: Path) -> None:
    """Train the configurations in the first session, and add the seeds in the second one."""
    sweep = {
        "name": "seeds",
        "dataset": {"name": "digits"},
        "search": {"optimizer": {"choices": ["sgd", "adamw"]}, "lr": {"type": "float", "low": 1e-3, "high": 1e-2}},
        "model": {"name": "conv_resnet26_small"},
        "training": {"epochs": 1, "global_batch_size": 64, "warmup_epochs": 0},
        "tournament": "optimizer",
        "try_first": [],
        "sampler": {"name": "random"},
        "trial_scheduler": {"name": "none"},
        "trials": 4,
        "resources": {"workers": 1, "lanes": 1},
        "runs_dir": str(tmp_path),
    }
    first = run_sweep(load_sweep(sweep))
    assert [record.params["optimizer"] for record in first.records] == ["sgd", "adamw"] * 2
    assert not first.has_repeats

    result = run_sweep(load_sweep(sweep, ["seeds=2"]), resume=True)
    repeats = [record for record in result.records if record.is_repeat]
    assert [record.status for record in result.records] == [TrialStatus.FINISHED] * 6
    for optimizer in ("sgd", "adamw"):
        arm = [record for record in first.records if record.params["optimizer"] == optimizer]
        best = max(arm, key=lambda record: record.best("val/top1", "max") or 0.0)
        assert [record.repeats for record in repeats if record.params["optimizer"] == optimizer] == [best.number]
    for record in repeats:
        original = result.records[record.configuration]
        assert record.config["seed"] == seed_of(0, 1)
        assert {**record.config, "number": original.number, "seed": 0} == original.config

    assert result.best is not None
    assert result.best.configuration is not None
    assert result.best.configuration.complete
    assert result.best.load_model() is not None
    rows = {row["trial"]: row for row in load_result(tmp_path / "seeds").trials.to_pylist()}
    for record in repeats:
        values = [rows[record.configuration]["value"], rows[record.number]["value"]]
        assert rows[record.number]["mean"] == pytest.approx(sum(values) / 2)

    study = optuna.load_study(study_name="seeds", storage=open_storage(f"sqlite:///{tmp_path / 'optuna.db'}"))
    assert [trial.user_attrs.get("repeats") for trial in study.trials] == [record.repeats for record in result.records]
    client = MlflowClient(result.tracking_uri)
    for record in repeats:
        run, original = (client.get_run(result.run_ids[n]) for n in (record.number, record.configuration))
        parent = client.get_run(run.data.tags["mlflow.parentRunId"])
        assert original.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert parent.data.metrics["mean"] == pytest.approx(rows[record.number]["mean"])
        assert parent.data.metrics["ci_low"] <= parent.data.metrics["mean"] <= parent.data.metrics["ci_high"]

    found = verdict(result.folder)
    assert (found.by, found.unit) == ("optimizer", "configurations")
    assert {(arm.configurations, arm.seeds, arm.epochs) for arm in found.arms} == {(2, 2, 3)}
    assert not [warning for warning in found.warnings if "BUDGETS" in warning]

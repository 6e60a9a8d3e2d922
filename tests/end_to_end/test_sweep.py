"""Whole sweeps on a real Ray instance: what they find, what they record, and that nothing of them is left."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
import torch
import yaml
from mlflow import MlflowClient

from orchestrator import (
    SweepConfig,
    SweepResult,
    TrialResult,
    dry_run,
    load_model,
    load_result,
    load_sweep,
    resume_sweep,
    run_sweep,
)
from orchestrator.data.conversion.prepare import prepare
from orchestrator.errors import ClusterError, ResumeError
from orchestrator.lanes.lane_setting import LaneInputs
from orchestrator.lanes.pool import lane_trainer
from orchestrator.records.history import read_history
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.runtime.lane_plan import plan_lanes
from orchestrator.sweep import session
from tests.support.cluster_state import assert_nothing_left
from tests.support.networks import own_file
from tests.support.networks.own_file import write_own_file
from tests.support.sweeps.local_ray import local_ray
from tests.support.tiny_archives import photo_tree
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TINY = {
    "name": "tiny",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "training": {"epochs": 2, "global_batch_size": 32, "optimizer": "adamw", "lr": 0.003, "warmup_epochs": 0},
    "search": {"lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}},
    "trials": 2,
    "trial_scheduler": {"name": "none"},
    "resources": {"workers": 1, "lanes": 1},
}


@pytest.fixture(scope="module", autouse=True)
def ray_instance() -> Iterator[None]:
    """One Ray instance for all sweeps here; it claims four CPUs, so that two lanes fit."""
    with local_ray(num_cpus=4):
        yield


def tiny(tmp_path: Path, *overrides: str) -> SweepConfig:
    return load_sweep(TINY, [f"runs_dir={tmp_path}", *overrides])


def runs_of(result: SweepResult) -> dict[str, Any]:
    client = MlflowClient(result.tracking_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.run_name: run for run in client.search_runs(experiments)}


def optuna_trials(result: SweepResult) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{result.folder.parent / 'optuna.db'}"
    return optuna.load_study(study_name=result.name, storage=storage).trials


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """Run a sweep of two trials with two workers, one after the other."""
    return run_sweep(tiny(tmp_path_factory.mktemp("plain"), "resources.workers=2"))


@pytest.fixture(scope="module")
def best(plain: SweepResult) -> TrialResult:
    assert plain.best is not None
    return plain.best


@pytest.fixture(scope="module")
def child(plain: SweepResult, best: TrialResult) -> Any:
    """MLflow's run of the best trial."""
    return runs_of(plain)[f"tiny/trial-{best.number:05d}"]


def test_nothing_is_left_of_a_sweep(plain: SweepResult) -> None:
    assert_nothing_left()


def test_a_sweep_keeps_the_results_of_its_trials(plain: SweepResult, best: TrialResult) -> None:
    assert (plain.name, plain.status) == ("tiny", "finished")
    assert [row["status"] for row in plain.trials.to_pylist()] == ["finished"] * 2
    assert plain.reports.num_rows > 2 * 2 * 5
    assert (plain.folder / "trials.parquet").exists()
    assert best.value == max(plain.trials.column("value").to_pylist())
    assert best.test_top1 is not None
    assert best.test_top1 > 0.8
    for record in plain.records:
        log = (plain.folder / "trials" / f"trial-{record.number:05d}" / "rank-0.log").read_text()
        assert [line for line in log.splitlines() if "epoch 2: train/loss" in line]


def test_mlflow_has_a_run_of_the_sweep_and_one_below_it_for_each_trial(plain: SweepResult, child: Any) -> None:
    runs = runs_of(plain)
    assert {name: run.info.status for name, run in runs.items()} == {
        "tiny": "FINISHED",
        **{f"tiny/trial-{number:05d}": "FINISHED" for number in range(2)},
    }
    assert child.data.tags["mlflow.parentRunId"] == runs["tiny"].info.run_id
    assert runs["tiny"].data.tags["spatialsweep.sampler"] == (
        "gp_tpe: no conditions, in 2 trials; two models, as either may be wrong"
    )


def test_the_run_of_a_trial_has_its_settings_and_all_it_measured(
    plain: SweepResult, best: TrialResult, child: Any
) -> None:
    assert child.data.tags["spatialsweep.optuna_trial"] == str(best.number)
    assert child.data.params["lr"] == str(best.params["lr"])
    history = MlflowClient(plain.tracking_uri).get_metric_history(child.info.run_id, "val/top1")
    assert [point.step for point in history] == [1, 2]
    assert {"train/loss", "lr", "images_per_s", "test/top1"} <= set(child.data.metrics)
    assert child.data.metrics["best/val/top1"] == best.value
    assert f"system/{socket.gethostname()}/cpu_utilization_percentage" in child.data.metrics


def test_mlflow_has_the_origin_the_dataset_the_logs_and_the_networks(plain: SweepResult, child: Any) -> None:
    client = MlflowClient(plain.tracking_uri)
    parent = runs_of(plain)["tiny"].info.run_id
    origin = {file.path for file in client.list_artifacts(parent, "sessions/001")}
    assert {f"sessions/001/{name}" for name in ("sweep.yaml", "config.yaml", "dataset.json", "packages.txt")} <= origin
    assert [found.dataset.name for found in child.inputs.dataset_inputs] == ["digits"]
    logs = [file.path for file in client.list_artifacts(child.info.run_id, "logs")]
    assert logs == ["logs/rank-0.log", "logs/rank-1.log"]
    stored = client.search_logged_models([child.info.experiment_id])
    assert {model.name for model in stored} == {f"tiny-trial-{number:05d}" for number in range(2)}


def test_a_sweep_costs_what_its_trials_cost(plain: SweepResult, best: TrialResult, child: Any) -> None:
    costs = plain.trials.column("cpu_s").to_pylist()
    assert child.data.metrics["cost/cpu_s"] == costs[best.number] > 0
    assert runs_of(plain)["tiny"].data.metrics["cost/cpu_s"] == pytest.approx(sum(costs))


def test_the_study_has_every_trial_and_every_epoch(plain: SweepResult) -> None:
    trials = optuna_trials(plain)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    assert all(sorted(trial.intermediate_values) == [1, 2] for trial in trials)
    assert {trial.user_attrs["tune_trial"] for trial in trials} == set(plain.trials.column("tune_trial").to_pylist())


def test_the_best_network_is_the_same_from_mlflow_and_from_the_folder(
    plain: SweepResult, best: TrialResult, child: Any
) -> None:
    from_mlflow = load_model(f"runs:/{child.info.run_id}", tracking_uri=plain.tracking_uri)
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(from_mlflow(images), best.load_model()(images))


def test_a_sweep_trains_on_a_prepared_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Ledger.trial_started

    def start_in_time(ledger: Ledger, number: int, *trial: Any, **more: Any) -> None:
        """Start the fourth trial once the main thread has seen that the third is one too many."""
        while number == 3 and not ledger.ended_by:
            time.sleep(0.05)
        start(ledger, number, *trial, **more)

    monkeypatch.setattr(Ledger, "trial_started", start_in_time)
    prepare("digits", None, str(tmp_path / "digits"), images_per_shard=500)
    sweep = {**TINY, "dataset": {"uri": str(tmp_path / "digits")}, "runs_dir": str(tmp_path)}
    # All trials are the same, so that the second brings nothing new.
    result = run_sweep(load_sweep({**sweep, "search": {}, "trials": 20, "budget": {"patience": 1}}))
    assert (result.status, result.ended_by) == (
        TrialStatus.FINISHED,
        "budget.patience is over: 1 trials in a row brought no better value",
    )
    assert [trial.status for trial in result.records[:2]] == [TrialStatus.FINISHED] * 2
    assert len(result.records) <= 4
    best = result.best
    assert best is not None
    assert best.test_top1 is not None
    assert best.test_top1 > 0.8
    assert load_model(best.checkpoint).class_names == tuple("0123456789")


def test_a_sweep_trains_on_image_files(tmp_path: Path) -> None:
    prepare("folder", photo_tree(tmp_path, per_class=10), str(tmp_path / "photos"))
    images = {"uri": str(tmp_path / "photos"), "image_size": 24, "decode_processes": 1, "select_on": "test"}
    training = {"epochs": 2, "global_batch_size": 8, "auto_augment": "rand-m9-mstd0.5-inc1", "erasing": 0.25}
    sweep = {**TINY, "dataset": images, "training": training, "trials": 2, "runs_dir": str(tmp_path)}
    result = run_sweep(load_sweep(sweep))
    assert [trial.status for trial in result.records] == [TrialStatus.FINISHED] * 2
    best = result.best
    assert best is not None
    assert load_model(best.checkpoint).class_names == ("cat", "dog", "owl")
    assert "chosen on the test images" in result.notice
    assert_nothing_left()


def test_a_network_of_a_file_and_one_of_timm_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_own_file(tmp_path / "sweeps")
    names = [own_file.NAME, "test_vit"]
    search = {"model": names, "patch_size": {"value": 4, "when": {"model": "test_vit"}}}
    settings = {key: value for key, value in TINY.items() if key != "model"}
    sweep = {**settings, "search": search, "sampler": {"name": "grid"}, "trials": 2, "runs_dir": str(tmp_path)}
    (tmp_path / "sweeps/s.yaml").write_text(yaml.safe_dump({**sweep, "constraints": ["params <= 1e6"]}))
    monkeypatch.chdir("/")  # the workers' folder is another one as well
    result = run_sweep(load_sweep(tmp_path / "sweeps/s.yaml"))
    assert [trial.status for trial in result.records] == [TrialStatus.FINISHED] * 2
    own = next(trial for trial in result.records if trial.params["model"] == own_file.NAME)
    assert result.load_model(own.number)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    sweep_run = next(run for run in runs_of(result).values() if "network_file.own_net.py" in run.data.tags)
    artifacts = MlflowClient(result.tracking_uri).list_artifacts(sweep_run.info.run_id, "sessions/001")
    assert "sessions/001/own_net.py" in {artifact.path for artifact in artifacts}

    file.write_text(own_file.TEXT.replace("relu()", "tanh()"))
    with pytest.raises(ResumeError, match=r"network file own_net\.py: was"):
        run_sweep(load_sweep(tmp_path / "sweeps/s.yaml", ["trials=3"]), resume=True)
    file.unlink()
    assert resume_sweep("tiny", runs_dir=str(tmp_path)).status is TrialStatus.FINISHED


def test_two_lanes_stop_hopeless_trials_early(tmp_path: Path) -> None:
    config = tiny(
        tmp_path,
        "resources.lanes=2",
        "trials=6",
        "training.epochs=4",
        "search.lr={choices: [1.0e-9, 3.0e-3, 4.0e-3]}",
        "try_first=[{lr: 3.0e-3}, {lr: 4.0e-3}, {lr: 1.0e-9}]",  # the third begins when one of the others has ended
        "sampler.name=random",
        "trial_scheduler={name: asha_stopping, grace_epochs: 1, reduction_factor: 2}",
    )
    result = run_sweep(config)

    by_lr = {row["trial"]: row for row in result.trials.to_pylist()}
    pruned = [number for number, row in by_lr.items() if row["status"] == "pruned"]
    assert 2 in pruned
    assert all(by_lr[number]["epochs"] < 4 for number in pruned)
    assert result.best is not None
    assert result.best.params["lr"] > 1e-9
    states = {trial.number: trial.state.name for trial in optuna_trials(result)}
    assert all(states[number] == "PRUNED" for number in pruned)
    runs = runs_of(result)
    for number in pruned:
        assert runs[f"tiny/trial-{number:05d}"].data.tags["spatialsweep.status"] == "pruned"
    assert_nothing_left()


@pytest.fixture(scope="module")
def diverging(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """Run a sweep in which some trials diverge and some networks have too many parameters."""
    folder = tmp_path_factory.mktemp("diverging")
    searched = ("search.lr={choices: [1.0e+30, 3.0e-3]}", "search.stem=[3x3, 7x7]", "limits.max_params=503000")
    config = tiny(folder, *searched, "try_first=[{lr: 3.0e-3, stem: 3x3}]", "sampler.name=random", "trials=4")
    return run_sweep(config)


def rejected(result: SweepResult) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in optuna_trials(result) if "rejected" in trial.user_attrs]


def test_a_diverging_trial_ends_alone_and_says_where(diverging: SweepResult) -> None:
    rows = diverging.trials.to_pylist()
    diverged = [row for row in rows if row["status"] == "diverged"]
    finished = [row for row in rows if row["status"] == "finished"]
    assert diverged
    assert finished
    assert len(diverged) + len(finished) == 4
    assert all(row["reason"].startswith("diverged: the training loss of epoch 1") for row in diverged)
    runs = runs_of(diverging)
    for row in diverged:
        run = runs[f"tiny/trial-{row['trial']:05d}"]
        assert run.info.status == "KILLED"
        assert run.data.tags["spatialsweep.status"] == "diverged"
        assert "diverged" in run.data.tags["spatialsweep.reason"]
    assert all(run.info.status != "RUNNING" for run in runs.values())
    trials, turned_down = optuna_trials(diverging), rejected(diverging)
    failed = [trial for trial in trials if trial.state.name == "FAIL" and trial not in turned_down]
    assert {trial.number for trial in failed} == {row["trial"] for row in diverged}
    assert all(trial.user_attrs["reason"].startswith("diverged") for trial in failed)
    assert_nothing_left()


def test_a_network_beyond_the_limits_is_rejected_before_it_costs_a_trial(diverging: SweepResult) -> None:
    first, *_ = diverging.records
    assert (first.number, first.params) == (0, {"lr": 3e-3, "stem": "3x3"})
    turned_down = rejected(diverging)
    assert turned_down
    assert {trial.params["stem"] for trial in turned_down} == {"7x7"}
    assert {record.params["stem"] for record in diverging.records} == {"3x3"}
    count = len(turned_down)
    assert diverging.notice == f"Rejected before they cost a trial: {count} (max_params {count})."
    assert runs_of(diverging)["tiny"].data.metrics["trials_rejected"] == count


def test_a_trial_too_large_for_the_cluster_is_refused_with_the_arithmetic(tmp_path: Path) -> None:
    config = tiny(tmp_path, "resources={workers: 8, cpus_per_worker: 2}")
    with pytest.raises(ClusterError, match=r"8 workers of 2 CPU .* this cluster has 4 CPU .* room for 2"):
        run_sweep(config)
    assert plan_lanes(tiny(tmp_path, "resources={workers: 2}").resources, trials=20).lanes == 2
    assert "this cluster has 4 CPU" in dry_run(config).plan_problem
    assert not list(tmp_path.glob("tiny-*"))


def test_a_dataset_that_no_node_can_open_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inputs(dataset: Any, path: str, *rest: Any, **settings: Any) -> LaneInputs:
        return LaneInputs(dataset, str(tmp_path / "elsewhere"), *rest, **settings)

    monkeypatch.setattr(session, "LaneInputs", inputs)
    monkeypatch.setattr(lane_trainer, "_MAX_GROUP_LOSSES", 0)  # each failed start ends a run of Train
    with pytest.raises(ClusterError, match=r"no lane could be kept alive: .*elsewhere"):
        run_sweep(tiny(tmp_path))
    assert_nothing_left()
    record = load_result("tiny", tmp_path).records[0]
    assert (record.status, record.cost.held_s) == (TrialStatus.INTERRUPTED, 0.0)


@ray.remote(num_cpus=4)
class AllCpus:
    """Actor of another job, which takes every CPU of the instance."""

    def ready(self) -> bool:
        return True


def test_the_wait_for_a_busy_cluster_is_not_counted(tmp_path: Path) -> None:
    other, wait_s = AllCpus.remote(), 3.0
    assert ray.get(other.ready.remote())

    def make_room() -> float:
        journal = tmp_path / "tiny" / "journal.jsonl"
        wait_for(lambda: journal.exists() and b'"trial_started"' in journal.read_bytes())
        time.sleep(wait_s)  # the time that is not to be counted
        counted_s = read_history(journal).costs.totals(time.time()).cost.held_s
        ray.kill(other)
        return counted_s

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make_room)
        first = run_sweep(tiny(tmp_path, "trials=1")).records[0]
        assert waiting.result() == 0.0
    assert first.ended_s is not None
    assert 0.0 < first.cost.held_s < first.ended_s - first.started_s - wait_s


def test_trials_start_from_a_checkpoint_and_the_sweep_resumes_without_it(best: TrialResult, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    assert best.checkpoint is not None
    assert best.value is not None
    weights.write_bytes(best.checkpoint.read_bytes())
    choices = f"[{weights}, random]"
    settings = [
        "name=tuned",
        f"search.checkpoint={choices}",
        "training.epochs=1",
        "search.lr=1e-6",
        "sampler.name=grid",
    ]
    config = tiny(tmp_path, *settings, "trials=1")
    begun = run_sweep(config)
    weights.unlink()
    result = run_sweep(tiny(tmp_path, *settings, "trials=2"), resume=True)
    assert len(begun.records) == 1
    top1 = {record.config["model"]["checkpoint"]: record.reports[0]["val/top1"] for record in result.records}
    assert top1[str(weights)] > best.value - 0.1
    assert top1["random"] < 0.4
    names = {record.config["initial_weights"] for record in result.records if record.config["initial_weights"]}
    assert names == {path.name for path in (result.folder / "weights").iterdir()}

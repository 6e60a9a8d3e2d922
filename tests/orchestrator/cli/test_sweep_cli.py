"""Stored sweeps, read from Python and by `status`, `list`, `compare` and `delete`."""

from __future__ import annotations

import fcntl
import json
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from typer.testing import CliRunner

from orchestrator import load_result, load_sweep
from orchestrator.cli.main import app
from orchestrator.config.plans import resolve_plans, study_uri
from orchestrator.errors import SweepNameError
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.search.storage import open_storage
from orchestrator.search.study import close_study, open_study
from orchestrator.server_addresses import embedded_uri
from tests.support.sweeps.fake_sweeps import write_sweep
from tests.support.sweeps.tracked_sweep import replay

FINISHED, PRUNED, RUNNING = TrialStatus.FINISHED, TrialStatus.PRUNED, TrialStatus.RUNNING
TRIALS = [(FINISHED, [0.5, 0.8]), (PRUNED, [0.6]), (TrialStatus.FAILED, []), (FINISHED, [0.9, 0.7, 0.7])]


def command(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done.output


def as_json(*arguments: str) -> Any:
    return json.loads(command(*arguments, "--json"))


def test_a_finished_sweep_is_read_back_whole(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "s", TRIALS)
    result = load_result("s", tmp_path)
    assert load_result(folder) == result
    assert (result.name, result.status, result.metric, result.mode) == ("s", FINISHED, "val/top1", "max")
    assert result.best is not None
    assert (result.best.number, result.best.value) == (3, 0.9)
    assert [trial.number for trial in result.top(2)] == [3, 0]
    assert result.trials.column("status").to_pylist() == ["finished", "pruned", "failed", "finished"]
    assert result.trials.column("cpu_s").to_pylist() == pytest.approx([40, 20, 0, 60], abs=5)
    assert result.trials.column("price").to_pylist() == result.trials.column("cpu_s").to_pylist()
    assert result.so_far.cost.cpu_s == pytest.approx(120, abs=10)
    assert result.reports.num_rows == 2 * 6
    assert result.tracking_uri == embedded_uri(tmp_path)


def test_several_objectives_are_read_back_with_their_front(tmp_path: Path) -> None:
    objective = [{"metric": "val/top1", "mode": "max"}, {"metric": "train/loss", "mode": "min"}]
    write_sweep(tmp_path, "s", TRIALS, objective=objective, constraints=["val/top1 <= 0.85"])
    result = load_result("s", tmp_path)
    assert [trial.number for trial in result.pareto_front] == [0]
    assert result.best is not None
    assert result.best.values == {"val/top1": 0.8, "train/loss": 1.0}


def test_a_name_that_is_no_sweep_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SweepNameError, match=r"no sweep 's' in .* No sweep was begun there"):
        load_result("s", tmp_path)
    write_sweep(tmp_path, "digits", [])
    with pytest.raises(SweepNameError, match=r"no sweep 'digit' in .* Did you mean 'digits'"):
        load_result("digit", tmp_path)


def test_a_sweep_whose_driver_died_is_told_from_one_that_runs(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "s", [(FINISHED, [0.5]), (RUNNING, [0.7])], ended=None)
    dead = as_json("status", "s", "--runs-dir", str(tmp_path))
    assert (dead["state"], dead["trials"]) == ("dead", {"finished": 1, "interrupted": 1})
    shown = command("status", "s", "--runs-dir", str(tmp_path))
    assert "s: dead (its driver died)" in shown
    assert f"spatialsweep resume s --runs-dir {tmp_path}" in shown
    assert load_result(folder).status is TrialStatus.INTERRUPTED
    write_sweep(tmp_path, "f", [(FINISHED, [0.5])], ended=TrialStatus.FAILED)
    assert f"spatialsweep resume f --runs-dir {tmp_path}" in command("status", "f", "--runs-dir", str(tmp_path))

    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        alive = as_json("status", "s", "--runs-dir", str(tmp_path))
        assert (alive["state"], alive["trials"]) == ("running", {"running": 1, "finished": 1})
        assert "resume" not in command("status", str(folder))
        refused = CliRunner().invoke(app, ["delete", str(folder), "--yes"])
        assert "s is being run" in str(refused.exception)
    assert folder.exists()


def test_status_names_a_command_that_resumes_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sweep(tmp_path / "runs", "s", TRIALS, ended=None)
    elsewhere = f"Resume it:  spatialsweep resume s --runs-dir {folder.parent}"
    assert elsewhere in command("status", str(folder))
    assert elsewhere in command("status", "s", "--runs-dir", str(folder.parent))
    monkeypatch.chdir(tmp_path)
    assert command("status", "s").endswith("Resume it:  spatialsweep resume s\n")
    renamed = folder.rename(folder.with_name("renamed"))
    shown = command("status", str(renamed))
    assert f"Not resumed here: {renamed} holds the sweep 's'" in shown
    assert "Resume it" not in shown


def test_status_says_what_was_found_and_spent(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", TRIALS, budget={"wall_clock": "2h", "target": 0.95, "price_per_cpu_hour": 360.0})
    shown = command("status", "s", "--runs-dir", str(tmp_path))
    assert "s: finished" in shown
    assert "4/4 ended: 2 finished, 1 pruned, 1 failed; 6 epochs" in shown
    assert "val/top1 0.9000 (trial 3, finished)" in shown
    assert "lr=0.004" in shown
    assert "wall_clock=2h00m target=0.95" in shown
    # 120 s, and what passed between the last reports and the ends of the trials
    assert re.search(r"0\.0(33[3-9]|3[4-9]\d) CPU-hours, 0 GPU-hours, price 1[23]\.", shown)
    assert "rejected" not in shown
    with Journal(tmp_path / "s" / "journal.jsonl") as journal:
        for number, rule in enumerate(["max_macs", "pooled_size", "max_macs"], start=len(TRIALS)):
            Ledger(journal).trial_rejected(number, {"lr": 0.1}, rule, "too much")
    assert "rejected   3 (max_macs 2, pooled_size 1)" in command("status", "s", "--runs-dir", str(tmp_path))


def test_status_says_that_the_best_trial_violates_a_constraint(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", [(FINISHED, [0.5])], constraints=["val/top1 >= 0.9"])
    assert as_json("status", "s", "--runs-dir", str(tmp_path))["best"]["feasible"] is False
    shown = command("status", "s", "--runs-dir", str(tmp_path))
    assert "val/top1 0.5000 (trial 0, finished), beyond a constraint as all are" in shown


def test_list_has_a_row_per_sweep(tmp_path: Path) -> None:
    assert "holds no sweep yet" in command("list", "--runs-dir", str(tmp_path))
    write_sweep(tmp_path, "b", TRIALS)
    write_sweep(tmp_path, "a", TRIALS[:1], ended=None)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "journal.jsonl").touch()
    rows = as_json("list", "--runs-dir", str(tmp_path))
    assert [(row["name"], row["state"], row["best"]["value"]) for row in rows] == [
        ("a", "dead", 0.8),
        ("b", "finished", 0.9),
    ]
    shown = command("list", "--runs-dir", str(tmp_path))
    assert all(text in shown for text in ("1/4", "4/4", "0.9", "val/top1", "dead"))


def test_compare_shows_what_differs(tmp_path: Path) -> None:
    write_sweep(tmp_path, "a", TRIALS)
    write_sweep(tmp_path, "b", TRIALS[:1], seed=1, sampler={"name": "random"})
    write_sweep(tmp_path, "c", TRIALS[:1], search={"lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}})
    names = ["a", "b", "--runs-dir", str(tmp_path)]
    found = as_json("compare", *names)
    assert found["same_space"] is True
    assert {name for name in found["differing_settings"] if "options" not in name} == {"seed", "sampler.name"}
    assert found["differing_settings"]["seed"] == [0, 1]
    assert found["best_params"] == {"lr": [0.004, 0.001]}
    shown = command("compare", *names)
    assert "The spaces searched are the same." in shown
    assert "sampler.name" in shown
    other = as_json("compare", "a", "c", "--runs-dir", str(tmp_path))
    assert other["same_space"] is False
    assert other["differing_settings"] == {"search.lr.low": [1e-3, 1e-4]}


def test_delete_takes_folder_study_and_runs_of_one_sweep_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = write_sweep(tmp_path, name, TRIALS)
        config = load_sweep({"name": name, "dataset": {"name": "digits"}, "model": {"name": "conv_resnet26_small"}})
        study = open_study(resolve_plans(config).search, name, open_storage(study_uri(config.storage, tmp_path)))
        study.ask()
        close_study(study)
        replay(folder / "journal.jsonl", embedded_uri(tmp_path))

    before = as_json("delete", "a", "--runs-dir", str(tmp_path), "--dry-run")
    assert (before["study_trials"], len(before["mlflow_runs"]), before["deleted"]) == (1, 5, False)
    assert before["files"] == len(list((tmp_path / "a").iterdir()))
    declined = CliRunner().invoke(app, ["delete", "a", "--runs-dir", str(tmp_path)], input="n\n")
    assert declined.exit_code == 1
    assert "would be deleted" in declined.output
    assert (tmp_path / "a").exists()

    assert "a: deleted" in command("delete", "a", "--runs-dir", str(tmp_path), "--yes")
    assert [path.parent.name for path in tmp_path.glob("*/journal.jsonl")] == ["b"]
    studies = optuna.get_all_study_names(f"sqlite:///{tmp_path / 'optuna.db'}")
    assert studies == ["b"]
    client = MlflowClient(embedded_uri(tmp_path))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    gone = client.search_runs(experiments, run_view_type=ViewType.DELETED_ONLY)
    assert {run.info.run_id for run in gone} == set(before["mlflow_runs"])
    assert len(client.search_runs(experiments)) == 5


def test_a_study_whose_sweep_is_gone_can_be_deleted_by_its_name(tmp_path: Path) -> None:
    config = load_sweep({"name": "lost", "dataset": {"name": "digits"}, "model": {"name": "conv_resnet26_small"}})
    close_study(open_study(resolve_plans(config).search, "lost", open_storage(study_uri(config.storage, tmp_path))))
    assert "lost: deleted" in command("delete", "lost", "--runs-dir", str(tmp_path), "--yes")
    again = CliRunner().invoke(app, ["delete", "lost", "--runs-dir", str(tmp_path), "--yes"])
    assert isinstance(again.exception, SweepNameError)

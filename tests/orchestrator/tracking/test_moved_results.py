"""A folder of results that was moved or copied works at its new place, and nothing is written to the old one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils as mlflow_utils
from typer.testing import CliRunner

from orchestrator import load_model, load_result
from orchestrator.cli.main import app
from orchestrator.config.plans import study_uri
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.search.storage import open_storage
from orchestrator.search.study import close_study, open_study
from orchestrator.server_addresses import embedded_uri
from orchestrator.sweep.compatibility import stored_config
from orchestrator.tracking.moved_results import update_artifact_places
from orchestrator.training.checkpoints.checkpoint_file import save_checkpoint
from orchestrator.training.checkpoints.checkpoints import build_network
from tests.support.sweeps.fake_sweeps import PLAN, write_sweep
from tests.support.sweeps.plans import search_plan
from tests.support.sweeps.stored_models import DATA, NETWORK
from tests.support.sweeps.tracked_sweep import replay


def begin(runs_dir: Path) -> Path:
    """Create a finished sweep with a study and a checkpoint of a trial, all of it in MLflow."""
    trials = [(TrialStatus.FINISHED, [0.5]), (TrialStatus.FINISHED, [0.3])]
    folder = write_sweep(runs_dir, "s", trials, tracking={"experiment": "tests"})
    for number in (0, 1):
        best = folder / "trials" / f"trial-{number:05d}" / "best.pt"
        torch.manual_seed(number)
        weights = {"state_dict": build_network(NETWORK).state_dict(), "epoch": 1, "metrics": {"val/top1": 0.5}}
        save_checkpoint(best, {"model": NETWORK, "data": {**DATA, "class_names": list("0123456789")}, **weights})
    with Journal(folder / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.checkpoint_kept(0, str(folder / "trials" / "trial-00000" / "best.pt"))
        paths = load_result(folder).write_tables()
        ledger.sweep_ended(TrialStatus.FINISHED, {}, [str(path) for path in paths])
    writer = replay(folder / "journal.jsonl", embedded_uri(runs_dir), artifacts=runs_dir / "artifacts")
    tables = load_result(folder)
    object.__setattr__(tables, "run_ids", {number: str(writer.run_id(number)) for number in (0, 1)})
    tables.write_tables()
    study = open_study(
        search_plan({**PLAN, "name": "s"}),
        "s",
        open_storage(f"sqlite:///{runs_dir / 'optuna.db'}"),
    )
    study.ask()
    close_study(study)
    return folder


def contents(folder: Path) -> Mapping[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def command(*arguments: str) -> str:
    mlflow_utils._artifact_repos_cache.clear()  # of this process, by run; a command has one of its own
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.output


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs_dir = tmp_path_factory.mktemp("first place") / "runs"
    begin(runs_dir)
    return runs_dir


@pytest.mark.parametrize("moved", [False, True], ids=["copied", "moved"])
def test_every_command_works_at_the_new_place_and_leaves_the_old_one_unchanged(
    original: Path, tmp_path: Path, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = tmp_path / "elsewhere" / "runs"
    shutil.copytree(original, now)
    hidden = original.with_name("hidden")
    before = contents(original)
    if moved:
        original.rename(hidden)
    monkeypatch.chdir(now.parent)
    try:
        use_all(now)
    finally:
        if moved:
            assert not original.exists()
            hidden.rename(original)
    assert contents(original) == before


def use_all(runs_dir: Path) -> None:
    where = ("--runs-dir", str(runs_dir))
    run = load_result("s", runs_dir).trial(0).mlflow_run
    assert run is not None
    assert "top-1" in command("eval", run, "--dataset", "digits")
    assert json.loads(command("status", "s", *where, "--json"))["tracking_uri"] == embedded_uri(runs_dir)
    assert "In MLflow: run" in command("report", "s", *where)
    assert "Trial 0 of s is now version 1" in command("register", "s", "--as", "digits", *where)
    assert "Trial 1 of s is now version 2" in command("register", "s", "--as", "digits", "--trial", "1", *where)
    exported = command("export", "s", "--dataset", "digits", "--images", "4", "--format", "torch-export", *where)
    assert "outputs equal" in exported
    assert "logged to MLflow run" in command("explain", "s", "--images", "4", "--show", "1", *where)
    with Journal(runs_dir / "s" / "journal.jsonl") as journal:
        Ledger(journal).checkpoint_kept(1, "/gone/runs/s/trials/trial-00001/best.pt")
    assert "1 events sent" in command("sync", "s", *where)
    assert load_result("s", runs_dir).importance == {}

    config = stored_config(SweepFolder(runs_dir / "s"))
    assert (config.runs_dir, study_uri(config.storage, runs_dir)) == (
        str(runs_dir),
        f"sqlite:///{runs_dir / 'optuna.db'}",
    )

    client = MlflowClient(embedded_uri(runs_dir))
    experiment = client.get_experiment_by_name("tests")
    assert experiment.artifact_location == (runs_dir / "artifacts").as_uri()
    for found in client.search_runs([experiment.experiment_id]):
        assert found.info.artifact_uri.startswith((runs_dir / "artifacts").as_uri())
    assert [file.path for file in client.list_artifacts(run, "checkpoint")] == ["checkpoint/best.pt"]
    assert load_model(f"runs:/{run}", tracking_uri=embedded_uri(runs_dir)).class_names == tuple("0123456789")
    for model in client.search_logged_models([experiment.experiment_id]):
        assert Path(model.artifact_location.removeprefix("file://")).is_dir()
    assert "s: deleted" in command("delete", "s", "--yes", *where)


def test_an_artifact_folder_that_a_user_chose_is_kept(tmp_path: Path) -> None:
    chosen = tmp_path / "big disk" / "artifacts"
    chosen.mkdir(parents=True)
    (tmp_path / "runs" / "artifacts").mkdir(parents=True)
    client = MlflowClient(embedded_uri(tmp_path / "runs"))
    client.create_experiment("own", artifact_location=chosen.as_uri())
    update_artifact_places(embedded_uri(tmp_path / "runs"))
    assert client.get_experiment_by_name("own").artifact_location == chosen.as_uri()


def test_a_database_named_in_the_old_place_is_found_in_the_new_one(tmp_path: Path) -> None:
    before, now = tmp_path / "old", tmp_path / "new"
    own = {"uri": f"sqlite:///{before}/own.db"}
    write_sweep(now, "s", [], begun_in=before, tracking=own, storage={"uri": f"sqlite:///{before}/studies.db"})
    result = load_result("s", now)
    assert (result.tracking_uri, result.storage_uri) == (f"sqlite:///{now}/own.db", f"sqlite:///{now}/studies.db")
    config = stored_config(SweepFolder(now / "s"))
    assert (config.tracking.uri, config.storage.uri) == (result.tracking_uri, result.storage_uri)

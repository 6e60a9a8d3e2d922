"""`delete` removes the records of exactly one sweep, and nothing in case of doubt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.errors import SweepNameError, TrackingError
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.sweep_identity import identity_of
from orchestrator.records.ledger import TrialStatus
from orchestrator.results.deletion import delete_sweep, deletion_of
from orchestrator.search.storage import open_storage
from orchestrator.search.study import close_study, open_study
from orchestrator.server_addresses import embedded_uri
from orchestrator.tracking.mlflow_runs import KEY, SWEEP, sweep_runs
from tests.support.sweeps.fake_sweeps import PLAN, write_sweep
from tests.support.sweeps.plans import search_plan
from tests.support.sweeps.tracked_sweep import replay

TRIALS = [(TrialStatus.FINISHED, [0.5]), (TrialStatus.FINISHED, [0.3])]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of results with the sweep `a`, its study and its three runs in MLflow."""
    runs_dir = tmp_path_factory.mktemp("template") / "runs"
    folder = write_sweep(runs_dir, "a", TRIALS)
    replay(folder / "journal.jsonl", embedded_uri(runs_dir))
    study = open_study(search_plan({**PLAN, "name": "a"}), "a", open_storage(f"sqlite:///{runs_dir / 'optuna.db'}"))
    study.ask()
    close_study(study)
    return runs_dir


@pytest.fixture
def runs_dir(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "runs")
    return tmp_path / "runs"


def alive(runs_dir: Path) -> tuple[int, list[str], list[str]]:
    """Return the number of runs in MLflow, and the studies and folders that are left."""
    client = MlflowClient(embedded_uri(runs_dir))
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    studies = optuna.get_all_study_names(f"sqlite:///{runs_dir / 'optuna.db'}")
    return len(runs), studies, sorted(path.parent.name for path in runs_dir.glob("*/journal.jsonl"))


def change(journal: Path, **facts: Any) -> None:
    """Change the first event of a journal, written as by older versions, without a checksum."""
    first, *rest = (json.loads(line) for line in journal.read_text().splitlines())
    first |= facts
    events = [
        {key: value for key, value in event.items() if key not in ("format", "line", "crc")} for event in (first, *rest)
    ]
    journal.write_text("".join(f"{json.dumps(event)}\n" for event in events))


def delete(name: str | Path, runs_dir: Path, *options: str) -> str:
    done = CliRunner().invoke(app, ["delete", str(name), "--runs-dir", str(runs_dir), "--yes", *options])
    return f"{done.exit_code} {done.output} {done.exception or ''}"


@pytest.mark.parametrize("uid", ["", "%", "a" * 31 + "%", "A" * 32, None, 7, ["x"]], ids=str)
def test_a_journal_without_a_proper_id_deletes_no_run_of_another(runs_dir: Path, uid: Any) -> None:
    change(write_sweep(runs_dir, "b", TRIALS) / "journal.jsonl", uid=uid)
    said = delete("b", runs_dir)
    assert "journal.jsonl, line 1, byte 0: sweep_started.uid" in said
    assert alive(runs_dir) == (3, ["a"], ["a", "b"])
    assert "b: deleted" in delete("b", runs_dir, "--folder-only")
    assert alive(runs_dir) == (3, ["a"], ["a"])


def test_runs_are_found_by_exact_id_and_name(runs_dir: Path) -> None:
    uid, uri = identity_of(SweepFolder(runs_dir / "a")).uid, embedded_uri(runs_dir)
    client = MlflowClient(uri)
    for key, name in ((f"{uid}/7x", "a"), (f"{uid}0", "a"), (f"{uid}/9", "other")):
        client.create_run("1", tags={KEY: key, SWEEP: name})
    assert len(sweep_runs(uid, "a", uri)) == 3
    for wrong in ("", "%", uid[:-1], uid.upper()):
        with pytest.raises(TrackingError, match="is no id of a sweep"):
            sweep_runs(wrong, "a", uri)


def test_deleting_a_copy_keeps_the_runs_and_study_of_the_original(runs_dir: Path) -> None:
    shutil.copytree(runs_dir / "a", runs_dir / "b")
    assert "is a copy of 'a', whose study and runs in MLflow bear that name and id" in delete("b", runs_dir)
    assert "is a copy of 'a'" in delete("b", runs_dir, "--keep-mlflow")
    assert alive(runs_dir) == (3, ["a"], ["a", "b"])
    change(runs_dir / "b" / "journal.jsonl", name="b")
    assert "have the same id in MLflow" in delete("b", runs_dir)
    assert alive(runs_dir) == (3, ["a"], ["a", "b"])
    assert "left alone" in delete("b", runs_dir, "--folder-only")
    assert alive(runs_dir) == (3, ["a"], ["a"])
    assert "a: deleted" in delete("a", runs_dir)
    assert alive(runs_dir) == (0, [], [])


@pytest.mark.parametrize("line", ["{", "[1, 2]", "7", "\ufffd{"])
def test_a_damaged_journal_beside_a_sweep_blocks_no_deletion(runs_dir: Path, line: str) -> None:
    (runs_dir / "broken").mkdir()
    (runs_dir / "broken" / "journal.jsonl").write_bytes(line.encode("utf-16") + b"\n")
    assert "a: deleted" in delete("a", runs_dir)
    assert "broken: deleted" in delete("broken", runs_dir, "--folder-only")
    assert alive(runs_dir) == (0, [], [])


def test_an_original_is_deleted_although_a_copy_lies_beside_it(runs_dir: Path) -> None:
    shutil.copytree(runs_dir / "a", runs_dir / "b")
    assert "a: deleted" in delete("a", runs_dir)
    assert alive(runs_dir) == (0, [], ["b"])


def test_a_renamed_sweep_is_refused_with_its_first_name(runs_dir: Path) -> None:
    (runs_dir / "a").rename(runs_dir / "renamed")
    assert "holds the sweep 'a'" in delete("renamed", runs_dir)
    for command in (["resume", "renamed"], ["sync", "renamed"]):
        done = CliRunner().invoke(app, [*command, "--runs-dir", str(runs_dir)])
        assert "Give the folder that name again" in str(done.exception)
    assert alive(runs_dir) == (3, ["a"], ["renamed"])


def test_a_copy_elsewhere_of_a_sweep_on_a_shared_database_is_refused(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/server.db"
    folder = write_sweep(tmp_path / "runs", "a", TRIALS, tracking={"uri": uri})
    replay(folder / "journal.jsonl", uri)
    shutil.copytree(tmp_path / "runs", tmp_path / "other")
    for command in ("delete", "sync"):
        options = ["--yes"] if command == "delete" else []
        where = ["--runs-dir", str(tmp_path / "other"), "--tracking-uri", uri]
        done = CliRunner().invoke(app, [command, "a", *options, *where])
        assert f"is a copy of {folder}, whose records it shares" in str(done.exception)
    client = MlflowClient(uri)
    assert len(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])) == 3
    shutil.rmtree(tmp_path / "runs")  # now the other folder is the moved original
    done = CliRunner().invoke(app, ["delete", "a", "--yes", *where])
    assert "3 runs marked as deleted" in done.output


def test_a_link_is_refused_before_anything_is_deleted(runs_dir: Path, tmp_path: Path) -> None:
    (runs_dir / "a").rename(tmp_path / "a")
    (runs_dir / "a").symlink_to(tmp_path / "a", target_is_directory=True)
    for name in ("a", runs_dir / "a"):
        assert f"is a link to {tmp_path / 'a'}; nothing was deleted" in delete(name, runs_dir)
        assert "is a link to" in delete(name, runs_dir, "--folder-only")
    assert (tmp_path / "a" / "journal.jsonl").exists()
    assert alive(runs_dir)[:2] == (3, ["a"])


def test_targets_of_links_in_a_sweep_stay(runs_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("three years")
    (runs_dir / "a" / "trials").symlink_to(tmp_path / "mine", target_is_directory=True)
    assert "a: deleted" in delete("a", runs_dir)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    assert not (runs_dir / "a").exists()


@pytest.mark.parametrize("name", ["..", ".", "", "../x", "datasets", "lost", "no/such"])
def test_a_name_that_is_no_sweep_deletes_no_folder(runs_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete nothing although a study of that name exists."""
    storage = open_storage(f"sqlite:///{runs_dir / 'optuna.db'}")
    optuna.create_study(study_name=name, storage=storage)
    for folder in ("datasets", "lost", "../x"):
        (runs_dir / folder).mkdir()
        (runs_dir / folder / "images.arrow").write_text("images")
    monkeypatch.chdir(runs_dir / "datasets")
    assert delete(name, runs_dir).startswith("1 ")
    for folder in ("datasets", "lost", "../x"):
        assert (runs_dir / folder / "images.arrow").exists()
    assert alive(runs_dir)[2] == ["a"]
    assert name in alive(runs_dir)[1]


def test_a_name_of_two_sweeps_is_refused(runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep(tmp_path / "here", "a", TRIALS)
    monkeypatch.chdir(tmp_path / "here")
    assert "give the path of the folder" in delete("a", runs_dir)
    assert (tmp_path / "here" / "a").exists()
    assert (runs_dir / "a").exists()


def test_no_driver_starts_between_the_plan_and_the_deletion(runs_dir: Path) -> None:
    folder = SweepFolder(runs_dir / "a")
    with deletion_of("a", runs_dir) as plan:
        with pytest.raises(SweepNameError, match="is being run by process"), folder.driven():
            pass
        delete_sweep(plan)
    with pytest.raises(SweepNameError, match="no sweep 'a'"), folder.driven():
        pass
    assert alive(runs_dir) == (0, [], [])


def test_a_deletion_that_fails_halfway_can_be_repeated(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs_dir / "a" / "trials").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        assert delete("a", runs_dir).startswith("1 ")
    assert alive(runs_dir)[2] == ["a"]
    assert "a: deleted" in delete("a", runs_dir)
    assert alive(runs_dir) == (0, [], [])

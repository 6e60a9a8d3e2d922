"""Files outside a sweep that its journal names: never sent, written or removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from orchestrator import load_result
from orchestrator.cli.main import app
from orchestrator.config import load_sweep
from orchestrator.errors import TrackingError, UnsafePathError
from orchestrator.lanes.weight_transfer import WeightTransfer, take_checkpoints
from orchestrator.lanes.worker.trial_log import trial_log
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.records.settings.stored_config import complete_settings
from orchestrator.server_addresses import embedded_uri
from orchestrator.sweep.checkpoint_retention import CheckpointRetention
from orchestrator.sweep.session_snapshot import write_session_snapshot
from orchestrator.tracking.stored_checkpoints import current_path_of
from tests.support.sweeps.fake_sweeps import PLAN, write_sweep
from tests.support.sweeps.tracked_sweep import DATASET, replay

FINISHED = TrialStatus.FINISHED
KEY = "-----BEGIN PRIVATE KEY-----"


def stored(runs_dir: Path) -> list[str]:
    """Return the names and contents of all files in MLflow."""
    return [path.name for path in (runs_dir / "artifacts").rglob("*") if path.is_file()]


def received(tmp_path: Path, files: list[str], checkpoint: str) -> Path:
    """Return a sweep whose journal names files of its reader."""
    folder = write_sweep(tmp_path / "runs", "s", [(FINISHED, [0.5])], ended=None)
    with Journal(folder / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.session_described(files, DATASET)
        ledger.checkpoint_kept(0, checkpoint)
        ledger.sweep_ended(FINISHED, {}, files)
    return folder


def test_sync_sends_no_file_from_outside_of_the_sweeps_folder_and_says_so_once(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("id_rsa", "linked_key", "best.pt"):
        (home / name).write_text(KEY)
    folder = received(tmp_path, [str(home / "id_rsa"), "../../home/id_rsa", "linked_key"], str(home / "best.pt"))
    (folder / "linked_key").symlink_to(home / "linked_key")
    (folder / "trials" / "trial-00000").mkdir(parents=True)
    (folder / "trials" / "trial-00000" / "rank-0.log").symlink_to(home / "id_rsa")
    done = CliRunner().invoke(app, ["sync", str(folder)])
    said = str(done.exception)
    assert isinstance(done.exception, TrackingError)
    assert f"5 file(s) that {folder}/journal.jsonl names lie outside of {folder} and were not sent" in said
    assert stored(folder.parent) == []
    (run,) = MlflowClient(embedded_uri(folder.parent)).search_runs(["1"], "tags.`spatialsweep.kind` = 'sweep'")
    assert run.info.status == "FINISHED"  # all else was sent


def test_a_checkpoint_that_is_a_link_is_not_registered(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "runs", "s", [(FINISHED, [0.5])])
    replay(folder / "journal.jsonl", embedded_uri(folder.parent))
    (tmp_path / "key").write_text(KEY)
    best = folder / "trials" / "trial-00000" / "best.pt"
    best.parent.mkdir(parents=True)
    best.symlink_to(tmp_path / "key")
    done = CliRunner().invoke(app, ["register", str(folder), "--as", "m"])
    assert isinstance(done.exception, UnsafePathError)
    assert stored(folder.parent) == []


@pytest.mark.parametrize(
    ("recorded", "found"),
    [
        ("/old/runs/s/trials.parquet", "trials.parquet"),
        ("/home/trials/old/runs/a/trials/trial-00003/best.pt", "trials/trial-00003/best.pt"),
        ("/old/runs/s/sessions/001/sweep.yaml", "sessions/001/sweep.yaml"),
        ("/home/trials/runs/s/reports.parquet", "reports.parquet"),
        ("notes/x.txt", "x.txt"),
    ],
)
def test_recorded_files_are_found_after_the_folder_has_moved(tmp_path: Path, recorded: str, found: str) -> None:
    assert current_path_of(tmp_path, Path(recorded)) == tmp_path.resolve() / found


def test_retention_removes_files_of_ours_only_and_follows_no_link(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "s")
    config = load_sweep({**PLAN, "name": "s", "keep": {"best": 1, "last": 0}})
    objectives = Objectives.of(config.objectives, config.constraints)
    mine = tmp_path / "documents"
    mine.mkdir()
    (mine / "last.pt").write_text("mine")
    with Journal(folder.journal) as journal:
        ledger = Ledger(journal)
        for number, value in enumerate((0.9, 0.5, 0.4)):
            ledger.trial_started(number, f"t{number}", {}, {})
            ledger.trial_reported(number, 1, {"val/top1": value})
        for number in (0, 1):
            (folder.trials / f"trial-{number:05d}").mkdir(parents=True)
            for name in ("best.pt", "last.pt", "handover-last.pt", "handover.json", "notes.txt", "rank-0.log"):
                (folder.trials / f"trial-{number:05d}" / name).write_text("x")
        (folder.trials / "trial-00001" / "mine").mkdir()
        (folder.trials / "trial-00002").symlink_to(mine, target_is_directory=True)
        for number in range(3):
            ledger.trial_ended(number, FINISHED)
        CheckpointRetention(config.keep, objectives, folder, ledger).apply()
    left = sorted(path.name for path in (folder.trials / "trial-00001").iterdir())
    assert left == ["mine", "notes.txt", "rank-0.log"]
    assert (mine / "last.pt").read_text() == "mine"


def test_weights_are_taken_over_after_the_sweep_has_moved(tmp_path: Path) -> None:
    donor, own = (tmp_path / "old" / "trials" / name for name in ("trial-00001", "trial-00000"))
    for folder in (donor, own):
        folder.mkdir(parents=True)
        for name in ("best.pt", "last.pt"):
            (folder / name).write_text(folder.name)
    take_checkpoints(donor, own)
    WeightTransfer(str(donor), {}, epoch=1).write(own)
    (tmp_path / "old").rename(tmp_path / "new")
    own = tmp_path / "new" / "trials" / "trial-00000"
    WeightTransfer(str(donor), {}, epoch=1).apply(own)
    assert [(own / name).read_text() for name in ("best.pt", "last.pt")] == ["trial-00001"] * 2


def test_atomic_files_do_not_follow_links(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "runs", "s", [(FINISHED, [0.5])])
    (tmp_path / "profile").write_text("mine")
    for name in ("report.html.partial", "tracked.partial", "trials.parquet.partial", "reports.parquet.partial"):
        (folder / name).symlink_to(tmp_path / "profile")
    assert "Report:" in CliRunner().invoke(app, ["report", str(folder)]).output
    replay(folder / "journal.jsonl", embedded_uri(folder.parent))
    load_result(folder).write_tables()
    assert (tmp_path / "profile").read_text() == "mine"
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_sessions_and_trials_do_not_write_through_links(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("mine")
    session, trial = tmp_path / "s" / "sessions" / "002", tmp_path / "s" / "trials" / "trial-00000"
    for folder, names in (
        (session, ("sweep.yaml", "config.yaml", "dataset.json", "packages.txt")),
        (trial, ("handover.json.partial", "changed_config.json.partial", "handover-best.pt", "best.pt", "rank-0.log")),
        (trial.with_name("trial-00001"), ()),
    ):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).symlink_to(tmp_path / "profile")
    for name in ("best.pt", "last.pt"):
        (trial.with_name("trial-00001") / name).write_text("weights")
    settings = complete_settings(load_sweep({**PLAN, "name": "s"}))
    write_session_snapshot(session, settings, "{}", non_default=settings)
    take_checkpoints(trial.with_name("trial-00001"), trial)
    WeightTransfer(str(trial.with_name("trial-00001")), {}).write(trial)
    WeightTransfer(str(trial.with_name("trial-00001")), {}).apply(trial)
    with trial_log(trial, 0) as log:
        log.info("an epoch")
    assert (tmp_path / "profile").read_text() == "mine"
    assert (trial / "best.pt").read_text() == "weights"
    assert (session / "sweep.yaml").read_text().startswith("name: s")


def test_a_report_overwrites_no_other_file(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "runs", "s", [(FINISHED, [0.5])])
    (tmp_path / "thesis.tex").write_text("three years")
    for output in (tmp_path / "thesis.tex", tmp_path):
        done = CliRunner().invoke(app, ["report", str(folder), "--output", str(output)])
        assert done.exit_code != 0
        assert f"--output {output}" in f"{done.output}{done.exception}"
    assert (tmp_path / "thesis.tex").read_text() == "three years"
    for _ in range(2):  # a report may take the place of one
        done = CliRunner().invoke(app, ["report", str(folder), "--output", str(tmp_path / "r.html")])
        assert done.exit_code == 0, done.output

"""Damaged files beside the journal: checkpoints with other content, the dataset, tables, databases."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from orchestrator import load_model, load_result, load_sweep, run_sweep
from orchestrator.cli import main as cli
from orchestrator.data import open_dataset, prepare_dataset
from orchestrator.errors import CheckpointError, DataError, StorageError, TrackingError
from orchestrator.records.ledger import TrialStatus
from orchestrator.search.storage import open_storage
from orchestrator.server_addresses import embedded_uri
from orchestrator.training.checkpoints.checkpoint_file import read_checkpoint, save_checkpoint
from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints, build_network
from orchestrator.training.images.device_images import DeviceImages
from tests.support.sweeps.fake_sweeps import write_sweep
from tests.support.sweeps.tracked_sweep import replay
from tests.support.training_pieces import few_digits, make_trial, run

TRIALS = [(TrialStatus.FINISHED, [0.5, 0.8]), (TrialStatus.PRUNED, [0.6])]
MODEL = {"name": "conv_resnet26_small", "options": {}, "num_classes": 10, "in_chans": 1, "image_size": 8}
DATA = {"pixel_mean": [0.5], "pixel_std": [0.25], "class_names": list("0123456789")}


@pytest.fixture(scope="module")
def best() -> dict[str, Any]:
    """Return the content of a `best.pt`."""
    torch.manual_seed(0)
    return {"model": MODEL, "data": DATA, "state_dict": build_network(MODEL).state_dict(), "epoch": 2, "metrics": {}}


def renamed(weights: dict[str, Any]) -> dict[str, Any]:
    return {("steam" if name == "stem.conv.weight" else name): tensor for name, tensor in weights.items()}


def other_shape(weights: dict[str, Any]) -> dict[str, Any]:
    return {**weights, "stem.conv.weight": torch.zeros(3)}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda best: {}, "does not hold the weights of a trained network (model: missing)"),
        (lambda best: {**best, "model": "m"}, "(model: Input should be a valid dictionary)"),
        (
            lambda best: {**best, "model": {**MODEL, "in_chans": "1"}},
            "(model.in_chans: Input should be a valid integer)",
        ),
        (lambda best: {**best, "model": {**MODEL, "num_classes": 10**12}}, "(model.num_classes: Input should be less"),
        (lambda best: {**best, "data": {**DATA, "pixel_std": [0.0]}}, "(data.pixel_std.0: Input should be greater"),
        (
            lambda best: {**best, "data": {**DATA, "class_names": ["a"]}},
            "data.class_names is not one for each of the 10",
        ),
        (lambda best: {**best, "state_dict": {"a": [1]}}, "(state_dict.a: Input should be an instance of Tensor)"),
        (lambda best: {**best, "model": {**MODEL, "name": "fcvit_tinny"}}, "names a network that cannot be built ("),
        (lambda best: {**best, "model": {**MODEL, "options": {"heads": 3}}}, "names a network that cannot be built ("),
        (lambda best: {**best, "state_dict": renamed(best["state_dict"])}, "it lacks 'stem.conv.weight'"),
        (
            lambda best: {**best, "state_dict": {**best["state_dict"], "x": torch.ones(1)}},
            "it has 'x', which the network",
        ),
        (
            lambda best: {**best, "state_dict": other_shape(best["state_dict"])},
            "it has 'stem.conv.weight' of shape (3,)",
        ),
        (lambda best: {**best, "optimizer": {}, "data": None}, "(data: Input should be a valid dictionary)"),
    ],
)
def test_a_sealed_checkpoint_with_other_content_is_refused_in_one_line(
    tmp_path: Path, best: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]], fault: str
) -> None:
    path = tmp_path / "best.pt"
    save_checkpoint(path, best)
    assert load_model(path).class_names == tuple("0123456789")
    save_checkpoint(path, change(best))
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[DeviceImages, dict[str, Any]]:
    """Train one epoch on a few digits and return the images and the state of the trial."""
    folder = tmp_path_factory.mktemp("trained")
    data = few_digits(folder, train=64, test=10)
    run(make_trial(data, folder, epochs=1))
    return data, read_checkpoint(TrialCheckpoints(folder).last)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda state: {}, "does not hold a state to resume from (epoch: missing)"),
        (lambda state: {**state, "epoch": -1}, "(epoch: Input should be greater"),
        (lambda state: {**state, "losses": 3}, "(losses: Input should be an instance of Tensor)"),
        (lambda state: {**state, "losses": torch.zeros(3)}, "its epochs are not of"),
        (lambda state: {**state, "optimizer": {}}, "its optimiser is not that of this trial ("),
        (lambda state: {**state, "optimizer": {"state": {}, "param_groups": []}}, "its optimiser is not that of"),
        (lambda state: {**state, "state_dict": other_shape(state["state_dict"])}, "of shape (3,)"),
    ],
)
def test_a_trial_does_not_resume_from_a_foreign_state(
    tmp_path: Path,
    trained: tuple[DeviceImages, dict[str, Any]],
    change: Callable[[dict[str, Any]], dict[str, Any]],
    fault: str,
) -> None:
    data, state = trained
    path = TrialCheckpoints(tmp_path).last
    save_checkpoint(path, {key: value for key, value in change(state).items() if key != "format"})
    with pytest.raises(CheckpointError) as caught:
        make_trial(data, tmp_path, epochs=2)
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dataset_with_a_changed_byte_is_never_opened(tmp_path: Path) -> None:
    folder = prepare_dataset("digits", tmp_path)
    opened = open_dataset(folder)
    faults = set()
    for path in folder.iterdir():
        whole = path.read_bytes()
        for place in range(8, len(whole), max(1, len(whole) // 75)):
            content = bytearray(whole)
            content[place] ^= 0x10
            path.write_bytes(content)
            try:
                found = open_dataset(folder)
            except DataError as error:
                assert str(error).startswith(f"{folder}")
                assert "\n" not in str(error)
                faults.add(str(error).removeprefix(f"{folder}"))
            else:  # padding between the parts of a shard, or a fact of the manifest that decides nothing
                assert found.content_hash == opened.content_hash
                for name, split in opened.splits.items():
                    np.testing.assert_array_equal(found.splits[name].labels, split.labels)
                    np.testing.assert_array_equal(found.splits[name].images, split.images)
        path.write_bytes(whole)
    assert any("its images or labels are not those that were written" in fault for fault in faults)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("file", ["manifest.json", "test-00000.arrow", "train-00000.arrow"])
def test_a_dataset_that_was_truncated_is_reported_with_the_remedy(tmp_path: Path, file: str, share: float) -> None:
    folder = prepare_dataset("digits", tmp_path)
    path = folder / file
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(
        DataError, match=rf"digits.*{file}.* \(remove this folder, and the next sweep prepares it again"
    ):
        prepare_dataset("digits", tmp_path)
    shutil.rmtree(folder)
    assert len(open_dataset(prepare_dataset("digits", tmp_path)).splits["train"]) == 1437


def odd_table(path: Path) -> None:
    pq.write_table(pa.table({"trial": ["a"], "mlflow_run": [1.5]}), path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("trial,mlflow_run\n0,abc\n"),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(path.read_bytes()[:40] + b"\xff" * 400 + path.read_bytes()[440:]),
        lambda path: pq.write_table(pa.table({"other": [1]}), path),
        odd_table,
    ],
)
def test_a_damaged_table_is_a_warning_since_the_journal_is_read(
    tmp_path: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_sweep(tmp_path, "s", TRIALS)
    whole = load_result(folder)
    whole.write_tables()
    assert not caplog.messages
    damage(folder / "trials.parquet")
    with caplog.at_level(logging.WARNING):
        assert load_result(folder) == whole
    (said,) = caplog.messages
    assert said.startswith(f"{folder / 'trials.parquet'} cannot be read (")
    assert "\n" not in said


def not_a_database(path: Path) -> None:
    path.write_bytes(b"hello" * 1000)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def malformed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8192:24576] = b"\xff" * 16384
    path.write_bytes(content)


@pytest.fixture(scope="module")
def recorded_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of results with a sweep in both databases."""
    runs_dir = tmp_path_factory.mktemp("recorded")
    replay(write_sweep(runs_dir, "s", TRIALS) / "journal.jsonl", embedded_uri(runs_dir))
    open_storage(f"sqlite:///{runs_dir / 'optuna.db'}").create_new_study([], "s")
    return runs_dir


@pytest.mark.parametrize(
    ("file", "damage", "command"),
    [
        ("mlflow.db", not_a_database, ["sync", "s"]),
        ("mlflow.db", cut_short, ["sync", "s"]),
        ("mlflow.db", malformed, ["dashboard", "--no-browser"]),
        ("mlflow.db", cut_short, ["dashboard", "s", "--no-browser"]),
        ("mlflow.db", malformed, ["delete", "s", "--dry-run"]),
        ("mlflow.db", not_a_database, ["register", "s", "--as", "model"]),
        ("optuna.db", not_a_database, ["delete", "s", "--dry-run"]),
        ("optuna.db", cut_short, ["delete", "s", "--dry-run"]),
        ("optuna.db", malformed, ["dashboard", "s", "--optuna", "--no-browser"]),
    ],
)
def test_a_damaged_database_is_reported_in_one_line_with_the_remedy(
    tmp_path: Path,
    recorded_sweep: Path,
    file: str,
    damage: Callable[[Path], None],
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs_dir = tmp_path / "runs"
    shutil.copytree(recorded_sweep, runs_dir)
    damage(runs_dir / file)
    before = (runs_dir / file).read_bytes()
    monkeypatch.setattr("sys.argv", ["spatialsweep", *command, "--runs-dir", str(runs_dir)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr().err
    assert (left.value.code, said.count("\n")) == (1, 1), said
    assert said.startswith(f"spatialsweep: {runs_dir / file}: is damaged (")
    assert "Move it away: " in said
    assert (runs_dir / file).read_bytes() == before


def test_a_report_is_written_without_the_damaged_database(
    tmp_path: Path, recorded_sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs_dir = tmp_path / "runs"
    shutil.copytree(recorded_sweep, runs_dir)
    not_a_database(runs_dir / "mlflow.db")
    monkeypatch.setattr("sys.argv", ["spatialsweep", "report", "s", "--runs-dir", str(runs_dir)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    assert "Warning: the report is not in MLflow: " in capsys.readouterr().err
    assert (runs_dir / "s" / "report.html").exists()


@pytest.mark.parametrize(("file", "error"), [("mlflow.db", TrackingError), ("optuna.db", StorageError)])
def test_a_sweep_does_not_begin_over_a_damaged_database(tmp_path: Path, file: str, error: type[Exception]) -> None:
    not_a_database(tmp_path / file)
    settings = {"dataset": {"name": "digits"}, "model": {"name": "conv_resnet26_small"}, "runs_dir": str(tmp_path)}
    with pytest.raises(error, match=f"{file}: is damaged"):
        run_sweep(load_sweep({"name": "s", **settings}))
    assert not (tmp_path / "s").exists()


def test_events_are_sent_again_after_the_database_was_removed(tmp_path: Path, recorded_sweep: Path) -> None:
    runs_dir = tmp_path / "runs"
    shutil.copytree(recorded_sweep, runs_dir)
    (runs_dir / "mlflow.db").unlink()
    writer = replay(runs_dir / "s" / "journal.jsonl", embedded_uri(runs_dir))
    assert writer.events_sent == 10
    with sqlite3.connect(runs_dir / "mlflow.db") as database:
        assert database.execute("SELECT COUNT(*) FROM runs").fetchone() == (3,)

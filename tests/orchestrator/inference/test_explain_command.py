"""`spatialsweep explain` on a finished run: pictures and numbers, in a folder and in MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.config import load_sweep, resolve_trial
from orchestrator.errors import CheckpointError, ExplainError
from orchestrator.inference.trained_network import find_network
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.server_addresses import embedded_uri
from tests.support.sweeps.tracked_sweep import replay
from tests.support.training_pieces import few_digits, make_trial, run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train one trial and write its sweep with the real ledger."""
    folder = tmp_path_factory.mktemp("runs")
    options = {"max_span": 3, "num_heads": 4}
    trial = folder / "pilot" / "trials" / "trial-00000"
    reports = run(make_trial(few_digits(folder), trial, model="adaptive_resnet26_small", options=options, epochs=2))
    config = {
        "name": "pilot",
        "dataset": {"name": "digits"},
        "model": {"name": "adaptive_resnet26_small", "options": options},
        "search": {"lr": {"type": "float", "low": 1e-3, "high": 1e-2}},
        "trials": 1,
    }
    settings = load_sweep(config)
    with Journal(folder / "pilot" / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.sweep_started("pilot", settings.model_dump(mode="json"), {"git.revision": "abc"}, {})
        resolved = resolve_trial(settings, 0, {"lr": 3e-3}).model_dump(mode="json")
        ledger.trial_started(0, "tune0", {"lr": 3e-3}, resolved)
        for report in reports:
            ledger.trial_reported(0, int(report["epoch"]), {k: v for k, v in report.items() if k != "epoch"})
        ledger.trial_ended(0, TrialStatus.FINISHED)
        ledger.checkpoint_kept(0, str(trial / "best.pt"))
        ledger.sweep_ended(TrialStatus.FINISHED, {}, [])
    return folder


def test_pictures_of_an_mlflow_run_become_its_artifacts(runs_dir: Path, tmp_path: Path) -> None:
    uri = embedded_uri(runs_dir)
    run_id = replay(runs_dir / "pilot" / "journal.jsonl", uri).run_id(0)
    command = ["explain", str(run_id), "--tracking-uri", uri, "--output", str(tmp_path / "out"), "--images", "20"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0
    assert f"logged to MLflow run {run_id} under explain/" in done.output
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [
        "bias_rates.png", "explain.json", "grad_cam.png", "span_masks.png", "span_trajectories.png", "spans.png",
    ]  # fmt: skip
    artifacts = MlflowClient(uri).list_artifacts(str(run_id), "explain")
    assert sorted(Path(artifact.path).name for artifact in artifacts) == written
    table = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert table["regions"] == "ink"
    assert table["images"] == 20
    lines = table["adaptive_span"]["trajectories_px"]
    assert list(lines["layer 0, head 0"]) == ["1", "2"]
    last = {line: epochs["2"] for line, epochs in lines.items()}
    if table["epoch"] == 2:
        spans = [layer["span_px"] for layer in table["adaptive_span"]["layers"].values()]
        assert last["layer 1, head 2"] == pytest.approx(spans[1][2], rel=1e-5)
    found = find_network(f"runs:/{run_id}", tracking_uri=uri)
    assert (found.run_id, found.label, found.dataset["name"]) == (run_id, "pilot-trial-00000", "digits")
    assert found.dataset["uri"] is None
    assert list(found.reports) == [1, 2]
    with pytest.raises(CheckpointError, match="has no run '0123"):
        find_network("0123456789abcdef" * 2, tracking_uri=uri)


def test_a_sweep_is_explained_by_its_best_trial(
    runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["explain", "pilot", "--runs-dir", str(runs_dir), "--images", "8", "--no-mlflow", "--json"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert json.loads(done.output)["source"] == "pilot-trial-00000"
    assert (tmp_path / "pilot-trial-00000-explained" / "spans.png").exists()


def test_points_and_weights_are_checked_before_the_network_is_read() -> None:
    with pytest.raises(ExplainError, match="--query 2,0: give X,Y"):
        CliRunner().invoke(app, ["explain", "gone.pt", "--query", "2,0"], catch_exceptions=False)
    command = ["explain", "gone.pt", "--compare", "test_vit", "--compare", "test_vit2", "--compare-checkpoint", "a.pth"]
    with pytest.raises(CheckpointError, match="--compare-checkpoint: got 1 for 2 of --compare"):
        CliRunner().invoke(app, command, catch_exceptions=False)

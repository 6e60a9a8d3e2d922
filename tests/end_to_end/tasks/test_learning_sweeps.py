"""Whole sweeps of detection and segmentation over learning rate and bias channels, which have to find good networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator import load_sweep, run_sweep
from orchestrator.records.ledger import TrialStatus
from tests.support.sweeps.command_line import run_command

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

SWEEPS = Path(__file__).resolve().parents[3] / "sweeps"


@pytest.mark.parametrize(
    ("file", "metric", "least", "changes"),
    [
        ("digits-detection.yaml", "ap50", 0.5, ["training.epochs=3"]),
        ("digits-segmentation.yaml", "miou", 0.6, ["search.model.choices=[sb_resnet29_cifar]"]),
    ],
)
def test_a_sweep_over_learning_rate_and_bias_channels_finds_a_good_network(
    file: str, metric: str, least: float, changes: list[str], tmp_path: Path
) -> None:
    quick = ["trials=2", "trial_scheduler.name=none", f"runs_dir={tmp_path}"]
    config: Any = load_sweep(SWEEPS / file, [*quick, *changes])
    result = run_sweep(config)
    assert [trial.status for trial in result.records] == [TrialStatus.FINISHED] * 2
    assert result.best is not None
    assert result.best.test[metric] > least

    where = ("--runs-dir", str(tmp_path))
    code, output = run_command("report", result.name, *where)
    assert code == 0, output
    page = (tmp_path / result.name / "report.html").read_text()
    assert page.count('class="sample" src="data:image/png;base64,') == 6
    client = MlflowClient(result.tracking_uri)
    kept = {name: client.list_artifacts(str(result.best.mlflow_run), name) for name in ("predictions", "checkpoint")}
    assert len(kept["predictions"]) == 6
    assert [each.path for each in kept["checkpoint"]] == ["checkpoint/best.pt"]
    assert client.search_logged_models([client.get_run(str(result.best.mlflow_run)).info.experiment_id])
    exported = tmp_path / "best.onnx"
    code, output = run_command(
        "export", result.name, *where, "--format", "onnx", "--images", "16", "--output", str(exported)
    )
    assert code == 0, output
    assert exported.exists()

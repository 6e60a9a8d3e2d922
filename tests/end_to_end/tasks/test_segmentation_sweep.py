"""A sweep of semantic segmentation on a real Ray instance, from the sweep to its report and back to its network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator import dry_run, load_sweep, resume_sweep, run_sweep
from orchestrator.inference.evaluate import evaluate_checkpoint
from orchestrator.records.ledger import TrialStatus
from tests.support.cluster_state import assert_nothing_left
from tests.support.sweeps.command_line import run_command
from tests.support.sweeps.local_ray import local_ray
from tests.support.tasks.few_scenes import write_scenes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SWEEP: dict[str, Any] = {
    "name": "maps",
    "task": "segmentation",
    "dataset": {"name": "digits-scenes", "image_size": 32, "validation_fraction": 0.25},
    "model": {"name": "conv_resnet26_small", "options": {"fpn_channels": 8}},
    "training": {"epochs": 2, "global_batch_size": 7, "optimizer": "adamw", "warmup_epochs": 0},
    "search": {"lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}, "head_channels": {"choices": [8, 16]}},
    "trials": 2,
    "trial_scheduler": {"name": "none"},
    "resources": {"workers": 2, "lanes": 1},
}


def test_a_sweep_of_segmentation_runs_to_its_report_and_back(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "datasets")
    config = load_sweep(SWEEP, [f"runs_dir={tmp_path}"])
    planned = dry_run(config)
    assert len(planned.proposals) == 2
    with local_ray(num_cpus=4):
        result = run_sweep(config)
        assert [trial.status for trial in result.records] == [TrialStatus.FINISHED] * 2
        best = result.best
        assert best is not None
        assert best.value == max(result.trials.column("value").to_pylist())
        assert set(best.test) == {"miou", "pixel_accuracy", "mean_accuracy"}
        assert_nothing_left()
        more = resume_sweep("maps", ["trials=3"], runs_dir=str(tmp_path))
        assert [trial.status for trial in more.records] == [TrialStatus.FINISHED] * 3

    client = MlflowClient(result.tracking_uri)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    child = next(run for run in runs if run.info.run_name == f"maps/trial-{best.number:05d}")
    assert {"val/miou", "val/pixel_accuracy", "test/miou", "best/val/miou", "train/loss"} <= set(child.data.metrics)
    assert child.data.params["model.options.head_channels"] == str(best.params["head_channels"])

    again = evaluate_checkpoint(best.checkpoint, str(scenes))
    assert again.metrics["miou"] == pytest.approx(best.test["miou"], abs=1e-6)
    code, output = run_command("report", "maps", "--runs-dir", str(tmp_path))
    assert code == 0, output
    assert "its test mean IoU" in (tmp_path / "maps/report.html").read_text()
    given = (str(best.checkpoint), "--dataset", str(scenes), "--runs-dir", str(tmp_path))
    exported = tmp_path / "maps.onnx"
    code, output = run_command("export", *given, "--format", "onnx", "--output", str(exported))
    assert code == 0, output
    assert exported.exists()
    explained = tmp_path / "explained"
    code, output = run_command("explain", *given, "--output", str(explained), "--images", "4", "--show", "2")
    assert code == 0, output
    assert (explained / "grad_cam.png").exists()
    drawn = client.list_artifacts(child.info.run_id, "predictions")
    assert len(drawn) == 6
    assert (tmp_path / "maps/report.html").read_text().count('class="sample" src="data:image/png;base64,') == 6
    (picture,) = (tmp_path / f"maps/trials/trial-{best.number:05d}/predictions").glob("1.png")
    code, output = run_command(
        "predict", "maps", str(picture), "--runs-dir", str(tmp_path), "--output", str(tmp_path / "out")
    )
    assert code == 0, output
    assert (tmp_path / "out/1.classes.png").exists()

"""Sweeps of detection on a real Ray instance, from the sweep to its report and back to its network."""

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
    "name": "objects",
    "task": "instances",
    "dataset": {"name": "digits-scenes", "image_size": 32, "validation_fraction": 0.25},
    "model": {
        "name": "conv_resnet26_small",
        "options": {"fpn_channels": 8, "mask_channels": 8, "anchor_scale": 2.0, "proposals": 40, "samples": 32},
    },
    "training": {"epochs": 2, "global_batch_size": 7, "optimizer": "adamw", "warmup_epochs": 0, "hflip": 0.5},
    "search": {"lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}, "head_channels": {"choices": [8, 16]}},
    "objective": [{"metric": "val/mask_ap"}, {"metric": "latency_ms"}],
    "trials": 2,
    "trial_scheduler": {"name": "none"},
    "resources": {"workers": 2, "lanes": 1},
}


def test_a_sweep_of_instances_runs_to_its_report_and_back(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "datasets")
    config = load_sweep(SWEEP, [f"runs_dir={tmp_path}"])
    planned = dry_run(config)
    assert len(planned.proposals) == 2
    assert planned.largest.footprint.activations > 0
    with local_ray(num_cpus=4):
        result = run_sweep(config)
        assert [trial.status for trial in result.records] == [TrialStatus.FINISHED] * 2
        best = result.best
        assert best is not None
        assert {"mask_ap", "mask_ap50", "ap", "ap50", "ar100"} <= best.test.keys()
        assert_nothing_left()
        more = resume_sweep("objects", ["trials=3"], runs_dir=str(tmp_path))
        assert [trial.status for trial in more.records] == [TrialStatus.FINISHED] * 3

    client = MlflowClient(result.tracking_uri)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    child = next(run for run in runs if run.info.run_name == f"objects/trial-{best.number:05d}")
    wanted = {"val/mask_ap", "val/ap", "test/mask_ap", "best/val/mask_ap", "train/loss", "latency_ms"}
    assert wanted <= child.data.metrics.keys()
    assert child.data.params["model.options.head_channels"] == str(best.params["head_channels"])
    assert '"class_names": ["0", "1"' in child.inputs.dataset_inputs[0].dataset.profile

    again = evaluate_checkpoint(best.checkpoint, str(scenes))
    assert again.metrics["mask_ap"] == pytest.approx(best.test["mask_ap"], abs=1e-6)
    code, output = run_command("report", "objects", "--runs-dir", str(tmp_path))
    assert code == 0, output
    page = (tmp_path / "objects/report.html").read_text()
    assert "its test mask AP" in page
    assert page.count('class="sample" src="data:image/png;base64,') == 6
    assert len(client.list_artifacts(child.info.run_id, "predictions")) == 6

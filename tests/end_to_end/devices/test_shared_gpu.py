"""Two lanes that share a GPU which is only declared: they train on the CPU, each with a batch size that it finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator import load_sweep, run_sweep
from orchestrator.records.ledger import TrialStatus
from tests.support.sweeps.local_ray import local_ray

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def ray_instance() -> Iterator[None]:
    """Start Ray with one GPU."""
    with local_ray(num_cpus=4, num_gpus=1):
        yield


def test_two_lanes_share_a_gpu_and_find_their_batch_sizes(tmp_path: Path) -> None:
    sweep = {
        "name": "shared",
        "dataset": {"name": "digits"},
        "model": {"name": "conv_resnet26_small"},
        "search": {"lr": [1e-3, 2e-3]},
        "sampler": {"name": "grid"},
        "try_first": [],
        "trials": 2,
        "training": {
            "epochs": 2,
            "global_batch_size": "auto",
            "max_global_batch_size": 100,
            "on_out_of_memory": "accumulate_always",
        },
        "trial_scheduler": {"name": "none"},
        "resources": {"workers": 1, "gpus_per_worker": 0.5},
        "runs_dir": str(tmp_path),
    }
    result = run_sweep(load_sweep(sweep))
    assert [record.status for record in result.records] == [TrialStatus.FINISHED] * 2
    assert {report["global_batch_size"] for record in result.records for report in record.reports} == {64.0}
    rows = result.trials.to_pylist()
    assert [row["gpu_s"] for row in rows] == pytest.approx([0.5 * row["held_s"] for row in rows])
    metrics = MlflowClient(result.tracking_uri).get_run(result.run_ids[0]).data.metrics
    assert (metrics["global_batch_size"], metrics["accumulation_steps"]) == (64.0, 1.0)
    assert len(list((tmp_path / "shared" / "trials").glob("trial-*/batch_size.json"))) == 2

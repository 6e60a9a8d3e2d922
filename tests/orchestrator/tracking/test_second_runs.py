"""A second run of the same trial, which a request that arrived late has created."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from orchestrator.server_addresses import embedded_uri
from orchestrator.tracking.mlflow_client import open_client
from orchestrator.tracking.mlflow_runs import KEY, find_run


@pytest.fixture
def client(tmp_path: Path) -> MlflowClient:
    return open_client(embedded_uri(tmp_path))


def run_of(client: MlflowClient, key: str, **metrics: float) -> str:
    run_id = str(client.create_run("0", tags={KEY: key}).info.run_id)
    for name, value in metrics.items():
        client.log_metric(run_id, name, value)
    return run_id


def stages(client: MlflowClient, *runs: str) -> list[str]:
    return [client.get_run(run).info.lifecycle_stage for run in runs]


@pytest.mark.parametrize("is_param", [True, False])
def test_the_run_with_data_is_found_and_the_empty_one_deleted(client: MlflowClient, is_param: bool) -> None:
    for number in range(6):  # ids are random: either may be the first in their order
        key = f"uid/{number}"
        empty, full = run_of(client, key), run_of(client, key)
        client.log_param(full, "lr", 0.1) if is_param else client.log_metric(full, "mean", 0.9)
        assert find_run(client, "0", key) == full
        assert stages(client, empty, full) == ["deleted", "active"]


def test_two_runs_with_data_stay(client: MlflowClient) -> None:
    runs = [run_of(client, "uid/3", mean=0.5) for _ in range(2)]
    assert find_run(client, "0", "uid/3") in runs
    assert stages(client, *runs) == ["active", "active"]


def test_an_empty_run_that_may_not_be_deleted_stays(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: MlflowClient, run_id: str) -> None:
        raise MlflowException(f"Permission denied for {run_id}", error_code=PERMISSION_DENIED)

    full = run_of(client, "uid/3", mean=0.5)
    empty = run_of(client, "uid/3")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "delete_run", refuse)
        assert find_run(client, "0", "uid/3") == full
    assert stages(client, full, empty) == ["active", "active"]

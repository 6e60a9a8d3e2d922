"""Content above the limits of a request or a value, against a real MLflow database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.server_addresses import embedded_uri
from orchestrator.tracking import mlflow_limits
from orchestrator.tracking.mlflow_limits import batches, cut, key_of, log, tag
from tests.support.sweeps.tracked_sweep import CONFIG, replay

METRICS, PARAMS = 2_500, 350
LONG_PARAM, LONG_REASON, LONG_NAME = "ä" * 20_000, "why " * 5_000, "options." + "n" * 300


@pytest.fixture(scope="module")
def requests() -> list[tuple[int, int, int]]:
    """Numbers of metrics, parameters and tags of each request of the fixture `run`."""
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[int, int, int]]) -> Any:
    """Send a trial with more of everything than a request can hold, and return its run."""
    folder = tmp_path_factory.mktemp("runs")
    params = {**{f"p{index}": index for index in range(PARAMS)}, "long": LONG_PARAM, LONG_NAME: 1, f"{LONG_NAME}2": 2}
    with Journal(folder / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.sweep_started("s", CONFIG, {"git.revision": "abc"}, {})
        ledger.trial_started(0, "t", params, {"number": 0, "model": {"name": "m"}, "training": {"epochs": 1}})
        ledger.trial_reported(0, 1, {f"m{index}": index / 7 for index in range(METRICS)} | {"odd,name": 1.0})
        ledger.trial_ended(0, TrialStatus.FAILED, LONG_REASON)
    with pytest.MonkeyPatch.context() as patch:
        send = MlflowClient.log_batch

        def count(self: MlflowClient, run_id: str, **entities: Sequence[Any]) -> Any:
            requests.append(tuple(len(entities.get(kind, ())) for kind in ("metrics", "params", "tags")))
            return send(self, run_id, **entities)

        patch.setattr(MlflowClient, "log_batch", count)
        writer = replay(folder / "journal.jsonl", embedded_uri(folder))
    assert writer.refused == []
    return MlflowClient(writer.tracking_uri).get_run(writer.run_id(0))


def test_a_report_of_many_metrics_arrives_whole_in_as_few_requests_as_it_takes(
    run: Any, requests: list[tuple[int, int, int]]
) -> None:
    assert {key: run.data.metrics[key] for key in run.data.metrics if key.startswith("m")} == {
        f"m{index}": index / 7 for index in range(METRICS)
    }
    assert [metrics for metrics, _, _ in requests if metrics > 10] == [1_000, 1_000, METRICS + 1 - 2_000]
    assert all(params <= 100 and tags <= 100 for _, params, tags in requests)


def test_many_parameters_arrive_and_a_long_one_is_marked_as_cut(run: Any) -> None:
    assert all(run.data.params[f"p{index}"] == str(index) for index in range(PARAMS))
    assert run.data.params["long"] == "ä" * 5_997 + "..."


def test_long_names_stay_distinct_and_invalid_characters_are_replaced(run: Any) -> None:
    long = {key: value for key, value in run.data.params.items() if key.startswith("options.")}
    assert sorted(long.values()) == ["1", "2"]
    assert all(len(key) == 250 for key in long)
    assert run.data.metrics["odd_name"] == 1.0


def test_a_long_reason_is_cut(run: Any) -> None:
    assert run.data.tags["spatialsweep.reason"] == cut(LONG_REASON, 5_000)
    assert run.data.tags["mlflow.note.content"].endswith("...\n```")


def test_requests_are_divided_by_size_too() -> None:
    params = [Param(f"p{index}", "界" * 6_000) for index in range(20)]
    divided = list(batches(params, 100))
    assert [param for batch in divided for param in batch] == params
    assert 1 < len(divided) < 20
    assert [len(batch) for batch in batches([Metric("m", 1.0, 0, step) for step in range(2_001)], 1_000)] == [
        1_000,
        1_000,
        1,
    ]
    assert list(batches([], 10)) == []


def test_values_within_the_limits_are_sent_in_one_request() -> None:
    sent: list[dict[str, Any]] = []

    class Client:
        def log_batch(self, run_id: str, **entities: Any) -> None:
            sent.append(entities)

    client: Any = Client()
    log(client, "r", metrics=[Metric("m", 1.0, 0, 0)], params=[Param("p", "1")], tags=[tag("t", 1)])
    assert len(sent) == 1


def test_a_valid_name_is_unchanged() -> None:
    for name in ("val/top1", "system/node-7.example/gpu_0", "a b:c"):
        assert key_of(name) == name


def test_the_limits_are_those_of_the_installed_mlflow() -> None:
    from mlflow.utils import validation

    assert mlflow_limits.METRICS_PER_REQUEST == validation.MAX_METRICS_PER_BATCH
    assert mlflow_limits.PARAMS_PER_REQUEST == mlflow_limits.TAGS_PER_REQUEST == validation.MAX_PARAMS_TAGS_PER_BATCH
    assert mlflow_limits.ENTITIES_PER_REQUEST == validation.MAX_ENTITIES_PER_BATCH
    assert mlflow_limits.BYTES_PER_REQUEST < validation.MAX_BATCH_LOG_REQUEST_SIZE
    assert mlflow_limits.PARAM_LENGTH == validation.MAX_PARAM_VAL_LENGTH
    assert mlflow_limits.TAG_LENGTH <= validation.MAX_TAG_VAL_LENGTH
    assert mlflow_limits.KEY_LENGTH == validation.MAX_ENTITY_KEY_LENGTH

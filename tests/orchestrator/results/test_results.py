"""Result of a sweep: the best trial, the ranking and the tables."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.config.sections.objective import ObjectiveConfig, parse_constraint
from orchestrator.config.tasks.classification import CLASSIFICATION
from orchestrator.errors import CheckpointError
from orchestrator.records.ledger import TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.results.sweep_result import SweepResult
from orchestrator.results.tables import REPORTS, trials_schema

FINISHED, PRUNED, FAILED = TrialStatus.FINISHED, TrialStatus.PRUNED, TrialStatus.FAILED


def record(number: int, status: TrialStatus, values: list[float], *, test: float | None = None) -> TrialRecord:
    reports: list[dict[str, float]] = [
        {"epoch": epoch, "val/top1": value, "val/loss": 1 - value} for epoch, value in enumerate(values, start=1)
    ]
    if test is not None:
        reports[-1]["test/top1"] = test
    return TrialRecord(
        number=number,
        tune_id=f"tune{number}",
        params={"model": "m", "lr": 0.1 * (number + 1)} | ({"ramp": 2.0} if number == 1 else {}),
        config={"model": {"name": "m"}},
        started_s=100.0,
        status=status,
        reports=reports,
        reason="out of luck" if status is FAILED else "",
        ended_s=None if status is TrialStatus.RUNNING else 100.0 + number,
    )


def result(folder: Path, *records: TrialRecord, mode: str = "max", metric: str = "val/top1") -> SweepResult:
    return SweepResult(
        name="s-001",
        folder=folder,
        metric=metric,
        mode=mode,
        status=FINISHED,
        tracking_uri="sqlite://",
        records=records,
        run_ids={0: "a" * 32},
    )


@pytest.fixture
def sweep(tmp_path: Path) -> SweepResult:
    (tmp_path / "trials" / "trial-00000").mkdir(parents=True)
    (tmp_path / "trials" / "trial-00000" / "best.pt").touch()
    return result(
        tmp_path,
        record(0, FINISHED, [0.5, 0.9, 0.8], test=0.85),
        record(1, PRUNED, [0.95]),
        record(2, FAILED, []),
        record(3, FINISHED, [0.7, 0.8, 0.8], test=0.75),
    )


def test_the_best_is_one_that_was_trained_to_the_end(sweep: SweepResult) -> None:
    assert [trial.number for trial in sweep.ranking()] == [1, 0, 3]
    assert sweep.best is not None
    assert (sweep.best.number, sweep.best.value, sweep.best.test_top1, sweep.best.epochs) == (0, 0.9, 0.85, 3)
    assert sweep.best.mlflow_run == "a" * 32


def test_without_a_finished_trial_the_best_is_the_highest_and_none_where_none_reported(tmp_path: Path) -> None:
    best = result(tmp_path, record(0, PRUNED, [0.2]), record(1, FAILED, [0.4])).best
    assert best is not None
    assert best.number == 1
    assert result(tmp_path, record(0, FAILED, [])).best is None
    assert result(tmp_path).ranking() == []


def test_ties_go_to_the_finished_then_to_the_shorter(tmp_path: Path) -> None:
    tied = (
        record(0, PRUNED, [0.9]),
        record(1, FINISHED, [0.9, 0.9, 0.9]),
        record(2, FINISHED, [0.9, 0.1]),
        record(3, FINISHED, [0.2, 0.9]),
    )
    assert [trial.number for trial in result(tmp_path, *tied).ranking()] == [2, 3, 1, 0]


def test_a_minimised_metric_ranks_the_lowest_first(tmp_path: Path) -> None:
    found = result(tmp_path, record(0, FINISHED, [0.5, 0.3]), record(1, FINISHED, [0.6]), mode="min", metric="val/loss")
    assert [(trial.number, trial.value) for trial in found.ranking()] == [(1, pytest.approx(0.4)), (0, 0.5)]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_values_that_are_not_finite_are_never_best(tmp_path: Path, mode: str) -> None:
    found = result(
        tmp_path,
        record(0, FINISHED, [math.nan, 0.5, math.inf]),
        record(1, FINISHED, [math.nan]),
        record(2, FINISHED, [-math.inf, 0.5]),
        mode=mode,
    )
    assert [(trial.number, trial.value) for trial in found.ranking()] == [(2, 0.5), (0, 0.5)]


def test_the_best_keeps_the_constraints_while_any_trial_does(tmp_path: Path) -> None:
    records = [record(0, FINISHED, [0.9]), record(1, FINISHED, [0.7]), record(2, PRUNED, [0.8])]
    for each, params in zip(records, (3e6, 1e6, 1e6), strict=True):
        each.reports[-1]["params"] = params
    objectives = Objectives((ObjectiveConfig(),), {"params <= 2e6": parse_constraint("params <= 2e6")})
    found = replace(result(tmp_path, *records), objectives=objectives)
    assert found.best is not None
    assert found.best.number == 1
    assert [trial.number for trial in found.ranking()] == [2, 1, 0]
    assert found.trials.column("feasible").to_pylist() == [False, True, True]
    assert [trial.number for trial in found.pareto_front] == [1]
    assert replace(found, records=records[:1]).best is not None  # rather than none


def test_a_row_per_trial(sweep: SweepResult) -> None:
    table = sweep.trials
    assert table.column("trial").to_pylist() == [0, 1, 2, 3]
    assert table.column("status").to_pylist() == ["finished", "pruned", "failed", "finished"]
    assert table.column("value").to_pylist() == [0.9, 0.95, None, 0.8]
    assert table.column("best_epoch").to_pylist() == [2, 1, None, 2]
    assert table.column("test_top1").to_pylist() == [0.85, None, None, 0.75]
    assert table.column("reason").to_pylist() == [None, None, "out of luck", None]
    assert table.column("duration_s").to_pylist() == [0.0, 1.0, 2.0, 3.0]
    assert table.column("mlflow_run").to_pylist() == ["a" * 32, None, None, None]
    assert table.column("checkpoint").to_pylist()[1:] == [None] * 3
    assert Path(table.column("checkpoint")[0].as_py()).name == "best.pt"
    assert json.loads(table.column("params")[1].as_py()) == {"model": "m", "lr": 0.2, "ramp": 2.0}


def test_a_row_per_trial_epoch_and_metric(sweep: SweepResult) -> None:
    table = sweep.reports
    assert table.column_names == ["trial", "epoch", "metric", "value"]
    assert table.num_rows == 2 * (3 + 1 + 0 + 3) + 2
    rows = [row for row in table.to_pylist() if row["trial"] == 0 and row["metric"] == "val/top1"]
    assert [(row["epoch"], row["value"]) for row in rows] == [(1, 0.5), (2, 0.9), (3, 0.8)]


def test_a_data_frame_has_a_column_per_searched_name(sweep: SweepResult) -> None:
    frame = sweep.to_pandas()
    assert len(frame) == 4
    assert frame["params.lr"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert frame["params.ramp"].isna().tolist() == [True, False, True, True]
    assert frame.loc[frame["value"].idxmax(), "trial"] == 1


def test_parquet_files_hold_the_tables(sweep: SweepResult) -> None:
    trials, reports = sweep.write_tables()
    assert pq.read_table(trials).equals(sweep.trials)
    assert pq.read_table(reports).equals(sweep.reports)
    assert sorted(path.name for path in sweep.folder.glob("*.p*")) == ["reports.parquet", "trials.parquet"]


def test_an_empty_sweep_has_empty_tables_of_the_same_columns(sweep: SweepResult, tmp_path: Path) -> None:
    empty = result(tmp_path / "none")
    assert empty.trials.schema == sweep.trials.schema
    assert isinstance(empty.reports, pa.Table)
    assert empty.reports.num_rows == len(empty.to_pandas()) == 0


def test_loading_a_trial_without_a_checkpoint_raises(sweep: SweepResult) -> None:
    pruned = sweep.ranking()[0]
    assert pruned.checkpoint is None
    with pytest.raises(CheckpointError, match="trial 1 left no checkpoint"):
        pruned.load_model()


def test_every_column_has_a_description_in_parquet(sweep: SweepResult) -> None:
    for path in sweep.write_tables():
        fields = list(pq.read_schema(path))
        assert [field.name for field in fields if not (field.metadata or {}).get(b"description")] == []


def test_top_trials_and_their_models_by_number(sweep: SweepResult) -> None:
    assert [trial.number for trial in sweep.top(2)] == [1, 0]
    assert sweep.top(10) == sweep.ranking()
    assert sweep.trial(3).value == 0.8
    with pytest.raises(KeyError, match="s-001 has no trial 7"):
        sweep.load_model(7)
    with pytest.raises(CheckpointError, match="trial 2 left no checkpoint"):
        sweep.load_model(2)
    with pytest.raises(CheckpointError, match="no trial of s-001 has finished an epoch"):
        result(sweep.folder).load_model()


def test_the_documentation_describes_every_column() -> None:
    page = (Path(__file__).parents[3] / "docs" / "results.md").read_text()
    for field in (*trials_schema(CLASSIFICATION), *REPORTS):
        assert f"| `{field.name}` | {field.type} | {field.metadata[b'description'].decode()} |" in page

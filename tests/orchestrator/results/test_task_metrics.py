"""Metrics of a task other than classification, in results, tables and texts."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli.tables.sweeps import print_comparison, print_status
from orchestrator.config.tasks import registry
from orchestrator.config.tasks.classification import CLASSIFICATION
from orchestrator.config.tasks.facts import TaskFacts, TaskMetric
from orchestrator.progress.progress_view import print_outcome
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import TrialRecord, TrialStatus
from orchestrator.results.comparison import comparison, facts_of
from orchestrator.results.notebook_table import clause_of_test, result_html
from orchestrator.results.stored_sweep import read_sweep
from orchestrator.results.sweep_result import SweepResult
from tests.support.sweeps.fake_sweeps import write_sweep

DISTANCE = TaskFacts(
    name="points",
    metrics=(
        TaskMetric(name="centre_px", mode="min", label="distance"),
        TaskMetric(name="within_half", mode="max", label="within half a pixel", is_share=True),
    ),
    losses=("of_network",),
)


@pytest.fixture
def sweep(tmp_path: Path) -> SweepResult:
    last = {"epoch": 2, "val/centre_px": 0.5, "test/centre_px": 0.4375, "test/within_half": 0.75, "test/odd": math.nan}
    record = TrialRecord(
        number=0,
        tune_id="tune0",
        params={"lr": 0.1},
        config={"model": {"name": "m"}, "training": {"epochs": 2}},
        started_s=100.0,
        status=TrialStatus.FINISHED,
        reports=[{"epoch": 1, "val/centre_px": 0.75}, last],
        ended_s=101.0,
    )
    return SweepResult(
        name="s",
        folder=tmp_path,
        metric="val/centre_px",
        mode="min",
        status=TrialStatus.FINISHED,
        tracking_uri="sqlite://",
        records=[record],
        run_ids={},
        task=DISTANCE,
    )


def test_a_trial_has_the_finite_test_metrics_of_its_task(sweep: SweepResult) -> None:
    assert sweep.best is not None
    assert (sweep.best.value, dict(sweep.best.test)) == (0.5, {"centre_px": 0.4375, "within_half": 0.75})
    assert (sweep.best.test_top1, sweep.best.test_top5) == (None, None)
    names = sweep.trials.column_names
    assert names.index("test") == names.index("test_centre_px") + 1
    assert "test_top1" not in names
    assert sweep.trials.column("test_centre_px").to_pylist() == [0.4375]
    assert json.loads(sweep.trials.column("test")[0].as_py()) == {"centre_px": 0.4375, "within_half": 0.75}


def test_tables_and_lines_name_the_primary_metric(sweep: SweepResult) -> None:
    html = result_html(sweep)
    assert "<th>test/centre_px</th>" in html
    assert "<td>0.4375</td>" in html
    console = Console(width=200, record=True, file=io.StringIO())
    print_outcome(sweep, console, "dashboard")
    shown = console.export_text()
    assert "test/centre_px" in shown
    assert "val/centre_px 0.5000, test distance 0.4375" in shown
    assert clause_of_test({"top1": 0.91234}, CLASSIFICATION) == ", test top-1 91.23%"
    assert clause_of_test({}, DISTANCE) == ""


def test_a_stored_sweep_of_a_task_that_is_gone_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [(TrialStatus.FINISHED, [0.5, 0.8])]
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_FACTS", dict(registry._FACTS))
        registry.register_facts(dataclasses.replace(CLASSIFICATION, name="gone", losses=("of_network",)))
        gone = write_sweep(tmp_path, "a", trials, task="gone")
    known = write_sweep(tmp_path, "b", trials)
    sweeps = [read_sweep(SweepFolder(folder)) for folder in (gone, known)]
    found = [facts_of(each) for each in sweeps]
    assert [each["task"] for each in found] == ["gone", "classification"]
    assert [each["best"]["value"] for each in found] == [0.8, 0.8]
    console = Console(width=200, record=True, file=io.StringIO())
    print_status(found[0], "resume", console)
    print_comparison(comparison(sweeps), console)
    shown = console.export_text()
    assert "val/top1 0.8000 (trial 0, finished)" in shown
    assert shown.count("test/top1") == 1

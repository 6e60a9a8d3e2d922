"""Results of a sweep whose configurations were trained with several seeds; nothing is trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator import load_result, load_sweep
from orchestrator.config import KeepConfig, resolve_trial
from orchestrator.records.budget import Budget
from orchestrator.records.events import Event
from orchestrator.records.history import read_history
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.lines import LineError
from orchestrator.records.objectives import Objectives
from orchestrator.report import write_report
from orchestrator.results.comparison import facts_of
from orchestrator.results.stored_sweep import find_sweep, read_sweep
from orchestrator.search.racing import record_mean
from orchestrator.sweep.checkpoint_retention import kept_trials
from orchestrator.tracking.mlflow_runs import sweep_runs
from tests.support.journal_events import an_event
from tests.support.sweeps.fake_sweeps import PLAN
from tests.support.sweeps.tracked_sweep import DATASET, replay

FIRSTS = [0.5, 0.9, 0.8, 0.7]
REPEATS = [(1, 1, 0.6), (2, 1, 0.8), (2, 2, 0.82), (1, 2, 0.62)]
"""Configuration, index of the seed and value: trial 1 was lucky, and 2 is the best over its seeds."""


def a_mean(trials: tuple[int, ...]) -> Event:
    """Return the mean of trial 2 over some trials."""
    return an_event("configuration_measured", trial=2, trials=trials, mean=0.5, ci_low=0.4, ci_high=0.6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a sweep of four configurations, two of them with three seeds; trials 5 and 6 repeat trial 2."""
    config = load_sweep({**PLAN, "name": "s", "seeds": 3, "budget": {"patience": 50, "target": 0.95}})
    plan = config.objectives
    with Journal(tmp_path / "s" / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.sweep_started("s", {**config.model_dump(mode="json"), "runs_dir": str(tmp_path)}, {}, {})
        ledger.session_described([], DATASET)
        ledger.lanes_planned(1, 1, 1.0, 0.0)
        rows = [(number, 0, value) for number, value in enumerate(FIRSTS)] + REPEATS
        for number, (configuration, replicate, value) in enumerate(rows):
            params = {"lr": 0.001 * (configuration + 1)}
            trial = resolve_trial(config, number, params).model_dump(mode="json")
            of = {"repeats": configuration, "replicate": replicate} if replicate else {}
            ledger.trial_started(number, f"t{number}", params, trial, **of)
            ledger.trial_reported(number, 1, {"val/top1": value, "train/loss": 1.0}, held_s=1.0, lane=0)
            ledger.trial_ended(number, TrialStatus.FINISHED, best={"val/top1": value})
            record_mean(ledger, Objectives.of(plan, ()), number)
        ledger.sweep_ended(TrialStatus.FINISHED, {}, [])
    return tmp_path / "s"


def test_the_best_has_the_best_mean(folder: Path) -> None:
    """Means 0.8067 and 0.7067 of three; the interval of 0.8, 0.8, 0.82 is 4.30265 * 0.011547 / sqrt(3) = 0.02868."""
    result = load_result(folder)
    assert result.best is not None
    assert (result.best.number, result.best.value) == (6, 0.82)
    over = result.best.configuration
    assert over is not None
    assert (over.number, over.trials, over.values, over.complete) == (2, (2, 5, 6), (0.8, 0.8, 0.82), True)
    assert over.mean == pytest.approx(2.42 / 3)
    assert over.ci_high == pytest.approx(2.42 / 3 + 0.028684, abs=1e-5)
    assert [each.number for each in result.configurations()] == [2, 1, 3, 0]
    assert [trial.number for trial in result.leaderboard(3)] == [6, 7, 3]
    assert result.trial(3).configuration is None


def test_tables_and_status(folder: Path) -> None:
    rows = load_result(folder).trials.to_pylist()
    assert [row["configuration"] for row in rows] == [0, 1, 2, 3, 1, 2, 2, 1]
    assert [row["replicate"] for row in rows] == [0, 0, 0, 0, 1, 1, 2, 2]
    assert [row["mean"] for row in rows if row["configuration"] == 2] == pytest.approx([2.42 / 3] * 3)
    assert [(row["seeds"], row["all_seeds"]) for row in rows[2:4]] == [(3, True), (None, None)]
    facts = facts_of(read_sweep(find_sweep(folder)))
    assert (facts["trials"], facts["repeats"], facts["seeds"]) == ({"finished": 4}, 4, 3)
    assert facts["best"]["over_seeds"]["ci_low"] < facts["best"]["over_seeds"]["mean"]


def test_a_notebook_and_the_report_show_means(folder: Path) -> None:
    result = load_result(folder)
    assert "mean over seeds" in result._repr_html_()
    assert "0.8067 (0.7780 to 0.8354), 3 seeds" in result._repr_html_()
    page = write_report(read_sweep(find_sweep(folder)), folder / "report.html").read_text()
    assert '<th class="n">95% interval</th>' in page
    assert "All configurations that finished an epoch, best first. A row is a configuration" in page
    assert re.search(r'<td class="n">3</td><td class="n strong">0.8067</td><td class="n">0.778 to 0.8354</td>', page)


def test_budgets_look_at_first_seeds(folder: Path) -> None:
    totals = read_history(folder / "journal.jsonl").costs.totals(0.0)
    assert (totals.best, totals.best_trial, totals.trials_since_best) == (0.9, 1, 2)
    config = load_sweep({**PLAN, "name": "s", "budget": {"patience": 3}})
    assert Budget(config.budget, config.objective).exhausted_limit(totals) is None


def test_the_last_seed_of_what_may_be_best_keeps_its_weights(folder: Path) -> None:
    result = load_result(folder)
    assert result.objectives is not None
    kept = kept_trials(result.records, KeepConfig(best=1, last=1), result.objectives)
    assert result.best is not None
    assert {1, result.best.number} <= kept.best  # the best single value, and the best configuration


@pytest.mark.parametrize("parts", [1, 2])
def test_a_configuration_is_a_run_above_its_trials(folder: Path, parts: int) -> None:
    """Also where a second writer continues after the first repeat."""
    uri, journal = f"sqlite:///{folder.parent / 'mlflow.db'}", folder / "journal.jsonl"
    whole = journal.read_bytes()
    if parts == 2:
        cut = whole.index(b"\n", whole.index(b'"repeats"')) + 1
        journal.write_bytes(whole[:cut])
        replay(journal, uri)
        journal.write_bytes(whole)
    writer = replay(journal, uri)
    client = MlflowClient(uri)
    runs = {number: client.get_run(str(writer.run_id(number))) for number in range(8)}
    parents = {number: run.data.tags["mlflow.parentRunId"] for number, run in runs.items()}
    assert parents[0] == parents[3] == writer.sweep_run_id
    assert parents[1] == parents[4] == parents[7] != writer.sweep_run_id
    assert parents[2] == parents[5] == parents[6] != parents[1]
    above = client.get_run(parents[2])
    assert above.data.tags["mlflow.parentRunId"] == writer.sweep_run_id
    assert above.data.tags["spatialsweep.kind"] == "configuration"
    assert above.data.metrics["mean"] == pytest.approx(2.42 / 3)
    assert above.data.metrics["ci_low"] < above.data.metrics["mean"] < above.data.metrics["ci_high"]
    assert above.info.status == "FINISHED"
    uid = read_history(journal).uid
    assert len(sweep_runs(uid, "s", uri)) == 1 + 8 + 2


@pytest.mark.parametrize(
    ("event", "fault"),
    [
        (an_event("trial_started", trial=9, repeats=77, replicate=1), "trial 77 was never started"),
        (an_event("trial_started", trial=9, repeats=4, replicate=3), "repeats trial 4, which is itself a repeat"),
        (a_mean(trials=(1, 2)), "is of [1, 2], not of its seeds"),
        (a_mean(trials=(2, 2)), "is of [2, 2], not of its seeds"),
        (a_mean(trials=(2, 99)), "trial 99 was never started"),
    ],
)
def test_contradictions_are_refused(folder: Path, event: Event, fault: str) -> None:
    history = read_history(folder / "journal.jsonl")
    with pytest.raises(LineError) as caught:
        history.apply(event)
    assert fault in str(caught.value)

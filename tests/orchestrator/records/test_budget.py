"""Budgets: parsing, costs of trials, and the end of a sweep, all from a journal."""

from __future__ import annotations

from pathlib import Path
from time import time as unix_time
from typing import Any

import pytest
import ray

from orchestrator import ConfigError, load_result, load_sweep, run_sweep
from orchestrator.config import BudgetConfig, ObjectiveConfig
from orchestrator.records.budget import Budget, as_duration
from orchestrator.records.costs import Cost, CostAccount, SweepTotals
from orchestrator.records.history import read_history
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from tests.support.journal_events import an_event
from tests.support.sweeps.fake_sweeps import PLAN, write_sweep

BASE = {"name": "t", "dataset": {"name": "digits"}, "model": {"name": "conv_resnet26_small"}}
PRICED = {"budget": {"price_per_cpu_hour": 0.36, "price_per_gpu_hour": 3.6}}
OBJECTIVE = {"objective": {"metric": "val/top1", "mode": "max"}}


def budget(**settings: Any) -> BudgetConfig:
    return load_sweep({**BASE, "budget": settings}).budget


def faults(**settings: Any) -> list[str]:
    raw = {**BASE, "resources": {"gpus_per_worker": 0}, "budget": settings}
    with pytest.raises(ConfigError) as caught:
        load_sweep(raw)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("1h 30m", 5400), ("1.5h", 5400), ("1d2h", 93_600), (45, 45)],
)
def test_a_wall_clock_limit_is_parsed(written: Any, seconds: float) -> None:
    config = load_sweep({**BASE, "budget": {"wall_clock": written}})
    assert config.budget.wall_clock == seconds
    again = load_sweep({**BASE, "budget": config.model_dump(mode="json")["budget"]})
    assert again.budget == config.budget
    assert load_sweep(BASE, [f"budget.wall_clock={written}"]).budget.wall_clock == seconds


def test_problems_of_a_budget_are_reported_with_the_remedy() -> None:
    assert faults(wall_clock="2 hours", gpu_hours=1, target=98.0, pacience=3) == [
        "budget.wall_clock: got '2 hours'; a duration is a number of seconds, or numbers with d, h, m, s. "
        "Use 2h, 90m or 1h30m",
        "budget.pacience: unknown setting. Did you mean 'patience'?",
    ]
    assert faults(wall_clock=0) == ["budget.wall_clock: got 0; should be greater than 0"]
    assert faults(gpu_hours=1, target=98.0) == [
        "budget.gpu_hours: trials reserve no GPU (resources.gpus_per_worker: 0). Use budget.cpu_hours",
        "budget.target: got 98; val/top1 is a share from 0 to 1. Use 0.98",
    ]


def account_of(*events: tuple[str, float, dict[str, Any]], config: dict[str, Any] | None = None) -> CostAccount:
    """Return the account of one session on lanes of 2 CPUs and a GPU, started at time 0."""
    account = CostAccount()
    start = ("sweep_started", 0.0, {"config": {**PRICED, **OBJECTIVE} if config is None else config})
    plan = ("lanes_planned", 0.0, {"cpus_per_trial": 2.0, "gpus_per_trial": 1.0})
    for kind, time, content in (start, plan, *events):
        account.apply(an_event(kind, time, **content))
    return account


def started(number: int, time: float) -> tuple[str, float, dict[str, Any]]:
    return "trial_started", time, {"trial": number}


def reported(number: int, time: float, value: float, held_s: float | None = None) -> tuple[str, float, dict[str, Any]]:
    held = {} if held_s is None else {"held_s": held_s}
    return "trial_reported", time, {"trial": number, "epoch": 1, "metrics": {"val/top1": value}, **held}


def ended(number: int, time: float, status: str = "finished") -> tuple[str, float, dict[str, Any]]:
    return "trial_ended", time, {"trial": number, "status": status}


def test_a_trial_costs_its_devices_while_it_holds_a_lane() -> None:
    account = account_of(started(0, 0.0), reported(0, 40.0, 0.5, held_s=20.0))
    assert account.cost(0, 50.0).held_s == 30.0  # it waited 20 s for its lane
    account.apply(an_event("trial_ended", 60.0, trial=0))
    cost = account.cost(0, 1e9)
    assert (cost.held_s, cost.cpu_s, cost.gpu_s) == (40.0, 80.0, 40.0)
    assert cost.price == pytest.approx((80 * 0.36 + 40 * 3.6) / 3600)
    assert account.totals(100.0).cost == cost
    assert account.totals(100.0).wall_s == 100.0


WAITS = ("lanes_planned", 0.0, {"cpus_per_trial": 2.0, "gpus_per_trial": 1.0, "waits": True})


def lane_changed(number: int, time: float, lane: int | None) -> tuple[str, float, dict[str, Any]]:
    return "trial_lane_changed", time, {"trial": number, "lane": lane}


def test_trials_that_wait_for_a_lane_cost_nothing() -> None:
    account = account_of(WAITS, *(started(number, 0.0) for number in range(4)))
    limits = Budget(budget(gpu_hours=2), ObjectiveConfig())
    assert account.totals(1800.0).cost.gpu_s == 0.0
    assert limits.exhausted_limit(account.totals(1e6)) is None
    account.apply(an_event("trial_lane_changed", 7200.0, trial=0, lane=1))
    assert account.totals(7260.0).cost == account.cost(0, 7260.0)
    assert account.cost(0, 7260.0).gpu_s == 60.0  # in its first epoch
    for kind, time, content in (reported(0, 7300.0, 0.5, held_s=101.0), ended(1, 9000.0, "interrupted")):
        account.apply(an_event(kind, time, **content))
    assert (account.cost(0, 7300.0).gpu_s, account.cost(1, 1e6).gpu_s) == (101.0, 0.0)


def test_the_wait_for_another_lane_costs_nothing() -> None:
    account = account_of(
        WAITS, started(0, 0.0), reported(0, 100.0, 0.5, held_s=90.0),
        lane_changed(0, 130.0, None), lane_changed(0, 5000.0, 1),
    )  # fmt: skip
    assert account.cost(0, 5010.0).held_s == 90.0 + 30.0 + 10.0
    assert account.holds_since(0) == 5000.0
    account.apply(an_event("trial_reported", 5060.0, trial=0, held_s=180.0))  # as the hub has counted it
    assert account.cost(0, 5060.0).held_s == 180.0
    account.apply(an_event("trial_lane_changed", 5070.0, trial=0))
    account.apply(an_event("trial_ended", 9000.0, trial=0, status="failed"))
    assert account.cost(0, 1e6).held_s == 180.0 + 10.0


def test_the_time_of_a_trial_whose_client_and_hub_were_replaced_counts_on() -> None:
    account = account_of(WAITS, started(0, 0.0), reported(0, 3600.0, 0.5, held_s=3600.0))
    account.apply(an_event("trial_reported", 7200.0, trial=0, held_s=3500.0))
    assert account.cost(0, 7200.0).held_s == 3600.0 + 3500.0


def test_a_session_of_an_older_version_is_counted_as_it_was() -> None:
    account = account_of(WAITS, started(0, 0.0), ended(0, 100.0, "interrupted"))
    planned = ("lanes_planned", 1000.0, {"cpus_per_trial": 2.0, "gpus_per_trial": 1.0})
    resumed = ("trial_resumed", 1000.0, {"trial": 0})
    for kind, time, content in (("sweep_resumed", 1000.0, {"config": {}}), planned, resumed, ended(0, 1030.0)):
        account.apply(an_event(kind, time, **content))
    assert account.cost(0, 1e6).held_s == 30.0


def test_an_elastic_trial_costs_the_workers_it_had() -> None:
    account = account_of(
        ("lanes_planned", 0.0, {"workers": 4, "cpus_per_trial": 4.0, "gpus_per_trial": 0.0}), started(0, 0)
    )
    for time, workers in ((10.0, 1), (20.0, 4)):
        metrics = {"val/top1": 0.5, "workers": workers}
        report = {"trial": 0, "epoch": 1, "metrics": metrics, "held_s": time}
        account.apply(an_event("trial_reported", time, **report))
    assert account.cost(0, 20.0).cpu_s == 10 * 1 + 10 * 4
    assert account.cost(0, 20.0).held_s == 20


def test_without_prices_there_is_a_cost_but_no_price() -> None:
    account = account_of(started(0, 0.0), ended(0, 10.0), config={})
    assert account.cost(0, 10.0) == Cost(held_s=10.0, cpu_s=20.0, gpu_s=10.0, price=None)
    assert "price" not in account.cost(0, 10.0).as_dict()


def test_costs_of_sessions_add_up_after_a_driver_died() -> None:
    account = account_of(
        started(0, 10.0), reported(0, 30.0, 0.5), started(1, 40.0), reported(0, 60.0, 0.6),
        ("sweep_resumed", 1000.0, {"config": {}}), ("trial_resumed", 1010.0, {"trial": 0}), ended(0, 1030.0),
        ("sweep_ended", 1040.0, {}),
    )  # fmt: skip
    assert account.cost(0, 5000.0).held_s == 50.0 + 20.0
    assert account.cost(1, 5000.0).held_s == 20.0  # ended with the last event of its driver
    assert account.totals(5000.0).wall_s == 60.0 + 40.0
    assert account.totals(5000.0).cost.cpu_s == 2 * (70.0 + 20.0)


def test_trials_without_a_new_best_are_counted() -> None:
    account = account_of(
        started(0, 0), reported(0, 1, 0.5), ended(0, 2),
        started(1, 2), reported(1, 3, 0.4), ended(1, 4),
        started(2, 4), ended(2, 5, "failed"),
        started(3, 5), ended(3, 6, "interrupted"),
    )  # fmt: skip
    assert (account.totals(7).trials_since_best, account.totals(7).best, account.totals(7).best_trial) == (2, 0.5, 0)
    for kind, time, content in (started(4, 7), reported(4, 8, float("nan")), reported(4, 9, 0.7)):
        account.apply(an_event(kind, time, **content))
    assert (account.totals(9).trials_since_best, account.totals(9).best, account.totals(9).best_trial) == (0, 0.7, 4)
    account.apply(an_event("trial_ended", 10, trial=4, status="pruned"))
    assert account.totals(10).trials_since_best == 0


def test_a_trial_that_pauses_is_counted_once_and_its_epochs_once() -> None:
    def paused(trial: int, time: float, epoch: int = 1) -> Any:
        return "trial_paused", time, {"trial": trial, "epoch": epoch}

    resumed = ("trial_resumed", 20.0, {"trial": 1})
    account = account_of(
        started(0, 0), reported(0, 1, 0.5), paused(0, 2), started(1, 2), reported(1, 4, 0.4), paused(1, 10),
        paused(1, 12, epoch=0), resumed, ("trial_reported", 23.0, {"trial": 1, "epoch": 1, "metrics": {}}),
        ("trial_reported", 25.0, {"trial": 1, "epoch": 3, "metrics": {}}), paused(1, 30, epoch=3),
    )  # fmt: skip
    totals = account.totals(99)
    assert (totals.trials_since_best, totals.epochs) == (1, 1 + 3)
    assert account.cost(1, 99).held_s == 8.0 + 10.0  # not while it is paused
    for kind, time, content in (("trial_resumed", 31.0, {"trial": 1}), reported(1, 32, 0.6), paused(1, 33)):
        account.apply(an_event(kind, time, **content))
    assert account.totals(99).trials_since_best == 0


def test_a_lower_value_improves_a_minimised_objective() -> None:
    loss = {"objective": [{"metric": "val/top1", "mode": "min"}, {"metric": "macs", "mode": "min"}]}
    account = account_of(started(0, 0), reported(0, 1, 0.5), reported(0, 2, 0.3), reported(0, 3, 0.9), config=loss)
    assert account.totals(4).best == 0.3


def test_an_infeasible_value_is_never_best() -> None:
    small = {**OBJECTIVE, "constraints": ["params <= 100"]}
    account = account_of(started(0, 0), started(1, 0), config=small)
    for number, params, value in ((0, 200.0, 0.9), (1, 50.0, 0.5)):
        metrics = {"val/top1": value, "params": params}
        account.apply(an_event("trial_reported", 1, trial=number, metrics=metrics))
    assert (account.totals(2).best, account.totals(2).best_trial) == (0.5, 1)


@pytest.mark.parametrize(
    ("limits", "totals", "reason"),
    [
        ({"wall_clock": "1h30m"}, SweepTotals(wall_s=5400), "budget.wall_clock is spent: 1h30m of 1h30m"),
        ({"wall_clock": "1h30m"}, SweepTotals(wall_s=5399), None),
        ({"cpu_hours": 2}, SweepTotals(cost=Cost(cpu_s=7200)), "budget.cpu_hours is spent: 2 of 2"),
        ({"gpu_hours": 0.5}, SweepTotals(cost=Cost(cpu_s=1e9, gpu_s=1900)), "budget.gpu_hours is spent: 0.528 of 0.5"),
        ({"gpu_hours": 0.5}, SweepTotals(cost=Cost(cpu_s=1e9)), None),
        (
            {"target": 0.9},
            SweepTotals(best=0.91, best_trial=3),
            "budget.target 0.9 is reached: val/top1 0.91 in trial 3",
        ),
        ({"target": 0.9}, SweepTotals(best=0.89, best_trial=3), None),
        ({"target": 0.9}, SweepTotals(), None),
        (
            {"patience": 4},
            SweepTotals(trials_since_best=4),
            "budget.patience is over: 4 trials in a row brought no better value",
        ),
        ({"patience": 4}, SweepTotals(trials_since_best=3), None),
        ({"epochs": 50}, SweepTotals(epochs=51), "budget.epochs is spent: 51 of 50"),
        ({"epochs": 50}, SweepTotals(epochs=49), None),
        ({}, SweepTotals(wall_s=1e9, cost=Cost(1e9, 1e9, 1e9), best=1.0, trials_since_best=1000), None),
    ],
)
def test_an_exhausted_limit_is_named(limits: dict[str, Any], totals: SweepTotals, reason: str | None) -> None:
    assert Budget(budget(**limits), ObjectiveConfig()).exhausted_limit(totals) == reason


def test_a_target_of_a_minimised_objective_is_reached_from_above() -> None:
    loss = Budget(budget(target=0.2), ObjectiveConfig(metric="val/loss", mode="min"))
    assert loss.exhausted_limit(SweepTotals(best=0.3, best_trial=0)) is None
    assert (
        loss.exhausted_limit(SweepTotals(best=0.1, best_trial=0))
        == "budget.target 0.2 is reached: val/loss 0.1 in trial 0"
    )


def test_durations_are_formatted() -> None:
    assert [as_duration(seconds) for seconds in (0.4, 42, 61, 3600, 100_000)] == [
        "0s",
        "42s",
        "1m01s",
        "1h00m",
        "27h46m",
    ]


def test_a_ledger_writes_the_cost_of_a_trial_into_its_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.sweep_started("s", {**PRICED, **OBJECTIVE}, {}, {})
        ledger.lanes_planned(lanes=1, workers=2, cpus_per_worker=1.0, gpus_per_worker=0.0)
        ledger.trial_started(0, "tune0", {}, {})
        ledger.trial_reported(0, 1, {"val/top1": 0.5}, held_s=3600.0)
        assert ledger.totals().cost.cpu_s >= 7200.0
        ledger.trial_ended(0, TrialStatus.FINISHED)
    cost = ledger.trial(0).cost
    assert cost.cpu_s == pytest.approx(7200, abs=10)
    assert cost.gpu_s == 0
    assert cost.price == pytest.approx(0.72, abs=0.01)
    assert ledger.totals().best == 0.5
    assert ledger.totals().cost == cost


def test_a_ledger_records_which_trials_hold_a_lane(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.sweep_started("s", OBJECTIVE, {}, {})
        ledger.lanes_planned(lanes=1, workers=1, cpus_per_worker=1.0, gpus_per_worker=1.0)
        for number in (0, 1):
            ledger.trial_started(number, f"tune{number}", {}, {})
        assert ledger.totals().cost.held_s == 0.0
        before = unix_time()
        ledger.lanes_held(before, {"tune0": 3, "of a trial that has ended": 4})
        ledger.lanes_held(before, {})  # older than what is known
        ledger.lanes_held(unix_time(), {"tune0": 3})
        ledger.trial_reported(1, 1, {"val/top1": 0.5}, held_s=7.0)
        ledger.lanes_held(unix_time() + 1.0, {"tune1": 0})
        ledger.trial_ended(0, TrialStatus.FAILED)
        ledger.lanes_held(unix_time() + 1.0, {"tune0": 3, "tune1": 0})
    changes = [(event.trial, event.lane) for event in ledger.events() if event.event == "trial_lane_changed"]
    assert changes == [(0, 3), (0, None)]
    again = read_history(journal.path).costs  # as after the death of the driver
    assert again.cost(0, 1e10) == ledger.trial(0).cost
    assert again.totals(again.last_event_s).cost.held_s == pytest.approx(7.0, abs=5.0)  # trial 1 was running


@pytest.mark.slow
def test_a_resumed_sweep_with_an_exhausted_budget_starts_nothing(tmp_path: Path) -> None:
    good_enough = {"budget": {"target": 0.75}}
    write_sweep(tmp_path, "s", [(TrialStatus.FINISHED, [0.5, 0.8])], ended=None, **good_enough)
    config = load_sweep({**PLAN, **good_enough, "name": "s", "runs_dir": str(tmp_path)})
    result = run_sweep(config, resume=True, allow_changed=True)
    assert result.status is TrialStatus.FINISHED
    assert result.ended_by == "budget.target 0.75 is reached: val/top1 0.8 in trial 0"
    assert load_result("s", tmp_path).ended_by == result.ended_by
    assert not ray.is_initialized()

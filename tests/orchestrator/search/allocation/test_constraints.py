"""Rules that pause, in sweeps with constraints: epochs go to trials that can be the result."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.events import TrialReported
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search.allocation.allocator import AllocationSetting, Feasibility, Resume
from orchestrator.search.allocation.freeze_thaw import FreezeThaw
from orchestrator.search.allocation.promotion_asha import PromotionAsha
from orchestrator.search.allocation.rules import ALLOCATORS
from orchestrator.search.racing import race_state
from orchestrator.search.schedulers.allocated import feasibility_of
from orchestrator.search.schedulers.trial_schedulers import create_allocation
from tests.support.sweeps.plans import search_plan

EPOCHS = 9
BIG = (0, 2, 5, 7, 10)
SWEEP: dict[str, Any] = {
    "name": "s",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "training": {"epochs": EPOCHS},
    "trials": 12,
    "search": {"lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}},
}
Metrics = Callable[[int, int], Mapping[str, float]]


def by_size(number: int, epoch: int) -> dict[str, float]:
    """Return metrics of which those of large networks are better, but for their size."""
    top1 = (0.6 if number in BIG else 0.3) + 0.01 * (number * 7 % 12) + 0.2 * (1 - 1 / epoch)
    return {"val/top1": top1, "val/loss": 1 - top1, "params": 3e6 if number in BIG else 1e6}


def by_train_loss(number: int, epoch: int) -> dict[str, float]:
    """Return the same metrics with a bound that training could meet, and that large networks do not."""
    return {**by_size(number, epoch), "train/loss": 1.5 if number in BIG else 0.5}


def by_loss(number: int, epoch: int) -> dict[str, float]:
    """Return the same metrics with a loss that falls below 0.8 late, and only in large networks."""
    return {**by_size(number, epoch), "val/loss": 0.5 + 1.5 / epoch + (0.1 if number in BIG else 1.0)}


class Sweep:
    """Sweep without training: on each lane in turn a trial trains an epoch, until the rule has finished."""

    def __init__(self, folder: Path, metrics: Metrics, *, lanes: int = 2, **changes: Any) -> None:
        self.plan = search_plan({**SWEEP, **changes})
        self.objectives = Objectives.of(self.plan.objectives, self.plan.constraints)
        self.metrics = metrics
        with Journal(folder / "journal.jsonl") as journal:
            self.ledger = Ledger(journal)
            self.ledger.sweep_started("s", {}, {}, {})
            allocation = create_allocation(self.plan, self.ledger)
            assert allocation is not None
            self.allocation = allocation
            self._run(lanes)
            assert create_allocation(self.plan, self.ledger).is_finished  # type: ignore[union-attr]

    def _run(self, lanes: int) -> None:
        running: list[int] = []
        for step in itertools.count():
            while len(running) < lanes and not self.allocation.is_finished and (number := self._begin()) is not None:
                running.append(number)
            if not running:
                return
            number = running[step % len(running)]
            epoch = self.ledger.trial(number).epochs + 1
            continues = self.allocation.report(number, epoch, self.metrics(number, epoch), float(epoch))
            self.ledger.trial_reported(number, epoch, self.metrics(number, epoch), held_s=float(epoch))
            if epoch == EPOCHS:
                self.ledger.trial_ended(number, TrialStatus.FINISHED)
                self.allocation.end(number)
            elif not continues:
                self.ledger.trial_paused(number, epoch)
                self.allocation.pause(number, epoch)
            if epoch == EPOCHS or not continues:
                running.remove(number)

    def _begin(self) -> int | None:
        decision = self.allocation.next_trial()
        if decision is None:
            return None
        if isinstance(decision, Resume):
            number = decision.number
            self.ledger.trial_resumed(number, str(number))
        else:
            number = len(self.ledger.trials())
            self.ledger.trial_started(number, str(number), {}, {})
        self.allocation.start(number, {})
        return number

    @property
    def best(self) -> TrialRecord:
        return min(self.ledger.trials(), key=self.objectives.rank)


NAMES = pytest.mark.parametrize("name", sorted(ALLOCATORS))


@NAMES
@pytest.mark.parametrize("objective", [["val/top1"], ["val/top1", "val/loss"]])
@pytest.mark.parametrize(("metrics", "constraint"), [(by_size, "params <= 2e6"), (by_train_loss, "train/loss <= 1")])
def test_the_best_feasible_trial_is_trained_to_its_end(
    tmp_path: Path, name: str, objective: list[str], metrics: Metrics, constraint: str
) -> None:
    sweep = Sweep(
        tmp_path,
        metrics,
        objective=[{"metric": metric} for metric in objective],
        constraints=[constraint],
        trial_scheduler={"name": name, "grace_epochs": 1},
    )
    assert sweep.best.number not in BIG
    assert sweep.best.status is TrialStatus.FINISHED
    assert [sweep.ledger.trial(number).epochs for number in BIG] == [1] * len(BIG)
    seeds = search_plan({**SWEEP, "constraints": [constraint], "seeds": 3})
    assert race_state(seeds, sweep.ledger.trials()).due[0].configuration == sweep.best.number


@NAMES
def test_a_constraint_that_trials_meet_late_does_not_end_the_others_early(tmp_path: Path, name: str) -> None:
    scheduler = {"name": name, "grace_epochs": 1}
    sweep = Sweep(tmp_path, by_loss, constraints=["val/loss <= 0.8"], trial_scheduler=scheduler)
    assert sweep.objectives.is_feasible(sweep.best)
    assert sweep.best.status is TrialStatus.FINISHED
    assert sum(record.epochs > 1 for record in sweep.ledger.trials()) > 2


@NAMES
def test_where_no_trial_is_feasible_the_best_one_is_trained_to_its_end(tmp_path: Path, name: str) -> None:
    scheduler = {"name": name, "grace_epochs": 1}
    sweep = Sweep(tmp_path, by_size, constraints=["params <= 10"], trial_scheduler=scheduler)
    assert sweep.best.status is TrialStatus.FINISHED


def test_the_one_feasible_trial_gets_the_epochs_before_the_others(tmp_path: Path) -> None:
    """Let the other lane end the epoch it is in, and then wait: the epochs of all trials together are limited."""

    def alone(number: int, epoch: int) -> dict[str, float]:
        return {**by_size(number, epoch), "params": 1e6 if number == 11 else 3e6}

    scheduler = {"name": "freeze_thaw", "grace_epochs": 1}
    sweep = Sweep(tmp_path, alone, constraints=["params <= 2e6"], trial_scheduler=scheduler)
    trained = [event.trial for event in sweep.ledger.events() if isinstance(event, TrialReported)]
    begun = trained.index(11)
    assert len([number for number in trained[begun : begun + 10] if number != 11]) <= 1


@pytest.mark.parametrize("rule", [FreezeThaw, PromotionAsha])
def test_where_the_feasible_trial_fails_the_best_of_the_others_is_trained_to_its_end(
    rule: type[FreezeThaw] | type[PromotionAsha],
) -> None:
    allocator = rule(AllocationSetting(trials=3, max_epochs=4, reduction_factor=4))
    for number, score in enumerate((0.5, 0.6, 0.1)):
        feasibility = Feasibility.FEASIBLE if number == 2 else Feasibility.RULED_OUT
        allocator.start(number, {})
        allocator.report(number, 1, (score,), 1.0, feasibility)
        allocator.end(number) if number == 2 else allocator.pause(number, 1)
    assert allocator.next_trial(3) == Resume(1)


def test_a_feasible_trial_on_a_low_rung_comes_before_a_complete_infeasible_one() -> None:
    asha = PromotionAsha(AllocationSetting(trials=3, max_epochs=9))
    for number, epochs in enumerate((9, 1, 3)):
        feasibility = Feasibility.FEASIBLE if number == 1 else Feasibility.INFEASIBLE
        asha.start(number, {})
        asha.report(number, epochs, (0.5,), 1.0, feasibility)
        asha.end(number) if epochs == 9 else asha.pause(number, epochs)
    assert (asha.next_trial(3), asha.is_finished) == (Resume(1), False)


@pytest.mark.parametrize(
    ("metrics", "feasibility"),
    [
        ({"params": 2e6, "val/loss": 0.4}, Feasibility.FEASIBLE),
        ({"params": 2e6, "val/loss": 0.6}, Feasibility.INFEASIBLE),
        ({"params": 2e6, "val/loss": float("nan")}, Feasibility.INFEASIBLE),
        ({"params": 3e6, "val/loss": 0.4}, Feasibility.RULED_OUT),
    ],
)
def test_a_cost_beyond_its_bound_rules_a_trial_out(metrics: dict[str, float], feasibility: Feasibility) -> None:
    plan = search_plan({**SWEEP, "constraints": ["params <= 2e6", "val/loss <= 0.5"]})
    assert feasibility_of(metrics, Objectives.of(plan.objectives, plan.constraints)) is feasibility


def test_feasibility_is_that_of_the_best_epoch(tmp_path: Path) -> None:
    """As in the ranking: a trial that breaks the bound in a worse epoch remains the best."""

    def metrics(number: int, epoch: int) -> dict[str, float]:
        best = number == 4
        return {"val/top1": (0.9 if best else 0.5) - 0.01 * epoch, "val/loss": 0.9 if best and epoch > 1 else 0.1}

    scheduler = {"name": "freeze_thaw", "grace_epochs": 1}
    sweep = Sweep(tmp_path, metrics, constraints=["val/loss <= 0.5"], trial_scheduler=scheduler)
    assert (sweep.best.number, sweep.best.status) == (4, TrialStatus.FINISHED)

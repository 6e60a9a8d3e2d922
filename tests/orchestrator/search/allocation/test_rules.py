"""Contract of every allocation rule, in simulated sweeps on random curves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from optuna.samplers import RandomSampler

from orchestrator.search.allocation.allocator import AllocationSetting, Allocator, Feasibility, Propose, Resume, Scores
from orchestrator.search.allocation.rules import ALLOCATORS
from orchestrator.search.simulation.curves import Curve, ListedCurves
from orchestrator.search.simulation.simulator import SimulationSetting, simulate
from search_spaces import SearchSpace
from search_spaces.domains import FloatDomain

SPACE = SearchSpace({"x": FloatDomain(low=0.0, high=1.0)})


def random_table(trials: int, epochs: int, seed: int) -> ListedCurves:
    """Create rising curves with noise, of which some diverge."""
    chance = np.random.default_rng(seed)
    curves = []
    for number in range(trials):
        values = np.sort(chance.normal(size=epochs)) + chance.normal(0, 0.1, epochs)
        length = chance.integers(1, epochs) if number % 7 == 3 else epochs
        scores = [(float(value),) for value in values[:length]]
        curves.append(Curve(scores, chance.uniform(0.5, 2.0, length).tolist()))
    return ListedCurves(SPACE, [{"x": number / trials} for number in range(trials)], curves, epochs)


class Watched(Allocator):
    """Allocator that checks the order of the calls around another one, and that asking changes nothing."""

    def __init__(self, rule: Allocator) -> None:
        super().__init__(rule.setting)
        self.rule, self.running, self.paused, self.begun = rule, set[int](), set[int](), set[int]()

    def start(self, number: int, params: Mapping[str, Any]) -> None:
        assert number in self.paused or number not in self.begun
        self.paused.discard(number)
        self.running.add(number)
        self.begun.add(number)
        self.rule.start(number, params)

    def report(
        self,
        number: int,
        epoch: int,
        scores: Scores,
        seconds: float,
        feasibility: Feasibility = Feasibility.FEASIBLE,
    ) -> bool:
        continues = self.rule.report(number, epoch, scores, seconds, feasibility)
        if epoch < self.setting.grace_epochs and self.setting.epochs is None:
            assert continues, "a trial gets its grace epochs"
        return continues

    def pause(self, number: int, resume_epoch: int) -> None:
        self.running.discard(number)
        self.paused.add(number)
        self.rule.pause(number, resume_epoch)

    def end(self, number: int) -> None:
        self.running.discard(number)
        self.rule.end(number)

    def next_trial(self, proposed: int) -> Resume | Propose | None:
        again = copy.deepcopy(self.rule)
        decision = self.rule.next_trial(proposed)
        assert self.rule.next_trial(proposed) == decision == again.next_trial(proposed)
        assert decision is not None or self.running or self.rule.is_finished, "nothing runs, and nothing is left to do"
        assert not isinstance(decision, Resume) or decision.number in self.paused
        assert not isinstance(decision, Propose) or proposed < self.setting.trials
        return decision

    @property
    def is_finished(self) -> bool:
        finished = self.rule.is_finished
        assert not finished or self.rule.next_trial(len(self.begun)) is None
        return finished


@pytest.mark.parametrize("name", sorted(ALLOCATORS))
@pytest.mark.parametrize(
    ("trials", "epochs", "grace", "lanes", "checkpoints", "used"),
    [(12, 9, 2, 3, None, None), (8, 5, 1, 1, 2, None), (12, 9, 1, 4, None, 25), (3, 1, 1, 2, None, None)],
)
def test_a_sweep_ends_with_a_trial_trained_to_its_end(
    name: str, trials: int, epochs: int, grace: int, lanes: int, checkpoints: int | None, used: int | None
) -> None:
    table = random_table(trials, epochs, seed=trials)
    rule = Watched(ALLOCATORS[name](AllocationSetting(trials, epochs, grace, 2, used)))
    trace = simulate(table, RandomSampler(seed=1), rule, SimulationSetting(lanes, checkpoints=checkpoints))
    assert rule.is_finished
    assert not rule.running
    if used is None:
        assert trace.counts()["finished"] >= 1
        assert len(trace.statuses) <= trials
    else:
        assert used <= trace.epochs <= used + lanes + epochs
    assert trace.epochs < trials * epochs or epochs == 1


@pytest.mark.parametrize("name", sorted(ALLOCATORS))
def test_the_same_seed_gives_the_same_trace(name: str) -> None:
    traces = [
        simulate(
            random_table(12, 9, seed=5),
            RandomSampler(seed=2),
            ALLOCATORS[name](AllocationSetting(12, 9, 1, 3)),
            SimulationSetting(3),
        )
        for _ in range(2)
    ]
    assert traces[0].points == traces[1].points

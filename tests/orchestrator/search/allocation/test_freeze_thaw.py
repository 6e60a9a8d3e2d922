"""Freeze-thaw: expected improvement per second, the limits of its epochs, and what a resumed sweep repeats."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from optuna.samplers import RandomSampler
from scipy.integrate import quad
from scipy.stats import norm

from orchestrator.search.allocation.allocator import AllocationSetting, Propose, Resume
from orchestrator.search.allocation.freeze_thaw import FreezeThaw, expected_improvement
from orchestrator.search.allocation.learning_curves import Prediction
from orchestrator.search.simulation.curves import Curve, CurveTable
from orchestrator.search.simulation.simulator import SimulationSetting, simulate
from search_spaces import SearchSpace
from search_spaces.domains import FloatDomain

SPACE = SearchSpace({"x": FloatDomain(low=0.0, high=1.0)})


class Powers(CurveTable):
    """Curves that rise to 1 - (x - 0.3)^2, those of large x slowly and in half of the time."""

    def curve(self, params: dict[str, float]) -> Curve:  # type: ignore[override]
        x, last = params["x"], self.max_epochs
        power = 2.0 if x < 0.5 else 0.3
        values = [1 - (x - 0.3) ** 2 - 0.5 * (epoch**-power - last**-power) for epoch in range(1, last + 1)]
        return Curve.of(values, 1.0 if x < 0.5 else 0.5)


def feed(
    rule: FreezeThaw, number: int, values: list[float], *, seconds: float = 1.0, resume: int | None = None
) -> None:
    """Begin a trial, report its epochs and pause it."""
    rule.start(number, {})
    for epoch, value in enumerate(values, start=1):
        rule.report(number, epoch, (value,), seconds)
    rule.pause(number, len(values) if resume is None else resume)


def rising(last: float, epochs: int = 4) -> list[float]:
    return [last - 0.5 / epoch for epoch in range(1, epochs + 1)]


def test_the_expected_improvement_is_the_integral_over_the_mixture() -> None:
    weights, means, deviations = [0.3, 0.7], [0.2, -0.1], [0.5, 0.2]
    prediction = Prediction(np.array([weights]), np.array([[means]]), np.array([[deviations]]))
    whole = sum(
        weight * quad(lambda y, m=mean, d=deviation: (y - 0.4) * norm.pdf(y, m, d), 0.4, 10)[0]
        for weight, mean, deviation in zip(weights, means, deviations, strict=True)
    )
    assert expected_improvement(prediction, 0.4)[0, 0] == pytest.approx(whole, rel=1e-6)


def decide(rule: FreezeThaw) -> int:
    """Return the trial that the model chooses, with no new one left."""
    decision = rule.next_trial(rule.setting.trials)
    assert isinstance(decision, Resume)
    return decision.number


@pytest.fixture
def rule() -> FreezeThaw:
    """Rule whose next assignment is the model's: an even number of trials began."""
    rule = FreezeThaw(AllocationSetting(trials=6, max_epochs=16, grace_epochs=1, epochs=1000))
    for number in range(4):
        feed(rule, number, rising(0.3 + 0.1 * number, 16))
        rule.end(number)
    return rule


def test_of_two_trials_the_better_one_is_resumed(rule: FreezeThaw) -> None:
    feed(rule, 4, rising(0.8))
    feed(rule, 5, rising(0.7))
    assert decide(rule) == 4


def test_of_two_equal_trials_the_faster_one_is_resumed(rule: FreezeThaw) -> None:
    feed(rule, 4, rising(0.8), seconds=2.0)
    feed(rule, 5, rising(0.8), seconds=1.0)
    assert decide(rule) == 5


def test_of_two_equal_trials_the_one_with_a_checkpoint_is_resumed(rule: FreezeThaw) -> None:
    feed(rule, 4, rising(0.8))
    feed(rule, 5, rising(0.8))
    rule.pause(4, 0)
    assert decide(rule) == 5


@pytest.mark.parametrize(("budget", "grace", "until"), [(540, 1, 3), (540, 3, 9), (540, 9, 27), (40, 1, 2), (39, 1, 1)])
def test_the_first_trial_trains_to_the_second_rung_where_the_budget_is_large(
    budget: int, grace: int, until: int
) -> None:
    rule = FreezeThaw(AllocationSetting(trials=50, max_epochs=27, grace_epochs=grace, epochs=budget))
    epochs = []
    for number, last in enumerate((0.1, 0.9, 0.9, 0.1)):
        rule.start(number, {})
        epochs.append(next(e for e in range(1, 28) if not rule.report(number, e, (last,), 1.0) or e == 27))
        rule.pause(number, epochs[-1])
    assert (epochs[0], epochs[3]) == (until, grace)


def test_a_trial_that_diverges_is_not_resumed(rule: FreezeThaw) -> None:
    feed(rule, 4, [0.3, -math.inf])
    feed(rule, 5, rising(0.6))
    assert decide(rule) == 5


def test_asking_changes_nothing_and_the_same_calls_give_the_same_decisions() -> None:
    rules = [FreezeThaw(AllocationSetting(trials=30, max_epochs=9, grace_epochs=1)) for _ in range(2)]
    chance = np.random.default_rng(1)
    curves: list[list[float]] = []
    done: list[int] = []
    for step in range(120):
        asked = [rules[0].next_trial(len(curves)) for _ in range(step % 3 + 1)]
        decision = rules[1].next_trial(len(curves))
        assert all(each == decision for each in asked)
        if decision is None:
            break
        if isinstance(decision, Propose):
            curves.append(sorted(chance.normal(size=9).tolist()))
            done.append(0)
        number = decision.number if isinstance(decision, Resume) else len(curves) - 1
        for rule in rules:
            rule.start(number, {})
        while True:
            done[number] += 1
            report = number, done[number], (curves[number][done[number] - 1],), 1.0
            first, second = (rule.report(*report) for rule in rules)
            assert first == second
            if done[number] == 9 or not first:
                break
        for rule in rules:
            rule.end(number) if done[number] == 9 else rule.pause(number, done[number])
    assert rules[0].is_finished == rules[1].is_finished


def test_it_ends_when_its_epochs_are_used() -> None:
    setting = AllocationSetting(trials=40, max_epochs=27, grace_epochs=1, epochs=100)
    trace = simulate(Powers(SPACE, 27), RandomSampler(seed=0), FreezeThaw(setting), SimulationSetting(lanes=3))
    assert 100 <= trace.epochs <= 102  # other lanes end the epoch they are in


def test_without_a_number_of_epochs_it_uses_a_share_and_trains_the_best_trial_to_its_end() -> None:
    setting = AllocationSetting(trials=12, max_epochs=27, grace_epochs=1)
    trace = simulate(Powers(SPACE, 27), RandomSampler(seed=0), FreezeThaw(setting), SimulationSetting(lanes=2))
    assert 12 * 27 / 3 <= trace.epochs <= 12 * 27 / 3 + 27
    assert trace.best_trial is not None
    assert max(point.epoch for point in trace.points if point.trial == trace.best_trial) == 27


def spent_by(*trials: tuple[list[float], str]) -> FreezeThaw:
    """Return a rule whose epochs are spent, after trials with these scores that are paused, complete or have failed."""
    used = sum(len(scores) for scores, _ in trials)
    rule = FreezeThaw(AllocationSetting(trials=len(trials), max_epochs=4, grace_epochs=1, reduction_factor=4))
    assert rule.budget <= used
    for number, (scores, state) in enumerate(trials):
        rule.start(number, {})
        for epoch, score in enumerate(scores, start=1):
            rule.report(number, epoch, (score,), 1.0)
        if state == "paused":
            rule.pause(number, len(scores))
        else:
            rule.end(number)
    return rule


def test_the_trial_that_is_trained_to_its_end_is_the_one_with_the_best_score_of_any_epoch() -> None:
    complete, paused = ([0.1, 0.6, 0.7, 0.7], "complete"), ([0.2, 0.8, 0.7], "paused")
    rule = spent_by(complete, paused)
    assert (rule.next_trial(2), rule.is_finished) == (Resume(1), False)
    rule.start(1, {})
    assert rule.report(1, 4, (0.7,), 1.0)
    rule.end(1)
    assert (rule.next_trial(2), rule.is_finished) == (None, True)


def test_a_trial_that_has_failed_does_not_keep_the_best_of_the_others_from_its_end() -> None:
    rule = spent_by(([0.9, 0.9], "failed"), ([0.1, 0.2], "paused"), ([0.3], "paused"))
    assert (rule.next_trial(3), rule.is_finished) == (Resume(2), False)
    assert spent_by(([0.9, 0.9], "failed")).is_finished


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_best_configuration_with_a_third_of_the_epochs(seed: int) -> None:
    setting = AllocationSetting(trials=30, max_epochs=27, grace_epochs=1)
    table = Powers(SPACE, 27)
    trace = simulate(table, RandomSampler(seed=seed), FreezeThaw(setting), SimulationSetting(lanes=4))
    assert trace.best == max(1 - (params["x"] - 0.3) ** 2 for params in trace.params.values())
    assert trace.epochs < 0.35 * 30 * 27


def test_a_decision_over_a_thousand_paused_trials_takes_milliseconds() -> None:
    rule = FreezeThaw(AllocationSetting(trials=2000, max_epochs=50, epochs=10**6))
    chance = np.random.default_rng(0)
    for number in range(1000):
        row = rule._curves.row(number)
        for epoch in range(1, 50):
            rule._curves.add(row, epoch, chance.normal(), 1.0)
        rule.pause(number, 49)
    rule.start(1000, {})
    taken = []
    for epoch in range(2, 8):
        began = time.process_time()
        rule.report(1000, epoch, (0.0,), 1.0)
        taken.append(time.process_time() - began)
    assert min(taken) < 0.02

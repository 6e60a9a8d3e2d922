"""Rungs of PASHA: they grow while orders differ by more than noise, worked out by hand."""

from __future__ import annotations

import itertools

import pytest

from orchestrator.search.allocation.allocator import AllocationSetting, Propose, Resume
from orchestrator.search.allocation.pasha import Pasha, have_same_order, noise_between


def run(curves: list[list[float]], setting: AllocationSetting) -> list[tuple[int, int]]:
    """Run a rule on one lane, and return the trials and epochs in the order in which they were trained."""
    rule, done, trained = Pasha(setting), [0] * len(curves), []
    proposed = 0
    while not rule.is_finished:
        decision = rule.next_trial(proposed)
        assert decision is not None
        number = decision.number if isinstance(decision, Resume) else proposed
        proposed += isinstance(decision, Propose)
        rule.start(number, {})
        for epoch in itertools.count(done[number] + 1):
            done[number] = epoch
            trained.append((number, epoch))
            continues = rule.report(number, epoch, (curves[number][epoch - 1],), 1.0)
            if epoch == setting.max_epochs:
                rule.end(number)
                break
            if not continues:
                rule.pause(number, epoch)
                break
    return trained


RISING = [[level + 0.01 * epoch for epoch in range(9)] for level in (0.1, 0.5, 0.4, 0.2, 0.8, 0.6, 0.3, 0.7, 0.0)]
SETTING = AllocationSetting(trials=9, max_epochs=9, grace_epochs=1, reduction_factor=2)


def test_with_a_stable_order_only_the_best_trial_goes_beyond_the_second_rung() -> None:
    furthest = dict(run(RISING, SETTING))
    assert furthest[4] == 9
    assert max(epoch for number, epoch in furthest.items() if number != 4) == 2


def test_where_orders_differ_the_rungs_grow() -> None:
    crossing = [list(curve) for curve in RISING]
    for number, curve in enumerate(crossing):
        curve[1:] = [0.9 - 0.1 * number] * 8  # from the second epoch on in another order
    trained = run(crossing, SETTING)
    assert sum(epoch > 2 for _, epoch in trained) > sum(epoch > 2 for _, epoch in run(RISING, SETTING))


@pytest.mark.parametrize(
    ("upper", "lower", "distance", "same"),
    [
        ([3, 2, 1], [0.3, 0.2, 0.1], 0.0, True),
        ([3, 1, 2], [0.3, 0.2, 0.1], 0.0, False),
        ([3, 1, 2], [0.3, 0.2, 0.1], 0.11, True),
        ([1, 2, 3], [0.3, 0.2, 0.1], 0.11, False),  # the first and the last differ by 0.2
        ([5], [1], 0.0, True),
        ([1, 2], [-float("inf"), -float("inf")], 0.0, True),
    ],
)
def test_orders_agree_up_to_a_distance(upper: list[float], lower: list[float], distance: float, same: bool) -> None:
    assert have_same_order(upper, lower, distance) is same


def test_noise_is_the_difference_of_curves_that_cross_twice() -> None:
    level = {1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5}
    twice = {1: 0.4, 2: 0.6, 3: 0.3}  # newest common epoch: 3, difference 0.2
    once = {1: 0.4, 2: 0.6, 3: 0.6}
    assert noise_between([level, twice]) == pytest.approx(0.2)
    assert noise_between([level, once]) == 0.0
    assert noise_between([level]) == 0.0

"""Rule of the race, by hand and by simulation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from orchestrator.config.sections.objective import ObjectiveConfig
from orchestrator.records.objectives import Objectives
from orchestrator.records.status import TrialStatus
from orchestrator.records.trials import TrialRecord
from orchestrator.seeds.configurations import best_configuration, configurations, seed_of
from orchestrator.seeds.race import PILOT, Repeat, may_be_best, race

TOP1 = Objectives((ObjectiveConfig(),), {})
Values = Mapping[int, Mapping[int, float | None]]


def record(number: int, value: float | None, repeats: int | None = None, replicate: int = 0) -> TrialRecord:
    """Return a trial with one epoch; a value of None stands for a running one."""
    return TrialRecord(
        number=number,
        tune_id="",
        params={},
        config={},
        started_s=0.0,
        status=TrialStatus.RUNNING if value is None else TrialStatus.FINISHED,
        reports=[] if value is None else [{"epoch": 1, "val/top1": value}],
        repeats=repeats,
        replicate=replicate,
    )


def records(values: Values) -> list[TrialRecord]:
    """Trials by configuration and index of the seed."""
    found = [record(number, each[0]) for number, each in values.items()]
    for number, each in values.items():
        found += [record(100 * number + r, value, number, r) for r, value in each.items() if r]
    return found


def due(values: Values, seeds: int = 3) -> list[tuple[int, int]]:
    """Configuration and seed of the repeats that may begin."""
    state = race(configurations(records(values), TOP1), seeds)
    return [(repeat.configuration, repeat.replicate) for repeat in state.due]


def test_a_configuration_is_dropped_beyond_the_interval() -> None:
    """Two pairs 0.2 apart: s^2 = (0.02 + 0.02) / 2, and t(1 - 0.05 / 2, 2) = 4.3027: 4.3027 * 0.1414 = 0.608."""
    pair = {0: [5.0, 5.2], 1: [5.0, 4.8]}
    assert may_be_best({**pair, 2: [5.1 - 0.74]}, seeds=2) == [0, 1, 2]  # sqrt(1/2 + 1) * 0.6085 = 0.745
    assert may_be_best({**pair, 2: [5.1 - 0.75]}, seeds=2) == [0, 1]


def test_more_seeds_mean_more_decisions_and_a_wider_interval() -> None:
    """With seeds 3 there are two decisions: t(1 - 0.05 / 2 / 2, 2) = 6.2053, and 6.2053 * 0.1414 * 1.2247 = 1.0748."""
    pair = {0: [5.0, 5.2], 1: [5.0, 4.8]}
    assert may_be_best({**pair, 2: [5.1 - 1.07]}, seeds=3) == [0, 1, 2]
    assert may_be_best({**pair, 2: [5.1 - 1.08]}, seeds=3) == [0, 1]


def test_without_a_second_seed_nothing_is_known_about_the_deviation() -> None:
    assert may_be_best({0: [1.0], 1: [9.0]}, seeds=3) == [1, 0]


def test_the_best_by_the_first_seed_begin() -> None:
    firsts = {number: {0: float(number)} for number in range(6)}
    assert due(firsts) == [(5, 1), (4, 1), (3, 1), (2, 1)]
    assert PILOT == 4


def test_every_configuration_that_may_be_best_follows_seed_by_seed() -> None:
    """After the pilot, values below 9.05 - t(1 - 0.05 / 5 / 2, 4) * 0.0707 * sqrt(1.5) = 8.65 are out: the sixth."""
    pilot: dict[int, dict[int, float | None]] = {n: {0: 9.0 - n / 10, 1: 9.1 - n / 10} for n in range(4)}
    values: dict[int, dict[int, float | None]] = {**pilot, 4: {0: 8.66}, 5: {0: 8.64}}
    assert due(values) == [(4, 1)]
    values[4][1] = 8.7
    third = due(values)
    assert (0, 2) in third
    assert (5, 1) not in third
    assert {replicate for _, replicate in third} == {2}


def test_a_round_waits_for_its_own_seeds_and_is_not_decided_anew_by_them() -> None:
    """Once begun, a round is completed, also where its first results would have changed it."""
    values: dict[int, dict[int, float | None]] = {0: {0: 9.0}, 1: {0: 8.0}, 2: {0: 7.0}}
    assert due(values) == [(0, 1), (1, 1), (2, 1)]
    values[0][1] = 9.0
    assert due(values) == [(1, 1), (2, 1)]
    values[1][1], values[2][1] = None, 7.0
    state = race(configurations(records(values), TOP1), 3)
    assert (state.due, state.open, state.is_over) == ((), 1, False)


def test_the_race_is_over_with_all_seeds() -> None:
    values = {0: {0: 9.0, 1: 9.0, 2: 9.1}, 1: {0: 1.0, 1: 1.1}}
    state = race(configurations(records(values), TOP1), 3)
    assert state.is_over
    assert state.contenders == (0,)


def test_a_configuration_whose_repeat_diverged_is_out() -> None:
    found = records({0: {0: 9.0}, 1: {0: 8.9, 1: 8.9}})
    found.append(record(7, 1.0, 0, 1))
    found[-1].status = TrialStatus.DIVERGED
    state = race(configurations(found, TOP1), 3)
    assert state.due == (Repeat(1, 2),)


def test_a_repeat_that_the_user_has_paused_is_not_waited_for() -> None:
    found = records({0: {0: 9.0, 1: None}})
    found[-1].status = TrialStatus.PAUSED
    assert race(configurations(found, TOP1), 2).is_over


def test_smaller_is_better_where_the_objective_is_minimised() -> None:
    loss = Objectives((ObjectiveConfig(metric="val/top1", mode="min"),), {})
    state = race(configurations(records({n: {0: float(n)} for n in range(6)}), loss), 2)
    assert [repeat.configuration for repeat in state.due] == [0, 1, 2, 3]


def test_in_a_tournament_the_best_of_each_arm_gets_all_seeds() -> None:
    values = {0: {0: 9.0}, 1: {0: 8.0}, 2: {0: 3.0}, 3: {0: 4.0}}
    arms = {0: "a", 1: "a", 2: "b", 3: "b"}
    state = race(configurations(records(values), TOP1), 2, arms)
    assert state.due == (Repeat(0, 1), Repeat(3, 1))
    values[0][1], values[3][1] = 1.0, 4.0
    assert race(configurations(records(values), TOP1), 2, arms).is_over


def test_the_best_has_all_seeds() -> None:
    values = {0: {0: 9.0, 1: 5.0}, 1: {0: 8.0, 1: 8.0}, 2: {0: 10.0}}
    best = best_configuration(configurations(records(values), TOP1), 2)
    assert best is not None
    assert best.number == 1
    assert best.estimate is not None
    assert best.estimate.mean == 8.0
    assert best_configuration(configurations(records({0: {0: 1.0}}), TOP1), 2) is None


def test_the_first_seed_is_that_of_the_sweep_and_the_others_differ() -> None:
    assert seed_of(3, 0) == 3
    assert len({seed_of(3, r) for r in range(100)}) == 100
    assert all(0 <= seed_of(2**32 - 1, r) < 2**32 for r in range(100))


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_best_configuration_is_seldom_dropped(spread: float) -> None:
    """200 races of 12 configurations with 3 seeds: the one with the best true mean is dropped in at most 5% of them."""
    random, dropped, trained = np.random.default_rng(0), 0, 0
    for _ in range(200):
        means = -spread * np.arange(12)
        values: dict[int, dict[int, float | None]] = {n: {0: random.normal(means[n])} for n in range(12)}
        while (state := race(configurations(records(values), TOP1), 3)).due:
            for repeat in state.due:
                values[repeat.configuration][repeat.replicate] = random.normal(means[repeat.configuration])
        dropped += len(values[0]) < 3
        trained += sum(map(len, values.values()))
    assert dropped <= 0.05 * 200 + 2 * math.sqrt(200 * 0.05 * 0.95)
    assert trained < 200 * 36 * (0.9 if spread else 1.01)

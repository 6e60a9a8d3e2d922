"""Statistics of verdicts: by hand, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.verdicts.arms import Arm
from orchestrator.verdicts.statistics import (
    Unit,
    hedges_g,
    holm,
    magnitude,
    p_value,
    size_needed,
    superiority,
    superiority_interval,
)
from orchestrator.verdicts.verdict import compare_arms

BOTH = pytest.mark.parametrize("unit", list(Unit))


def arm(name: str, values: list[float]) -> Arm:
    """Return an arm with the same values for its configurations and for its seeds."""
    each = tuple(values)
    return Arm(name, len(each), len(each), 1, 1.0, 0, 0, 0, 10, 10, each, each)


def test_superiority_counts_pairs_and_half_of_the_ties() -> None:
    """Count six pairs: 3>1, 3>2, 2>1 win, 2=2 is a tie, 1=1 is a tie and 1<2 loses."""
    assert superiority([3.0, 2.0, 1.0], [1.0, 2.0]) == pytest.approx(4 / 6)
    assert superiority([-math.inf], [0.0]) == 0.0


def test_the_interval_solves_its_equation() -> None:
    """Check 3 values that all beat 3: (1 - p)^2 = z^2 p (1-p) (1 + 2 ((1-p)/(2-p) + p/(1+p))) / 9."""
    low, high = superiority_interval(1.0, (3, 3), 0.95)
    assert high == 1.0
    variance = low * (1 - low) * (1 + 2 * ((1 - low) / (2 - low) + low / (1 + low))) / 9
    assert (1 - low) ** 2 == pytest.approx(1.959964**2 * variance)
    assert 0.3 < low < 0.6
    mirrored = superiority_interval(0.0, (3, 3), 0.95)
    assert mirrored == pytest.approx((0.0, 1 - low))


def test_hedges_g() -> None:
    """Means 1 apart, deviation 1 in both, four degrees of freedom: 1 - 3 / 15 = 0.8."""
    assert hedges_g([2.0, 3.0, 4.0], [1.0, 2.0, 3.0]) == pytest.approx(0.8)
    assert hedges_g([1.0, 1.0], [2.0, 2.0]) is None
    assert hedges_g([1.0, -math.inf], [2.0, 2.0]) is None


@pytest.mark.parametrize(("delta", "word"), [(0.1, "negligible"), (-0.2, "small"), (0.4, "medium"), (-1.0, "large")])
def test_magnitudes(delta: float, word: str) -> None:
    assert magnitude(delta) == word


def test_holm_steps_down() -> None:
    """0.01 * 3 = 0.03, 0.02 * 2 = 0.04, and 0.03 * 1 is raised to 0.04."""
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_seeds_are_compared_by_welch_and_configurations_by_ranks() -> None:
    """Welch: t = 1 / sqrt(2/3) = 1.2247 with 4 degrees of freedom, p = 0.2879; ranks: 2 of 20 orders are as extreme."""
    assert p_value([2.0, 3.0, 4.0], [1.0, 2.0, 3.0], Unit.SEEDS) == pytest.approx(0.28786, abs=1e-4)
    assert p_value([4.0, 5.0, 6.0], [1.0, 2.0, 3.0], Unit.CONFIGURATIONS) == pytest.approx(0.1)
    assert p_value([5.0, 5.0, 5.0], [1.0, 2.0, 3.0], Unit.SEEDS) > 0.05  # one sample does not vary: ranks


def test_the_size_that_the_t_test_needs() -> None:
    """Reproduce the numbers of textbooks for a power of 80% at 5%: 17 of each for one deviation, 64 for half of one."""
    one = [1.0, 2.0, 3.0]
    assert size_needed([value + 1 for value in one], one, Unit.SEEDS, 0.05) == 17
    assert size_needed([value + 0.5 for value in one], one, Unit.SEEDS, 0.05) == 64
    assert size_needed(one, one, Unit.SEEDS, 0.05) is None
    assert size_needed([value + 1e-3 for value in one], one, Unit.SEEDS, 0.05) is None


def test_the_size_that_ranks_need() -> None:
    """Noether: (1.95996 + 0.84162)^2 / (3 * 0.25^2) = 41.9 values in total for a superiority of 0.75."""
    assert size_needed([2.0, 4.0], [1.0, 3.0], Unit.CONFIGURATIONS, 0.05) == 21
    assert size_needed([1.0, 2.0], [1.0, 2.0], Unit.CONFIGURATIONS, 0.05) is None


@BOTH
def test_equal_arms_are_seldom_told_apart(unit: Unit) -> None:
    """150 tournaments of three equal arms: a wrong decision in at most 5%, within the error of the simulation."""
    random = np.random.default_rng(3)
    wrong = 0
    for _ in range(150):
        arms = [arm(name, random.normal(0.9, 0.01, 5 if unit is Unit.SEEDS else 8).tolist()) for name in "abc"]
        wrong += any(each.better for each in compare_arms(arms, unit))
    assert wrong <= 150 * 0.05 + 2 * math.sqrt(150 * 0.05 * 0.95)


@BOTH
def test_clearly_different_arms_are_told_apart(unit: Unit) -> None:
    random = np.random.default_rng(4)
    found = 0
    for _ in range(50):
        better, worse = random.normal(0.93, 0.01, 8).tolist(), random.normal(0.90, 0.01, 8).tolist()
        comparison = compare_arms([arm("better", better), arm("worse", worse)], unit)[0]
        assert comparison.better in ("better", None)
        found += comparison.better == "better"
    assert found >= 45


@pytest.mark.parametrize(("shift", "sizes"), [(0.0, (4, 4)), (1.0, (4, 6)), (2.0, (8, 8))])
def test_the_interval_covers_the_true_superiority(shift: float, sizes: tuple[int, int]) -> None:
    """Draw 400 samples whose true superiority is Phi(shift / sqrt 2); at least 93% cover it."""
    random = np.random.default_rng(5)
    truth = 0.5 * (1 + math.erf(shift / 2))
    covered = 0
    for _ in range(400):
        one, other = random.normal(shift, 1, sizes[0]), random.normal(0, 1, sizes[1])
        low, high = superiority_interval(superiority(one.tolist(), other.tolist()), sizes, 0.95)
        covered += low <= truth <= high
    assert covered >= 0.93 * 400


def test_means_and_ranks_that_disagree_decide_nothing() -> None:
    """One far value makes the mean of the first larger, while most of its values are smaller."""
    comparison = compare_arms([arm("a", [1.0, 1.1, 1.2, 90.0]), arm("b", [2.0, 2.1, 2.2, 2.3])], Unit.SEEDS)[0]
    assert comparison.difference is not None
    assert comparison.difference > 0
    assert comparison.superiority < 0.5
    assert comparison.better is None

"""Order of trials with one and with several objectives, against a naive reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.search.allocation.ranking import best_first, dominates, fronts


def naive_fronts(scores: list[tuple[float, ...]]) -> list[list[int]]:
    """Remove the tuples that no other dominates, again and again."""
    left, found = list(range(len(scores))), []
    while left:
        front = [one for one in left if not any(dominates(scores[other], scores[one]) for other in left)]
        found.append(front)
        left = [one for one in left if one not in front]
    return found


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_fronts_are_those_of_the_naive_reference(objectives: int) -> None:
    chance = np.random.RandomState(objectives)
    for _ in range(20):
        drawn = chance.randint(0, 6, size=(chance.randint(1, 40), objectives))  # with ties and equal tuples
        scores = [tuple(-math.inf if value == 0 else float(value) for value in row) for row in drawn]
        assert fronts(scores) == naive_fronts(scores)


def test_one_objective_is_ordered_by_value_then_by_position() -> None:
    assert best_first([(1.0,), (3.0,), (-math.inf,), (3.0,)]) == [1, 3, 0, 2]
    assert best_first([]) == []


def test_fronts_come_in_order_and_lonely_trials_first_within_one() -> None:
    # First front: (0, 4), (1, 3), (1.5, 2.5), (4, 0). Distances of the inner ones, each objective over a range of 4:
    # (1, 3): 1.5 / 4 + 1.5 / 4 = 0.75; (1.5, 2.5): 3 / 4 + 3 / 4 = 1.5.
    scores = [(1.0, 3.0), (0.0, 4.0), (1.5, 2.5), (4.0, 0.0), (0.5, 0.5), (0.0, -math.inf)]

    assert fronts(scores) == [[0, 1, 2, 3], [4], [5]]
    assert best_first(scores) == [3, 1, 2, 0, 4, 5]

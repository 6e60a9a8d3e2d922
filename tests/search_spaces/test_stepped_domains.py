"""Domains with a step: every value is exact in decimal arithmetic, and the last one can be drawn."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from orchestrator.search.schedulers.population import draw, perturb
from search_spaces import ChoiceDomain, FloatDomain, SearchSpace
from search_spaces.grid import grid_points, grid_size
from search_spaces.space import condition_problems


@pytest.mark.parametrize(
    ("low", "high", "step", "values"),
    [
        (0.0, 0.9, 0.3, [0.0, 0.3, 0.6, 0.9]),
        (0.0, 0.3, 0.1, [0.0, 0.1, 0.2, 0.3]),
        (0.1, 0.7, 0.2, [0.1, 0.3, 0.5, 0.7]),
        (0.0, 1.0, 0.3, [0.0, 0.3, 0.6, 0.9]),
        (-0.3, 0.3, 0.1, [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3]),
        (1e-4, 5e-4, 1e-4, [1e-4, 2e-4, 3e-4, 4e-4, 5e-4]),
        (0.5, 0.5, 0.1, [0.5]),
    ],
)
def test_every_value_of_a_grid_is_exact(low: float, high: float, step: float, values: list[float]) -> None:
    domain = FloatDomain(low=low, high=high, step=step)
    space = SearchSpace({"x": domain})
    assert [point["x"] for point in grid_points(space)] == values
    assert grid_size(space) == len(values)
    assert domain.corners() == (values[0], values[-1])
    assert all(domain.contains(value) for value in values)
    assert not domain.contains(values[-1] + step)
    assert not domain.contains(low + step / 2)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert {space.sample(study.ask())["x"] for _ in range(100)} == set(values)
    chance = np.random.RandomState(0)
    assert {draw(domain, chance) for _ in range(200)} == set(values)
    assert all(perturb(domain, value, chance) in values for value in values)


def test_enqueued_values_are_drawn_as_written_and_old_ones_are_in_the_domain() -> None:
    space = SearchSpace({"x": FloatDomain(low=0.0, high=0.9, step=0.3)})
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    for value in (0.9, 0.3 * 3, 0.6):
        study.enqueue_trial({"x": value})
    assert [space.sample(study.ask())["x"] for _ in range(3)] == [0.9, 0.9, 0.6]
    assert space["x"].contains(0.3 * 3)  # 0.8999999999999999, as earlier versions recorded it


def test_a_fine_grid_is_counted_without_being_listed() -> None:
    fine = FloatDomain(low=1e-9, high=0.9, step=1e-12)
    assert fine.steps > 8e11
    assert (grid_size(SearchSpace({"x": fine, "y": fine})) or 0) > 100_000


def test_branches_are_found_without_recursion_and_in_order() -> None:
    chain = {"c0": ChoiceDomain(choices=(0, 1))} | {
        f"c{n}": ChoiceDomain(choices=(0, 1), when={f"c{n - 1}": 1}) for n in range(1, 300)
    }
    assert condition_problems(chain) == []
    branches = list(SearchSpace(chain).branches())
    assert len(branches) == 300  # the last name decides nothing
    assert branches[0] == {"c0": 0}
    pairs = SearchSpace(
        {
            "a": ChoiceDomain(choices=(1, 2)),
            "b": ChoiceDomain(choices=("x", "y"), when={"a": 2}),
            "lr": FloatDomain(low=0.1, high=1.0, when={"b": "y"}),
        }
    )
    assert list(pairs.branches()) == [{"a": 1}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]

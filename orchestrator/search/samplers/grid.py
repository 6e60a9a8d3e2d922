"""Grid search: every configuration of a finite space, once, in an order that a seed decides.

Optuna's own grid is the product of all names, including those whose condition does not hold, and stops the study
itself. Here each configuration that can be drawn is a point, and `is_exhausted` reports when all were proposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from search_spaces import SearchSpace
from search_spaces.grid import grid_points

_POINT = "grid_point"


class GridSampler(optuna.samplers.BaseSampler):
    """Sampler that proposes the points of a grid one after another.

    Args:
        space: Finite space.
        seed: Seed of the order.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        points = list(grid_points(space))
        self._points = [points[index] for index in np.random.RandomState(seed).permutation(len(points))]
        self._index = {point_key(point): index for index, point in enumerate(self._points)}

    def is_exhausted(self, study: optuna.Study, fixed: Mapping[str, Any] = MappingProxyType({})) -> bool:
        """Return whether every point with the fixed values was proposed."""
        return self._next_point(study, fixed) is None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Choose the point of a trial that has none; it agrees with the values that were enqueued with the trial."""
        if _POINT in trial.system_attrs:
            return
        fixed = trial.system_attrs.get("fixed_params", {})
        index = self._next_point(study, fixed, except_trial=trial.number)
        study._storage.set_trial_system_attr(trial._trial_id, _POINT, 0 if index is None else index)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: each value is looked up."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing: each value is looked up."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value of the trial's point; where values given by hand are off the grid, the first value there."""
        attributes = study._storage.get_trial_system_attrs(trial._trial_id)
        point = self._points[attributes[_POINT]]
        return point.get(param_name, next(value[param_name] for value in self._points if param_name in value))

    def _next_point(self, study: optuna.Study, fixed: Mapping[str, Any], except_trial: int = -1) -> int | None:
        taken = set()
        for trial in study.get_trials(deepcopy=False):
            if trial.number == except_trial:
                continue
            known = self._index.get(point_key(trial.params or trial.system_attrs.get("fixed_params", {})))
            taken.add(trial.system_attrs.get(_POINT) if known is None and _by_grid(trial) else known)
        free = [index for index in range(len(self._points)) if index not in taken]
        agreeing = (index for index in free if fixed.items() <= self._points[index].items())
        return next(agreeing, None) if fixed else next(iter(free), None)


def _by_grid(trial: FrozenTrial) -> bool:
    """Return whether a trial stands for the point it was given; one with values of its own does so only while new."""
    return trial.state is TrialState.RUNNING and not trial.params


def point_key(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a key that is equal for equal configurations, regardless of their order and of rounding.

    Args:
        values: Values by searched name, without constants.
    """
    rounded = {name: round(value, 12) if isinstance(value, float) else value for name, value in values.items()}
    return tuple(sorted((name, type(value).__name__, value) for name, value in rounded.items()))

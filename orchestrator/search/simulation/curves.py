"""Tables of learning curves on which sweeps are simulated."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna

from orchestrator.search.allocation.encoding import SpaceEncoding
from search_spaces import SearchSpace


@dataclass(frozen=True)
class Curve:
    """Learning curve of one configuration.

    Args:
        scores: Objectives of each epoch, one tuple an epoch; larger is better.
        seconds: Duration of each epoch in seconds.
        is_cut: True where the recording ended before the training would have.
        is_complete: True where the training has fewer epochs than a complete trial of the table, and ended with them;
            without either, a curve that is shorter than these ended because the training diverged.
    """

    scores: Sequence[tuple[float, ...]]
    seconds: Sequence[float]
    is_cut: bool = False
    is_complete: bool = False

    def __post_init__(self) -> None:
        if not self.scores or len(self.scores) != len(self.seconds):
            raise ValueError(
                f"a curve has {len(self.scores)} epochs and {len(self.seconds)} durations. Give one duration an epoch, "
                "and at least one epoch"
            )

    @classmethod
    def of(cls, values: Sequence[float], seconds: float = 1.0, *, is_cut: bool = False) -> Curve:
        """Create the curve of one objective whose epochs all last equally long.

        Args:
            values: Objective of each epoch; larger is better.
            seconds: Duration of an epoch in seconds.
            is_cut: True where the recording ended before the training would have.
        """
        return cls([(float(value),) for value in values], [seconds] * len(values), is_cut)


class CurveTable(ABC):
    """Table of learning curves over a search space.

    Args:
        space: Space from which samplers draw.
        max_epochs: Epochs of a complete trial.
        objectives: Number of objectives.
    """

    def __init__(self, space: SearchSpace, max_epochs: int, objectives: int = 1) -> None:
        self.space = space
        self.max_epochs = max_epochs
        self.objectives = objectives

    def draw(self, trial: optuna.Trial) -> Mapping[str, Any]:
        """Draw a configuration from an Optuna trial."""
        return self.space.sample(trial)

    @abstractmethod
    def curve(self, params: Mapping[str, Any]) -> Curve:
        """Return the curve of a configuration that `draw` returned."""

    @property
    def size(self) -> float:
        """Number of configurations; infinite where a configuration may be drawn again."""
        return math.inf

    def begin(self) -> None:  # noqa: B027 - most tables have nothing to prepare
        """Prepare for a new simulation."""


class ListedCurves(CurveTable):
    """Finite list of configurations, each drawn at most once in a simulation.

    What a sampler proposes is replaced by the nearest configuration that is left, also in the study, so that the
    sampler learns about the one whose curve it gets.

    Args:
        space: Space that holds all configurations.
        configurations: Searched values of each configuration.
        curves: Curve of each configuration.
        max_epochs: Epochs of a complete trial; None takes the longest curve.

    Raises:
        ValueError: The lists differ in length or are empty, or a configuration is not in the space.
    """

    def __init__(
        self,
        space: SearchSpace,
        configurations: Sequence[Mapping[str, Any]],
        curves: Sequence[Curve],
        max_epochs: int | None = None,
    ) -> None:
        if not configurations or len(configurations) != len(curves):
            raise ValueError(f"got {len(configurations)} configurations and {len(curves)} curves. Give one curve each")
        for number, values in enumerate(configurations):
            if strays := space.strays(values):
                raise ValueError(f"configuration {number}: {'; '.join(strays)}. Widen the space, or leave it out")
        longest = max(len(curve.scores) for curve in curves)
        super().__init__(space, max_epochs or longest, len(curves[0].scores[0]))
        self._configurations = list(configurations)
        self._curves = list(curves)
        self._encoding = SpaceEncoding(space)
        self._points = np.array([self._encoding.encode(values) for values in configurations])
        self._squares: npt.NDArray[np.float64] = np.einsum("nd,nd->n", self._points, self._points)
        self._index = {_key(values): number for number, values in enumerate(configurations)}
        self._distributions = [_distributions(space, values) for values in configurations]
        self.begin()

    @property
    def size(self) -> float:
        """Number of configurations."""
        return len(self._curves)

    def begin(self) -> None:
        """Make all configurations available again."""
        self._taken = np.zeros(len(self._curves))

    def draw(self, trial: optuna.Trial) -> Mapping[str, Any]:
        """Draw the nearest configuration that is left, and note its values in the study."""
        point = np.array(self._encoding.encode(self.space.sample(trial)))
        nearest = int(np.argmin(self._squares - 2 * (self._points @ point) + self._taken))
        self._taken[nearest] = np.inf
        values = self._configurations[nearest]
        record_params(trial, values, self._distributions[nearest])
        return values

    def curve(self, params: Mapping[str, Any]) -> Curve:
        """Return the curve of a listed configuration."""
        return self._curves[self._index[_key(params)]]


def record_params(
    trial: optuna.Trial,
    values: Mapping[str, Any],
    distributions: Mapping[str, optuna.distributions.BaseDistribution],
) -> None:
    """Replace the values of a running trial in its study, which holds its trials in memory."""
    storage, identifier = trial.study._storage, trial._trial_id
    held = storage._get_trial(identifier)  # type: ignore[attr-defined]  # in memory; Optuna only adds values
    held.params, held.distributions = {}, {}
    for name, distribution in distributions.items():
        storage.set_trial_param(identifier, name, distribution.to_internal_repr(values[name]), distribution)


def _distributions(space: SearchSpace, values: Mapping[str, Any]) -> dict[str, optuna.distributions.BaseDistribution]:
    fixed = optuna.trial.FixedTrial(dict(values))
    space.sample(fixed)
    return fixed.distributions


def _key(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted((name, str(value)) for name, value in values.items()))

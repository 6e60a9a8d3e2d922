"""SMAC3's multi-fidelity facade: random forests and Hyperband, by ask and tell.

A configuration that is given more epochs resumes where it was, so that SMAC pays for new epochs only.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ConfigSpace import Categorical, Configuration, ConfigurationSpace, Float, Integer
from lane_simulation import Job, Strategy
from smac import HyperparameterOptimizationFacade, MultiFidelityFacade, Scenario
from smac.main.config_selector import ConfigSelector
from smac.runhistory.dataclasses import TrialValue
from tasks import Choice, Index, Parameter, Row, Take, Task

_SELECTION = ("retrain_after", "max_new_config_tries", "min_trials")


class ListedSelector(ConfigSelector):
    """Selection of configurations that replaces each by the nearest one of the table that is left.

    Args:
        scenario: Scenario.
        take: Function that takes rows of the table.
        options: Settings of SMAC's own selection.
    """

    def __init__(self, scenario: Scenario, take: Take, **options: Any) -> None:
        super().__init__(scenario, **options)
        self.take = take
        self.rows: dict[Configuration, Row] = {}

    def __iter__(self) -> Iterator[Configuration]:
        for proposed in super().__iter__():
            row = self.take(dict(proposed))
            values = {name: self._within(name, value) for name, value in row.values.items()}
            config = Configuration(self._scenario.configspace, values=values, origin=proposed.origin)
            self.rows[config] = row
            self._processed_configs.append(config)
            yield config

    def _within(self, name: str, value: Any) -> Any:
        """Return a value within its bounds, which ConfigSpace has rounded."""
        kind = self._scenario.configspace[name]
        return min(max(value, kind.lower), kind.upper) if isinstance(value, float) else value


class Smac(Strategy):
    """SMAC3, multi-fidelity where a training has more than one epoch.

    Args:
        task: Task.
        seed: Seed.
        budget: Epochs of all trials together.
    """

    def __init__(self, task: Task, seed: int, budget: int) -> None:
        logging.getLogger("smac").setLevel(logging.ERROR)
        self.task = task
        space = ConfigurationSpace(seed=seed)
        space.add([_hyperparameter(name, kind) for name, kind in task.parameters.items()])
        self.partial = task.epochs > 1
        self.folder = tempfile.TemporaryDirectory()
        budgets = {"min_budget": 1, "max_budget": task.epochs} if self.partial else {}
        scenario = Scenario(
            space, output_directory=Path(self.folder.name), deterministic=True, n_trials=budget, seed=seed, **budgets
        )
        facade: Any = MultiFidelityFacade if self.partial else HyperparameterOptimizationFacade
        options: dict[str, Any] = {"logging_level": False, "overwrite": True}
        if self.partial:  # ten full trainings, as in the other methods, instead of a share of `n_trials`
            options["initial_design"] = facade.get_initial_design(scenario, n_configs=10)
        usual = facade.get_config_selector(scenario)
        self.selector = options["config_selector"] = ListedSelector(
            scenario, task.open_table(), **{name: usual.meta[name] for name in _SELECTION}
        )
        self.smac = facade(scenario, _unused if self.partial else _unused_whole, **options)
        self.infos: dict[int, Any] = {}
        self.numbers: dict[Any, int] = {}
        self.epochs: dict[int, int] = {}
        self.best: dict[int, float] = {}
        self.worst = 0.0

    def next_job(self) -> Job | None:
        """Return what SMAC asks for: a new configuration, or more epochs of an earlier one."""
        while True:
            try:
                info = self.smac.ask()
            except StopIteration:
                return None
            known = self.numbers.get(info.config)
            if known is None:
                number = self.numbers[info.config] = len(self.numbers)
                self.infos[number], self.epochs[number], self.best[number] = info, 0, -math.inf
                return Job(number, self.selector.rows[info.config])
            self.infos[known] = info
            if self.epochs[known] < self._wanted(known):
                return Job(known)
            self._tell(known)

    def _wanted(self, number: int) -> int:
        budget = self.infos[number].budget
        return max(1, round(budget)) if budget is not None else self.task.epochs

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Note an epoch, and return whether SMAC asked for more of this trial."""
        self.epochs[number] = epoch
        if math.isfinite(score):
            self.best[number] = max(self.best[number], score)
            self.worst = max(self.worst, -score)
            return epoch < self._wanted(number)
        self.epochs[number] = self.task.epochs
        return False

    def leave(self, number: int, *, ended: bool) -> None:  # noqa: ARG002 - SMAC needs the loss only
        """Tell SMAC the loss of a trial."""
        self._tell(number)

    def _tell(self, number: int) -> None:
        loss = -self.best[number] if math.isfinite(self.best[number]) else self.worst
        self.smac.tell(self.infos[number], TrialValue(cost=loss, time=1.0), save=False)


def _unused(config: Any, seed: int = 0, budget: float = 0) -> float:  # noqa: ARG001 - SMAC looks for these names
    raise RuntimeError("configurations are trained by the simulation of lanes")


def _unused_whole(config: Any, seed: int = 0) -> float:
    return _unused(config, seed)


def _hyperparameter(name: str, parameter: Parameter) -> Any:
    if isinstance(parameter, Choice):
        return Categorical(name, list(parameter.choices))
    if isinstance(parameter, Index):
        return Integer(name, (0, parameter.size - 1))
    return Float(name, (parameter.low, parameter.high))

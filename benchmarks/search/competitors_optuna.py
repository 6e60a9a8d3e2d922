"""Optuna's own search with its Hyperband pruner, as its users run it."""

from __future__ import annotations

import math

import optuna
from lane_simulation import Job, Strategy
from optuna.trial import TrialState
from tasks import Choice, Index, Parameter, Task

from orchestrator.search.simulation.curves import record_params


class OptunaHyperband(Strategy):
    """Optuna's TPE with default settings and `HyperbandPruner`.

    Args:
        task: Task.
        seed: Seed.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.task, self.take = task, task.open_table()
        pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=task.epochs, reduction_factor=3)
        self.study = optuna.create_study(
            study_name=f"hyperband {seed}",  # the pruner derives the bracket of a trial from it
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=pruner if task.epochs > 1 else optuna.pruners.NopPruner(),
            direction="maximize",
        )
        self.open: dict[int, optuna.Trial] = {}
        self.best: dict[int, float] = {}

    def next_job(self) -> Job | None:
        """Propose a configuration."""
        trial = self.study.ask()
        row = self.take({name: _suggest(trial, name, kind) for name, kind in self.task.parameters.items()})
        record_params(trial, row.values, trial.distributions)
        self.open[trial.number], self.best[trial.number] = trial, -math.inf
        return Job(trial.number, row)

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Report an epoch, and return whether the pruner lets the trial continue."""
        if not math.isfinite(score):
            return False
        self.open[number].report(score, epoch)
        self.best[number] = max(self.best[number], score)
        return not self.open[number].should_prune()

    def leave(self, number: int, *, ended: bool) -> None:
        """End a trial: complete, pruned, or failed where it diverged."""
        trial = self.open.pop(number)
        if ended and math.isfinite(self.best[number]):
            self.study.tell(trial, self.best[number])
        else:
            pruned = math.isfinite(self.best[number])
            self.study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)


def _suggest(trial: optuna.Trial, name: str, parameter: Parameter) -> float | str:
    if isinstance(parameter, Choice):
        return str(trial.suggest_categorical(name, parameter.choices))
    if isinstance(parameter, Index):
        return trial.suggest_int(name, 0, parameter.size - 1)
    return trial.suggest_float(name, parameter.low, parameter.high)

"""Study of a sweep in memory, rebuilt from its journal for Optuna's own plots.

The database of the study is not used: it may be a server whose password only the driver had, or be gone.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import optuna
from pydantic import TypeAdapter

from orchestrator.records.ledger import TrialRecord
from orchestrator.records.objectives import Objectives
from orchestrator.report.figures import thinned
from orchestrator.search.frozen_trials import frozen_trial
from search_spaces import Domain, SearchSpace

_FEWEST_FOR_IMPORTANCE = 2


@dataclass(frozen=True)
class StudyView:
    """Study in memory, for plots.

    Args:
        study: Study with the trials that have ended for good.
        strangers: Number of trials left out, whose values lie outside the space of the newest session.
    """

    study: optuna.Study
    strangers: int

    @cached_property
    def complete(self) -> list[optuna.trial.FrozenTrial]:
        """Trials trained to the end."""
        return self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])

    @property
    def varied(self) -> list[str]:
        """Names with at least two values among the complete trials, the most important first."""
        values: dict[str, set[Any]] = {}
        for trial in self.complete:
            for name, value in trial.params.items():
                values.setdefault(name, set()).add(value)
        names = [name for name, found in values.items() if len(found) > 1]
        share = self.importance
        return sorted(names, key=lambda name: -share.get(name, 0.0))

    @cached_property
    def importance(self) -> dict[str, float]:
        """Importance of each name, as in `SweepResult.importance`; empty before two trials have finished."""
        complete = self.complete
        if len(complete) < _FEWEST_FOR_IMPORTANCE or not any(trial.distributions for trial in complete):
            return {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Some regimes for parameter", UserWarning)  # the page says as much
            return optuna.importance.get_param_importances(self.study)

    def thinned(self, most: int, names: Sequence[str] = ()) -> StudyView:
        """Return a view of fewer complete trials: the best, and others evenly spread.

        Args:
            most: Most trials to keep.
            names: Names that a trial must have.
        """
        complete = [trial for trial in self.complete if all(name in trial.params for name in names)]
        if len(complete) <= most and len(complete) == len(self.complete):
            return self
        sign = -1.0 if self.study.directions[0] is optuna.study.StudyDirection.MAXIMIZE else 1.0
        ranked = sorted(complete, key=lambda trial: sign * trial.values[0])
        kept = [*ranked[: most // 2], *thinned(ranked[most // 2 :], most - most // 2)]
        smaller = _empty_study([*self.study.directions], self.study.metric_names or [])
        smaller.add_trials(sorted(kept, key=lambda trial: trial.number))
        return StudyView(smaller, self.strangers)


def study_view(records: Sequence[TrialRecord], searched: Mapping[str, Any], objectives: Objectives) -> StudyView:
    """Build the study of a sweep.

    Args:
        records: Every trial of the sweep.
        searched: Domains of the searched names, as recorded.
        objectives: Objectives and constraints of the sweep.
    """
    domains: TypeAdapter[dict[str, Domain]] = TypeAdapter(dict[str, Domain])
    space = SearchSpace(domains.validate_python(dict(searched)))
    over = [record for record in records if record.is_over and not record.is_repeat]
    known = [record for record in over if not space.strays(record.params)]
    directions = [
        optuna.study.StudyDirection.MAXIMIZE if objective.mode == "max" else optuna.study.StudyDirection.MINIMIZE
        for objective in objectives.configs
    ]
    study = _empty_study(directions, objectives.metrics)
    study.add_trials([frozen_trial(record, space, objectives) for record in known])
    return StudyView(study, len(over) - len(known))


def _empty_study(directions: Sequence[optuna.study.StudyDirection], metrics: Sequence[str]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings(
        "ignore", re.escape("optuna.study.study.Study.set_metric_names"), optuna.exceptions.ExperimentalWarning
    )
    study = optuna.create_study(directions=list(directions))
    if metrics:
        study.set_metric_names(list(metrics))
    return study

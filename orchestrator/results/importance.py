"""Importance of searched names."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState

from orchestrator.search.samplers.learnable import REPEATS
from orchestrator.search.storage import open_storage

_FEWEST = 2


def importance_of(name: str, storage_uri: str) -> dict[str, float]:
    """Return the importance of each searched name in a study, largest first, as shares of 1.

    Optuna's PED-ANOVA compares the distribution of a name's values among the best tenth of the finished trials with
    that among all. Names drawn under a condition take part; with several objectives the front stands for the best.

    Args:
        name: Name of the study.
        storage_uri: Address of its database.

    Returns:
        Shares by name; empty before two trials have finished.

    Raises:
        StorageError: The database does not answer.
    """
    study = optuna.load_study(study_name=name, storage=open_storage(storage_uri))
    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if any(REPEATS in trial.user_attrs for trial in finished):  # a configuration counts once, not once for each seed
        finished = [trial for trial in finished if REPEATS not in trial.user_attrs]
        names, directions = study.metric_names, study.directions
        study = optuna.create_study(directions=directions)
        study.set_metric_names(names or [])
        study.add_trials(finished)
    if len(finished) < _FEWEST or not any(trial.distributions for trial in finished):
        return {}
    return optuna.importance.get_param_importances(study)

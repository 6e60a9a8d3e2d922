"""Which searched names decide."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState

from orchestrator.search.storage import open_storage

_FEWEST = 2


def importance_of(name: str, storage_uri: str) -> dict[str, float]:
    """Importance of each searched name in a study, most first, as shares of 1.

    Optuna's PED-ANOVA: how differently a name's values are spread among the best tenth of the finished trials and
    among all. Names drawn under a condition take part; with several objectives the front stands for the best.

    Args:
        name: Of the study.
        storage_uri: Of its database.

    Returns:
        Empty before two trials have finished.

    Raises:
        StorageError: The database does not answer.
    """
    study = optuna.load_study(study_name=name, storage=open_storage(storage_uri))
    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if len(finished) < _FEWEST or not any(trial.distributions for trial in finished):
        return {}
    return optuna.importance.get_param_importances(study)

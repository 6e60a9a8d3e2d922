"""Cache of a study in front of its database, which reads paused trials once."""

from __future__ import annotations

from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo


class StudyCache(_CachedStorage):
    """Optuna's cache, except that it does not read paused trials again at every proposal.

    Optuna's own reads every trial that has not ended, and every trial since the last that has. With thousands of paused
    trials a proposal would take longer and longer. Only the driver of the sweep writes to its study.

    Args:
        database: Database of the studies.
    """

    def __init__(self, database: RDBStorage) -> None:
        super().__init__(database)
        self._resting: set[int] = set()
        self._newest: dict[int, int] = {}  # largest id read, by study

    def rest(self, trial_id: int) -> None:
        """Read a trial a last time, and no more until `wake`."""
        study_id, _ = self.get_study_and_number(trial_id)
        trial = self._backend.get_trial(trial_id)
        with self._lock:
            self._add_trials_to_cache(study_id, [trial])
            self._resting.add(trial_id)

    def wake(self, trial_id: int) -> None:
        """Read a trial again from now on."""
        with self._lock:
            self._resting.discard(trial_id)

    def get_study_and_number(self, trial_id: int) -> tuple[int, int]:
        """Return the id of a trial's study and its number there; the trial must have been read or created here."""
        with self._lock:
            return self._trial_id_to_study_id_and_number[trial_id]

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        with self._lock:
            study = self._studies.setdefault(study_id, _StudyInfo())
            trials = self._backend._get_trials(
                study_id,
                states=None,
                included_trial_ids=study.unfinished_trial_ids - self._resting,
                trial_id_greater_than=self._newest.get(study_id, -1),
            )
            self._add_trials_to_cache(study_id, trials)
            for trial in trials:
                self._newest[study_id] = max(self._newest.get(study_id, -1), trial._trial_id)
                if trial.state.is_finished():
                    study.unfinished_trial_ids.discard(trial._trial_id)
                else:
                    study.unfinished_trial_ids.add(trial._trial_id)

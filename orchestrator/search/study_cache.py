"""Cache of a study in front of its database, which reads paused trials once and writes in few transactions."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.trial import FrozenTrial, TrialState


class Write(NamedTuple):
    """Call that changes a trial.

    Args:
        name: Name of the method of `RDBStorage`.
        trial_id: Its first argument, the id of the trial.
        arguments: The others.
    """

    name: str
    trial_id: int
    arguments: tuple[Any, ...]


class TransactionalStorage(RDBStorage):
    """Optuna's database that carries out several calls in one transaction."""

    @abstractmethod
    def write_together(self, writes: Sequence[Write]) -> None:
        """Carry out calls in one transaction: all of them, or none where the process is killed meanwhile.

        Calls that the database refuses together are carried out one by one, so that each has the effect, or raises the
        error, that it has alone.

        Args:
            writes: Calls, in their order; none is `_create_new_trial`.
        """


class StudyCache(_CachedStorage):
    """Optuna's cache, except that it does not read paused trials again at every proposal, and that it collects writes.

    Optuna's own reads every trial that has not ended, and every trial since the last that has. With thousands of paused
    trials a proposal would take longer and longer. Only the driver of the sweep writes to its study.

    A transaction on disk takes several flushes of the disk, and a proposal would take one for every searched value.
    What is set in a block of `together` is written in one transaction at the end of the block, and what is set in a
    block of `later` with what is written next. Every method returns what it would without the blocks.

    Args:
        database: Database of the studies.
    """

    def __init__(self, database: TransactionalStorage) -> None:
        super().__init__(database)
        self._database = database
        self._resting: set[int] = set()
        self._newest: dict[int, int] = {}  # largest id read, by study
        self._blocks: dict[int, list[Write]] = {}  # writes of open blocks, by thread
        self._late: list[Write] = []
        self._created: int | None = None  # id of the newest trial, until anything is written to a trial
        self._writing = threading.RLock()  # held while collected writes are taken and written

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Collect what this thread sets on trials, and write it in one transaction; also after an error."""
        with self._collected() as writes:
            try:
                yield
            finally:
                self._write_all(writes)

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """Collect what this thread sets on trials, to be written before anything else is; also after an error."""
        with self._collected() as writes:
            try:
                yield
            finally:
                with self._writing:
                    self._late += writes

    @contextlib.contextmanager
    def _collected(self) -> Iterator[list[Write]]:
        thread = threading.get_ident()
        assert thread not in self._blocks, "blocks are not nested"
        writes = self._blocks[thread] = []
        try:
            yield writes
        finally:
            del self._blocks[thread]

    def write_late(self) -> None:
        """Write what the blocks of `later` and an open block of this thread have collected."""
        self._write_all(self._blocks.get(threading.get_ident(), []))

    def _write_all(self, writes: list[Write]) -> None:
        """Write what was set late and the given writes, and empty both lists."""
        with self._writing:
            every, self._late = [*self._late, *writes], []
            writes.clear()
            if every:
                self._created = None
                self._database.write_together(every)

    def _write(self, name: str, trial_id: int, *arguments: Any) -> None:
        writes = self._blocks.get(threading.get_ident())
        if writes is None:
            self._write_all([Write(name, trial_id, arguments)])
        else:
            writes.append(Write(name, trial_id, arguments))

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """See `optuna.storages.BaseStorage`."""
        with self._lock:
            study_id, _ = self._trial_id_to_study_id_and_number[trial_id]
            known = self._studies[study_id].param_distribution
        before = known.get(param_name)
        self._write("_set_trial_param", trial_id, param_name, param_value_internal, distribution, before)
        known.setdefault(param_name, distribution)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """See `optuna.storages.BaseStorage`."""
        self._write("set_trial_intermediate_value", trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See `optuna.storages.BaseStorage`."""
        self._write("set_trial_user_attr", trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See `optuna.storages.BaseStorage`."""
        self._write("set_trial_system_attr", trial_id, key, value)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See `optuna.storages.BaseStorage`; the end of a trial is collected as well."""
        if state.is_finished() and threading.get_ident() in self._blocks:
            self._write("set_trial_state_values", trial_id, state, values)
            return True
        self.write_late()
        self._created = None
        return self._database.set_trial_state_values(trial_id, state, values)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See `optuna.storages.BaseStorage`."""
        self.write_late()
        trial_id = int(super().create_new_trial(study_id, template_trial))
        if template_trial is None:
            self._created = trial_id
        return trial_id

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See `optuna.storages.BaseStorage`; with what is collected for the trial."""
        own = self._blocks.get(threading.get_ident(), [])
        with self._writing:
            writes = [write for write in [*self._late, *own] if write.trial_id == trial_id]
            return _with_writes(self._created_trial(trial_id) or super().get_trial(trial_id), writes)

    def _created_trial(self, trial_id: int) -> FrozenTrial | None:
        """Return the trial that was created last, where nothing was written to it since; it needs no reading."""
        if trial_id != self._created:
            return None
        study_id, number = self.get_study_and_number(trial_id)
        with self._lock:
            return copy.deepcopy(self._studies[study_id].trials[number])

    def rest(self, trial_id: int) -> None:
        """Read a trial a last time, and no more until `wake`."""
        self.write_late()
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
        self.write_late()
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


def together(study: optuna.Study) -> AbstractContextManager[None]:
    """Return a block at whose end all that it sets on trials is written in one transaction, where there is a database.

    Args:
        study: Study of the sweep.
    """
    return study._storage.together() if isinstance(study._storage, StudyCache) else contextlib.nullcontext()


def later(study: optuna.Study) -> AbstractContextManager[None]:
    """Return a block that sets values on trials which are written with what is written next, or by `write_late`.

    Args:
        study: Study of the sweep.
    """
    return study._storage.later() if isinstance(study._storage, StudyCache) else contextlib.nullcontext()


def write_late(study: optuna.Study) -> None:
    """Write what blocks of `later` have set.

    Args:
        study: Study of the sweep.
    """
    if isinstance(study._storage, StudyCache):
        study._storage.write_late()


def _with_writes(trial: FrozenTrial, writes: Iterable[Write]) -> FrozenTrial:
    """Change a trial that was read from the database by what is not yet written."""
    for write in writes:
        match write.name:
            case "_set_trial_param":
                name, value, distribution, _ = write.arguments
                trial.params[name] = distribution.to_external_repr(value)
                trial.distributions[name] = distribution
            case "set_trial_intermediate_value":
                step, value = write.arguments
                trial.intermediate_values[step] = value
            case "set_trial_user_attr":
                name, value = write.arguments
                trial.user_attrs[name] = json.loads(json.dumps(value))
            case "set_trial_system_attr":
                name, value = write.arguments
                trial.system_attrs[name] = json.loads(json.dumps(value))
            case "set_trial_state_values":
                trial.state, trial.values = write.arguments
                trial.datetime_complete = datetime.now()
    return trial

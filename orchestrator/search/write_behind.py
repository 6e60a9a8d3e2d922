"""Study in memory, which is written to its database behind the search.

A transaction takes several flushes of the disk, or a network round trip for every statement, and lies between the end
of a trial and the start of the next. Here a call is answered from memory and written a moment later, while trials
train. The journal has every result before, so a killed driver loses nothing: the replay writes again what the database
lacks (`study_replay`).
"""

from __future__ import annotations

import contextlib
import copy
import json
import threading
import uuid
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

# Seconds from a change to its transaction: the proposal that follows the end of a trial does not wait for it.
_DELAY_S = 0.1
# Attributes in which samplers keep values of a trial that become its parameters, which the journal has.
_RELATIVE_PARAMS = ("tpe:relative_params", "gp:relative_params")

CREATE = "create_new_trial"


class Write(NamedTuple):
    """Call that changes a study.

    Args:
        name: Name of the method of `RDBStorage`, or `CREATE`.
        subject: Id in memory of the trial; -1 where the call changes the study itself.
        arguments: Arguments after the id.
    """

    name: str
    subject: int
    arguments: tuple[Any, ...]


@dataclass
class Transaction:
    """Calls that the database carries out once, all or none.

    Args:
        writes: Calls, in their order.
        mark: Name of the transaction, by which a repeated one finds that it was carried out.
        attempts: Number of attempts to carry it out.
    """

    writes: Sequence[Write]
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    attempts: int = 0


class StudyDatabase(RDBStorage):
    """Optuna's database that carries out transactions of several calls."""

    @abstractmethod
    def carry_out(
        self, transaction: Transaction, study_row: int, trial_rows: Mapping[int, int], numbers: Mapping[int, int]
    ) -> dict[int, int]:
        """Carry out a transaction once, however often it is called.

        Args:
            transaction: Calls that change one study.
            study_row: Id of the study in the database.
            trial_rows: Ids of its trials in the database, by their ids in memory.
            numbers: Numbers that created trials are to get, likewise.

        Returns:
            Ids in the database of the trials that it creates, by their ids in memory.

        Raises:
            StorageError: The database does not answer or refuses a call, or another program writes to the study.
        """


class WriteBehindStorage(InMemoryStorage):
    """Storage of one study: in memory for its driver, and in its database a moment later.

    Only the driver of the sweep writes to its study. Changes are written in their order, by a thread or by `flush`. A
    failed transaction is kept; the next change tries it again, and raises the error where it fails again.

    Args:
        database: Database of the study.
    """

    def __init__(self, database: StudyDatabase) -> None:
        super().__init__()
        self._database = database
        self._study_row: int | None = None  # id of the study in the database
        self._trial_rows: dict[int, int] = {}  # ids of its trials in the database, by those in memory
        self._queue: list[Write] = []
        self._kept: Transaction | None = None  # failed
        self._failure: Exception | None = None  # of the last attempt to write
        self._timer: threading.Timer | None = None
        self._writing = threading.Lock()  # held while the database is written

    @property
    def database(self) -> StudyDatabase:
        """Database of the study."""
        return self._database

    @property
    def study_row(self) -> int:
        """Id of the study in the database."""
        assert self._study_row is not None, "the study was created or loaded"
        return self._study_row

    # Reading and writing the database

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """See `optuna.storages.BaseStorage`; in the database before it returns."""
        assert self._study_row is None, "holds one study"
        self._study_row = int(self._database.create_new_study(directions, study_name))
        return int(super().create_new_study(directions, self._database.get_study_name_from_id(self._study_row)))

    def get_study_id_from_name(self, study_name: str) -> int:
        """See `optuna.storages.BaseStorage`; reads the study from the database the first time."""
        if self._study_row is None:
            self._load(study_name)
        return int(super().get_study_id_from_name(study_name))

    def _load(self, study_name: str) -> None:
        row = self._database.get_study_id_from_name(study_name)
        study_id = super().create_new_study(self._database.get_study_directions(row), study_name)
        for key, value in self._database.get_study_user_attrs(row).items():
            super().set_study_user_attr(study_id, key, value)
        for key, value in self._database.get_study_system_attrs(row).items():
            super().set_study_system_attr(study_id, key, value)
        self._study_row = row
        for trial in self._read_trials():
            trial_row = trial._trial_id
            self._trial_rows[super().create_new_trial(study_id, trial)] = trial_row
        self._note_distributions(study_id)

    def _read_trials(self) -> list[FrozenTrial]:
        trials = self._database.get_all_trials(self.study_row, deepcopy=False)
        return sorted(trials, key=lambda trial: trial.number)

    def _note_distributions(self, study_id: int) -> None:
        """Let a new value be compared with the distributions of earlier sessions, as the database does."""
        known = self._studies[study_id].param_distribution
        for trial in self._studies[study_id].trials:
            known.update(trial.distributions)

    def read_again(self, study_id: int) -> None:
        """Read the trials of the study from the database again, where they were changed."""
        self.flush()
        with self._lock:
            trials = self._studies[study_id].trials
            for trial in self._read_trials():
                trial._trial_id = trials[trial.number]._trial_id
                trials[trial.number] = trial
            self._studies[study_id].param_distribution.clear()
            self._note_distributions(study_id)

    def flush(self) -> None:
        """Write to the database what was changed; blocks until it is there.

        Raises:
            StorageError: The database does not answer, or refuses a change; all changes are kept.
        """
        with self._writing:
            try:
                while (transaction := self._next_transaction()) is not None:
                    self._carry_out(transaction)
                    self._kept = None
            except Exception as error:
                self._failure = error
                raise
            self._failure = None

    def _carry_out(self, transaction: Transaction) -> None:
        created = [write.subject for write in transaction.writes if write.name == CREATE]
        numbers = {trial_id: self._trial_id_to_study_id_and_number[trial_id][1] for trial_id in created}
        self._trial_rows |= self._database.carry_out(transaction, self.study_row, self._trial_rows, numbers)

    def _next_transaction(self) -> Transaction | None:
        """Return the transaction to carry out: a failed one first; None where all is written."""
        with self._lock:
            if self._kept is None and self._queue:
                self._kept = Transaction(self._queue)
                self._queue = []
            if self._kept is None and self._timer is not None and self._timer is not threading.current_thread():
                self._timer.cancel()
                self._timer = None
            return self._kept

    def flush_notes(self, trial_id: int) -> None:
        """Write to the database what a sampler has noted with a proposal, as CMA-ES does, and the journal lacks.

        Args:
            trial_id: Id of the proposed trial.
        """
        with self._lock:
            is_noted = any(
                write.name == "set_study_system_attr"
                or (
                    write.name == "set_trial_system_attr"
                    and write.subject == trial_id
                    and not write.arguments[0].startswith(_RELATIVE_PARAMS)
                )
                for write in self._queue
            )
        if is_noted:
            self.flush()

    def _flush_later(self) -> None:
        """Write what was changed, in the thread of the timer; there is one, however long the database is away."""
        with contextlib.suppress(Exception):  # `flush` keeps it; the next change tries again, and raises what it meets
            self.flush()
        with self._lock:
            self._timer = None
            if self._queue and self._failure is None:
                self._schedule()

    def _schedule(self) -> None:
        """Start the thread that writes, unless it waits already."""
        if self._timer is None:
            self._timer = threading.Timer(_DELAY_S, self._flush_later)
            self._timer.name = "study-writer"
            self._timer.daemon = True
            self._timer.start()

    # Changes

    @contextlib.contextmanager
    def _change(self) -> Iterator[list[Write]]:
        """Hold the lock for a change; what is added to the list is written later.

        Raises:
            StorageError: Earlier changes could not be written.
        """
        if self._failure is not None:
            self.flush()
        with self._lock:
            yield self._queue
            self._schedule()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See `optuna.storages.BaseStorage`."""
        with self._change() as queue:
            super().set_study_user_attr(study_id, key, _as_stored(value))
            queue.append(Write("set_study_user_attr", -1, (key, value)))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See `optuna.storages.BaseStorage`."""
        with self._change() as queue:
            super().set_study_system_attr(study_id, key, _as_stored(value))
            queue.append(Write("set_study_system_attr", -1, (key, value)))

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See `optuna.storages.BaseStorage`."""
        with self._change() as queue:
            trial_id = int(super().create_new_trial(study_id, template_trial))
            # A copy: Optuna's `Trial` changes the one it is given.
            queue.append(Write(CREATE, trial_id, (copy.deepcopy(self.get_trial(trial_id)),)))
            if template_trial is not None:
                self._studies[study_id].param_distribution.update(template_trial.distributions)
            return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """See `optuna.storages.BaseStorage`."""
        with self._change() as queue:
            study_id, _ = self._trial_id_to_study_id_and_number[trial_id]
            before = self._studies[study_id].param_distribution.get(param_name)
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
            queue.append(Write("_set_trial_param", trial_id, (param_name, param_value_internal, distribution, before)))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See `optuna.storages.BaseStorage`."""
        with self._change() as queue:
            is_changed = bool(super().set_trial_state_values(trial_id, state, values))
            if is_changed:
                queue.append(Write("set_trial_state_values", trial_id, (state, values)))
            if state is TrialState.WAITING:  # Optuna looks for waiting trials from the first that it has found before
                study_id, number = self._trial_id_to_study_id_and_number[trial_id]
                first = self._prev_waiting_trial_number
                first[study_id] = min(first[study_id], number)
            return is_changed

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """See `optuna.storages.BaseStorage`."""
        with self._change() as queue:
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)
            queue.append(Write("set_trial_intermediate_value", trial_id, (step, intermediate_value)))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See `optuna.storages.BaseStorage`."""
        with self._change() as queue:
            super().set_trial_user_attr(trial_id, key, _as_stored(value))
            queue.append(Write("set_trial_user_attr", trial_id, (key, value)))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See `optuna.storages.BaseStorage`."""
        with self._change() as queue:
            super().set_trial_system_attr(trial_id, key, _as_stored(value))
            queue.append(Write("set_trial_system_attr", trial_id, (key, value)))


def flush_study(study: optuna.Study) -> None:
    """Write to the database what was changed in a study, where it has one; blocks until it is there.

    Args:
        study: Study of the sweep.

    Raises:
        StorageError: The database does not answer, or refuses a change.
    """
    if isinstance(study._storage, WriteBehindStorage):
        study._storage.flush()


def flush_notes(study: optuna.Study, trial: optuna.Trial) -> None:
    """Write to the database what the sampler has noted with a proposal, where the study has a database.

    Args:
        study: Study of the sweep.
        trial: Proposed trial.

    Raises:
        StorageError: The database does not answer, or refuses a change.
    """
    if isinstance(study._storage, WriteBehindStorage):
        study._storage.flush_notes(trial._trial_id)


def _as_stored(value: Any) -> Any:
    """Return an attribute as it is read from the database."""
    return json.loads(json.dumps(value))

"""Database of the studies: an SQLite file in the folder of results, or a server whose short absences are waited out."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
import tenacity
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import orm
from sqlalchemy.engine import make_url

from orchestrator.errors import StorageError, first_line
from orchestrator.files.database_file import require_intact_database
from orchestrator.search.study_cache import TransactionalStorage, Write
from orchestrator.uris import without_password

logger = logging.getLogger(__name__)

# Optuna imports these when it opens a study, and MLflow at the same time in the writer's thread: two threads that
# import one circular package may each see it incomplete.
for _package in ("sqlalchemy.orm", "alembic.command"):
    importlib.import_module(_package)

PATIENCE_S = 300.0
_LONGEST_PAUSE_S = 5.0
_OPENINGS = 4
# A server that vanished without closing its connections is noticed after about half a minute.
_POSTGRESQL = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_SQLITE = {"timeout": 60}
# Calls of Optuna's cache to the database once a study is open. None of these calls another.
_REPEATED = (
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_trial",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "_set_trial_param",
    "_get_trials",
    "_get_best_trial_id",
)


def open_storage(uri: str, *, patience_s: float = PATIENCE_S) -> StudyStorage:
    """Open the database and create its tables where there are none.

    Args:
        uri: Address in the notation of SQLAlchemy.
        patience_s: Longest absence of the server, in seconds, that later calls wait out.

    Raises:
        StorageError: Nothing answers there, or the tables are of another version of Optuna.
    """
    refuse_damaged_study(uri)
    # Of two sweeps that create the tables of a new database at once, one finds them incomplete for a moment.
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(sqlalchemy.exc.DBAPIError),
        stop=tenacity.stop_after_attempt(_OPENINGS),
        wait=tenacity.wait_random(0.2, 1.0),
        reraise=True,
    )
    try:
        return attempts(StudyStorage, uri, patience_s=patience_s)
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, RuntimeError, ModuleNotFoundError) as error:
        raise StorageError(f"storage.uri: {without_password(uri)} cannot be used: {_reason(error)}") from None


def refuse_damaged_study(uri: str) -> None:
    """Check the database of the studies, where it is a file.

    Raises:
        StorageError: The file is damaged.
    """
    remedy = "Move it away: a sweep that is resumed rebuilds its study from its journal"
    require_intact_database(uri, StorageError, remedy)


class _Session(orm.Session):
    """Session of a thread in which several calls of Optuna make one transaction while it is held."""

    held = False

    def commit(self) -> None:
        if self.held:
            self.flush()
        else:
            super().commit()

    def rollback(self) -> None:
        self.held = False
        super().rollback()

    def close(self) -> None:
        if not self.held:
            super().close()


class StudyStorage(TransactionalStorage):
    """Optuna's database, with calls repeated while its server is away.

    Calls whose repetition has no further effect are repeated; a trial that was created twice, because the first answer
    was lost, is closed. Safe to call from several threads; a call blocks for `patience_s` at most.

    Args:
        uri: Address in the notation of SQLAlchemy.
        patience_s: Longest absence of the server, in seconds.
    """

    def __init__(self, uri: str, *, patience_s: float = PATIENCE_S) -> None:
        address = make_url(uri)
        kind = address.get_backend_name()
        if address.drivername == "postgresql":
            address = address.set(drivername="postgresql+psycopg")
        options: dict[str, Any] = {"connect_args": _SQLITE} if kind == "sqlite" else {"pool_pre_ping": True}
        if address.drivername == "postgresql+psycopg":
            options["connect_args"] = _POSTGRESQL
        self.public_uri = without_password(uri)
        self._patience_s = patience_s
        self._last_numbers: dict[int, int] = {}
        self._is_lost = False
        location = address.render_as_string(hide_password=False)
        _refuse_mlflow(location, options)
        super().__init__(location, engine_kwargs=options)
        self.scoped_session = orm.scoped_session(orm.sessionmaker(bind=self.engine, class_=_Session))

    def write_together(self, writes: Sequence[Write]) -> None:
        """See `TransactionalStorage`; repeated calls that find their own effect succeed."""
        attempts = 0

        def write() -> bool:
            nonlocal attempts
            attempts += 1
            return (attempts > 1 and self._is_ended_by(writes)) or self._in_one_transaction(writes)

        if len(writes) > 1 and self._with_retries(write):
            return
        for name, trial_id, arguments in writes:
            getattr(self, name)(trial_id, *arguments)

    def _in_one_transaction(self, writes: Sequence[Write]) -> bool:
        """Carry out calls, and return whether the database has them; otherwise it has none."""
        session: Any = self.scoped_session()
        session.held = True
        try:
            for name, trial_id, arguments in writes:
                getattr(RDBStorage, name)(self, trial_id, *arguments)
                if not session.held:  # Optuna has passed over a conflict, and rolled back
                    return False
            session.held = False
            session.commit()
        except Exception as error:
            session.rollback()
            if _is_absence(error):
                raise
            return False
        finally:
            session.held = False
            session.close()
        return True

    def _is_ended_by(self, writes: Sequence[Write]) -> bool:
        """Return whether a trial has the end that one of the calls gives it."""
        ends = [(write.trial_id, write.arguments[0]) for write in writes if write.name == "set_trial_state_values"]
        return any(RDBStorage.get_trial(self, trial_id).state is state for trial_id, state in ends)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See `optuna.storages.BaseStorage`; a repeated call that finds its own effect succeeds."""
        attempts = 0

        def change() -> bool:
            nonlocal attempts
            attempts += 1
            if attempts > 1 and RDBStorage.get_trial(self, trial_id).state is state:
                return True
            return RDBStorage.set_trial_state_values(self, trial_id, state, values)

        return bool(self._with_retries(change))

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        trial: FrozenTrial = self._with_retries(super()._create_new_trial, study_id, template_trial)
        before = self._last_numbers.get(study_id)
        self._last_numbers[study_id] = trial.number
        for number in range(trial.number if before is None else before + 1, trial.number):
            self._close_orphan(study_id, number)
        return trial

    def _close_orphan(self, study_id: int, number: int) -> None:
        """End a trial that was created although the answer of the server was lost."""
        trial_id = self._with_retries(self.get_trial_id_from_study_id_trial_number, study_id, number)
        self.set_trial_user_attr(trial_id, "reason", "the database went away while this trial was made")
        try:
            self.set_trial_state_values(trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            logger.debug("Trial %d was closed by another process", number)

    def _with_retries(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_absence),
            stop=tenacity.stop_after_delay(0.0 if self._is_lost else self._patience_s),
            wait=tenacity.wait_exponential(multiplier=0.2, max=_LONGEST_PAUSE_S),
            before_sleep=self._warn,
        )
        try:
            answer = attempts(call, *args, **kwargs)
        except tenacity.RetryError as error:
            self._is_lost = True  # the calls that end open trials do not wait as long again
            cause = error.last_attempt.exception()
            raise StorageError(
                f"the study's database at {self.public_uri} has not answered for {self._patience_s:g} s "
                f"({_reason(cause or error)})"
            ) from cause
        self._is_lost = False
        return answer

    def _warn(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and not self._is_lost:
            logger.warning(
                "The study's database at %s does not answer; asking again for %g s", self.public_uri, self._patience_s
            )


def _repeated(name: str) -> Callable[..., Any]:
    original = getattr(RDBStorage, name)

    @functools.wraps(original)
    def call(self: StudyStorage, *args: Any, **kwargs: Any) -> Any:
        return self._with_retries(original, self, *args, **kwargs)

    return call


for _name in _REPEATED:
    setattr(StudyStorage, _name, _repeated(_name))


def _refuse_mlflow(location: str, options: dict[str, Any]) -> None:
    """Refuse a database with MLflow's tables: both keep the version of their tables under the same name.

    Raises:
        StorageError: The database holds MLflow's tables.
    """
    engine = sqlalchemy.create_engine(location, **options)
    try:
        is_taken = sqlalchemy.inspect(engine).has_table("experiment_tags")
    finally:
        engine.dispose()
    if is_taken:
        raise StorageError(
            f"storage.uri: {without_password(location)} holds MLflow's tables. Give the studies a database "
            "of their own, such as `CREATE DATABASE studies`"
        )


def _is_absence(error: BaseException) -> bool:
    """Return whether the server, not the request, is at fault."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError))


def _reason(error: BaseException) -> str:
    """Return the first line of an error; of one in which Optuna has wrapped the database's, that of the database."""
    return first_line(error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error)


def quieten() -> None:
    """Keep Optuna's notices out of a sweep's output."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)

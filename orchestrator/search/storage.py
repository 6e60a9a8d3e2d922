"""Database of the studies: an SQLite file in the folder of results, or a server whose short absences are waited out."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
import tenacity
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import orm
from sqlalchemy.engine import make_url

from orchestrator.errors import StorageError, first_line
from orchestrator.files.database_file import require_intact_database
from orchestrator.search.write_behind import CREATE, StudyDatabase, Transaction, Write
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
# System attribute of a study with the mark of its newest transaction.
_MARK = "spatialsweep:transaction"
# Calls that read a study.
_REPEATED = (
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "_get_trials",
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


class StudyStorage(StudyDatabase):
    """Optuna's database, with calls repeated while its server is away.

    Safe to call from several threads; a call blocks for `patience_s` at most.

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
        self._is_lost = False
        location = address.render_as_string(hide_password=False)
        _refuse_mlflow(location, options)
        super().__init__(location, engine_kwargs=options)
        self.scoped_session = orm.scoped_session(orm.sessionmaker(bind=self.engine, class_=_Session))

    def carry_out(
        self, transaction: Transaction, study_row: int, trial_rows: Mapping[int, int], numbers: Mapping[int, int]
    ) -> dict[int, int]:
        """See `StudyDatabase`."""

        def attempt() -> dict[int, int]:
            transaction.attempts += 1
            if transaction.attempts > 1 and self._has(transaction, study_row):  # its answer was lost
                find = RDBStorage.get_trial_id_from_study_id_trial_number
                return {trial_id: find(self, study_row, number) for trial_id, number in numbers.items()}
            with self._one_transaction() as session:
                created = self._write(session, transaction.writes, study_row, trial_rows, numbers)
                RDBStorage.set_study_system_attr(self, study_row, _MARK, transaction.mark)
            return created

        try:
            return dict(self._with_retries(attempt))
        except (sqlalchemy.exc.SQLAlchemyError, OptunaError, ValueError, KeyError) as error:
            reason = _reason(error)
            raise StorageError(f"the study's database at {self.public_uri} refuses a change: {reason}") from error

    def _has(self, transaction: Transaction, study_row: int) -> bool:
        """Return whether a transaction was carried out; none was begun since."""
        return bool(RDBStorage.get_study_system_attrs(self, study_row).get(_MARK) == transaction.mark)

    @contextlib.contextmanager
    def _one_transaction(self) -> Iterator[orm.Session]:
        """Make one transaction of the calls in the block."""
        session: Any = self.scoped_session()
        session.held = True
        try:
            yield session
            if not session.held:  # Optuna has passed over a conflict, and rolled back
                raise StorageError(f"another program writes to the study at {self.public_uri}")
            session.held = False
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            session.held = False
            session.close()

    def _write(
        self,
        session: orm.Session,
        writes: Sequence[Write],
        study_row: int,
        trial_rows: Mapping[int, int],
        numbers: Mapping[int, int],
    ) -> dict[int, int]:
        """Carry out calls, and return the ids of created trials in the database by those in memory."""
        created: dict[int, int] = {}
        for name, subject, arguments in writes:
            if name == CREATE:  # without Optuna's repetitions, which would not be part of the transaction
                (template,) = arguments
                trial: Any = self._get_prepared_new_trial(study_row, template, session)
                if trial.number != numbers[subject]:
                    raise StorageError(
                        f"another program has created trial {numbers[subject]} in the study at {self.public_uri}"
                    )
                created[subject] = trial.trial_id
            else:
                row = study_row if subject < 0 else created.get(subject) or trial_rows[subject]
                getattr(RDBStorage, name)(self, row, *arguments)
        return created

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

"""Studies on a real PostgreSQL server, which may be away for a while."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from orchestrator import load_sweep
from orchestrator.config.plans import resolve_plans, study_uri
from orchestrator.errors import ConfigError, StorageError, SweepNameError
from orchestrator.search.storage import open_storage
from orchestrator.search.study import open_study
from orchestrator.search.write_behind import flush_study
from tests.support.servers.postgresql import PASSWORD, PostgresqlServer
from tests.support.sweeps.plans import search_plan

DATABASES = 8
SWEEP = {
    "name": "tiny",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "search": {"lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}},
}


def test_a_study_is_in_a_file_by_default(tmp_path: Path) -> None:
    config = load_sweep(SWEEP)
    open_study(resolve_plans(config).search, "tiny", open_storage(study_uri(config.storage, tmp_path)))
    assert optuna.get_all_study_names(f"sqlite:///{tmp_path}/optuna.db") == ["tiny"]


def test_packages_that_mlflow_imports_as_well_are_loaded_before_its_thread() -> None:
    look = (
        "import sys, orchestrator.search.storage; print('sqlalchemy.orm' in sys.modules, 'alembic.op' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["True", "True"]


def open_at_once(folder: Path, barrier: Any) -> None:
    for number in range(DATABASES):
        barrier.wait(200)
        open_storage(f"sqlite:///{folder}/{number}.db")


def test_sweeps_that_create_a_database_at_once_can_all_use_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    sweeps = [context.Process(target=open_at_once, args=(tmp_path, barrier)) for _ in range(3)]
    for sweep in sweeps:
        sweep.start()
    for sweep in sweeps:
        sweep.join(250)
    assert [sweep.exitcode for sweep in sweeps] == [0, 0, 0]


def test_a_study_on_a_server_has_a_unique_name(postgresql: PostgresqlServer) -> None:
    config = load_sweep({**SWEEP, "storage": {"uri": postgresql.uri()}})
    study = open_study(resolve_plans(config).search, "served", open_storage(study_uri(config.storage, Path("unused"))))
    trial = study.ask()
    trial.report(config.space.sample(trial)["lr"], step=1)
    study.tell(trial, 0.5)
    flush_study(study)
    seen = optuna.load_study(study_name="served", storage=postgresql.uri().replace("://", "+psycopg://"))
    assert [(each.state, each.value) for each in seen.trials] == [(TrialState.COMPLETE, 0.5)]
    assert seen.metric_names == ["val/top1"]
    with pytest.raises(SweepNameError):
        open_study(resolve_plans(config).search, "served", open_storage(postgresql.uri()))


def test_a_short_absence_of_the_server_is_waited_out(postgresql: PostgresqlServer) -> None:
    config = load_sweep(SWEEP)
    study = open_study(resolve_plans(config).search, "restarted", open_storage(postgresql.uri()))
    before = study.ask()
    config.space.sample(before)
    flush_study(study)

    postgresql.stop()
    back = threading.Timer(1.5, postgresql.start)
    back.start()
    before.report(0.5, step=1)
    study.tell(before, 0.5)
    flush_study(study)  # a whole transaction is repeated
    assert not back.is_alive()
    for _ in range(3):
        trial = study.ask()
        config.space.sample(trial)
        study.tell(trial, state=TrialState.PRUNED)
    flush_study(study)

    trials = optuna.load_study(study_name="restarted", storage=open_storage(postgresql.uri())).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, *[TrialState.PRUNED] * 3]
    assert trials[0].intermediate_values == {1: 0.5}
    assert [trial.number for trial in trials] == [0, 1, 2, 3]


@pytest.mark.parametrize("lost", ["within", "at the end"])
def test_a_server_that_ends_the_connection_in_a_transaction_has_its_writes_once(
    postgresql: PostgresqlServer, lost: str
) -> None:
    def end_connection(connection: sqlalchemy.Connection) -> None:
        server = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
        with sqlalchemy.create_engine(database).connect() as other:
            ended.append(other.scalar(sqlalchemy.text(f"SELECT pg_terminate_backend({server}, 60000)")))

    def before_statement(connection: sqlalchemy.Connection, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("INSERT INTO trial_values") and not values:
            values.append(statement)
            if lost == "within":
                end_connection(connection)

    def before_commit(connection: sqlalchemy.Connection) -> None:
        if values and not ended:
            end_connection(connection)

    values: list[str] = []
    ended: list[Any] = []
    name, database = f"ended {lost}", postgresql.uri().replace("://", "+psycopg://")
    storage = open_storage(postgresql.uri())
    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", before_statement)
    sqlalchemy.event.listen(storage.engine, "commit", before_commit)
    study = open_study(search_plan(SWEEP), name, storage)
    trial = study.ask()
    trial.report(0.25, step=1)
    trial.set_user_attr("outcome", "finished")
    study.tell(trial, 0.5)
    flush_study(study)
    assert ended == [True]
    study.ask().set_user_attr("next", 1)
    flush_study(study)
    first, second = optuna.load_study(study_name=name, storage=database).trials
    assert (first.state, first.value, first.intermediate_values) == (TrialState.COMPLETE, 0.5, {1: 0.25})
    assert first.user_attrs == {"outcome": "finished"}
    assert second.user_attrs == {"next": 1}


def test_a_long_absence_of_the_server_is_an_error_with_its_address(postgresql: PostgresqlServer) -> None:
    study = open_study(search_plan(SWEEP), "lost", open_storage(postgresql.uri(), patience_s=0.5))
    trial = study.ask()
    flush_study(study)
    postgresql.stop()
    try:
        trial.report(0.5, step=1)
        with pytest.raises(StorageError, match=r"postgres:\*\*\*@127.*has not answered") as caught:
            flush_study(study)
        with pytest.raises(StorageError, match="has not answered"):
            trial.set_user_attr("reason", "lost")
        with pytest.raises(StorageError, match="cannot be used"):
            open_storage(postgresql.uri())
    finally:
        postgresql.start()
    trial.set_user_attr("reason", "it is there again")
    flush_study(study)
    (seen,) = optuna.load_study(study_name="lost", storage=open_storage(postgresql.uri())).trials
    assert (seen.intermediate_values, seen.user_attrs) == ({1: 0.5}, {"reason": "it is there again"})
    assert PASSWORD not in str(caught.value)


def test_a_database_of_mlflow_is_left_alone(tmp_path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    SqlAlchemyStore(uri, str(tmp_path / "artifacts"))  # type: ignore[no-untyped-call]
    before = sqlalchemy.inspect(sqlalchemy.create_engine(uri)).get_table_names()
    with pytest.raises(StorageError, match=r"storage.uri: sqlite:.*mlflow.db holds MLflow's tables"):
        open_storage(uri)
    assert sqlalchemy.inspect(sqlalchemy.create_engine(uri)).get_table_names() == before


def test_studies_and_mlflow_need_a_database_each() -> None:
    both = {
        "storage": {"uri": "postgresql+psycopg://me:secret@host:5432/one"},
        "tracking": {"uri": "postgresql://you@host:5432/one"},
    }
    with pytest.raises(ConfigError, match=r"me:\*\*\*@host:5432/one', MLflow's database \(tracking.uri\)"):
        load_sweep({**SWEEP, **both})


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("postgres://host/studies", "unknown database 'postgres'. Did you mean 'postgresql'?"),
        ("postgresql://user:secret@host", r"'postgresql://user:\*\*\*@host'; names no database"),
        ("somewhere", "must name a database"),
    ],
)
def test_a_malformed_address_is_refused(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep({**SWEEP, "storage": {"uri": uri}})

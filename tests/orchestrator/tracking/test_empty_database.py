"""A new database is a copy of a prepared one, and equals one that MLflow created itself."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from orchestrator.errors import TrackingError
from orchestrator.server_addresses import embedded_uri
from orchestrator.tracking import mlflow_client
from orchestrator.tracking.mlflow_client import open_client

TIMES = ("creation_time", "last_update_time")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache folder that does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder with a prepared database."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        open_client(embedded_uri(folder))
    return folder


def cached(folder: Path) -> Path:
    (file,) = (folder / "spatialsweep").iterdir()
    return file


def content(database: Path) -> tuple[list[Any], dict[str, list[Any]]]:
    """Return the schema, and the rows of every table without times."""
    with closing(sqlite3.connect(database)) as db:
        db.row_factory = sqlite3.Row
        schema = [tuple(row) for row in db.execute("SELECT * FROM sqlite_master ORDER BY type, name")]
        tables = [str(name) for kind, name, *_ in schema if kind == "table"]
        rows = {table: [dict(row) for row in db.execute(f"SELECT * FROM {table}")] for table in tables}
    for experiment in rows["experiments"]:
        assert all(experiment.pop(time) > 0 for time in TIMES)
    # The migrations write the constraints of a table in an order that changes from call to call.
    statements = [sorted(line.strip(" \t,") for line in (row[4] or "").splitlines()) for row in schema]
    return [(*row[:3], lines) for row, lines in zip(schema, statements, strict=True)], rows


def migrations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which every database is added that MLflow creates from now on."""
    created: list[str] = []
    create = mlflow_client._make_empty

    def count(path: Path) -> None:
        created.append(path.name)
        create(path)

    monkeypatch.setattr(mlflow_client, "_make_empty", count)
    return created


def test_it_equals_a_database_that_mlflow_created(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(prepared))
    monkeypatch.chdir(tmp_path)  # in which the default experiment has its artifacts
    created = migrations(monkeypatch)
    copied, direct = tmp_path / "mlflow.db", tmp_path / "direct.db"
    experiments = open_client(embedded_uri(tmp_path)).search_experiments()
    assert created == []
    assert [(one.experiment_id, one.name, one.artifact_location) for one in experiments] == [
        ("0", "Default", str(tmp_path / "mlruns" / "0"))
    ]
    MlflowClient(f"sqlite:///{direct}").search_experiments()
    schema, rows = content(copied)
    assert (schema, rows) == content(direct)
    assert len(rows["alembic_version"]) == len(rows["experiments"]) == 1
    assert copied.stat().st_mode == direct.stat().st_mode
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "direct.db"}
    assert stat.S_IMODE(cached(prepared).stat().st_mode) == 0o600
    assert SqlAlchemyStore(f"sqlite:///{copied}", "x").create_experiment("first") == "1"  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("damage", ["truncated", "altered", "of others", "a link"])
def test_a_damaged_or_foreign_file_is_made_again(
    damage: str, tmp_path: Path, prepared: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = cached(prepared)
    file = cache / "spatialsweep" / original.name
    file.parent.mkdir(parents=True)
    whole = original.read_bytes()
    if damage == "a link":
        file.symlink_to(original)
    else:
        changed = {"truncated": whole[:-4096], "altered": whole.replace(b"experiment", b"experimenX")}
        file.write_bytes(changed.get(damage, whole))
        file.chmod(0o666 if damage == "of others" else 0o600)
    created = migrations(monkeypatch)
    open_client(embedded_uri(tmp_path))
    assert created == [file.name]
    assert not file.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert original.read_bytes() == whole
    (tmp_path / "mlflow.db").unlink()
    open_client(embedded_uri(tmp_path))
    assert created == [file.name]


def test_another_version_of_mlflow_uses_a_file_of_its_own(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = cached(prepared).name
    assert name.startswith(f"mlflow-{mlflow.__version__}-")
    monkeypatch.setattr(mlflow, "__version__", "3.99.0")
    assert f"mlflow-{mlflow_client._schema()}.db" == name.replace(name.split("-")[1], "3.99.0")


def test_an_existing_database_is_never_replaced(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(prepared))
    open_client(embedded_uri(tmp_path)).create_experiment("mine")
    # As if it had appeared after this process found none.
    monkeypatch.setattr(mlflow_client, "is_missing_file", lambda uri: True)
    mlflow_client.place_empty_database(embedded_uri(tmp_path))
    assert {one.name for one in open_client(embedded_uri(tmp_path)).search_experiments()} == {"Default", "mine"}


@pytest.mark.parametrize("cache_home", ["a file", "no hard links"])
def test_without_a_cache_mlflow_creates_it(
    cache_home: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cache_home == "a file":
        cache.write_text("")
    else:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert [one.name for one in open_client(embedded_uri(tmp_path)).search_experiments()] == ["Default"]
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "mlflow.db"}


def refuse(path: Path, target: Path) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_missing_folder_is_an_error_and_servers_are_left_alone(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(TrackingError, match="there is no folder"):
        open_client(embedded_uri(tmp_path / "missing"))
    mlflow_client.place_empty_database("http://127.0.0.1:1")
    assert not cache.exists()


def add_experiment(uri: str, name: str, begin: multiprocessing.synchronize.Event) -> None:
    begin.wait(200)
    open_client(uri).create_experiment(name)


def test_processes_that_begin_together_use_one_database(tmp_path: Path, cache: Path) -> None:
    forked = multiprocessing.get_context("fork")  # a new interpreter would import MLflow for seconds
    begin = forked.Event()
    names = ("one", "two", "three")
    started = [forked.Process(target=add_experiment, args=(embedded_uri(tmp_path), name, begin)) for name in names]
    for process in started:
        process.start()
    begin.set()
    for process in started:
        process.join(200)
    assert [process.exitcode for process in started] == [0, 0, 0]
    found = MlflowClient(embedded_uri(tmp_path)).search_experiments()
    assert {experiment.name for experiment in found} == {"Default", *names}
    assert cached(cache).is_file()

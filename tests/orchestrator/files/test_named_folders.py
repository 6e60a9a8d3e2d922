"""Folders of results with unusual names: their databases and artifacts are written there and read back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from cluster.submission import check_sweep, entrypoint
from orchestrator import load_sweep
from orchestrator.cli.main import app
from orchestrator.config.option_values import setting_values
from orchestrator.config.plans import resolve_plans, study_uri
from orchestrator.errors import ConfigError, StorageError
from orchestrator.files.runs_dir import resolve_runs_dir
from orchestrator.files.sqlite_files import is_missing_file, sqlite_path, sqlite_uri
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import TrialStatus
from orchestrator.search.storage import open_storage
from orchestrator.search.study import open_study
from orchestrator.server_addresses import embedded_uri
from orchestrator.sweep.compatibility import stored_config
from orchestrator.tracking.mlflow_client import silence_mlflow
from orchestrator.tracking.mlflow_runs import experiment_id, fetch_checkpoint
from tests.support.sweeps.fake_sweeps import write_sweep
from tests.support.sweeps.settings import BASE

NAMES = (
    "what?",
    "a#b",
    "a b",
    "100%",
    "ü",
    "a'b",
    "[x]",
    "null",
    "2026",
    "~x",
    "a;b",
    "exp #2",
    "a%20b",
    "a\\b",
    "a&b=c",
)
ALL = 'what? #1 100% ü a\'b "c" [x];~&+:@'
DIGITS = Path(__file__).parents[3] / "sweeps" / "digits.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a hostile name in which both databases were created."""
    silence_mlflow()
    folder = tmp_path_factory.mktemp("runs") / ALL
    folder.mkdir()
    config = load_sweep({**BASE, "runs_dir": folder})
    open_study(
        resolve_plans(config).search, "s", open_storage(study_uri(config.storage, resolve_runs_dir(config.runs_dir)))
    )
    MlflowClient(embedded_uri(folder)).search_experiments()
    return folder


def round_trip(folder: Path, scratch: Path) -> None:
    """Log a file to a run of the folder's own database, and download it."""
    uri = embedded_uri(folder)
    client = MlflowClient(uri)
    experiment = experiment_id(client, folder.name, tracking_uri=uri, artifacts=folder / "artifacts")
    run = client.create_run(experiment).info.run_id
    (scratch / "best.pt").write_text("weights")
    client.log_artifact(run, str(scratch / "best.pt"), "checkpoint")
    (scratch / "back").mkdir()
    assert fetch_checkpoint(run, uri, scratch / "back").read_text() == "weights"
    assert [path.read_text() for path in (folder / "artifacts").rglob("best.pt")] == ["weights"]


def test_databases_are_made_in_a_folder_of_any_name(made: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == ["mlflow.db", "optuna.db"]
    assert list(made.parent.iterdir()) == [made]
    round_trip(made, tmp_path)
    assert list(made.parent.iterdir()) == [made]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_keeps_its_own_databases(
    name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_sweep({**BASE, "runs_dir": "elsewhere"}, values=setting_values(runs_dir=f"./{name}"))
    folder = resolve_runs_dir(config.runs_dir)
    assert folder == tmp_path / name
    folder.mkdir()
    for database in ("optuna.db", "mlflow.db"):
        shutil.copy(made / database, folder)
    assert optuna.get_all_study_names(study_uri(config.storage, folder)) == ["s"]
    open_study(resolve_plans(config).search, "t", open_storage(study_uri(config.storage, folder)))
    assert optuna.get_all_study_names(sqlite_uri(folder / "optuna.db")) == ["s", "t"]
    (tmp_path / "scratch").mkdir()
    round_trip(folder, tmp_path / "scratch")
    assert {path.name for path in tmp_path.iterdir()} == {name, "scratch"}


@pytest.mark.parametrize("name", NAMES)
def test_options_are_paths_and_not_yaml(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    written = f"./{name}" if name.startswith("~") else name
    folder = write_sweep(tmp_path / name, "s", [(TrialStatus.FINISHED, [0.5])])
    done = CliRunner().invoke(app, ["status", "s", "--json", f"--runs-dir={written}"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["folder"] == str(folder)
    values = setting_values(runs_dir=folder.parent, tracking_uri="http://[::1]:5000/#x")
    again = stored_config(SweepFolder(folder), ["trials=9"], values=values)
    assert (again.runs_dir, again.tracking.uri, again.trials) == (str(folder.parent), "http://[::1]:5000/#x", 9)


def test_every_spelling_of_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path / "r", "s", [(TrialStatus.FINISHED, [0.5])])
    for options in (["--runs-dir", "~/r"], ["--runs-dir=~/r"]):
        done = CliRunner().invoke(app, ["status", "s", "--json", *options])
        assert json.loads(done.output)["folder"] == str(tmp_path / "r" / "s")
    done = CliRunner().invoke(app, ["status", "~/r/s", "--json"])
    assert json.loads(done.output)["name"] == "s"
    for config in (
        load_sweep(BASE, ["runs_dir=~/r"]),
        load_sweep({**BASE, "runs_dir": "~/r"}),
        load_sweep({**BASE, "runs_dir": Path("~/r")}),
        load_sweep(BASE, values={"runs_dir": "~/r"}),
    ):
        assert config.runs_dir == str(tmp_path / "r")
    with pytest.raises(ConfigError, match=rf"dataset.uri: {tmp_path}/d/"):
        load_sweep({**BASE, "dataset": {"uri": "~/d"}})
    done = CliRunner().invoke(app, ["data", "inspect", "~/d"])
    assert str(done.exception).startswith(f"{tmp_path}/d")
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("option", ["--runs-dir", "--output"])
def test_an_empty_path_is_refused(option: str) -> None:
    done = CliRunner().invoke(app, ["report", "s", option, ""])
    assert done.exit_code == 2
    assert "is empty; name a path" in done.output


def test_a_folder_unfit_for_a_database_is_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("a\nb", "a\x1bb", os.fsdecode(b"\xff")):
        with pytest.raises(StorageError, match=r"no database can be named there. Choose a folder with a plain name"):
            embedded_uri(tmp_path / name)
        with pytest.raises(ConfigError, match=r"runs_dir: got .*; a text is a single line without control characters"):
            load_sweep(BASE, values={"runs_dir": str(tmp_path / name)})


def test_sqlite_addresses_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "100%?#;.db"
    assert sqlite_path(sqlite_uri(path)) == path
    assert is_missing_file(sqlite_uri(path))
    path.touch()
    assert not is_missing_file(sqlite_uri(path))
    assert sqlite_path("sqlite+pysqlite:////a/b%20c.db?timeout=3") == Path("/a/b c.db")
    for server in (
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://h/d",
        "http://h",
        "sqlite:nonsense",
        "sqlitex:///a",
    ):
        assert sqlite_path(server) is None
        assert not is_missing_file(server)


def test_options_of_a_job_are_passed_unchanged() -> None:
    values = setting_values(name="null", tracking_uri="http://mlflow:5000", runs_dir="~/exp #2")
    command = entrypoint("s.yaml", ["trials=3"], values, resume=False, allow_changed=False)
    assert command == (
        "python -m orchestrator run s.yaml --set trials=3 --name=null --tracking-uri=http://mlflow:5000 "
        "'--runs-dir=~/exp #2'"
    )
    assert check_sweep(DIGITS, [], values).name == "null"
    with pytest.raises(ConfigError) as caught:
        check_sweep(DIGITS, [], setting_values(tracking_uri="http://me:hush@mlflow", runs_dir="here"))
    assert [problem.where for problem in caught.value.problems] == ["--tracking-uri", "runs_dir"]
    assert "hush" not in str(caught.value)

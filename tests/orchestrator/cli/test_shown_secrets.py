"""Passwords stay out of everything printed, recorded, sent and refused."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from typer.testing import CliRunner

from cluster.doctor import Finding
from cluster.node_checks import look_at_node
from cluster.submission import check_sweep
from orchestrator import uris
from orchestrator.cli.main import app
from orchestrator.config import load_sweep, resolve_trial
from orchestrator.errors import ConfigError, Problem, TrackingError
from orchestrator.lanes.worker.trial_log import trial_log
from orchestrator.masked_output import masked_output, masked_traceback
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import Journal, read_events
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.lines import content_of
from orchestrator.records.settings.stored_config import complete_settings, non_default_settings
from orchestrator.results.stored_sweep import read_sweep
from orchestrator.sweep.dry_run import dry_run
from orchestrator.tracking.flat_settings import flatten
from orchestrator.tracking.mlflow_writer import MlflowWriter
from tests.support.sweeps.fake_sweeps import PLAN, write_sweep

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "sweeps" / "digits.yaml"
HOST = "mlflow.example.org"
PASSWORDS = ["pq/wz", "pq#wz", "pq?wz", "pq[wz]", "pq@wz", "pq:wz", "pq%40wz", "pqüwz"]
SERVERS = ["http://me:{}@" + HOST + ":5000", "https://me:{}@" + HOST, "postgresql+psycopg2://me:{}@" + HOST + "/runs"]
DATABASES = [
    *("postgresql://me:{}@" + HOST + "/studies", "postgresql+psycopg://me:{}@" + HOST + ":5432/studies"),
    "mysql+pymysql://me@" + HOST + "/studies?passwd={}&charset=utf8",
]
ODBC = "mssql+pyodbc:///runs?odbc_connect=" + quote_plus(f"SERVER={HOST};UID=me;PWD=") + "{}" + quote_plus(";a=b")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uris, "_known", {})


def assert_masked(text: str, password: str) -> None:
    assert "***" in text, text
    assert HOST in text
    tail = password[3:]
    for form in (password, json.dumps(password)[1:-1], quote_plus(password), f"{tail}@"):
        assert form not in text, text


def both(server: str, database: str, password: str) -> dict[str, object]:
    return {"tracking": {"uri": server.format(password)}, "storage": {"uri": database.format(password)}}


@pytest.mark.parametrize("password", PASSWORDS)
def test_what_is_recorded_and_what_mlflow_is_sent(password: str) -> None:
    for server, database in zip([*SERVERS, ODBC], [*DATABASES, DATABASES[0]], strict=True):
        settings = both(server, database, quote_plus(password) if "odbc" in server else password)
        try:
            config = load_sweep({**PLAN, "name": "s", **settings})
        except ConfigError as error:  # a reader would cut the password short, and ask another host
            assert set("/#?[@") & set(password)
            assert "%2F" in str(error)
            assert_masked(str(error), password)
            settings = both(server, database, quote_plus(password))
            config = load_sweep({**PLAN, "name": "s", **settings})
        for content in (
            complete_settings(config),
            non_default_settings(config),
            flatten(config.model_dump(mode="json")),
        ):
            assert_masked(json.dumps(content), password)


@pytest.mark.parametrize("password", ["pq%2Fwz", "pq%40wz"])
def test_a_dry_run_in_json(password: str, tmp_path: Path) -> None:
    arguments = ["run", str(DIGITS), "--dry-run", "--json", "--runs-dir", str(tmp_path)]
    arguments += [
        "--tracking-uri",
        SERVERS[0].format(password),
        "--set",
        f"storage.uri={DATABASES[2].format(password)}",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert_masked(done.output, password)
    options = {**PLAN, "name": "s", "runs_dir": str(tmp_path), **both(SERVERS[1], DATABASES[1], password)}
    assert_masked(json.dumps(dry_run(load_sweep(options)).as_dict()), password)


@pytest.mark.parametrize("password", PASSWORDS)
def test_errors_of_the_configuration(password: str) -> None:
    for wrong in (
        {"tracking": {"uri": f"ftp://me:{password}@{HOST}"}},
        {"tracking": {"uri": f"me:{password}@{HOST}:5000"}},
        {"tracking": {"uri": f"https://me:{password}@{HOST}", "experiment": f"http://me:{password}@{HOST}/x", "a": 1}},
        {"tracking": {"uri": [f"http://me:{password}@{HOST}"]}},
        {"storage": {"uri": f"postgresql://me:{password}@{HOST}"}},
        {"storage": {"uri": f"oracle://me:{password}@{HOST}/db"}, "runs_dir": 7},
        {"trials": f"http://me:{password}@{HOST}"},
    ):
        with pytest.raises(ConfigError) as caught:
            load_sweep({**PLAN, "name": "s", **wrong})
        shown = str(caught.value) + repr([str(problem) for problem in caught.value.problems])
        assert password not in shown
        assert f"{password[3:]}@" not in shown
    with pytest.raises(ConfigError) as caught:
        load_sweep({**PLAN, "name": "s"}, [f"tracking.uri:http://me:{password}@{HOST}"])
    assert_masked(str(caught.value), password)


@pytest.mark.parametrize("password", [*PASSWORDS, "pq wz"])
def test_submit_refuses_a_password_in_an_assignment(password: str) -> None:
    encoded = ODBC.format(quote_plus(password))
    addresses = [address.format(password) for address in (*SERVERS, *DATABASES)]
    for address in [*addresses, encoded, f"s3://KEY:{password}@{HOST}/x", f"s3://b/x?secret_key={password}"]:
        for assignment in (f"tracking.uri={address}", f'storage={{"uri": "{address}"}}', f"dataset.uri='{address}'"):
            with pytest.raises(ConfigError) as caught:
                check_sweep(DIGITS, [assignment])
            assert any(problem.where.startswith("--set ") for problem in caught.value.problems), assignment
            assert password not in str(caught.value)
            assert "--env" in str(caught.value)


def test_a_journal_and_all_that_is_read_from_it(tmp_path: Path) -> None:
    """Check failure reasons recorded now, and by versions that masked less."""
    password = "pq/wz"
    address = SERVERS[0].format(password)
    config = load_sweep({**PLAN, "name": "s", **both(SERVERS[2], DATABASES[0], password)})
    reason = f"OSError: {address} does not answer\nTraceback ...\n  connect('{address}')\n  password is '{password}'"
    with Journal(tmp_path / "s" / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.sweep_started("s", config.model_dump(mode="json"), {"remote": address}, {})
        trial = resolve_trial(config, 0, {"lr": 0.001}).model_dump(mode="json")
        ledger.trial_started(0, "t0", {"lr": 0.001}, trial)
        ledger.trial_ended(0, TrialStatus.FAILED, reason)
        assert_masked(ledger.trial(0).reason, password)
    assert_masked(journal.path.read_text(), password)
    folder = write_sweep(tmp_path, "old", [])
    events = [content_of(event) for event, _ in read_events(journal.path)]
    del events[0]["format"]
    events[0]["config"]["tracking"]["uri"] = address
    events[-1]["reason"] = reason
    (folder / "journal.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    stored = read_sweep(SweepFolder(folder))
    assert_masked(str(stored.result.records[0].reason) + json.dumps(stored.config), password)
    assert stored.result.records[0].reason.startswith("OSError: http://me:***@")


def test_the_log_of_a_trial(tmp_path: Path) -> None:
    address = SERVERS[0].format("pq#wz")
    with trial_log(tmp_path, 0) as log:
        log.info("reads %s", address)
        warnings.warn(f"{address} is slow", UserWarning, stacklevel=1)
        try:
            raise OSError(address)
        except OSError:
            log.exception("it failed")
    text = (tmp_path / "rank-0.log").read_text()
    assert text.count("me:***@") >= 3
    assert_masked(text, "pq#wz")


def test_what_libraries_log_warn_of_and_raise_in_threads(capsys: pytest.CaptureFixture[str]) -> None:
    address = SERVERS[0].format("pq?wz")

    def fail() -> None:
        raise OSError(address)

    stream, before = logging.StreamHandler(sys.stderr), logging.getLogRecordFactory()
    library = logging.getLogger("urllib3.connectionpool")
    library.addHandler(stream)
    try:
        with masked_output(), warnings.catch_warnings():
            warnings.simplefilter("always")
            library.warning("Retrying %s: %s", 3, address)
            logging.getLogRecordFactory()("n", logging.INFO, "p", 1, "%d fits not", ("text",), None)  # is no error yet
            try:
                fail()
            except OSError as error:
                library.exception("it failed")
                sys.stderr.write(masked_traceback(error))
            sys.stderr.write(warnings.formatwarning(UserWarning(address), UserWarning, "x.py", 1))
            thread = threading.Thread(target=fail, name="writer")
            thread.start()
            thread.join()
    finally:
        library.removeHandler(stream)
    shown = capsys.readouterr().err
    assert shown.count("me:***@") >= 5
    assert "Exception in thread writer" in shown
    assert_masked(shown, "pq?wz")
    assert logging.getLogRecordFactory() is before


def test_our_errors_quote_foreign_ones_without_secrets() -> None:
    address = DATABASES[0].format("pq@wz")
    assert_masked(str(TrackingError(f"refused: could not connect to {address}")), "pq@wz")
    assert_masked(str(Problem("tracking.uri", f"got {address}")), "pq@wz")
    assert_masked(Finding("failure", "MLflow", f"{address} is away").message, "pq@wz")


def test_a_node_reaches_a_server_whatever_its_password(tmp_path: Path) -> None:
    uri = "http://me:pq/wz@127.0.0.1:{}"
    found = look_at_node(str(tmp_path), "", uri.format(1), "postgresql://me:pq#wz@127.0.0.1:99999/x")
    assert found["tracking"]["error"].startswith("127.0.0.1:1: ")
    assert found["database"]["error"].startswith("postgresql://me:***@127.0.0.1:99999/x: ")


def test_events_for_a_server_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check the output and the log of `spatialsweep sync`."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    address = "http://me:pq%2Fwz@127.0.0.1:9"
    journal = write_sweep(tmp_path, "s", [(TrialStatus.FINISHED, [0.5])]) / "journal.jsonl"
    with masked_output():
        writer = MlflowWriter(journal, tracking_uri=address, experiment="x", artifacts=tmp_path)
        writer.start()
        with pytest.raises(TrackingError, match=r"events did not reach MLflow at http://me:\*\*\*@127") as caught:
            writer.drain(1.0)
    shown = str(caught.value) + capsys.readouterr().err + str(uris.without_secrets(str(writer.failure)))
    assert "wz" not in shown, shown


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_commands_that_find_no_server(tmp_path: Path) -> None:
    """Check the output of commands that meet a dead server or a mistake, one after another in one process."""
    write_sweep(tmp_path, "s", [(TrialStatus.FINISHED, [0.5])])
    passwords = ("pq[wz]", "pq%2Fwz")
    commands = [command for password in passwords for command in without_server(password, tmp_path)]
    script = (
        "import sys, json\nfrom orchestrator.cli.main import main\n"
        "for sys.argv in json.loads(sys.argv[1]):\n"
        "    try:\n        main()\n    except SystemExit as left:\n        print(sys.argv[1], 'left with', left.code)\n"
    )
    arguments = json.dumps([["spatialsweep", *command] for command in commands])
    surroundings = {**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "NO_COLOR": "1", "COLUMNS": "300"}
    done = subprocess.run(
        [sys.executable, "-c", script, arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=surroundings,
        timeout=550,
    )
    shown = done.stdout + done.stderr
    assert [line for line in shown.splitlines() if "left with 0" in line] == []
    assert shown.count("left with") == len(commands), shown
    assert "127.0.0.1" in shown
    assert "Traceback" not in shown, shown
    for form in ("wz", *passwords, *map(quote_plus, passwords)):
        assert form not in shown, shown


def without_server(password: str, runs_dir: Path) -> list[list[str]]:
    dead = f"http://me:{password}@127.0.0.1:9"
    return [
        ["eval", "0" * 32, "--dataset", "digits", "--tracking-uri", dead],
        ["dashboard", "s", "--runs-dir", str(runs_dir), "--tracking-uri", dead],
        ["delete", "s", "--yes", "--runs-dir", str(runs_dir), "--storage-uri", f"mysql://me:{password}@127.0.0.1:9/x"],
        ["status", "s", dead],
        ["run", str(DIGITS), "--set", f"tracking.urii={dead}"],
        ["submit", str(DIGITS), "--set", f"tracking.uri={dead}"],
        ["status", "s", "--address", dead],
    ]

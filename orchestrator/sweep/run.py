"""Runs a sweep from its configuration to its result, in one session or in several."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.config.sweep import SweepConfig
from orchestrator.data import describe_dataset, locate_dataset
from orchestrator.errors import SpatialSweepError
from orchestrator.files.runs_dir import inside_ray_job, resolve_runs_dir
from orchestrator.masked_output import masked_output
from orchestrator.progress.notebook_view import NotebookDisplay, in_notebook
from orchestrator.records.folder.known_servers import note_server
from orchestrator.records.folder.sweep_folder import SweepFolder, existing_folder, new_folder
from orchestrator.records.folder.sweep_identity import require_original
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.provenance import facts
from orchestrator.records.stored_config import complete_settings
from orchestrator.results.sweep_result import SweepResult
from orchestrator.search.first_trials import refuse_unknown
from orchestrator.search.storage import open_storage, refuse_damaged_study, study_uri
from orchestrator.server_addresses import embedded_uri
from orchestrator.sweep.compatibility import identity, refuse_changes, stored_config
from orchestrator.sweep.finalize import conclude, start_tracking
from orchestrator.sweep.session import SweepSession
from orchestrator.sweep.session_snapshot import write_origin
from orchestrator.sweep.signals import Interruption
from orchestrator.tracking.mlflow_client import refuse_damaged_tracking


@masked_output()
def run_sweep(
    config: SweepConfig,
    *,
    resume: bool = False,
    allow_changed: bool = False,
    address: str | None = None,
    console: Console | None = None,
    verbose: bool = False,
    sweep_file: Path | None = None,
) -> SweepResult:
    """Trains and compares the configurations of a sweep.

    All files go to `runs_dir/<name>`. Ctrl-C ends the sweep after the running epochs, a second one immediately.

    Args:
        config: Checked when it was built.
        resume: Resume the sweep of this name: keep ended trials, continue interrupted ones, add trials up to `trials`.
        allow_changed: Resumes although something that decides the results has changed.
        address: Ray cluster to join; None starts a private instance, or joins `RAY_ADDRESS`.
        console: Where progress is shown; None keeps silent, but for a notebook, which shows a table.
        verbose: Lets Ray say what it says, the output of its workers too.
        sweep_file: What `config` was read from, to be recorded as it stands, but for passwords.

    Returns:
        The result; its status is `interrupted` after Ctrl-C.

    Raises:
        ConfigError: A sweep that `warm_start` names is not in the database.
        SweepNameError: A new sweep's name is taken, there is none to resume, or it is being run elsewhere.
        ResumeError: What decides the results is not what it was; the text lists every difference.
        ClusterError: The cluster does not answer, or cannot hold one trial.
        DataError: The dataset cannot be prepared.
        StorageError, TrackingError: The database file of the studies, or of MLflow, is damaged.
    """
    _note_servers(config)
    display = NotebookDisplay() if console is None and in_notebook() else None
    console = console or Console(quiet=True)
    runs_dir = resolve_runs_dir(config.runs_dir)
    folder = _begun_folder(config, runs_dir) if resume else _new_folder(config, runs_dir)
    dataset = locate_dataset(config.dataset.name, config.dataset.uri, runs_dir / "datasets")
    now = identity(config, dataset)
    _refuse_damaged_databases(config, runs_dir)
    with folder.driven(new=not resume), Interruption() as interruption, Journal(folder.journal) as journal:
        ledger = Ledger(journal)
        if ledger.identity is not None and not allow_changed:
            refuse_changes(ledger.identity, now, name=folder.name)
        session = SweepSession(
            config, folder, ledger, dataset=dataset, console=console, interruption=interruption, display=display
        )
        status = TrialStatus.FAILED
        with session.resources(address, verbose=verbose):
            _open_books(config, ledger, folder.name, now)
            _describe_session(config, ledger, folder, dataset, sweep_file)
            writer = start_tracking(config, runs_dir, journal.path)
            try:
                status = _run(session, config)
            finally:
                result = conclude(config, folder, ledger, writer, status)
                folder.clear_scratch()
    return result


def _note_servers(config: SweepConfig) -> None:
    """Remember the servers that a configuration names, so that a later session trusts them."""
    for uri in (config.tracking.uri, config.storage.uri):
        if uri is not None:
            note_server(uri)


def _refuse_damaged_databases(config: SweepConfig, runs_dir: Path) -> None:
    refuse_damaged_study(study_uri(config, runs_dir))
    refuse_damaged_tracking(config.tracking.uri or embedded_uri(runs_dir))


def resume_sweep(
    name: str,
    overrides: Sequence[str] = (),
    *,
    runs_dir: str | None = None,
    allow_changed: bool = False,
    address: str | None = None,
    console: Console | None = None,
    verbose: bool = False,
) -> SweepResult:
    """Goes on with a sweep as it was configured last.

    Args:
        name: Of the sweep.
        overrides: Assignments to lay over its settings, such as `trials=40`.
        runs_dir: Folder of all results; None takes the default.
        allow_changed: As in `run_sweep`, like the rest.
        address: Ray cluster to join.
        console: Where progress is shown.
        verbose: Lets Ray say what it says.

    Raises:
        ConfigError: A setting is wrong.
        SweepNameError: There is no such sweep, or it is being run elsewhere.
        ResumeError: What decides the results is not what it was.
    """
    folder = existing_folder(resolve_runs_dir(runs_dir), name)
    require_original(folder)
    config = stored_config(folder, overrides)
    return run_sweep(
        config, resume=True, allow_changed=allow_changed, address=address, console=console, verbose=verbose
    )


def _begun_folder(config: SweepConfig, runs_dir: Path) -> SweepFolder:
    """The folder of a sweep that goes on; a copy would change the runs and the study of its original."""
    folder = existing_folder(runs_dir, config.name)
    require_original(folder, addresses=[config.tracking.uri, config.storage.uri])
    return folder


def _new_folder(config: SweepConfig, runs_dir: Path) -> SweepFolder:
    """A folder for a sweep that is begun; made after all that would refuse it."""
    if config.warm_start:
        runs_dir.mkdir(parents=True, exist_ok=True)
        refuse_unknown(config, open_storage(study_uri(config, runs_dir)))
    return new_folder(runs_dir, config.name)


def _run(session: SweepSession, config: SweepConfig) -> TrialStatus:
    try:
        return session.run()
    except SpatialSweepError as error:
        elsewhere = "" if config.runs_dir is None else f" --runs-dir {shlex.quote(config.runs_dir)}"
        command = f"go on with `spatialsweep resume {config.name}{elsewhere}`"
        error.add_note(f"What is done is kept; {'submit it again with `--resume`' if inside_ray_job() else command}")
        raise


def _open_books(config: SweepConfig, ledger: Ledger, name: str, identity: dict[str, Any]) -> None:
    if ledger.identity is None:
        ledger.sweep_started(name, complete_settings(config), facts(), identity)
    else:
        ledger.sweep_resumed(complete_settings(config), facts(), identity)


def _describe_session(
    config: SweepConfig, ledger: Ledger, folder: SweepFolder, located: str, sweep_file: Path | None
) -> None:
    """Records what this session was begun with; not part of the journal's first event, which is read all the time."""
    known, manifest = describe_dataset(located)
    files = write_origin(folder.session(ledger.sessions), config, manifest, sweep_file)
    ledger.session_described(map(str, files), known)

"""Run of a sweep from its configuration to its result, in one session or in several."""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.config.network_files import NetworkFiles
from orchestrator.config.plans import SweepPlans, resolve_plans
from orchestrator.config.sweep import SweepConfig
from orchestrator.data import describe_dataset, locate_dataset
from orchestrator.errors import ConfigError, Problem, SpatialSweepError
from orchestrator.files.known_code import note_code
from orchestrator.files.runs_dir import inside_ray_job, resolve_runs_dir
from orchestrator.files.usable_places import require_usable_places
from orchestrator.inference.weights.initial import find_initial_weights
from orchestrator.masked_output import masked_output
from orchestrator.notify.notifications import Notifications
from orchestrator.plain_output import say
from orchestrator.progress.notebook_view import NotebookDisplay, in_notebook
from orchestrator.records.folder.known_servers import note_dataset, note_server
from orchestrator.records.folder.sweep_folder import SweepFolder, existing_folder, new_folder
from orchestrator.records.folder.sweep_identity import require_original
from orchestrator.records.history import read_begun
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.provenance import facts
from orchestrator.records.settings.stored_config import complete_settings, non_default_settings
from orchestrator.results.sweep_result import SweepResult
from orchestrator.search.proposals.enqueued_trials import refuse_unknown_sweeps
from orchestrator.search.samplers.choice import SamplerChoice, chosen_sampler
from orchestrator.search.storage import open_storage, refuse_damaged_study
from orchestrator.steering.request_folder import RequestFolder
from orchestrator.sweep.compatibility import (
    chosen_before,
    identity,
    refuse_changes,
    steered_again,
    stored_config,
    with_former_scheduler,
)
from orchestrator.sweep.finalize import finalize, start_tracking
from orchestrator.sweep.session import SweepSession
from orchestrator.sweep.session_snapshot import write_session_snapshot
from orchestrator.sweep.signals import SignalWatch
from orchestrator.tracking.mlflow_client import refuse_damaged_tracking

logger = logging.getLogger(__name__)


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
    """Train and compare the configurations of a sweep; blocks until the sweep has ended.

    All files go to `runs_dir/<name>`. Ctrl-C ends the sweep after the running epochs, or within those that take over
    15 s more, where they resume; a second one ends it immediately. Signals are handled only where this is called in the
    main thread.

    Args:
        config: Checked configuration of the sweep.
        resume: Resume the sweep of this name: keep ended trials, continue interrupted ones, add trials up to `trials`.
        allow_changed: Resume although something that decides the results has changed.
        address: Ray cluster to join; None starts a private instance, or joins `RAY_ADDRESS`.
        console: Console for progress and messages; None prints nothing, except that a notebook shows a table.
        verbose: Show the output of Ray and of its workers.
        sweep_file: File that `config` was read from, recorded as it is except for passwords.

    Returns:
        Result of the sweep; its status is `interrupted` after Ctrl-C.

    Raises:
        ConfigError: A folder to write to cannot be used, a sweep that `warm_start` names is not in the database, or a
            checkpoint that trials start from cannot be read or is not of the network.
        SweepNameError: A new sweep's name is taken, there is none to resume, or it is being run elsewhere.
        ResumeError: What decides the results has changed; the text lists every difference.
        ClusterError: The cluster does not answer, or cannot hold one trial.
        DataError: The dataset cannot be prepared.
        StorageError, TrackingError: The database file of the studies, or of MLflow, is damaged.
    """
    display = NotebookDisplay() if console is None and in_notebook() else None
    console = console or Console(quiet=True)
    config, plans, folder = _prepared(config, console, resume=resume, edited=sweep_file is not None)
    dataset = locate_dataset(config.dataset.name, config.dataset.uri, plans.paths.datasets)
    _refuse_damaged_databases(plans)
    with _driven(folder, new=not resume) as (signals, journal):
        ledger = Ledger(journal)
        notifications = _notifications(plans, ledger, console)
        found = find_initial_weights(plans, folder=folder.path if resume else None, recorded=ledger.identity)
        plans = with_former_scheduler(found.in_plans(plans), ledger)
        now = {**identity(config, dataset), **found.identity}
        if ledger.identity is not None and not allow_changed:
            refuse_changes(ledger.identity, now, name=folder.name)
        outputs: Any = {"console": console, "display": display, "notifications": notifications}
        session = SweepSession(config, plans, folder, ledger, dataset=dataset, signals=signals, **outputs)
        with session.connected(address, verbose=verbose):
            settings = complete_settings(config), non_default_settings(config)
            inputs = _Inputs(*settings, sweep_file, config.network_files, chosen_sampler(plans.search))
            _record_session(ledger, folder, now, describe_dataset(dataset, plans.search.annotation), inputs)
            for note in found.stored(folder.path).notes:
                say(console, note)
            hint = _hint_on_failure(config.name, config.runs_dir)
            return _run_tracked(session, plans, folder, ledger, notifications=notifications, hint=hint)


def _prepared(
    config: SweepConfig, console: Console, *, resume: bool, edited: bool
) -> tuple[SweepConfig, SweepPlans, SweepFolder]:
    """Return configuration, plans and folder of a sweep; a file that resumes one takes the settings changed since.

    Raises:
        ConfigError: A folder to write to cannot be used.
        SweepNameError: A new sweep's name is taken, or there is none to resume.
    """
    plans = resolve_plans(config)
    require_usable_places(plans.paths.runs_dir, plans.paths.study_uri)
    named_uris = [config.tracking.uri, config.storage.uri]
    _note_sources(plans, config.network_files, named_uris)
    note_dataset(config.dataset.uri)
    folder = _begun_folder(plans, named_uris) if resume else _new_folder(plans)
    if resume:
        history = read_begun(folder.journal)
        config, steered = steered_again(config, history) if edited else (config, "")
        config, chosen = chosen_before(config, history)
        plans = resolve_plans(config)
        for kept in filter(None, (steered, chosen)):
            say(console, kept)
    return config, plans, folder


def resume_sweep(
    name: str,
    overrides: Sequence[str] = (),
    *,
    runs_dir: str | None = None,
    allow_changed: bool = False,
    allow_code: bool = False,
    address: str | None = None,
    console: Console | None = None,
    verbose: bool = False,
) -> SweepResult:
    """Resume a sweep with the configuration of its last session; blocks until the sweep has ended.

    Args:
        name: Name of the sweep.
        overrides: Assignments to lay over its settings, such as `trials=40`.
        runs_dir: Folder of all results; None takes the default.
        allow_changed: Resume although something that decides the results has changed.
        allow_code: Run the files of networks that its folder holds, also where the user has not run them before.
        address: Ray cluster to join; None starts a private instance, or joins `RAY_ADDRESS`.
        console: Console for progress and messages; None prints nothing.
        verbose: Show the output of Ray and of its workers.

    Raises:
        ConfigError: A setting is wrong.
        SweepNameError: There is no such sweep, or it is being run elsewhere.
        ResumeError: What decides the results has changed.
    """
    folder = existing_folder(resolve_runs_dir(runs_dir), name)
    require_original(folder)
    config = stored_config(folder, overrides, allow_code=allow_code)
    return run_sweep(
        config, resume=True, allow_changed=allow_changed, address=address, console=console, verbose=verbose
    )


def _note_sources(plans: SweepPlans, files: NetworkFiles, uris: Iterable[str | None]) -> None:
    """Remember the files and the servers that the user has named, so that later commands trust them."""
    _note_network_files(files, plans)
    _note_servers(uris)


def _refuse_damaged_databases(plans: SweepPlans) -> None:
    refuse_damaged_study(plans.paths.study_uri)
    refuse_damaged_tracking(plans.tracking.uri)


def _note_network_files(files: NetworkFiles, plans: SweepPlans) -> None:
    """Remember the files of networks that the user has named or allowed, so that later commands run them, too.

    Raises:
        ConfigError: The folder of the sweep holds a file that the user has not run before.
    """
    if files.withheld:
        folder = plans.paths.runs_dir / plans.name / "sessions"
        raise ConfigError(
            [
                Problem(
                    "model", f"{name} is code in {folder}, which you have not run before. Read it, then --allow-code"
                )
                for name in files.withheld
            ],
            f"sweep '{plans.name}'",
        )
    for sha256 in files.hashes.values():
        note_code(sha256)


def _note_servers(uris: Iterable[str | None]) -> None:
    """Remember the servers that a configuration names, so that a later session trusts them."""
    for uri in uris:
        if uri is not None:
            note_server(uri)


def _begun_folder(plans: SweepPlans, named_uris: Sequence[str | None]) -> SweepFolder:
    """Return the folder of a sweep to resume; a copy would change the runs and the study of its original."""
    folder = existing_folder(plans.paths.runs_dir, plans.name)
    require_original(folder, addresses=named_uris)
    return folder


def _new_folder(plans: SweepPlans) -> SweepFolder:
    """Return the folder of a new sweep, once everything that would refuse the sweep is checked."""
    if plans.search.warm_start:
        plans.paths.runs_dir.mkdir(parents=True, exist_ok=True)
        refuse_unknown_sweeps(plans.search.warm_start, open_storage(plans.paths.study_uri))
    return new_folder(plans.paths.runs_dir, plans.name)


@contextlib.contextmanager
def _driven(folder: SweepFolder, *, new: bool) -> Iterator[tuple[SignalWatch, Journal]]:
    """Hold the lock of the driver, watch for signals and open the journal; later requests are for this session."""
    with folder.driven(new=new):
        RequestFolder(folder).clear()
        with SignalWatch() as signals, Journal(folder.journal, gives_up=lambda: signals.urgent) as journal:
            yield signals, journal


@contextlib.contextmanager
def _hint_on_failure(name: str, runs_dir: str | None) -> Iterator[None]:
    """Add the command that resumes the sweep to an error."""
    try:
        yield
    except SpatialSweepError as error:
        elsewhere = "" if runs_dir is None else f" --runs-dir {shlex.quote(runs_dir)}"
        command = f"resume it with `spatialsweep resume {name}{elsewhere}`"
        error.add_note(f"What is done is kept; {'submit it again with `--resume`' if inside_ray_job() else command}")
        raise


@dataclass(frozen=True)
class _Inputs:
    """Settings and files of the user that a session was made of, and the sampler that was chosen for it."""

    settings: dict[str, Any]
    non_default: dict[str, Any]
    sweep_file: Path | None
    networks: NetworkFiles
    sampler: SamplerChoice | None = None


def _record_session(
    ledger: Ledger,
    folder: SweepFolder,
    identity_now: dict[str, Any],
    dataset: tuple[dict[str, Any], str],
    inputs: _Inputs,
) -> None:
    """Record the start of a session in the journal, and its settings, dataset and files of the user."""
    tags = {**facts(), **{f"network_file.{name}": sha256 for name, sha256 in inputs.networks.hashes.items()}}
    if inputs.sampler is not None:
        tags["spatialsweep.sampler"] = f"{inputs.sampler.name}: {inputs.sampler.reason}"
    if ledger.identity is None:
        ledger.sweep_started(folder.name, inputs.settings, tags, identity_now)
    else:
        ledger.sweep_resumed(inputs.settings, tags, identity_now)
    known, manifest = dataset
    files = write_session_snapshot(
        folder.session(ledger.sessions),
        inputs.settings,
        manifest,
        non_default=inputs.non_default,
        sweep_file=inputs.sweep_file,
        network_files=inputs.networks.sources,
    )
    ledger.session_described(map(str, files), known)


def _run_tracked(
    session: SweepSession,
    plans: SweepPlans,
    folder: SweepFolder,
    ledger: Ledger,
    *,
    notifications: Notifications,
    hint: contextlib.AbstractContextManager[None],
) -> SweepResult:
    """Run a session while a thread writes its events to MLflow; finalize the sweep, also after an error.

    Whatever fails, also where the journal can record no end, the user is notified and Ray's files are removed.
    """
    status = ended = TrialStatus.FAILED
    writer = start_tracking(plans.tracking, folder.journal, after_report=True)
    notifications.start(plans.search.trials)
    with hint:
        try:
            try:
                status = session.run()
            finally:
                result = finalize(plans, folder, ledger, writer, status)
            ended = status
        finally:
            lost = _close(notifications, folder, ended)
    return replace(result, notice=". ".join(filter(None, (result.notice, lost))))


def _close(notifications: Notifications, folder: SweepFolder, status: TrialStatus) -> str:
    """Notify of the end of a session and remove Ray's files; return what could not be delivered."""
    try:
        if lost := notifications.close(status):
            logger.warning("%s", lost)
        return lost
    finally:
        folder.clear_scratch()


def _notifications(plans: SweepPlans, ledger: Ledger, console: Console) -> Notifications:
    """Return the notifications of a session.

    Raises:
        ConfigError: An address stands in an environment variable that is not set.
    """
    return Notifications(
        plans.notify,
        ledger,
        name=plans.name,
        objective=plans.search.objective,
        say=lambda text: say(console, text),
    )

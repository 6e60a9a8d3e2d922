"""Trained network with the records of its training, found by checkpoint file, MLflow run or sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from orchestrator.config.tasks.registry import DEFAULT_TASK
from orchestrator.errors import CheckpointError, ConfigError, SweepNameError
from orchestrator.files.runs_dir import resolve_runs_dir
from orchestrator.inference.load import default_tracking_uri, local_checkpoint, run_id_of
from orchestrator.inference.weights.converted import WeightsOf, converted_weights
from orchestrator.records.folder.known_servers import note_dataset
from orchestrator.records.folder.recorded_addresses import confirmed_tracking_uri
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.trial_folder import trial_folder
from orchestrator.results.stored_sweep import StoredSweep, find_sweep, read_sweep
from orchestrator.results.sweep_result import SweepResult
from orchestrator.server_addresses import require_readable

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TrainedNetwork", "find_network"]


@dataclass(frozen=True)
class TrainedNetwork:
    """Trained network and the records of its training.

    Args:
        network: Network in evaluation mode on the CPU, with the attributes of `load_model`.
        label: Short name for headings and files.
        name: Registered name of the network.
        options: Options of the network.
        epoch: Epoch of the weights, from 1.
        checkpoint_bytes: Size of the checkpoint file.
        dataset: Section `dataset` of its sweep; empty where the sweep is unknown.
        training: Section `training` of its trial, else of its sweep; empty where both are unknown.
        reports: Metrics of every recorded epoch, by epoch.
        run_id: MLflow run of its trial; None where it is unknown.
        tracking_uri: MLflow address of that run; None where only the journal of its sweep names one.
        runs_dir: Folder of results of its sweep.
        notes: What was read of weights of another program, a line each.
        task: Name of the task.
        returns_tensor: True where the output of the network is one tensor.
    """

    network: nn.Module = field(repr=False)
    label: str
    name: str
    options: Mapping[str, Any]
    epoch: int
    checkpoint_bytes: int
    dataset: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)
    reports: Mapping[int, Mapping[str, float]] = field(default_factory=dict, repr=False)
    run_id: str | None = None
    tracking_uri: str | None = None
    runs_dir: Path = Path("runs")
    notes: tuple[str, ...] = ()
    task: str = DEFAULT_TASK
    returns_tensor: bool = True

    @property
    def origin(self) -> str:
        """Origin of the weights for headings."""
        return f"epoch {self.epoch} of {self.label}" if self.epoch else self.label


@dataclass(frozen=True)
class _Found:
    """Place of a checkpoint, and the records of its training."""

    source: str | Path
    label: str
    dataset: Mapping[str, Any]
    training: Mapping[str, Any]
    reports: Mapping[int, Mapping[str, float]]
    run_id: str | None
    tracking_uri: str | None
    runs_dir: Path


def find_network(
    source: str | Path,
    *,
    trial: int | None = None,
    runs_dir: str | Path | None = None,
    tracking_uri: str | None = None,
    allow_code: bool = False,
    of: WeightsOf | None = None,
) -> TrainedNetwork:
    """Rebuild a trained network and collect the records of its training; blocks while a checkpoint is downloaded.

    Args:
        source: Path of a `best.pt`, MLflow run of a trial, or name or folder of a sweep.
        trial: Number of a trial of that sweep; None takes its best.
        runs_dir: Folder of results; None takes the default.
        tracking_uri: MLflow address of the run; None takes the sweep's, else the database in `runs`.
        allow_code: Run the source code of a network that the user has not run before, see `load_model`.
        of: Network of weights of another program, of which `source` is then a file, see `converted_weights`.

    Raises:
        CheckpointError: There is no such file, run, sweep or trial, or it left no checkpoint.
    """
    from orchestrator.training.checkpoints.checkpoint_content import read_best
    from orchestrator.training.checkpoints.checkpoints import load_network_file

    require_readable(tracking_uri)
    if of is not None:
        return _of_other_program(source, of, trial, resolve_runs_dir(runs_dir), tracking_uri)
    found = _find(source, trial, runs_dir, tracking_uri)
    with local_checkpoint(found.source, tracking_uri=found.tracking_uri) as path:
        network = load_network_file(path, allow_code=allow_code)
        content, size = read_best(path), path.stat().st_size
    return TrainedNetwork(
        network=network,
        label=found.label,
        name=content["model"]["name"],
        options=content["model"]["options"],
        epoch=content.get("epoch", 0),
        checkpoint_bytes=size,
        dataset=found.dataset,
        training=found.training,
        reports=found.reports,
        run_id=found.run_id,
        tracking_uri=found.tracking_uri,
        runs_dir=found.runs_dir,
        task=cast(str, network.task),
        returns_tensor=network.output_shape is not None,
    )


def _of_other_program(
    source: str | Path, of: WeightsOf, trial: int | None, runs_dir: Path, tracking_uri: str | None
) -> TrainedNetwork:
    from orchestrator.training.checkpoints.checkpoint_content import read_best
    from orchestrator.training.checkpoints.checkpoints import load_network_file

    if trial is not None:
        raise CheckpointError(f"--trial {trial}: {source} is one network already; leave --trial out")
    note_dataset(of.dataset)
    datasets = runs_dir / "datasets"
    with converted_weights(source, of, tracking_uri=tracking_uri, datasets_folder=datasets) as converted:
        content = read_best(converted.path)
        return TrainedNetwork(
            network=load_network_file(converted.path),
            label=Path(str(source)).name.partition(".")[0] or of.model,
            name=of.model,
            options=content["model"]["options"],
            epoch=0,
            checkpoint_bytes=converted.bytes,
            dataset={} if of.dataset is None else {"uri": of.dataset},
            runs_dir=runs_dir,
            notes=converted.notes,
        )


def _find(source: str | Path, trial: int | None, runs_dir: str | Path | None, tracking_uri: str | None) -> _Found:
    run_id = run_id_of(source)
    if run_id is None and not Path(source).is_file():
        return _of_sweep(_sweep(source, runs_dir), trial, tracking_uri)
    if trial is not None:
        raise CheckpointError(f"--trial {trial}: {source} is one trial already; name its sweep, or leave --trial out")
    if run_id is not None:
        return _of_run(run_id, tracking_uri or default_tracking_uri(), resolve_runs_dir(runs_dir))
    path = Path(source).resolve()
    return _of_trial_folder(path, tracking_uri) or _Found(
        path,
        f"{path.parent.name}-best" if path.stem == "best" else path.stem,
        {},
        {},
        {},
        None,
        tracking_uri,
        resolve_runs_dir(runs_dir),
    )


def _of_trial_folder(path: Path, tracking_uri: str | None) -> _Found | None:
    """Find the records of a checkpoint that lies in a trial's folder of a sweep; None for any other place."""
    if path.name != "best.pt" or len(path.parents) < 3 or not SweepFolder(path.parents[2]).has_begun:
        return None
    sweep = read_sweep(SweepFolder(path.parents[2]))
    for record in sweep.result.records:
        if path.parent == sweep.folder.resolve() / "trials" / trial_folder(record.number):
            return _of_sweep(sweep, record.number, tracking_uri)
    return None


def _sweep(source: str | Path, runs_dir: str | Path | None) -> StoredSweep:
    try:
        return read_sweep(find_sweep(source, runs_dir))
    except SweepNameError as error:
        raise CheckpointError(
            f"{source}: neither a checkpoint file, nor an MLflow run id (32 hexadecimal digits), nor a sweep ({error})"
        ) from None


def _of_sweep(sweep: StoredSweep, trial: int | None, tracking_uri: str | None) -> _Found:
    result = sweep.result
    records = {record.number: record for record in result.records}
    if trial is not None and trial not in records:
        raise CheckpointError(f"--trial {trial}: {sweep.name} has the trials {_ranges(sorted(records))}")
    chosen = result.best if trial is None else result.trial(trial)
    if chosen is None:
        raise CheckpointError(f"{sweep.name}: no trial has finished an epoch")
    if chosen.checkpoint is None:
        kept = [number for number in sorted(records) if result.trial(number).checkpoint is not None]
        raise CheckpointError(
            f"{sweep.name}: trial {chosen.number} left no checkpoint. Trials with one: {_ranges(kept) or 'none'}"
        )
    return _Found(
        source=chosen.checkpoint,
        label=f"{sweep.name}-trial-{chosen.number:05d}",
        dataset=sweep.config.get("dataset", {}),
        training=records[chosen.number].config.get("training", {}),
        reports={int(report["epoch"]): report for report in records[chosen.number].reports},
        run_id=chosen.mlflow_run,
        tracking_uri=_confirmed(result, tracking_uri),
        runs_dir=sweep.folder.parent,
    )


def _confirmed(result: SweepResult, named: str | None) -> str | None:
    """Return the MLflow address of a sweep; None where only its journal names one."""
    try:
        return confirmed_tracking_uri(result, named)
    except ConfigError:
        return None


def _of_run(run_id: str, tracking_uri: str, runs_dir: Path) -> _Found:
    from orchestrator.tracking.mlflow_runs import read_run

    run = read_run(run_id, tracking_uri)
    return _Found(
        source=run_id,
        label=run.name.replace("/", "-"),
        dataset=_section("dataset", run.sweep_params),
        training=_section("training", run.sweep_params),
        reports=run.reports,
        run_id=run_id,
        tracking_uri=tracking_uri,
        runs_dir=runs_dir,
    )


def _section(name: str, params: Mapping[str, str]) -> Mapping[str, Any]:
    """Return a section of the settings of a sweep from the texts that MLflow stores of them."""
    prefix = f"{name}."
    found = {key.removeprefix(prefix): text for key, text in params.items() if key.startswith(prefix)}
    return {key: None if text == "None" else text for key, text in found.items()}


def _ranges(numbers: Sequence[int]) -> str:
    """Format sorted numbers for a message, such as `0-3, 7`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)

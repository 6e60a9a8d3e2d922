"""Loading of a trained network from a checkpoint file or an MLflow run."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import CheckpointError, SpatialSweepError

if TYPE_CHECKING:
    from torch import nn

_RUN = re.compile(r"^(?:runs:/)?([0-9a-f]{32})(?:/.*)?$")


def load_model(source: str | Path, *, tracking_uri: str | None = None, allow_code: bool = False) -> nn.Module:
    """Rebuild a trained network, in evaluation mode on the CPU; blocks while a checkpoint is downloaded.

    The network has the attributes `pixel_mean`, `pixel_std` (for pixels in [0, 1]) and `class_names`.

    Args:
        source: Path of a `best.pt`, or MLflow run of a trial as its id or `runs:/<id>`.
        tracking_uri: MLflow address of the run; None takes the database in `runs`.
        allow_code: Run the source code that the checkpoint of a network of a file holds, also where the user has not
            run it before.

    Raises:
        CheckpointError: There is no such file or run, the run holds no checkpoint, or the file is damaged.
    """
    from orchestrator.training.checkpoints.checkpoints import load_network_file

    with local_checkpoint(source, tracking_uri=tracking_uri) as path:
        return load_network_file(path, allow_code=allow_code)


@contextmanager
def local_checkpoint(source: str | Path, *, tracking_uri: str | None = None) -> Iterator[Path]:
    """Provide the file of a checkpoint within the context, downloaded where it is an MLflow artifact.

    Args:
        source: Checkpoint, see `load_model`.
        tracking_uri: MLflow address of the run, see `load_model`.

    Raises:
        CheckpointError: There is no such file or run, or the run holds no checkpoint.
    """
    run_id = run_id_of(source)
    if run_id is None:
        path = Path(source)
        if not path.is_file():
            hint = _best_of_sweep(source)
            raise CheckpointError(
                f"{source}: neither a checkpoint file nor an MLflow run id (32 hexadecimal digits){hint}"
            )
        yield path
        return
    from orchestrator.server_addresses import require_readable
    from orchestrator.tracking.mlflow_runs import fetch_checkpoint

    require_readable(tracking_uri)
    with tempfile.TemporaryDirectory() as folder:
        yield fetch_checkpoint(run_id, tracking_uri or default_tracking_uri(), Path(folder))


def _best_of_sweep(source: str | Path) -> str:
    """Return where the best weights of a sweep lie, for an error about its name; empty if there is no such sweep."""
    from orchestrator.results.stored_sweep import load_result

    try:
        best = load_result(source).best
    except SpatialSweepError:  # no sweep, or one that cannot be read
        return ""
    path = None if best is None else best.checkpoint
    return "" if path is None else f", but a sweep. Name the checkpoint of its best trial, {path}"


def default_tracking_uri() -> str:
    """Return the address of the database in `runs`."""
    from orchestrator.files.runs_dir import resolve_runs_dir
    from orchestrator.server_addresses import embedded_uri

    return embedded_uri(resolve_runs_dir(None))


def run_id_of(source: str | Path) -> str | None:
    """Return the MLflow run id that a source names, as it is or as `runs:/<id>`; None for any other source."""
    match = _RUN.match(str(source))
    return None if match is None else match[1]

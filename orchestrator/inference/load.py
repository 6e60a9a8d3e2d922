"""From a checkpoint, wherever it lies, to a model: one call."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

_RUN = re.compile(r"^(?:runs:/)?([0-9a-f]{32})(?:/.*)?$")


def load_model(source: str | Path, *, tracking_uri: str | None = None) -> nn.Module:
    """Rebuilds a trained network, in evaluation mode on the CPU.

    The model carries `pixel_mean`, `pixel_std` (of pixels in [0, 1]) and `class_names`.

    Args:
        source: A `best.pt`, or the MLflow run of a trial: its id, or `runs:/<id>`.
        tracking_uri: Where the run is recorded; None takes the database beneath `runs`.

    Raises:
        CheckpointError: There is no such file or run, the run holds no checkpoint, or the file is damaged.
    """
    from orchestrator.training.checkpoints.checkpoints import load_network_file

    with local_checkpoint(source, tracking_uri=tracking_uri) as path:
        return load_network_file(path)


@contextmanager
def local_checkpoint(source: str | Path, *, tracking_uri: str | None = None) -> Iterator[Path]:
    """The file of a checkpoint, while the context lasts.

    Args:
        source: As for `load_model`, like the next.
        tracking_uri: Where the run is recorded.

    Raises:
        CheckpointError: There is no such file or run, or the run holds no checkpoint.
    """
    run_id = run_id_of(source)
    if run_id is None:
        path = Path(source)
        if not path.is_file():
            raise CheckpointError(f"{source}: neither a checkpoint file nor an MLflow run id (32 hexadecimal digits)")
        yield path
        return
    from orchestrator.server_addresses import require_readable
    from orchestrator.tracking.mlflow_runs import fetch_checkpoint

    require_readable(tracking_uri)
    with tempfile.TemporaryDirectory() as folder:
        yield fetch_checkpoint(run_id, tracking_uri or default_tracking_uri(), Path(folder))


def default_tracking_uri() -> str:
    """The database beneath `runs`."""
    from orchestrator.files.runs_dir import resolve_runs_dir
    from orchestrator.server_addresses import embedded_uri

    return embedded_uri(resolve_runs_dir(None))


def run_id_of(source: str | Path) -> str | None:
    """The MLflow run that is meant, by its id or as `runs:/<id>`; None where none is."""
    match = _RUN.match(str(source))
    return None if match is None else match[1]

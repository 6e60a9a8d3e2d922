"""From a checkpoint, wherever it lies, to a model: one call."""

from __future__ import annotations

import re
import tempfile
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
    from orchestrator.training.checkpoints import load_model_file

    match = _RUN.match(str(source))
    if match is None:
        path = Path(source)
        if not path.is_file():
            raise CheckpointError(f"{source}: neither a checkpoint file nor an MLflow run id (32 hexadecimal digits)")
        return load_model_file(path)
    from orchestrator.runs_dir import resolve_runs_dir
    from orchestrator.tracking.addresses import embedded_uri
    from orchestrator.tracking.mlflow_writer import fetch_checkpoint

    uri = tracking_uri or embedded_uri(resolve_runs_dir(None))
    with tempfile.TemporaryDirectory() as folder:
        return load_model_file(fetch_checkpoint(match[1], uri, Path(folder)))

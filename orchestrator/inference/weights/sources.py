"""Sources of weights: a file, a file in an object store, an MLflow run, or pretrained weights of timm."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckpointError, DataError, did_you_mean, first_line
from orchestrator.files.home_paths import expanded_location
from orchestrator.inference.load import local_checkpoint, run_id_of
from orchestrator.uris import without_password

if TYPE_CHECKING:
    from models import Weights

__all__ = ["TIMM", "SourceWeights", "read_source"]

TIMM = "timm:"
"""Prefix of a tag of timm's pretrained weights, such as `timm:a1_in1k`."""

_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class SourceWeights:
    """Weights of a source.

    Args:
        weights: Tensors by name, with notes.
        sha256: Hash of the bytes of the file; of names, shapes and values for weights of timm.
        bytes: Size of the file; of the tensors for weights of timm.
        ours: Whether the file is a checkpoint of SpatialSweep.
    """

    weights: Weights = field(repr=False)
    sha256: str
    bytes: int
    ours: bool = False


def read_source(
    source: str | Path, *, model: str, kind: str | None = None, tracking_uri: str | None = None
) -> SourceWeights:
    """Read the weights of a source without running code of it; blocks while they are downloaded.

    Args:
        source: Path or URI of a file, MLflow run as its id or `runs:/<id>`, or `timm:TAG`.
        model: Name of the network, for weights of timm.
        kind: `ema` or `plain`, for a file that holds both; None takes the moving average.
        tracking_uri: MLflow address of the run; None takes the database in `runs`.

    Raises:
        CheckpointError: There is no such source, or it holds no weights.
    """
    text = str(source)
    if text.startswith(TIMM):
        return _of_timm(model, text.removeprefix(TIMM))
    with _local_file(text, model, tracking_uri) as path:
        import models
        from orchestrator.training.checkpoints.checkpoint_file import has_checksum

        try:
            weights = models.read_weights(path, weights=kind)
        except models.AuthorsCheckpointError as error:
            raise CheckpointError(str(error).replace(str(path), without_password(text), 1)) from None
        return SourceWeights(weights, *_hash_of_file(path), has_checksum(path))


@contextmanager
def _local_file(source: str, model: str, tracking_uri: str | None) -> Iterator[Path]:
    """Provide a source as a file within the context."""
    if "://" in source:
        with tempfile.TemporaryDirectory() as folder:
            yield _fetched(source, Path(folder))
        return
    if run_id_of(source) is not None:
        with local_checkpoint(source, tracking_uri=tracking_uri) as path:
            yield path
        return
    path = Path(expanded_location(source))
    if not path.exists():
        tags = _tags(model)
        hint = f" For pretrained weights of timm write {TIMM}{source}" if source in tags else ""
        raise CheckpointError(
            f"{source}: no such file, seen from {Path.cwd()}; name a file, a URI such as s3://bucket/weights.pth, "
            f"runs:/<id> or {TIMM}TAG.{hint}"
        )
    yield path


def _fetched(uri: str, folder: Path) -> Path:
    """Copy a file of an object store into a local folder."""
    from orchestrator.data.storage import open_folder

    shown = without_password(uri)
    if shown != uri:
        raise CheckpointError(f"{shown}: a password in this address would be recorded; put it into the environment")
    parent, _, name = uri.rpartition("/")
    target = folder / (Path(name).name or "weights")
    try:
        open_folder(parent).fetch(name, target)
    except DataError as error:
        raise CheckpointError(f"{shown}: cannot be fetched ({first_line(error)})") from None
    return target


def _of_timm(model: str, tag: str) -> SourceWeights:
    """Download pretrained weights of a network of timm."""
    import timm

    import models

    tags = _tags(model)
    if tag not in tags:
        remedy = did_you_mean(tag, tags) if tags else "It has no pretrained weights"
        raise CheckpointError(f"{TIMM}{tag}: timm has no such weights of {model}. {remedy}")
    try:
        network = timm.create_model(f"{model}.{tag}", pretrained=True)
    except Exception as error:  # of the network, of the hub, or of the file
        reason = first_line(error)
        raise CheckpointError(f"{TIMM}{tag}: the weights of {model} cannot be downloaded ({reason})") from None
    state = network.state_dict()
    return SourceWeights(models.Weights(state), *_hash_of_tensors(state))


def _tags(model: str) -> list[str]:
    """Return the tags of timm's pretrained weights of a network."""
    import timm

    found = timm.list_pretrained(f"{model}.*") if timm.is_model(model) else []
    return [name.partition(".")[2] for name in found]


def _hash_of_file(path: Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest(), path.stat().st_size


def _hash_of_tensors(state: Any) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for name, tensor in state.items():
        content = tensor.detach().cpu().contiguous().numpy().tobytes()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode() + content)
        size += len(content)
    return digest.hexdigest(), size

"""Progress of the epochs that train now, in a small file of the sweep's folder that other processes read.

The driver replaces the file every few seconds; it is gone when the session ends. The journal does not hold it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from orchestrator.files.atomic_files import atomic_file

logger = logging.getLogger(__name__)

LIVE_FILE = "live.json"
_MAX_BYTES = 4 * 2**20
_STALE_S = 60.0  # a driver that is alive writes far more often

_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Seconds = Annotated[float, Field(ge=0.0, lt=1e11, allow_inf_nan=False)]


@dataclass(frozen=True)
class EpochProgress:
    """Progress of the epoch that a trial trains, over all its workers.

    Args:
        trial: Number of the trial.
        epoch: Number of the epoch, from 1.
        step: Number of complete steps of the epoch.
        steps: Number of all steps of the epoch.
        images_per_s: Training images per second since the check before.
        loss: Mean training loss of these images; not a number when it is not finite.
        left_s: Expected seconds until the last step of the epoch.
        epoch_s: Expected seconds of all steps of an epoch.
    """

    trial: int
    epoch: int
    step: int
    steps: int
    images_per_s: float
    loss: float
    left_s: float
    epoch_s: float

    def trial_left_s(self, epochs: int, epoch_s: float | None = None) -> float:
        """Return the expected seconds until the end of the trial's last epoch.

        Args:
            epochs: Number of epochs of the trial.
            epoch_s: Seconds of an earlier epoch with its validation; None where none has ended.
        """
        each = max(self.epoch_s, epoch_s or 0.0)
        return self.left_s + (each - self.epoch_s) + max(0, epochs - self.epoch) * each


class _Row(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]
    trial: _Count
    epoch: _Count
    step: _Count
    steps: _Count
    images_per_s: _Seconds
    loss: Annotated[float, Field(allow_inf_nan=False)] | None
    left_s: _Seconds
    epoch_s: _Seconds


class _Content(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]
    time: _Seconds
    trials: Annotated[list[_Row], Field(max_length=20_000)]


_CONTENT: TypeAdapter[_Content] = TypeAdapter(_Content)


def write_live(scratch: Path, rows: Iterable[EpochProgress]) -> None:
    """Replace the file by the newest progress.

    Args:
        scratch: Folder of the sweep's temporary files, which is created.
        rows: Progress of every trial that trains.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    content = {"time": time.time(), "trials": [{**asdict(row), "loss": _finite(row.loss)} for row in rows]}
    with atomic_file(scratch / LIVE_FILE) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


def read_live(scratch: Path) -> Mapping[int, EpochProgress]:
    """Return the newest progress by trial; empty where no driver has written it of late, or the file is damaged.

    Args:
        scratch: Folder of the sweep's temporary files.
    """
    try:
        content = _CONTENT.validate_json(_read_bounded(scratch / LIVE_FILE))
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        logger.debug("%s is ignored: %s", scratch / LIVE_FILE, error)
        return {}
    if not -_STALE_S <= time.time() - content["time"] <= _STALE_S:
        return {}
    rows = [_progress_of(row) for row in content["trials"]]
    return {row.trial: row for row in rows if row.step <= row.steps}


def _read_bounded(path: Path) -> bytes:
    """Return the content of a regular file, which is no link and not large.

    Raises:
        OSError: It is something else, or too large.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not a regular file")
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise OSError(f"more than {_MAX_BYTES} bytes")
    return content


def _progress_of(row: _Row) -> EpochProgress:
    known: dict[str, Any] = {**row, "loss": math.nan if row["loss"] is None else row["loss"]}
    return EpochProgress(**known)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

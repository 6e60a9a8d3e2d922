"""Note in a trial's folder: wait for other trials, then perhaps resume from another trial's weights and settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.files.atomic_files import atomic_file

_NOTE = "handover.json"
_IN_EFFECT = "changed_config.json"
_FILES = ("best.pt", "last.pt")  # the state last: with it the change is complete


@dataclass(frozen=True)
class WeightTransfer:
    """Change of a trial before its next epoch; written by the scheduler in the driver, applied by the trial's client.

    Args:
        donor: Folder of the trial whose weights are copied; None keeps the trial's own.
        config: Configuration of the trial from then on, where there is a donor.
        waits: Whether the change is decided only when other trials have come as far; until then the lane is free.
    """

    donor: str | None = None
    config: Mapping[str, Any] | None = None
    waits: bool = False

    def write(self, folder: Path) -> None:
        """Write the note atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / _NOTE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> WeightTransfer | None:
        """Return the note in a folder; None when there is none."""
        try:
            return cls(**json.loads((folder / _NOTE).read_text()))
        except FileNotFoundError:
            return None

    def apply(self, folder: Path) -> None:
        """Copy the donor's checkpoints into the trial's folder, to which no lane writes meanwhile, and remove the note.

        A donor replaces its files atomically, so that a copy is never of two epochs.
        """
        if self.donor is not None:
            donor = folder.parent / Path(self.donor).name  # the sweep may have moved since the note was left
            for name in _FILES:
                source = donor / name
                if source.exists():
                    with atomic_file(folder / name) as partial:
                        shutil.copyfile(source, partial)
        if self.config is not None:
            _write(folder / _IN_EFFECT, self.config)
        (folder / _NOTE).unlink(missing_ok=True)


def changed_config(folder: Path) -> Mapping[str, Any] | None:
    """Return the configuration of a trial since its last change; None when it was never changed."""
    try:
        return json.loads((folder / _IN_EFFECT).read_text())  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(content))

"""Note in a trial's folder: wait for other trials, then perhaps resume from another trial's weights and settings.

The donor's checkpoints lie beside the note, as files of their own: the driver takes them while the donor waits at the
report that was compared, so that it does not matter how far the donor trains, or whether it ends, before the trial's
client carries out the note. All files are written into the trial's folder, which every node reaches.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import CheckpointError
from orchestrator.files.atomic_files import atomic_file

_NOTE = "handover.json"
_IN_EFFECT = "changed_config.json"
_FILES = ("best.pt", "last.pt")
_TAKEN = "handover-"  # before the name of a donor's checkpoint; retention deletes it as it deletes any `.pt`


@dataclass(frozen=True)
class WeightTransfer:
    """Change of a trial before its next epoch; written by the scheduler in the driver, applied by the trial's client.

    Args:
        donor: Folder of the trial whose weights are taken over; None keeps the trial's own.
        config: Configuration of the trial from then on, where there is a donor.
        epoch: Epoch of the donor's weights, where there is a donor; None in a note of a version that did not take the
            donor's checkpoints beforehand.
        change: Number that the change has among those of the trial in the journal, from 1, where there is a donor.
        waits: Whether the change is decided only when other trials have come as far, or recorded only later; until then
            the lane is free.
    """

    donor: str | None = None
    config: Mapping[str, Any] | None = None
    epoch: int | None = None
    change: int = 0
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
        """Carry out the note in the trial's folder, to which no lane writes meanwhile, and remove it.

        It may be called again after it was cut short at any point: files that were renamed before are in their place.

        Raises:
            CheckpointError: The donor's checkpoints are no longer beside the note; the trial is unchanged.
        """
        if self.donor is not None:
            self._take_over(folder)
        for name in _FILES:  # of an earlier decision; or the file that was renamed, where it was a link to its target
            (folder / f"{_TAKEN}{name}").unlink(missing_ok=True)
        (folder / _NOTE).unlink(missing_ok=True)

    def _take_over(self, folder: Path) -> None:
        taken = {name: folder / f"{_TAKEN}{name}" for name in _FILES}
        lost = [path for path in taken.values() if not path.exists()]
        if lost and changed_config(folder) != self.config:  # the settings come first: nothing was renamed before
            raise CheckpointError(f"{lost[0]}: the checkpoint taken over from {self.donor} is missing")
        _write(folder / _IN_EFFECT, self.config or {})
        for name, path in taken.items():
            with contextlib.suppress(FileNotFoundError):
                path.replace(folder / name)


def take_checkpoints(donor: Path, folder: Path) -> None:
    """Put the checkpoints of a trial that waits into another trial's folder, for `WeightTransfer.apply`.

    They are links where the storage has any: a checkpoint is replaced by its next version, never modified, so that a
    link keeps what it was. Files that were left by an earlier decision are replaced.

    Args:
        donor: Folder of the trial that waits.
        folder: Folder of the trial that takes its weights over.

    Raises:
        OSError: A checkpoint is missing, or cannot be linked or copied.
    """
    for name in _FILES:
        source, target = (donor / name).resolve(), folder / f"{_TAKEN}{name}"
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:  # no links on this storage, or none to another user's file
            with atomic_file(target) as partial:
                shutil.copyfile(source, partial)


def changed_config(folder: Path) -> Mapping[str, Any] | None:
    """Return the configuration of a trial since its last change; None when it was never changed."""
    try:
        return json.loads((folder / _IN_EFFECT).read_text())  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(content))

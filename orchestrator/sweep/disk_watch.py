"""Room on the storage of a sweep, looked at by its driver."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.disk_space import PATIENCE_S
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.trial_folder import trial_folder
from orchestrator.records.ledger import Ledger

_LOOK_S = 5.0
_MB = 2**20


class RoomWatch:
    """Says when the storage has no room for another checkpoint: the ranks then wait, and only their logs tell why.

    Args:
        folder: Of the sweep.
        ledger: Knows which trials train.
        say: Shows a line to the user.
    """

    def __init__(self, folder: SweepFolder, ledger: Ledger, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._ledger = ledger
        self._say = say
        self._looked_s = time.monotonic()
        self._told = False

    def look(self) -> None:
        """Looks every few seconds; speaks when room has run out, and when there is some again."""
        if time.monotonic() - self._looked_s < _LOOK_S:
            return
        self._looked_s = time.monotonic()
        try:
            needed, free = self._largest(), shutil.disk_usage(self._folder.path).free
        except OSError:
            return  # a storage that does not answer is for those to tell who write there
        if free < needed and not self._told:
            self._say(
                f"{self._folder.path} has {free / _MB:.1f} MB left, a checkpoint needs {needed / _MB:.1f} MB: training "
                f"waits for room, {PATIENCE_S / 60:g} minutes at most. Free some space there"
            )
        elif free >= needed and self._told:
            self._say("There is room again.")
        self._told = free < needed

    def _largest(self) -> int:
        """Bytes of the largest checkpoint of a trial that trains."""
        folders = [self._folder.trials / trial_folder(record.number) for record in self._ledger.running()]
        return max((_size(folder / "last.pt") for folder in folders), default=0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # not written yet, or replaced this moment
        return 0

"""Free space on the storage of a sweep, polled by its driver."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.disk_space import PATIENCE_S, as_size
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.trial_folder import trial_folder
from orchestrator.records.ledger import Ledger

_INTERVAL_S = 5.0


class DiskWatch:
    """Warning of the driver that the storage is too full for another checkpoint.

    The ranks wait then, and only their logs would show the reason.

    Args:
        folder: Folder of the sweep.
        ledger: Ledger of the sweep, for the trials that train.
        say: Called with a line for the user.
    """

    def __init__(self, folder: SweepFolder, ledger: Ledger, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._ledger = ledger
        self._say = say
        self._polled_s = time.monotonic()
        self._warned = False
        self._needed = 0

    def poll(self) -> None:
        """Measure every few seconds; print a line when space has run out, and when there is enough again."""
        if time.monotonic() - self._polled_s < _INTERVAL_S:
            return
        self._polled_s = time.monotonic()
        try:
            # A trial that has written none yet needs room as the last one did.
            self._needed = self._largest_checkpoint() or self._needed
            free = shutil.disk_usage(self._folder.path).free
        except OSError:
            return  # a storage that does not answer is reported by the processes that write there
        needed = self._needed
        if free < needed and not self._warned:
            self._say(
                f"{self._folder.path} has {as_size(free)} left, a checkpoint needs {as_size(needed)}: training "
                f"waits for room, {PATIENCE_S / 60:g} minutes at most; then the sweep ends. Free some space there"
            )
        elif free >= needed and self._warned:
            self._say("There is room again.")
        self._warned = free < needed

    def _largest_checkpoint(self) -> int:
        """Return the size in bytes of the largest checkpoint of a trial that trains."""
        folders = [self._folder.trials / trial_folder(record.number) for record in self._ledger.running()]
        return max((_size(folder / "last.pt") for folder in folders), default=0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # not written yet, or being replaced
        return 0

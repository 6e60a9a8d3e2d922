"""File of a user's own network, for sweeps on the digits."""

from __future__ import annotations

from pathlib import Path

NAME = "own_net.py:make"
TEXT = '''\
"""Network of a user."""

from torch import nn


class Own(nn.Module):
    def __init__(self, classes, channels, width):
        super().__init__()
        self.hidden = nn.Linear(channels * 64, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.hidden(x.flatten(1)).relu())


def make(num_classes, in_chans, *, width: int = 8):
    return Own(num_classes, in_chans, width)
'''

_PACED = '''\
"""Small network of which each training step lasts a while, without work, as long as a file is there."""

import time
from pathlib import Path

from torch import nn


class Paced(nn.Sequential):
    def forward(self, x):
        if self.training and Path({pace!r}).exists():
            time.sleep({step_s})
        return super().forward(x)


def make(num_classes, in_chans):
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, num_classes))
    return Paced(nn.Conv2d(in_chans, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), head)
'''


_HELD = '''\
"""Small network of which no training step is done once a journal has a number of events, as long as a file says so."""

import time
from pathlib import Path

from torch import nn

JOURNAL, HOLD = Path({journal!r}), Path({hold!r})


def is_held():
    try:
        event, count = HOLD.read_text().split()
        return JOURNAL.read_text().count(f'"{{event}}"') >= int(count)
    except FileNotFoundError:
        return False


class Held(nn.Sequential):
    def forward(self, x):
        if self.training and HOLD.exists():
            time.sleep({step_s})
            while is_held():
                time.sleep(0.02)
        return super().forward(x)


def make(num_classes, in_chans):
    layers = [nn.Conv2d(in_chans, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return Held(*layers, nn.Linear(32, num_classes))
'''


class PacedFile:
    """File of a network whose training lasts until something else has happened, and takes no processor meanwhile.

    Args:
        folder: Folder of the file.
        step_s: Seconds of a training step until `let_go`.
    """

    def __init__(self, folder: Path, *, step_s: float = 0.06) -> None:
        self._pace = folder / "pace"
        self._pace.touch()
        file = folder / "paced_net.py"
        file.write_text(_PACED.format(pace=str(self._pace), step_s=step_s))
        self.name = f"{file}:make"

    def let_go(self) -> None:
        """Let the rest train as fast as it can."""
        self._pace.unlink()


class HeldFile:
    """File of a network whose training a test holds at a point of the journal, however late the test comes there.

    Args:
        folder: Folder of the file.
        journal: Path of the journal of the sweep.
        step_s: Seconds of a training step until `let_go`.
    """

    def __init__(self, folder: Path, journal: Path, *, step_s: float = 0.0) -> None:
        self._hold = folder / "hold"
        file = folder / "held_net.py"
        file.write_text(_HELD.format(journal=str(journal), hold=str(self._hold), step_s=step_s))
        self.name = f"{file}:make"

    def hold_at(self, event: str, count: int) -> None:
        """Let nothing train any further once the journal has a number of events of a kind, and until then all."""
        partial = self._hold.with_suffix(".partial")
        partial.write_text(f"{event} {count}")
        partial.replace(self._hold)

    def let_go(self) -> None:
        """Let everything train."""
        self._hold.unlink()


def write_own_file(folder: Path, text: str = TEXT) -> Path:
    """Write the file into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "own_net.py"
    path.write_text(text)
    return path

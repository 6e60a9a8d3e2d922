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


def write_own_file(folder: Path, text: str = TEXT) -> Path:
    """Write the file into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "own_net.py"
    path.write_text(text)
    return path

"""A note in a trial's folder: wait for others, and perhaps go on from another trial's weights with other settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.files.atomic_files import written_whole

_NOTE = "handover.json"
_IN_EFFECT = "changed_config.json"
_FILES = ("best.pt", "last.pt")  # the state last: with it the change is complete


@dataclass(frozen=True)
class WeightTransfer:
    """What a trial is to do before it goes on.

    Args:
        donor: Folder of the trial whose weights it takes over; None keeps its own.
        config: The configuration it goes on with, where there is a donor.
        waits: What it is to do is decided when others have come as far; until then its lane is theirs.
    """

    donor: str | None = None
    config: Mapping[str, Any] | None = None
    waits: bool = False

    def write(self, folder: Path) -> None:
        """Writes the note whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / _NOTE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> WeightTransfer | None:
        """The note in a folder; None when there is none."""
        try:
            return cls(**json.loads((folder / _NOTE).read_text()))
        except FileNotFoundError:
            return None

    def apply(self, folder: Path) -> None:
        """Copies the donor's checkpoints into a folder that nobody writes to, and takes the note away.

        A donor replaces its files whole, so that a copy is never half of one and half of the next.
        """
        if self.donor is not None:
            donor = folder.parent / Path(self.donor).name  # the sweep may have moved since the note was left
            for name in _FILES:
                source = donor / name
                if source.exists():
                    with written_whole(folder / name) as partial:
                        shutil.copyfile(source, partial)
        if self.config is not None:
            _write(folder / _IN_EFFECT, self.config)
        (folder / _NOTE).unlink(missing_ok=True)


def changed_config(folder: Path) -> Mapping[str, Any] | None:
    """What a trial goes on with since its last change, whoever asks; None when it was never changed."""
    try:
        return json.loads((folder / _IN_EFFECT).read_text())  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content))

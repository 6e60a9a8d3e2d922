"""Pictures of a sweep's predictions: images with their annotations and the predictions of the best trial, side by side.

They lie in the folder of the trial, so that they are shown when the images or the weights are gone.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.files.atomic_files import atomic_file
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.folder.trial_folder import PICTURES, trial_folder, trial_pictures

__all__ = ["MOST_PICTURES", "SamplePictures", "store_pictures", "stored_pictures"]

MOST_PICTURES = 6
_MOST_BYTES = 4 << 20  # of a picture
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class SamplePictures:
    """Pictures of one trial.

    Args:
        trial: Number of the trial; None where no trial was drawn.
        pictures: PNG files as bytes.
        note: Reason why there are none; empty where there are some.
    """

    trial: int | None = None
    pictures: Sequence[bytes] = ()
    note: str = ""


def stored_pictures(folder: Path, number: int) -> SamplePictures:
    """Read the stored pictures of a trial; a file that is no PNG or too large is left out with a note.

    Args:
        folder: Folder of the sweep.
        number: Number of the trial.
    """
    pictures, faults = [], []
    for path in trial_pictures(SweepFolder(folder).trials, number)[:MOST_PICTURES]:
        if path.is_symlink() or path.stat().st_size > _MOST_BYTES:
            faults.append(path.name)
            continue
        content = path.read_bytes()
        pictures.append(content) if content.startswith(_PNG) else faults.append(path.name)
    note = f"left out as no pictures of a sweep: {', '.join(faults)}" if faults else ""
    return SamplePictures(number, pictures, note)


def store_pictures(folder: Path, number: int, pictures: Sequence[bytes]) -> None:
    """Write the pictures of a trial, in the place of earlier ones.

    Args:
        folder: Folder of the sweep.
        number: Number of the trial.
        pictures: PNG files as bytes.

    Raises:
        OSError: They cannot be written.
    """
    target = SweepFolder(folder).trials / trial_folder(number) / PICTURES
    if target.exists() and not target.is_symlink():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for place, content in enumerate(pictures, start=1):
        with atomic_file(target / f"{place}.png") as partial:
            partial.write_bytes(content)

"""Folder of predictions: a picture for each image, its map of classes, and all results in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from orchestrator.data.shown_names import shown_name
from orchestrator.errors import DataError
from orchestrator.files.atomic_files import atomic_file
from orchestrator.inference.predict.pictures import draw, with_legend
from orchestrator.inference.predict.results import PredictedImage, SegmentedImage

if TYPE_CHECKING:
    from orchestrator.training.images.image_files import ImageFiles

__all__ = ["TABLE", "PredictionFolder"]

TABLE = "predictions.json"
_PICTURE, _CLASSES = ".png", ".classes.png"
_NAMES_SHOWN = 3
_MOST_IN_A_BYTE = 256


@dataclass(frozen=True)
class PredictionFolder:
    """Folder that predictions are written to.

    Args:
        path: Path of the folder.
        names: Names of the pictures without their suffix, one for each image.
    """

    path: Path
    names: tuple[str, ...]

    @classmethod
    def prepared(cls, path: Path, files: ImageFiles, *, force: bool) -> PredictionFolder:
        """Create the folder where it is missing, and check that nothing in it is replaced against the user's will.

        Args:
            path: Path of the folder.
            files: Images whose predictions are to be written.
            force: Replaces files of earlier predictions.

        Raises:
            DataError: The path is a file, the folder cannot be made, has one of the files, or has one of the images
                under such a name.
        """
        if path.exists() and not path.is_dir():
            raise DataError(f"--output {path}: is a file; name a folder, such as {path}-predicted")
        names = _names(files.paths)
        targets = [path / f"{name}{suffix}" for name in names for suffix in (_PICTURE, _CLASSES)]
        read = {each.resolve() for each in files.paths}
        images = [target for target in targets if target.resolve() in read]
        if images:
            raise DataError(
                f"--output {path}: {_some(images)} would replace an image that is read; name another folder"
            )
        existing = [target for target in (*targets, path / TABLE) if target.exists()]
        if existing and not force:
            raise DataError(
                f"--output {path}: has {_some(existing)}; name another folder, or replace them with --force"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"--output {path}: cannot be made ({error.strerror})") from None
        return cls(path, names)

    def write(self, place: int, result: PredictedImage, image: np.ndarray) -> dict[str, Any]:
        """Write the picture of a result and, in segmentation, its map; return the result as plain data.

        Args:
            place: Position of the image.
            result: Result for it.
            image: Pixels of the image, uint8, (H, W, 3).
        """
        name = self.names[place]
        found = {**result.as_dict(), "picture": f"{name}{_PICTURE}"}
        self._save(with_legend(draw(result, image)), found["picture"])
        if isinstance(result, SegmentedImage):
            found["class_map"] = f"{name}{_CLASSES}"
            self._save(_class_image(result), found["class_map"])
        return found

    def write_table(self, facts: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
        """Write facts and results as JSON, and return the text.

        Args:
            facts: Facts about the network and the predictions.
            results: Results of `write`.
        """
        text = json.dumps({**facts, "images": list(results)}, indent=2) + "\n"
        with atomic_file(self.path / TABLE) as partial:
            partial.write_text(text)
        return text

    def _save(self, picture: Image.Image, name: str) -> None:
        with atomic_file(self.path / name) as partial:
            picture.save(partial, "PNG")


def _class_image(result: SegmentedImage) -> Image.Image:
    """Return the classes as grey values: 8 bits, or 16 where there are more than 256 classes."""
    classes = result.class_map.numpy()
    is_small = int(classes.max(initial=0)) < _MOST_IN_A_BYTE
    return Image.fromarray(np.ascontiguousarray(classes.astype(np.uint8 if is_small else np.uint16)))


def _names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return a name for each image: that of its file without the suffix, with a number where it is taken."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name, number = path.stem, 1
        while not taken.isdisjoint(_files_of(name)):
            number += 1
            name = f"{path.stem}-{number}"
        taken |= _files_of(name)
        names.append(name)
    return tuple(names)


def _files_of(name: str) -> set[str]:
    return {f"{name}{suffix}".casefold() for suffix in (_PICTURE, _CLASSES)}  # some file systems ignore the case


def _some(paths: Sequence[Path]) -> str:
    shown = ", ".join(shown_name(path.name) for path in paths[:_NAMES_SHOWN])
    return f"{shown} and {len(paths) - _NAMES_SHOWN} more" if len(paths) > _NAMES_SHOWN else shown

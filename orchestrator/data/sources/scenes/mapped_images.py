"""Images with a map of classes each: ADE20K and COCO's stuff-things maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.data.decoding import ImageError
from orchestrator.data.scenes.class_maps import decode_class_map
from orchestrator.data.scenes.target import IGNORED, ClassMap, SceneTarget
from orchestrator.data.shown_names import one_line, shown_name
from orchestrator.data.sources.image_listing import PassedOver, image_paths
from orchestrator.data.sources.scenes.coco_stuff_names import STUFF_THING_NAMES, UNUSED_THINGS
from orchestrator.data.sources.scenes.scene_source import (
    ListedImage,
    SceneSample,
    SceneSource,
    listing_fingerprint,
    read_image_file,
    require_splits,
)
from orchestrator.data.sources.source import checked_names, locate
from orchestrator.errors import DataError

__all__ = ["MappedImage", "MappedImages", "mapped_source", "open_ade20k", "open_coco_stuff", "read_map"]

_ADE_CLASSES = 150
_ADE_SPLITS = {"train": "training", "test": "validation"}
_STUFF_SPLITS = {"train": "train2017", "test": "val2017"}
_NAMES_BYTES = 1 << 20
_UNKNOWN = -1


@dataclass(frozen=True)
class MappedImage:
    """An image file and its map of classes.

    Args:
        image: Image.
        class_map: Path of the map relative to the root.
    """

    image: ListedImage
    class_map: str


@dataclass(frozen=True, kw_only=True)
class MappedImages(SceneSource):
    """Images with a map of classes each.

    Args:
        files: Images of each split, in an order that does not depend on the file system.
        classes: Class of each value in a map: from 0, `IGNORED`, or -1 for a value that no map may have; 256 numbers.
    """

    files: Mapping[str, tuple[MappedImage, ...]]
    classes: tuple[int, ...]

    def read(self, split: str, start: int, stop: int) -> Iterator[SceneSample]:
        """Yield the images of a split from `start` to before `stop`, with their maps."""
        classes = np.asarray(self.classes)
        for each in self.files[split][start:stop]:

            def target(each: MappedImage = each) -> SceneTarget:
                return SceneTarget.without_objects(each.image.image_id, read_map(self.root, each.class_map, classes))

            yield SceneSample.of(self.root, each.image, target)


def read_map(root: Path, file: str, classes: np.ndarray) -> ClassMap:
    """Read the map of an image, with the classes of the dataset.

    Args:
        root: Root of the dataset.
        file: Path of the map relative to the root.
        classes: Class of each value, (256,); -1 for a value that no map may have.

    Raises:
        ImageError: It is missing, no map, or has a value of no class.
    """
    try:
        values = decode_class_map(read_image_file(root / file))
    except ImageError as error:
        raise ImageError(f"its map {shown_name(file)} {error}") from None
    strange = [
        value for value in np.flatnonzero(np.bincount(values.reshape(-1))).tolist() if classes[value] == _UNKNOWN
    ]
    if strange:
        raise ImageError(f"its map {shown_name(file)} has the value {strange[0]}, which no class has")
    return np.where(classes < 0, IGNORED, classes).astype(np.uint8)[values]


def open_ade20k(root: Path) -> SceneSource:
    """Open ADE20K as distributed for scene parsing: 150 classes, of which 0 in a map is none and is ignored.

    Its validation images are the test split, since its test images have no maps.

    Raises:
        DataError: A folder or the list of classes is missing.
    """
    base = locate(root, "objectInfo150.txt")
    if base is None:
        raise DataError(f"{root}: holds no objectInfo150.txt, as the archive ADEChallengeData2016.zip does")
    listed = PassedOver(base)
    files = {
        split: _paired(base, Path("images", folder), Path("annotations", folder), listed)
        for split, folder in _ADE_SPLITS.items()
    }
    classes = [IGNORED, *range(_ADE_CLASSES), *[_UNKNOWN] * (255 - _ADE_CLASSES)]
    return mapped_source(base, files, _ade_names(base / "objectInfo150.txt"), classes, listed.lines())


def open_coco_stuff(root: Path) -> SceneSource:
    """Open COCO's stuff-things maps of 2017: 171 classes, 80 of things and 91 of stuff.

    Raises:
        DataError: A folder is missing.
    """
    base = locate(root, "stuffthingmaps") or locate(root, "annotations/train2017")
    if base is None:
        raise DataError(f"{root}: holds no folder stuffthingmaps, to which stuffthingmaps_trainval2017.zip is unpacked")
    maps = "stuffthingmaps" if (base / "stuffthingmaps").is_dir() else "annotations"
    images = "images" if (base / "images").is_dir() else ""
    listed = PassedOver(base)
    files = {
        split: _paired(base, Path(images, folder), Path(maps, folder), listed)
        for split, folder in _STUFF_SPLITS.items()
    }
    used = [value for value in range(len(STUFF_THING_NAMES)) if value not in UNUSED_THINGS]
    classes = [_UNKNOWN] * 255 + [IGNORED]
    for number, value in enumerate(used):
        classes[value] = number
    return mapped_source(base, files, [STUFF_THING_NAMES[value] for value in used], classes, listed.lines())


def mapped_source(
    base: Path,
    files: Mapping[str, Sequence[MappedImage]],
    names: Sequence[str],
    classes: Sequence[int],
    notices: tuple[str, ...] = (),
) -> MappedImages:
    """Return the source of images with maps.

    Args:
        base: Root of the dataset.
        files: Images of each split; empty splits are left out.
        names: Names of the classes.
        classes: Class of each value in a map, 256 numbers.
        notices: Notices about ignored files.
    """
    filled = {split: tuple(images) for split, images in files.items() if images}
    require_splits(base, filled)
    listing = {
        split: [name for each in images for name in (each.image.file, each.class_map)]
        for split, images in filled.items()
    }
    return MappedImages(
        root=base,
        image_shape=None,
        class_names=(),
        map_class_names=checked_names(base, names),
        splits={split: len(images) for split, images in filled.items()},
        fingerprint=listing_fingerprint(base, listing, *names),
        notices=notices,
        annotations=("class_map",),
        faulty_images=tuple(
            each.image for images in filled.values() for each in images if each.image.fault is not None
        ),
        files=filled,
        classes=tuple(classes),
    )


def _paired(base: Path, images: Path, maps: Path, listed: PassedOver) -> list[MappedImage]:
    """Return the images of a folder with their maps, numbered from 1 by name."""
    if not (base / images).is_dir():
        raise DataError(f"{base / images}: no such folder of images")
    found = []
    for number, path in enumerate(image_paths(base / images, listed), start=1):
        class_map = maps / path.relative_to(base / images).with_suffix(".png")
        fault = (
            None if (base / class_map).is_file() else f"has no map of classes: {shown_name(str(class_map))} is missing"
        )
        found.append(MappedImage(ListedImage(str(path.relative_to(base)), number, fault), str(class_map)))
    return found


def _ade_names(path: Path) -> list[str]:
    """Return the names of ADE20K's classes: the last column of a table with a header."""
    try:
        with path.open("rb") as file:
            lines = file.read(_NAMES_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as names of classes ({one_line(error)})") from None
    rows = [line.split("\t") for line in lines[1:] if line.strip()]
    if [row[0].strip() for row in rows] != [str(number) for number in range(1, _ADE_CLASSES + 1)]:
        raise DataError(f"{path}: does not list the {_ADE_CLASSES} classes in order; unpack the archive again")
    return [row[-1].strip() for row in rows]

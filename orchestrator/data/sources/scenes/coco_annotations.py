"""COCO's annotations of one split, checked and in compact arrays: a hundred bytes an object and its polygon.

Two passes over the file: images and categories, then annotations, which come before the categories in COCO's own files.
"""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.data.scenes.masks import mask_area, polygon_mask
from orchestrator.data.scenes.target import SceneTarget
from orchestrator.data.shown_names import brief, shown_name
from orchestrator.data.sources.scenes.coco_checks import (
    Fault,
    checked_box,
    checked_number,
    checked_path,
    checked_segmentation,
    checked_size,
    is_id,
)
from orchestrator.data.sources.scenes.faults import FaultList
from orchestrator.data.sources.scenes.json_stream import JsonArrays
from orchestrator.data.sources.scenes.scene_source import ListedImage
from orchestrator.errors import DataError

__all__ = ["AnnotationFile", "CocoAnnotations", "read_annotations", "read_categories"]

_NO_MASK, _POLYGONS, _RUNS = 0, 1, 2


@dataclass(frozen=True)
class AnnotationFile:
    """A file of annotations and the place of its images.

    Args:
        path: Path of the file.
        where: Name of the file in errors.
        folder: Folder of the images relative to the root.
        root: Root of the dataset.
    """

    path: Path
    where: str
    folder: str
    root: Path


@dataclass(frozen=True)
class CocoAnnotations:
    """Annotations of one split.

    Args:
        images: Images in the order of the file.
        sizes: Width and height of each image in pixels, int32, (N, 2).
        starts: Position in `order` of the first object of each image, int64, (N + 1,).
        order: Positions of the objects, grouped by image, int64, (M,).
        boxes: Corners of each object, float64, (M, 4).
        labels: Class of each object from 1, int32, (M,).
        iscrowd: 1 for a group of objects, uint8, (M,).
        area: Area of each object, float64, (M,); NaN where it was not given.
        forms: Form of the mask of each object: none, polygons or run lengths, uint8, (M,).
        mask_starts: Position of the mask of each object in `masks`, int64, (M + 1,).
        masks: Polygons and run lengths of all objects, uint8.
    """

    images: tuple[ListedImage, ...]
    sizes: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int32]
    iscrowd: npt.NDArray[np.uint8]
    area: npt.NDArray[np.float64]
    forms: npt.NDArray[np.uint8]
    mask_starts: npt.NDArray[np.int64]
    masks: npt.NDArray[np.uint8]

    @property
    def has_masks(self) -> bool:
        """True if every object has a mask."""
        return bool(len(self.order)) and bool((self.forms[self.order] != _NO_MASK).all())

    def target(self, place: int, *, with_masks: bool) -> SceneTarget:
        """Return the annotations of an image.

        Args:
            place: Position of the image.
            with_masks: Draws the masks of its objects.
        """
        width, height = (int(side) for side in self.sizes[place])
        mine = self.order[self.starts[place] : self.starts[place + 1]]
        boxes = self.boxes[mine]
        masks = tuple(self._mask(int(number), height, width) for number in mine) if with_masks else None
        sides = boxes[:, 2:] - boxes[:, :2]
        measured = sides[:, 0] * sides[:, 1] if masks is None else mask_area(masks, height, width)
        area = np.where(np.isnan(self.area[mine]), measured, self.area[mine])
        return SceneTarget(
            image_id=self.images[place].image_id,
            width=width,
            height=height,
            boxes=boxes.astype(np.float32),
            labels=self.labels[mine],
            iscrowd=self.iscrowd[mine],
            area=area.astype(np.float32),
            masks=masks,
        )

    def _mask(self, number: int, height: int, width: int) -> bytes:
        content = self.masks[self.mask_starts[number] : self.mask_starts[number + 1]].tobytes()
        if self.forms[number] == _RUNS:
            return content
        values = np.frombuffer(content, np.float64)
        polygons, at = [], 0
        while at < len(values):
            length = int(values[at])
            polygons.append(values[at + 1 : at + 1 + length])
            at += 1 + length
        return polygon_mask(polygons, height, width)


@dataclass
class _Objects:
    """Growing arrays of the checked objects of a file.

    Args:
        places: Position of each image by its number.
        sizes: Width and height of each image, in pixels.
        label_of: Label from 1 of each category.
        faults: List to which corrections are added.
    """

    places: Mapping[int, int]
    sizes: Sequence[tuple[int, int]]
    label_of: Mapping[int, int]
    faults: FaultList
    seen: set[int] = field(default_factory=set)
    numbers: array.array[int] = field(default_factory=lambda: array.array("q"))
    owners: array.array[int] = field(default_factory=lambda: array.array("q"))
    boxes: array.array[float] = field(default_factory=lambda: array.array("d"))
    labels: array.array[int] = field(default_factory=lambda: array.array("i"))
    iscrowd: array.array[int] = field(default_factory=lambda: array.array("B"))
    area: array.array[float] = field(default_factory=lambda: array.array("d"))
    forms: array.array[int] = field(default_factory=lambda: array.array("B"))
    mask_ends: array.array[int] = field(default_factory=lambda: array.array("q", [0]))
    masks: bytearray = field(default_factory=bytearray)

    def add(self, entry: Any) -> None:
        """Check one annotation and append it.

        Raises:
            Fault: It cannot be used.
        """
        if not isinstance(entry, dict):
            raise Fault("no annotation", f"is {brief(entry)}, not an object")
        number, owner, label = self._identity(entry)
        width, height = self.sizes[self.places[owner]]
        box, clipped = checked_box(entry.get("bbox"), width, height)
        mask, shortened = checked_segmentation(entry.get("segmentation"), width, height)
        iscrowd, area = entry.get("iscrowd", 0), entry.get("area")
        if type(iscrowd) is not int or iscrowd not in (0, 1):
            raise Fault("no annotation", f"iscrowd is {brief(iscrowd)}, not 0 or 1")
        if area is not None and not 0 <= (area := checked_number(area, "area")) <= 1 + 1.01 * width * height:
            raise Fault("impossible area", f"area is {area:g}; its image has {width * height} px")
        if clipped:
            self.faults.correct("boxes that reached up to a pixel out of their image and were clipped")
        if shortened:
            self.faults.correct("masks of which polygons of fewer than three points were left out")
        self.numbers.append(-1 if number is None else number)
        self.owners.append(self.places[owner])
        self.boxes.extend(box)
        self.labels.append(label)
        self.iscrowd.append(iscrowd)
        self.area.append(np.nan if area is None else area)
        self._add_mask(mask)

    def with_masks(self) -> npt.NDArray[np.bool_]:
        """Return True for each object that has a mask."""
        return np.asarray(_plain(self.forms, np.uint8) != _NO_MASK, np.bool_)

    def arranged(self, images: tuple[ListedImage, ...], kept: npt.NDArray[np.bool_] | None) -> CocoAnnotations:
        """Return the arrays, with the kept objects grouped by image in the order of the file."""
        positions = np.arange(len(self.owners)) if kept is None else np.flatnonzero(kept)
        owners = _plain(self.owners, np.int64)[positions]
        counts = np.bincount(owners, minlength=len(images))
        return CocoAnnotations(
            images=images,
            sizes=np.asarray(self.sizes, np.int32).reshape(-1, 2),
            starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            order=positions[np.argsort(owners, kind="stable")].astype(np.int64),
            boxes=_plain(self.boxes, np.float64).reshape(-1, 4),
            labels=_plain(self.labels, np.int32),
            iscrowd=_plain(self.iscrowd, np.uint8),
            area=_plain(self.area, np.float64),
            forms=_plain(self.forms, np.uint8),
            mask_starts=_plain(self.mask_ends, np.int64),
            masks=np.frombuffer(self.masks, np.uint8) if self.masks else np.empty(0, np.uint8),
        )

    def _identity(self, entry: dict[str, Any]) -> tuple[int | None, int, int]:
        """Return number, number of the image, and label of an annotation."""
        number, owner, category = entry.get("id"), entry.get("image_id"), entry.get("category_id")
        if number is not None:
            if not is_id(number):
                raise Fault("no annotation", "its id is no whole number from 0")
            if number in self.seen:
                raise Fault("duplicate annotation id", "an earlier annotation has this id")
            self.seen.add(number)
        if not is_id(owner) or owner not in self.places:
            raise Fault("unknown image", "no image of the file has this id")
        if not is_id(category) or category not in self.label_of:
            count = len(self.label_of)
            raise Fault("unknown category", f"category_id {brief(category)} is not among the {count} categories")
        return number, owner, self.label_of[category]

    def _add_mask(self, mask: list[npt.NDArray[np.float64]] | bytes | None) -> None:
        if isinstance(mask, bytes):
            self.forms.append(_RUNS)
            self.masks += mask
        else:
            self.forms.append(_NO_MASK if mask is None else _POLYGONS)
            for polygon in mask or ():
                self.masks += np.float64(len(polygon)).tobytes() + polygon.tobytes()
        self.mask_ends.append(len(self.masks))


def read_categories(path: Path, where: str) -> dict[int, str]:
    """Return the names of the categories of a file by their number, in ascending order.

    Args:
        path: Path of the file.
        where: Name of the file in errors.

    Raises:
        DataError: The file is damaged, or a category has no number or name, or a number comes twice.
    """
    names: dict[int, str] = {}
    for key, position, entry in JsonArrays(path, where).entries():
        if key != "categories":
            continue
        number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if not is_id(number) or not isinstance(name, str):
            raise DataError(f"{where}: category {position} has no id or name: {brief(entry)}")
        if number in names:
            raise DataError(
                f"{where}: category id {number} comes twice ({shown_name(names[number])}, {shown_name(name)})"
            )
        names[number] = name
    if not names:
        raise DataError(f"{where}: has no categories; COCO's instances JSON has images, annotations and categories")
    return dict(sorted(names.items()))


def read_annotations(
    file: AnnotationFile, label_of: Mapping[int, int], faults: FaultList, *, with_masks: bool | None = None
) -> CocoAnnotations:
    """Read and check the annotations of one split.

    Args:
        file: File of the annotations.
        label_of: Label from 1 of each category.
        faults: List to which faulty annotations are added; they are left out.
        with_masks: True if every object needs a mask, False if masks are not used; None decides for masks if there is
            one.

    Raises:
        DataError: The file is damaged or names no image.
    """
    entries = JsonArrays(file.path, file.where)
    images: list[ListedImage] = []
    sizes: list[tuple[int, int]] = []
    places: dict[int, int] = {}
    for key, position, entry in entries.entries():
        if key == "images":
            image, size = _image(entry, position, file, places)
            if image.fault is None:
                places[image.image_id] = len(images)
            images.append(image)
            sizes.append(size)
    if not images:
        raise DataError(f"{file.where}: names no image")
    faulty = {image.image_id for image in images if image.fault is not None} - places.keys()
    objects = _Objects(places, sizes, label_of, faults)
    for key, position, entry in entries.entries():
        if key != "annotations":
            continue
        fields = entry if isinstance(entry, dict) else {}
        owner = fields.get("image_id")
        if type(owner) is int and owner in faulty:
            continue  # it is left out together with its image, which is listed
        try:
            objects.add(entry)
        except Fault as fault:
            faults.add(fault.kind, file.where, owner, fields.get("id", f"[{position}]"), fault.reason)
    kept = objects.with_masks() if with_masks or (with_masks is None and any(objects.forms)) else None
    if kept is not None:
        for place in np.flatnonzero(~kept).tolist():
            owner, number = images[objects.owners[place]].image_id, objects.numbers[place]
            faults.add("no mask", file.where, owner, number, "has no segmentation, as other objects have")
    return objects.arranged(tuple(images), kept)


def _image(
    entry: Any, position: int, source: AnnotationFile, places: Mapping[int, int]
) -> tuple[ListedImage, tuple[int, int]]:
    """Return an image and its size; its fault where it cannot be used."""
    image_id = entry.get("id") if isinstance(entry, dict) else None
    if not is_id(image_id):
        where = f"{source.where}, images[{position}]"
        return ListedImage(where, 0, f"has the id {brief(image_id)}; ids of images are whole numbers from 0"), (1, 1)
    where = f"{source.where}, image {image_id}"
    try:
        file = str(Path(source.folder, checked_path(entry.get("file_name"))))
        size = checked_size(entry.get("width"), entry.get("height"))
    except Fault as fault:
        return ListedImage(where, image_id, fault.reason), (1, 1)
    if image_id in places:
        return ListedImage(f"{where}, {shown_name(file)}", image_id, "has the id of an earlier image"), size
    if not (source.root / file).is_file():
        return ListedImage(f"{where}, {shown_name(file)}", image_id, "is missing: there is no such file"), size
    return ListedImage(file, image_id), size


def _plain(values: array.array[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.frombuffer(values, dtype) if values else np.empty(0, dtype)

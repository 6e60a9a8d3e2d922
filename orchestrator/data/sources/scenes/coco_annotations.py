"""COCO's annotations of one split, checked and in compact arrays: a hundred bytes an object and its polygon.

A file is read once if its images come before its annotations, as in COCO's own files; else twice.
"""

from __future__ import annotations

import array
from collections.abc import Mapping
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

__all__ = ["AnnotationFile", "CocoAnnotations", "read_annotations"]

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
        categories: Names of the categories by their number, in ascending order; label 1 is the first.
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
    categories: Mapping[int, str]
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


class _Images:
    """Images of a file.

    Args:
        file: File of the annotations.
    """

    def __init__(self, file: AnnotationFile) -> None:
        self.file = file
        self.listed: list[ListedImage] = []
        self.sizes: list[tuple[int, int]] = []
        self.places: dict[int, int] = {}
        self.faulty: set[int] = set()

    def add(self, entry: Any, position: int) -> None:
        """Check an image and append it, with its fault where it cannot be used."""
        image_id = entry.get("id") if isinstance(entry, dict) else None
        if not is_id(image_id):
            where = f"{self.file.where}, images[{position}]"
            self._append(where, 0, fault=f"has the id {brief(image_id)}; ids of images are whole numbers from 0")
            return
        where = f"{self.file.where}, image {image_id}"
        try:
            file = str(Path(self.file.folder, checked_path(entry.get("file_name"))))
            size = checked_size(entry.get("width"), entry.get("height"))
        except Fault as fault:
            self._append(where, image_id, fault=fault.reason)
            return
        if image_id in self.places:
            self._append(f"{where}, {shown_name(file)}", image_id, fault="has the id of an earlier image")
        elif not (self.file.root / file).is_file():
            self._append(f"{where}, {shown_name(file)}", image_id, fault="is missing: there is no such file")
        else:
            self.places[image_id] = len(self.listed)
            self._append(file, image_id, size)

    def _append(self, file: str, image_id: int, size: tuple[int, int] = (1, 1), fault: str | None = None) -> None:
        if fault is not None:
            self.faulty.add(image_id)
        self.listed.append(ListedImage(file, image_id, fault))
        self.sizes.append(size)


@dataclass
class _Objects:
    """Growing arrays of the checked objects of a file.

    Args:
        images: Images of the file.
        faults: List to which faulty annotations and corrections are added.
    """

    images: _Images
    faults: FaultList
    seen: set[int] = field(default_factory=set)
    numbers: array.array[int] = field(default_factory=lambda: array.array("q"))
    owners: array.array[int] = field(default_factory=lambda: array.array("q"))
    boxes: array.array[float] = field(default_factory=lambda: array.array("d"))
    categories: array.array[int] = field(default_factory=lambda: array.array("q"))
    iscrowd: array.array[int] = field(default_factory=lambda: array.array("B"))
    area: array.array[float] = field(default_factory=lambda: array.array("d"))
    forms: array.array[int] = field(default_factory=lambda: array.array("B"))
    mask_ends: array.array[int] = field(default_factory=lambda: array.array("q", [0]))
    masks: bytearray = field(default_factory=bytearray)

    def add(self, entry: Any, position: int) -> None:
        """Check an annotation and append it, or add it to the faults; those of a faulty image are left out with it."""
        fields = entry if isinstance(entry, dict) else {}
        owner = fields.get("image_id")
        if type(owner) is int and owner in self.images.faulty and owner not in self.images.places:
            return
        try:
            if not isinstance(entry, dict):
                raise Fault("no annotation", f"is {brief(entry)}, not an object")
            self._append(entry)
        except Fault as fault:
            number = fields.get("id", f"[{position}]")
            self.faults.add(fault.kind, self.images.file.where, owner, number, fault.reason)

    def arranged(self, categories: dict[int, str], with_masks: bool | None) -> CocoAnnotations:
        """Return the arrays, with the objects grouped by image in the order of the file."""
        given = _plain(self.categories, np.int64)
        numbers = np.fromiter(categories, np.int64)
        places = np.minimum(np.searchsorted(numbers, given), len(numbers) - 1)
        kept = numbers[places] == given
        for place in np.flatnonzero(~kept).tolist():
            reason = f"category_id {self.categories[place]} is not among the {len(numbers)} categories"
            self._leave_out(place, "unknown category", reason)
        forms = _plain(self.forms, np.uint8)
        if with_masks or (with_masks is None and forms.any()):
            for place in np.flatnonzero(kept & (forms == _NO_MASK)).tolist():
                self._leave_out(place, "no mask", "has no segmentation, as other objects have")
            kept &= forms != _NO_MASK
        positions = np.flatnonzero(kept)
        owners = _plain(self.owners, np.int64)[positions]
        counts = np.bincount(owners, minlength=len(self.images.listed))
        return CocoAnnotations(
            images=tuple(self.images.listed),
            categories=categories,
            sizes=np.asarray(self.images.sizes, np.int32).reshape(-1, 2),
            starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            order=positions[np.argsort(owners, kind="stable")].astype(np.int64),
            boxes=_plain(self.boxes, np.float64).reshape(-1, 4),
            labels=places.astype(np.int32) + 1,
            iscrowd=_plain(self.iscrowd, np.uint8),
            area=_plain(self.area, np.float64),
            forms=forms,
            mask_starts=_plain(self.mask_ends, np.int64),
            masks=np.frombuffer(self.masks, np.uint8) if self.masks else np.empty(0, np.uint8),
        )

    def _append(self, entry: dict[str, Any]) -> None:
        number, owner, category = self._identity(entry)
        place = self.images.places[owner]
        width, height = self.images.sizes[place]
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
        self.owners.append(place)
        self.boxes.extend(box)
        self.categories.append(category)
        self.iscrowd.append(iscrowd)
        self.area.append(np.nan if area is None else area)
        self._add_mask(mask)

    def _identity(self, entry: dict[str, Any]) -> tuple[int | None, int, int]:
        """Return number, number of the image, and category of an annotation."""
        number, owner, category = entry.get("id"), entry.get("image_id"), entry.get("category_id")
        if number is not None:
            if not is_id(number):
                raise Fault("no annotation", "its id is no whole number from 0")
            if number in self.seen:
                raise Fault("duplicate annotation id", "an earlier annotation has this id")
            self.seen.add(number)
        if not is_id(owner) or owner not in self.images.places:
            raise Fault("unknown image", "no image of the file has this id")
        if not is_id(category):
            raise Fault("unknown category", f"category_id {brief(category)} is no whole number from 0")
        return number, owner, category

    def _leave_out(self, place: int, kind: str, reason: str) -> None:
        """Add an object whose place in the arrays is known to the faults."""
        image_id = self.images.listed[self.owners[place]].image_id
        number = self.numbers[place] if self.numbers[place] >= 0 else "without an id"
        self.faults.add(kind, self.images.file.where, image_id, number, reason)

    def _add_mask(self, mask: list[npt.NDArray[np.float64]] | bytes | None) -> None:
        if isinstance(mask, bytes):
            self.forms.append(_RUNS)
            self.masks += mask
        else:
            self.forms.append(_NO_MASK if mask is None else _POLYGONS)
            for polygon in mask or ():
                self.masks += np.float64(len(polygon)).tobytes() + polygon.tobytes()
        self.mask_ends.append(len(self.masks))


def read_annotations(file: AnnotationFile, faults: FaultList, *, with_masks: bool | None = None) -> CocoAnnotations:
    """Read and check the annotations of one split.

    Args:
        file: File of the annotations.
        faults: List to which faulty annotations are added; they are left out.
        with_masks: True if every object needs a mask, False if masks are not used; None decides for masks if there is
            one.

    Raises:
        DataError: The file is damaged, names no image, or has categories without number or name.
    """
    entries = JsonArrays(file.path, file.where)
    images, categories = _Images(file), dict[int, str]()
    objects = _Objects(images, faults)
    early = False
    for key, position, entry in entries.entries():
        if key == "images":
            images.add(entry, position)
        elif key == "categories":
            _add_category(entry, position, file.where, categories)
        elif key == "annotations" and images.listed:
            objects.add(entry, position)
        elif key == "annotations":
            early = True
    if not images.listed:
        raise DataError(f"{file.where}: names no image")
    if not categories:
        raise DataError(
            f"{file.where}: has no categories; COCO's instances JSON has images, annotations and categories"
        )
    if early:
        for key, position, entry in entries.entries():
            if key == "annotations":
                objects.add(entry, position)
    return objects.arranged(dict(sorted(categories.items())), with_masks)


def _add_category(entry: Any, position: int, where: str, categories: dict[int, str]) -> None:
    number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
    if not is_id(number) or not isinstance(name, str):
        raise DataError(f"{where}: category {position} has no id or name: {brief(entry)}")
    if number in categories:
        earlier = shown_name(categories[number])
        raise DataError(f"{where}: category id {number} comes twice ({earlier}, {shown_name(name)})")
    categories[number] = name


def _plain(values: array.array[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.frombuffer(values, dtype) if values else np.empty(0, dtype)

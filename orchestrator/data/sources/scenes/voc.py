"""Pascal VOC: boxes of XML files, maps of classes, and masks of objects, with the authors' lists of images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from orchestrator.data.decoding import ImageError
from orchestrator.data.scenes.masks import encode_mask
from orchestrator.data.scenes.target import IGNORED, SceneTarget
from orchestrator.data.shown_names import brief, one_line, shown_name
from orchestrator.data.sources.scenes.coco_checks import Fault, checked_box, checked_size
from orchestrator.data.sources.scenes.faults import FaultList
from orchestrator.data.sources.scenes.mapped_images import MappedImage, mapped_source, read_map
from orchestrator.data.sources.scenes.scene_source import (
    ListedImage,
    SceneSample,
    SceneSource,
    listing_fingerprint,
    require_splits,
)
from orchestrator.errors import DataError, UnsafePathError
from orchestrator.files.contained_paths import plain_name

__all__ = ["open_voc", "open_voc_instances", "open_voc_segmentation"]

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_MAP_CLASSES = [*range(len(VOC_CLASSES) + 1), *[-1] * (254 - len(VOC_CLASSES)), IGNORED]
_OBJECT_VALUES = np.array([*range(IGNORED), IGNORED])
_MOST_XML_BYTES = 1 << 20
_MOST_LIST_BYTES = 16 << 20
_DECLARATION = re.compile(r"<!(?!--)")


@dataclass(frozen=True, kw_only=True)
class VocBoxes(SceneSource):
    """Images with the boxes of their XML files.

    Args:
        images: Images of each split.
        targets: Annotations of each image, in the same order; None for a faulty image.
    """

    images: Mapping[str, tuple[ListedImage, ...]]
    targets: Mapping[str, tuple[SceneTarget | None, ...]]

    def read(self, split: str, start: int, stop: int) -> Iterator[SceneSample]:
        """Yield the images of a split from `start` to before `stop`, with their boxes."""
        pairs = zip(self.images[split][start:stop], self.targets[split][start:stop], strict=True)
        for listed, target in pairs:
            yield SceneSample.of(self.root, listed, lambda target=target: target)  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class VocInstances(SceneSource):
    """Images with a map of objects and a map of classes each.

    Args:
        images: Images of each split, with their maps of classes.
    """

    images: Mapping[str, tuple[MappedImage, ...]]

    def read(self, split: str, start: int, stop: int) -> Iterator[SceneSample]:
        """Yield the images of a split from `start` to before `stop`, with the masks of their objects."""
        for each in self.images[split][start:stop]:
            yield SceneSample.of(self.root, each.image, lambda each=each: self._target(each))  # type: ignore[misc]

    def _target(self, each: MappedImage) -> SceneTarget:
        classes = read_map(self.root, each.class_map, np.asarray(_MAP_CLASSES))
        objects = read_map(self.root, _object_map(each), _OBJECT_VALUES)
        if classes.shape != objects.shape:
            raise ImageError(f"its maps of classes and objects have {classes.shape} and {objects.shape} px")
        boxes, labels, areas, masks = [], [], [], []
        for number in np.setdiff1d(np.unique(objects), [0, IGNORED]).tolist():
            mask = objects == number
            label = int(np.bincount(classes[mask], minlength=IGNORED + 1)[1:IGNORED].argmax()) + 1
            if not (classes[mask] == label).any():
                raise ImageError(f"its object {number} has no class in the map of classes")
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            labels.append(label)
            areas.append(int(mask.sum()))
            masks.append(encode_mask(mask.astype(np.uint8)))
        return SceneTarget(
            image_id=each.image.image_id,
            width=classes.shape[1],
            height=classes.shape[0],
            boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
            labels=np.asarray(labels, np.int32),
            iscrowd=np.zeros(len(labels), np.uint8),
            area=np.asarray(areas, np.float32),
            masks=tuple(masks),
        )


def open_voc(root: Path) -> SceneSource:
    """Open the boxes of a year of Pascal VOC; objects marked as difficult become groups that evaluation ignores.

    Without annotated test images, the validation images are the test split.

    Raises:
        DataError: A folder or list is missing, or has names that lead out of the dataset.
    """
    base = _year(root)
    faults = FaultList()
    images: dict[str, tuple[ListedImage, ...]] = {}
    targets: dict[str, tuple[SceneTarget | None, ...]] = {}
    for split, names in _lists(base, "Main", Path("Annotations"), ".xml").items():
        found = [_boxes(base, name, number, faults) for number, name in enumerate(names, start=1)]
        images[split] = tuple(listed for listed, _ in found)
        targets[split] = tuple(target for _, target in found)
    listing = {
        split: [name for each in found for name in (each.file, f"Annotations/{Path(each.file).stem}.xml")]
        for split, found in images.items()
    }
    return VocBoxes(
        root=base,
        image_shape=None,
        class_names=VOC_CLASSES,
        splits={split: len(found) for split, found in images.items()},
        fingerprint=listing_fingerprint(base, listing, "boxes"),
        notices=faults.notices(str(base)),
        annotations=("boxes",),
        faulty_images=tuple(each for found in images.values() for each in found if each.fault is not None),
        faulty_annotations=faults.groups(),
        images=images,
        targets=targets,
    )


def open_voc_segmentation(root: Path) -> SceneSource:
    """Open the maps of classes of a year of Pascal VOC: background and 20 classes; 255 is ignored.

    Raises:
        DataError: A folder or list is missing, or has names that lead out of the dataset.
    """
    base = _year(root)
    return mapped_source(base, _mapped(base), ("background", *VOC_CLASSES), _MAP_CLASSES)


def open_voc_instances(root: Path) -> SceneSource:
    """Open the masks of objects of a year of Pascal VOC; boxes enclose the masks.

    Raises:
        DataError: A folder or list is missing, or has names that lead out of the dataset.
    """
    base = _year(root)
    images = _mapped(base)
    listing = {
        split: [name for each in found for name in (each.image.file, each.class_map, _object_map(each))]
        for split, found in images.items()
    }
    maps_alone = {split: [each.class_map for each in found] for split, found in images.items()}
    return VocInstances(
        root=base,
        image_shape=None,
        class_names=VOC_CLASSES,
        splits={split: len(found) for split, found in images.items()},
        fingerprint=listing_fingerprint(base, listing, "instances"),
        earlier_fingerprints=(listing_fingerprint(base, maps_alone, "instances"),),
        annotations=("boxes", "masks"),
        faulty_images=tuple(each.image for found in images.values() for each in found if each.image.fault is not None),
        images=images,
    )


def _year(root: Path) -> Path:
    """Return the folder of the only year below a root."""
    for pattern in ("", "VOC*", "VOCdevkit/VOC*", "*/VOCdevkit/VOC*"):
        found = [path for path in (sorted(root.glob(pattern)) if pattern else [root]) if (path / "ImageSets").is_dir()]
        if len(found) > 1:
            listed = ", ".join(str(path.relative_to(root)) for path in found[:6])
            raise DataError(f"{root}: holds several years ({listed}); name one with --from, such as {found[0]}")
        if found:
            return found[0]
    raise DataError(f"{root}: holds no folder ImageSets, as VOCdevkit/VOC2012 does")


def _lists(base: Path, task: str, annotations: Path, ending: str) -> dict[str, list[str]]:
    """Return the names of the images of each split; the list of test images counts where they are annotated."""
    found = {}
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        path = base / "ImageSets" / task / f"{name}.txt"
        names = _names(path) if path.is_file() else []
        if split == "test" and names and not (base / annotations / f"{names[0]}{ending}").is_file():
            names = []
        if names:
            found[split] = names
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    require_splits(base / "ImageSets" / task, found)
    owners: dict[str, str] = {}
    for split, names in found.items():
        for name in names:
            if name in owners:
                raise DataError(
                    f"{base / 'ImageSets' / task}: {shown_name(name)} is listed in {owners[name]} and {split}"
                )
            owners[name] = split
    return found


def _names(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_LIST_BYTES).decode("utf-8")
        return [plain_name(line.split()[0], "image") for line in text.splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, UnsafePathError) as error:
        raise DataError(f"{path}: cannot be read as a list of images ({one_line(error)})") from None


def _mapped(base: Path) -> dict[str, tuple[MappedImage, ...]]:
    lists = _lists(base, "Segmentation", Path("SegmentationClass"), ".png")
    return {
        split: tuple(
            MappedImage(_listed(base, name, number, [f"SegmentationClass/{name}.png"]), f"SegmentationClass/{name}.png")
            for number, name in enumerate(names, start=1)
        )
        for split, names in lists.items()
    }


def _object_map(each: MappedImage) -> str:
    """Return the path of the map of objects beside the map of classes of an image."""
    return each.class_map.replace("SegmentationClass", "SegmentationObject")


def _listed(base: Path, name: str, number: int, needed: Sequence[str]) -> ListedImage:
    file = f"JPEGImages/{name}.jpg"
    missing = [each for each in (file, *needed) if not (base / each).is_file()]
    return ListedImage(
        file, number, f"is left without {shown_name(missing[0])}: there is no such file" if missing else None
    )


def _boxes(base: Path, name: str, number: int, faults: FaultList) -> tuple[ListedImage, SceneTarget | None]:
    """Read the XML file of an image; objects that cannot be used are added to the faults."""
    where = f"Annotations/{name}.xml"
    listed = _listed(base, name, number, [where])
    if listed.fault is not None:
        return listed, None
    try:
        tree = _parsed(base / where)
        width, height = checked_size(*(_whole(tree.findtext(f"size/{side}")) for side in ("width", "height")))
    except (Fault, ValueError, OSError) as error:
        reason = error.reason if isinstance(error, Fault) else one_line(error)
        return ListedImage(listed.file, number, f"its {shown_name(where)} cannot be used: {reason}"), None
    boxes, labels, crowds = [], [], []
    for place, entry in enumerate(tree.iterfind("object"), start=1):
        try:
            label, box, clipped = _object(entry, width, height)
        except Fault as fault:
            faults.add(fault.kind, where, number, place, fault.reason)
            continue
        if clipped:
            faults.correct("boxes that reached up to a pixel out of their image and were clipped")
        labels.append(label)
        boxes.append(box)
        crowds.append((entry.findtext("difficult") or "0").strip() == "1")
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    return listed, SceneTarget(
        image_id=number,
        width=width,
        height=height,
        boxes=corners.astype(np.float32),
        labels=np.asarray(labels, np.int32),
        iscrowd=np.asarray(crowds, np.uint8),
        area=((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])).astype(np.float32),
    )


def _object(entry: ElementTree.Element, width: int, height: int) -> tuple[int, tuple[float, float, float, float], bool]:
    """Return label, corners, and True if the corners were clipped; pixels are counted from 1, both ends included."""
    name = (entry.findtext("name") or "").strip()
    if name not in VOC_CLASSES:
        raise Fault("unknown category", f"name {brief(name)} is not among the {len(VOC_CLASSES)} classes")
    try:
        left, top, right, bottom = (
            float(entry.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError:
        raise Fault("no box", "bndbox has no numbers for xmin, ymin, xmax and ymax") from None
    box, clipped = checked_box([left - 1, top - 1, right - left + 1, bottom - top + 1], width, height)
    return VOC_CLASSES.index(name) + 1, box, clipped


def _whole(text: str | None) -> int | str:
    """Return a whole number; other text as it is, for the message."""
    stripped = (text or "").strip()
    return int(stripped) if stripped.isascii() and stripped.isdigit() and len(stripped) < 9 else stripped


def _parsed(path: Path) -> ElementTree.Element:
    """Parse an XML file of bounded size without declarations, which could expand to any size.

    Raises:
        ValueError: It is too large, not UTF-8, has a declaration of a document type, or is damaged.
    """
    with path.open("rb") as file:
        content = file.read(_MOST_XML_BYTES + 1)
    if len(content) > _MOST_XML_BYTES:
        raise ValueError(f"it has more than {_MOST_XML_BYTES} bytes")
    text = content.decode("utf-8-sig")
    if _DECLARATION.search(text):
        raise ValueError("it declares a document type or entities")
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - without declarations, nothing expands or is fetched
    except ElementTree.ParseError as error:
        raise ValueError(one_line(error)) from None

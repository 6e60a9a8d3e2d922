"""COCO's instances, and folders of own images with annotations in COCO's format.

Layouts of own images: `annotations/` or the folder itself holds `train.json`, `val.json` and `test.json`, or names that
contain these words (`instances_train.json`); or each of `train/`, `valid/`, `test/` holds a JSON file next to its
images. A single JSON file is split by image, a fifth for testing, with a fixed seed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.data.shown_names import shown_name
from orchestrator.data.sources.image_listing import is_clutter
from orchestrator.data.sources.scenes.coco_annotations import (
    AnnotationFile,
    CocoAnnotations,
    read_annotations,
)
from orchestrator.data.sources.scenes.coco_checks import Fault, checked_path
from orchestrator.data.sources.scenes.faults import FaultList
from orchestrator.data.sources.scenes.json_stream import JsonArrays
from orchestrator.data.sources.scenes.scene_source import SceneSample, SceneSource, listing_fingerprint
from orchestrator.data.sources.source import checked_names, locate
from orchestrator.errors import DataError

__all__ = ["CocoSource", "CocoSplit", "open_coco", "open_coco_json"]

_DISTRIBUTED = re.compile(r"instances_(train|val)(2014|2017)\.json")
_WORDS = (("train", "train"), ("val", "validation"), ("test", "test"))
_TEST_SHARE, _SPLIT_SEED = 0.2, 0
_PROBED = 16
_NAMED = 3


@dataclass(frozen=True)
class CocoSplit:
    """Images of one split.

    Args:
        annotations: Annotations of the file that holds the split.
        places: Positions of its images in the file, int64, (N,).
    """

    annotations: CocoAnnotations
    places: npt.NDArray[np.int64]

    def files(self) -> Iterator[str]:
        """Yield the paths of the images."""
        return (self.annotations.images[place].file for place in self.places.tolist())


@dataclass(frozen=True, kw_only=True)
class CocoSource(SceneSource):
    """Images with annotations in COCO's format.

    Args:
        parts: Images of each split.
    """

    parts: Mapping[str, CocoSplit]

    def read(self, split: str, start: int, stop: int) -> Iterator[SceneSample]:
        """Yield the images of a split from `start` to before `stop`, with their objects."""
        part = self.parts[split]
        for place in part.places[start:stop].tolist():
            listed = part.annotations.images[place]

            def target(part: CocoSplit = part, place: int = place) -> Any:
                return part.annotations.target(place, with_masks="masks" in self.annotations)

            yield SceneSample.of(self.root, listed, target)


def open_coco(root: Path) -> SceneSource:
    """Open COCO as distributed: `annotations/instances_train2017.json`, `train2017/` and the same of `val2017`.

    The validation images, whose annotations are public, become the test split.

    Raises:
        DataError: A file is missing or damaged, or an image is in both splits.
    """
    base = _base(root, "annotations")
    found = {
        match[1]: path for path in _json_files(base / "annotations") if (match := _DISTRIBUTED.fullmatch(path.name))
    }
    if set(found) != {"train", "val"}:
        raise DataError(
            f"{base / 'annotations'}: has no instances_train2017.json and instances_val2017.json, as COCO's "
            "annotations_trainval2017.zip has. For own images: spatialsweep data prepare coco-json"
        )
    return _open(base, {"train": found["train"], "validation": found["val"]})


def open_coco_json(root: Path) -> SceneSource:
    """Open a folder of own images with annotations in COCO's format, in one of the layouts above.

    Raises:
        DataError: A file is missing, damaged or ambiguous, or an image is in two splits.
    """
    below = [path for path in sorted(root.iterdir()) if path.is_dir() and not is_clutter(path.name)]
    if len(below) == 1 and not _annotation_files(root):
        root = below[0]  # the folder within an archive
    files = _annotation_files(root)
    if not files:
        raise DataError(
            f"{root}: holds no JSON file of annotations, in annotations/ or in train/ and test/, in COCO's format"
        )
    if len(files) == 1:
        return _open(root, {"train": files[0]})
    chosen: dict[str, Path] = {}
    for path in files:
        split = _split_of(path, root)
        if split is None or split in chosen:
            listed = ", ".join(shown_name(str(each.relative_to(root))) for each in files[:6])
            what = (
                f"two files for '{split}'"
                if split
                else f"{shown_name(path.name)}, whose name has no train, val or test"
            )
            raise DataError(
                f"{root}: holds {what} among {listed}; keep one file a split, such as annotations/train.json"
            )
        chosen[split] = path
    if "train" not in chosen:
        raise DataError(f"{root}: holds no annotations of training images; name their file annotations/train.json")
    return _open(root, chosen)


def _open(base: Path, files: Mapping[str, Path]) -> SceneSource:
    faults = FaultList()
    read: dict[str, CocoAnnotations] = {}
    with_masks: bool | None = None
    for split in sorted(files, key=lambda name: name != "train"):  # training images decide whether there are masks
        path = files[split]
        file = AnnotationFile(path, str(path.relative_to(base)), _image_folder(base, split, path), base)
        read[split] = read_annotations(file, faults, with_masks=with_masks)
        with_masks = read["train"].has_masks
    _check_categories(files, read)
    categories = read["train"].categories
    if not len(read["train"].order):
        _raise_without_objects(base, faults)
    parts = _with_test({split: CocoSplit(found, np.arange(len(found.images))) for split, found in read.items()})
    _check_disjoint(base, parts)
    notices = [*faults.notices(str(base)), *_content_notices(base, parts, list(categories.values()))]
    digests = [JsonArrays(path, path.name).content_hash() for path in files.values()]
    names = checked_names(files["train"], list(categories.values()))
    return CocoSource(
        root=base,
        image_shape=None,
        class_names=names,
        splits={split: len(part.places) for split, part in parts.items()},
        fingerprint=listing_fingerprint(base, {split: part.files() for split, part in parts.items()}, *digests),
        notices=tuple(notices),
        annotations=("boxes", "masks") if with_masks else ("boxes",),
        faulty_images=tuple(image for found in read.values() for image in found.images if image.fault is not None),
        faulty_annotations=faults.groups(),
        parts=parts,
    )


def _check_categories(files: Mapping[str, Path], read: Mapping[str, CocoAnnotations]) -> None:
    """Check that all splits have the categories of the training images."""
    expected = set(read["train"].categories.items())
    for split, found in read.items():
        if differing := sorted(expected ^ set(found.categories.items()))[:_NAMED]:
            listed = ", ".join(f"{number} {shown_name(name)}" for number, name in differing)
            raise DataError(f"{files[split]}: has other categories than those of train ({listed})")


def _with_test(parts: Mapping[str, CocoSplit]) -> dict[str, CocoSplit]:
    """Return the parts with a test split: the given one, the validation images, or a drawn share of all images."""
    if "test" in parts:
        return {split: parts[split] for split in ("train", "validation", "test") if split in parts}
    if "validation" in parts:
        return {"train": parts["train"], "test": parts["validation"]}
    whole = parts["train"].annotations
    by_name = np.argsort([image.file for image in whole.images], kind="stable")
    drawn = by_name[np.random.default_rng(_SPLIT_SEED).permutation(len(by_name))]
    held_out = max(1, round(_TEST_SHARE * len(drawn)))
    if held_out >= len(drawn):
        raise DataError(f"{whole.images[0].file}: is the only image; a dataset needs training and test images")
    return {
        "train": CocoSplit(whole, np.sort(drawn[held_out:])),
        "test": CocoSplit(whole, np.sort(drawn[:held_out])),
    }


def _check_disjoint(base: Path, parts: Mapping[str, CocoSplit]) -> None:
    """Check that no image file is in two splits, nor twice in one."""
    owners: dict[str, str] = {}
    repeated = []
    for split, part in parts.items():
        for place in part.places.tolist():
            image = part.annotations.images[place]
            if (
                image.fault is None
                and (earlier := owners.setdefault(image.file, f"{split} {place}")) != f"{split} {place}"
            ):
                repeated.append(f"{shown_name(image.file)} ({earlier.split()[0]} and {split})")
    if repeated:
        more = f" and {len(repeated) - _NAMED} more" if len(repeated) > _NAMED else ""
        raise DataError(f"{base}: names image files twice: {', '.join(repeated[:_NAMED])}{more}; keep one entry a file")


def _content_notices(base: Path, parts: Mapping[str, CocoSplit], names: Sequence[str]) -> Iterator[str]:
    """Yield the number of images without objects, and the classes without objects to train on."""
    for split, part in parts.items():
        counts = np.diff(part.annotations.starts)[part.places]
        if empty := int((counts == 0).sum()):
            yield f"{base}: {split} has {empty} images without objects; they are kept"
    train = parts["train"]
    owners = np.repeat(np.arange(len(train.annotations.images)), np.diff(train.annotations.starts))
    labels = train.annotations.labels[train.annotations.order][np.isin(owners, train.places)]
    absent = [
        shown_name(name) for label, name in enumerate(names, start=1) if label not in set(np.unique(labels).tolist())
    ]
    if absent:
        yield f"{base}: train has no object of {', '.join(absent[:10])}{' ...' if len(absent) > 10 else ''}"


def _raise_without_objects(base: Path, faults: FaultList) -> None:
    groups = faults.groups()
    found = f"; {groups[0].count} were left out ({groups[0].kind}: {groups[0].examples[0]})" if groups else ""
    raise DataError(f"{base}: the training images have no object{found}")


def _base(root: Path, marker: str) -> Path:
    base = locate(root, marker)
    if base is None:
        raise DataError(f"{root}: holds no folder {marker}")
    return base


def _annotation_files(root: Path) -> list[Path]:
    folders = [root / "annotations", root, *(root / name for name in ("train", "val", "valid", "validation", "test"))]
    return [path for folder in folders for path in _json_files(folder)]


def _json_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if path.is_file() and not path.name.startswith("._"))


def _split_of(path: Path, root: Path) -> str | None:
    """Return the split that the name of a file, or of its folder, says; None if it says none or two."""
    inside = path.parent.name if path.parent not in (root, root / "annotations") else path.stem
    found = {split for word, split in _WORDS if word in inside.lower()}
    return found.pop() if len(found) == 1 else None


def _image_folder(base: Path, split: str, path: Path) -> str:
    """Return the folder of the images of a file relative to the base: the first one that holds its first images."""
    ending = path.stem.removeprefix("instances_")
    words = [ending, *(word for word in ("train", "val", "valid", "validation", "test") if split.startswith(word[:3]))]
    parent = [path.parent] if path.parent.name != "annotations" else []
    candidates = [
        *parent,
        *(base / word for word in words),
        *(base / "images" / word for word in words),
        base / "images",
        base,
    ]
    existing = [folder for folder in candidates if folder.is_dir()]
    named = (entry for key, _, entry in JsonArrays(path, str(path.relative_to(base))).entries() if key == "images")
    for entry in itertools.islice(named, _PROBED):
        try:
            file = checked_path(entry.get("file_name") if isinstance(entry, dict) else None)
        except Fault:
            continue
        for folder in existing:
            if (folder / file).is_file():
                return str(folder.relative_to(base))
    return str(existing[0].relative_to(base))

"""Annotated images as workers read them: memory-mapped shards whose rows become an image and a target.

A target is the flat dictionary of torchvision's detection networks: `boxes` (float32, (N, 4), corners in pixels),
`labels` (int64, from 1), `masks` (uint8, (N, H, W)), `iscrowd`, `area`, `image_id`, and `class_map` (uint8, (H, W), 255
is ignored), as far as the dataset has them. Boxes, masks and maps are tv_tensors, so that transforms of
torchvision.transforms.v2 treat them together with the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.data.batches import Indices, epoch_batches, worker_share
from orchestrator.data.decoding import ImageError, decode_image
from orchestrator.data.local_copies import copied_shards
from orchestrator.data.manifest import Shard
from orchestrator.data.scenes.class_maps import class_pixels, decode_class_map
from orchestrator.data.scenes.manifest import SceneManifest, SceneSplit, check_scene_manifest, read_scene_manifest
from orchestrator.data.scenes.masks import MaskError, decode_masks
from orchestrator.data.scenes.shards import map_scene_shard, scene_rows_hash
from orchestrator.data.scenes.target import Annotation, SceneTarget
from orchestrator.data.storage import Folder, open_folder
from orchestrator.errors import DataError

if TYPE_CHECKING:
    import torch

__all__ = ["SceneDataset", "Scenes", "open_scenes", "scene_batches"]

Target = dict[str, Any]
"""Annotations of an image as tensors, by name."""


@dataclass(frozen=True)
class SceneDataset:
    """An opened dataset of annotated images.

    Args:
        splits: Images of each split, at least `train` and `test`; opened when they are first read.
        annotations: Kinds of annotations of every image.
        class_names: Names of the classes of objects; label 1 is the first.
        map_class_names: Names of the classes of the maps; class 0 is the first.
        mean: Mean per channel of the training images, scaled to [0, 1].
        std: Deviation per channel of the training images, scaled to [0, 1].
        content_hash: Hash of all images, annotations and class names.
    """

    splits: Mapping[str, Scenes]
    annotations: tuple[Annotation, ...]
    class_names: tuple[str, ...]
    map_class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    content_hash: str


class Scenes(Sequence["tuple[torch.Tensor, Target]"]):
    """Annotated images of one split, in the order of its shards.

    Pickled as the list of its shards, so that it is cheap to send to other processes.

    Args:
        paths: Paths of the shards.
        annotations: Kinds of annotations of every image.
        class_names: Names of the classes of objects.
        map_class_names: Names of the classes of the maps.

    Attributes:
        image_ids: Number of each image in its dataset, int64, (N,).
        sizes: Height and width of each image in pixels, int64, (N, 2).
        objects: Number of objects of each image, int64, (N,); zeros without boxes.

    Raises:
        DataError: A shard is missing, not of this form, or has objects outside its images or of unknown classes.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        annotations: tuple[Annotation, ...],
        class_names: tuple[str, ...],
        map_class_names: tuple[str, ...],
    ) -> None:
        self.paths, self.annotations = tuple(paths), annotations
        self.class_names, self.map_class_names = class_names, map_class_names
        found = [(str(path), batch) for path in paths for batch in map_scene_shard(path, str(path), annotations)]
        for where, batch in found:
            _check_rows(where, batch, annotations, len(class_names))
        self._batches = [batch for _, batch in found]
        self._wheres = [where for where, _ in found]
        self._ends = np.cumsum([len(batch) for batch in self._batches], dtype=np.int64)
        self.image_ids = _joined(self._batches, "image_id")
        self.sizes = np.stack([_joined(self._batches, "height"), _joined(self._batches, "width")], axis=1)
        lengths = [_object_counts(batch, annotations) for batch in self._batches]
        self.objects: Indices = np.concatenate([np.empty(0, np.int64), *lengths])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:  # type: ignore[override]
        """Decode an image and all its annotations; see `sample`."""
        return self.sample(index)

    def sample(self, index: int, *, masks: bool = True) -> tuple[torch.Tensor, Target]:
        """Decode an image and its annotations.

        Args:
            index: Position of the image.
            masks: Decodes the masks of the objects, which takes most of the time; False leaves them out.

        Returns:
            Image, uint8, (3, H, W), and its target.

        Raises:
            DataError: The image, a mask or the map of classes is damaged.
        """
        from orchestrator.data.scenes.tensors import image_tensor, target_tensors

        target = self.target(index)
        pixels = np.asarray(self._decoded(index, lambda: decode_image(self.image_file(index))))
        if pixels.shape[:2] != (target.height, target.width):
            raise self._damaged(index, f"has {pixels.shape[1]} x {pixels.shape[0]} px, not {_size(target)}")
        decoded, counts = None, target.masks
        if masks and counts is not None:
            decoded = self._decoded(index, lambda: decode_masks(counts, target.height, target.width))
        return image_tensor(pixels), target_tensors(target, decoded, self.annotations)

    def target(self, index: int) -> SceneTarget:
        """Return the annotations of an image without decoding the image or the masks.

        Raises:
            DataError: The map of classes is damaged.
        """
        batch, row = self._place(index)
        boxes, labels, iscrowd, area = _object_arrays(batch, row, self.annotations)
        width, height = (int(batch.column(name)[row].as_py()) for name in ("width", "height"))
        class_map = None
        if "class_map" in self.annotations:
            content = batch.column("class_map")[row].as_py()
            class_map = self._decoded(index, lambda: decode_class_map(content))
            self._decoded(index, lambda: class_pixels(class_map, len(self.map_class_names)))
            if class_map.shape != (height, width):
                shown = f"{class_map.shape[1]} x {class_map.shape[0]} px, its image {width} x {height} px"
                raise self._damaged(index, f"has a map of classes of {shown}")
        return SceneTarget(
            image_id=int(batch.column("image_id")[row].as_py()),
            width=width,
            height=height,
            boxes=boxes,
            labels=labels,
            iscrowd=iscrowd,
            area=area,
            masks=tuple(batch.column("masks")[row].as_py()) if "masks" in self.annotations else None,
            class_map=class_map,
        )

    def image_file(self, index: int) -> bytes:
        """Return the bytes of the file of an image."""
        batch, row = self._place(index)
        content: bytes = batch.column("image")[row].as_py()
        return content

    def file_name(self, index: int) -> str:
        """Return the name that the file of an image had in its dataset."""
        batch, row = self._place(index)
        name: str = batch.column("file")[row].as_py()
        return name

    def __reduce__(self) -> tuple[type[Scenes], tuple[Any, ...]]:
        return Scenes, (self.paths, self.annotations, self.class_names, self.map_class_names)

    def _place(self, index: int) -> tuple[pa.RecordBatch, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[number - 1]) if number else 0
        return self._batches[number], int(index) - start

    def _decoded(self, index: int, decode: Any) -> Any:
        try:
            return decode()
        except (ImageError, MaskError) as error:
            raise self._damaged(index, str(error)) from None

    def _damaged(self, index: int, reason: str) -> DataError:
        number = int(np.searchsorted(self._ends, index, side="right"))
        where = self._wheres[number]
        return DataError(f"{where}: image {self.image_ids[index]} {reason}; prepare the dataset again")


def open_scenes(located: str | Path) -> SceneDataset:
    """Open a prepared dataset of annotated images, and copy it to this machine first if it is stored elsewhere.

    Args:
        located: Folder of the dataset: a path or a URI.

    Raises:
        DataError: It is missing, incomplete, or a dataset of another kind.
    """
    folder = open_folder(located)
    manifest = read_scene_manifest(folder)
    check_scene_manifest(folder, manifest)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    check = partial(_check_content, folder, manifest)
    place = folder.local or copied_shards(folder, manifest.content_hash, shards, check)
    return SceneDataset(
        splits=_Splits(place, manifest),
        annotations=manifest.annotations,
        class_names=manifest.class_names,
        map_class_names=manifest.map_class_names,
        mean=manifest.mean,
        std=manifest.std,
        content_hash=manifest.content_hash,
    )


def scene_batches(
    scenes: Scenes,
    global_batch_size: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    seed: int | None = None,
    epoch: int = 1,
    positions: Indices | None = None,
) -> Iterator[list[tuple[torch.Tensor, Target]]]:
    """Yield this worker's share of each batch; the workers together read every image once, whatever their number.

    Args:
        scenes: Images of a split.
        global_batch_size: Largest number of images per batch, summed over workers.
        rank: Rank of this worker.
        world_size: Number of workers.
        seed: Seed of the order; None keeps the order of the split, as for evaluation.
        epoch: Number of the epoch, from 1.
        positions: Positions of the images to read; None reads all.
    """
    chosen = np.arange(len(scenes)) if positions is None else positions
    if seed is None:
        starts = range(0, len(chosen), global_batch_size)
        batches = [chosen[start : start + global_batch_size] for start in starts]
    else:
        batches = [chosen[order] for order in epoch_batches(len(chosen), global_batch_size, seed=seed, epoch=epoch)]
    for batch in batches:
        yield [scenes[int(index)] for index in worker_share(batch, rank, world_size)]


class _Splits(Mapping[str, Scenes]):
    """Splits of annotated images, each opened on first use.

    Args:
        folder: Folder of the shards.
        manifest: Manifest of the dataset.
    """

    def __init__(self, folder: Path, manifest: SceneManifest) -> None:
        self._folder, self._manifest = folder, manifest
        self._opened: dict[str, Scenes] = {}

    def __getitem__(self, name: str) -> Scenes:
        """Return the images of a split.

        Raises:
            DataError: Its shards do not match the manifest.
        """
        if name not in self._opened:
            split, manifest = self._manifest.splits[name], self._manifest
            paths = [self._folder / shard.file for shard in split.shards]
            scenes = Scenes(paths, manifest.annotations, manifest.class_names, manifest.map_class_names)
            _check_counts(self._folder, name, scenes, split)
            self._opened[name] = scenes
        return self._opened[name]

    def __contains__(self, name: object) -> bool:
        return name in self._manifest.splits  # without opening it

    def __iter__(self) -> Iterator[str]:
        return iter(self._manifest.splits)

    def __len__(self) -> int:
        return len(self._manifest.splits)


def _check_content(folder: Folder, manifest: SceneManifest, shard: Shard, copy: Path) -> None:
    """Check that a copied shard holds the rows of the manifest: all datasets with their hash share the cache."""
    where = folder.where(shard.file)
    if scene_rows_hash(map_scene_shard(copy, where, manifest.annotations)) != shard.content_hash:
        raise DataError(f"{where}: holds other images than its manifest says; prepare the dataset again")


def _check_counts(folder: Path, name: str, scenes: Scenes, split: SceneSplit) -> None:
    if len(scenes) != split.images or scenes.objects.sum() != sum(split.objects):
        raise DataError(
            f"{folder}: split '{name}' has {len(scenes)} images with {scenes.objects.sum()} objects, not "
            f"{split.images} with {sum(split.objects)} as its manifest says. Prepare the dataset again"
        )


def _check_rows(where: str, batch: pa.RecordBatch, annotations: Sequence[Annotation], classes: int) -> None:
    """Check sizes, boxes and labels of all rows of a batch."""
    width, height = (batch.column(name).to_numpy() for name in ("width", "height"))
    faults = []
    if len(batch) and min(width.min(), height.min()) < 1:
        faults.append("an image without pixels")
    if "boxes" in annotations:
        owners = np.repeat(np.arange(len(batch)), _object_counts(batch, annotations))
        boxes = batch.column("boxes").flatten().flatten().to_numpy().reshape(-1, 4)
        most = np.stack([width, height, width, height], axis=1)[owners]
        inside = (boxes >= 0) & (boxes <= most)  # False for NaN
        ordered = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        if not (inside.all(axis=1) & ordered).all():
            faults.append("a box that is empty or leaves its image")
        labels = batch.column("labels").flatten().to_numpy()
        if len(labels) and not 1 <= labels.min() <= labels.max() <= classes:
            faults.append(f"labels {labels.min()}..{labels.max()}; there are {classes} classes from 1")
    if faults:
        raise DataError(f"{where}: has {'; '.join(faults)}. Prepare the dataset again")


def _object_arrays(
    batch: pa.RecordBatch, row: int, annotations: Sequence[Annotation]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Return copies of boxes, labels, iscrowd and area of one row."""
    if "boxes" not in annotations:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.float32)
    boxes = batch.column("boxes")[row].values.flatten().to_numpy().reshape(-1, 4)
    labels, iscrowd, area = (batch.column(name)[row].values.to_numpy() for name in ("labels", "iscrowd", "area"))
    return boxes.copy(), labels.copy(), iscrowd.copy(), area.copy()


def _object_counts(batch: pa.RecordBatch, annotations: Sequence[Annotation]) -> Indices:
    if "boxes" not in annotations:
        return np.zeros(len(batch), np.int64)
    lengths: Indices = batch.column("labels").value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _joined(batches: Sequence[pa.RecordBatch], name: str) -> Indices:
    return np.concatenate([np.empty(0, np.int64), *(batch.column(name).to_numpy() for batch in batches)])


def _size(target: SceneTarget) -> str:
    return f"{target.width} x {target.height} px"

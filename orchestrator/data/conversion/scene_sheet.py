"""Contact sheet of annotated images: boxes, masks and maps of classes drawn on a few images of every split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageDraw

from orchestrator.data.decoding import ImageError, decode_image
from orchestrator.data.manifest import Shard
from orchestrator.data.scenes.dataset import Scenes
from orchestrator.data.scenes.drawing import Pixels, blend_map, blend_masks, class_colour, draw_box
from orchestrator.data.scenes.manifest import SceneManifest, check_scene_manifest
from orchestrator.data.scenes.masks import MaskError, decode_masks
from orchestrator.data.scenes.target import SceneTarget
from orchestrator.data.shown_names import shown_name
from orchestrator.data.storage import Folder
from orchestrator.errors import DataError

__all__ = ["draw_annotations", "scene_sheet"]

_COLUMNS, _ROWS = 6, 2
_CELL_PX, _TEXT_PX, _GAP_PX = 240, 14, 4
_CROWD = (255, 255, 255)
_NAME_LENGTH = 14


def scene_sheet(folder: Folder, manifest: SceneManifest) -> Image.Image:
    """Draw images spread evenly over each split with their annotations; a map of classes is a cell of its own.

    Raises:
        DataError: A shard is missing or damaged.
    """
    check_scene_manifest(folder, manifest)
    rows: list[tuple[str, list[Image.Image]]] = []
    for split, facts in manifest.splits.items():
        cells = list(_cells(folder, manifest, facts.shards))
        rows.append((f"{split}: {facts.images} images", cells[:_COLUMNS]))
        rows += [("", cells[start : start + _COLUMNS]) for start in range(_COLUMNS, len(cells), _COLUMNS)]
    width = _COLUMNS * (_CELL_PX + _GAP_PX) + _GAP_PX
    sheet = Image.new("RGB", (width, len(rows) * (_CELL_PX + _TEXT_PX + _GAP_PX) + _GAP_PX), "white")
    for number, (title, cells) in enumerate(rows):
        top = _GAP_PX + number * (_CELL_PX + _TEXT_PX + _GAP_PX)
        ImageDraw.Draw(sheet).text((_GAP_PX, top), title, fill="black")
        for column, cell in enumerate(cells):
            sheet.paste(cell, (_GAP_PX + column * (_CELL_PX + _GAP_PX), top + _TEXT_PX))
    return sheet


def draw_annotations(image: Pixels, target: SceneTarget, masks: Pixels | None, class_names: tuple[str, ...]) -> Pixels:
    """Draw masks, boxes and names of classes on an image, enlarged or reduced to a cell of 240 px.

    Args:
        image: Pixels, uint8, (H, W, 3).
        target: Annotations of the image.
        masks: Masks of its objects, uint8, (N, H, W); None without masks.
        class_names: Names of the classes; label 1 is the first.
    """
    labels = target.labels.tolist()
    if masks is not None:
        image = blend_masks(image, masks, [class_colour(label) for label in labels[: len(masks)]])
    picture, scale = _scaled(Image.fromarray(image))
    for box, label, crowd in zip(target.boxes * scale, labels, target.iscrowd.tolist(), strict=True):
        name = shown_name(class_names[label - 1])[:_NAME_LENGTH]
        draw_box(picture, box.tolist(), _CROWD if crowd else class_colour(label), name)
    return np.asarray(picture)


def _cells(folder: Folder, manifest: SceneManifest, shards: tuple[Shard, ...]) -> Iterator[Image.Image]:
    """Yield the cells of a split, from one or two of its shards."""
    filled = [shard for shard in shards if shard.images]
    chosen = filled[:: max(1, len(filled) - 1)][:2]
    maps = "class_map" in manifest.annotations
    count = _COLUMNS * _ROWS // (2 if maps else 1) // max(1, len(chosen))
    for shard in chosen:
        with TemporaryDirectory() as scratch:
            path = Path(folder.path, shard.file) if folder.local else Path(scratch, shard.file)
            if not folder.local:
                folder.fetch(shard.file, path)
            scenes = Scenes([path], manifest.annotations, manifest.class_names, manifest.map_class_names)
            for place in np.unique(np.linspace(0, len(scenes) - 1, min(len(scenes), count)).astype(int)).tolist():
                yield from _drawn(scenes, place)
            del scenes


def _drawn(scenes: Scenes, place: int) -> Iterator[Image.Image]:
    target = scenes.target(place)
    try:
        image = np.asarray(decode_image(scenes.image_file(place)))
        masks = None if target.masks is None else decode_masks(target.masks, target.height, target.width)
    except (ImageError, MaskError) as error:
        raise DataError(f"{scenes.paths[0]}: row {place} {error}; prepare the dataset again") from None
    if image.shape[:2] != (target.height, target.width):
        raise DataError(
            f"{scenes.paths[0]}: row {place} has another size than its annotations; prepare the dataset again"
        )
    yield _cell(draw_annotations(image, target, masks, scenes.class_names))
    if target.class_map is not None:
        yield _cell(np.asarray(_scaled(Image.fromarray(blend_map(image, target.class_map)))[0]))


def _scaled(picture: Image.Image) -> tuple[Image.Image, float]:
    """Resize an image to the side of a cell; return it and the scale."""
    scale = _CELL_PX / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR), scale


def _cell(pixels: Pixels) -> Image.Image:
    cell = Image.new("RGB", (_CELL_PX, _CELL_PX), "white")
    cell.paste(Image.fromarray(pixels), ((_CELL_PX - pixels.shape[1]) // 2, (_CELL_PX - pixels.shape[0]) // 2))
    return cell

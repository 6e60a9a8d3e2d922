"""Contact sheet of a prepared dataset: a few images of every split with their classes, on one picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from orchestrator.data.decoding import ImageError, decode_image
from orchestrator.data.manifest import Manifest, Shard
from orchestrator.data.shard_files import ENCODED_SCHEMA, checked_batches, pixel_schema
from orchestrator.data.shown_names import one_line, shown_name
from orchestrator.data.sources.source import UNLABELLED
from orchestrator.data.storage import Folder
from orchestrator.errors import DataError

__all__ = ["contact_sheet"]

_COLUMNS, _ROWS = 12, 4
_CELL_PX, _TEXT_PX, _GAP_PX = 96, 14, 4


def contact_sheet(folder: Folder, manifest: Manifest) -> Image.Image:
    """Draw images spread evenly over each split, one row per shard, of at most four shards.

    Raises:
        DataError: A shard is missing or damaged.
    """
    rows: list[tuple[str, Image.Image | None]] = []
    for split, facts in manifest.splits.items():
        rows.append((f"{split}: {facts.images} images", None))
        filled = [shard for shard in facts.shards if shard.images]
        chosen = _spread(len(filled), _ROWS)
        per_shard = _COLUMNS * _ROWS // max(1, len(chosen))
        cells = [cell for place in chosen for cell in _cells(folder, manifest, filled[place], per_shard)]
        rows.extend(("", _row(cells[start : start + _COLUMNS])) for start in range(0, len(cells), _COLUMNS))
    heights = [_TEXT_PX + _GAP_PX if picture is None else picture.height for _, picture in rows]
    sheet = Image.new("RGB", (_COLUMNS * (_CELL_PX + _GAP_PX) + _GAP_PX, sum(heights) + _GAP_PX), "white")
    top = _GAP_PX
    for (title, picture), height in zip(rows, heights, strict=True):
        if picture is None:
            ImageDraw.Draw(sheet).text((_GAP_PX, top), title, fill="black")
        else:
            sheet.paste(picture, (_GAP_PX, top))
        top += height
    return sheet


def _row(cells: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    row = Image.new("RGB", (_COLUMNS * (_CELL_PX + _GAP_PX), _CELL_PX + _TEXT_PX + _GAP_PX), "white")
    for column, (picture, name) in enumerate(cells):
        left = column * (_CELL_PX + _GAP_PX)
        row.paste(picture, (left, 0))
        ImageDraw.Draw(row).text((left, _CELL_PX + 1), name[:14], fill="black")
    return row


def _cells(folder: Folder, manifest: Manifest, shard: Shard, count: int) -> Iterator[tuple[Image.Image, str]]:
    where = folder.where(shard.file)
    try:
        file = folder.filesystem.open_input_file(f"{folder.path}/{shard.file}")
    except OSError as error:
        raise DataError(f"{where}: cannot be opened ({one_line(error)}); prepare the dataset again") from None
    with file:
        table = pa.Table.from_batches(
            checked_batches(file, where, manifest.image_shape),
            schema=pixel_schema(manifest.image_shape) if manifest.image_shape else ENCODED_SCHEMA,
        )
    classes = len(manifest.class_names)
    for place in _spread(len(table), count):
        label = table.column("label")[place].as_py()
        if not UNLABELLED <= label < classes:
            raise DataError(f"{where}: row {place} has label {label}; there are {classes} classes")
        name = shown_name(manifest.class_names[label]) if label >= 0 else "no label"
        try:
            yield _picture(table.column("image")[place], manifest), name
        except ImageError as error:
            raise DataError(f"{where}: row {place} {error}; prepare the dataset again") from None


def _picture(value: pa.Scalar, manifest: Manifest) -> Image.Image:
    """Draw an image as a square cell; small images are enlarged in whole pixels."""
    if manifest.image_shape is None:
        picture = decode_image(value.as_py())
    else:
        pixels = value.values.to_numpy().reshape(manifest.image_shape)
        shown = pixels[:3] if len(pixels) >= 3 else pixels[:1]
        flat = shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0)
        picture = Image.fromarray(np.ascontiguousarray(flat)).convert("RGB")
    scale = _CELL_PX / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    resized = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)
    cell = Image.new("RGB", (_CELL_PX, _CELL_PX), "white")
    cell.paste(resized, ((_CELL_PX - size[0]) // 2, (_CELL_PX - size[1]) // 2))
    return cell


def _spread(length: int, count: int) -> list[int]:
    """At most `count` positions, evenly spread over a length."""
    return sorted(set(np.linspace(0, length - 1, min(length, count)).astype(int).tolist())) if length else []

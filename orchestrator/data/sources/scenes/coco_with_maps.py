"""COCO's instances together with the stuff-things maps, as networks with a semantic branch need them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from orchestrator.data.scenes.target import IGNORED, SceneTarget
from orchestrator.data.sources.scenes.coco import CocoSource, CocoSplit, open_coco
from orchestrator.data.sources.scenes.coco_stuff_names import STUFF_THING_NAMES
from orchestrator.data.sources.scenes.mapped_images import read_map
from orchestrator.data.sources.scenes.scene_source import SceneSample, SceneSource, listing_fingerprint
from orchestrator.errors import DataError

__all__ = ["CocoWithMaps", "open_coco_stuffthings"]

_CLASSES = np.array([*range(len(STUFF_THING_NAMES)), *[-1] * (IGNORED - len(STUFF_THING_NAMES)), IGNORED])


@dataclass(frozen=True, kw_only=True)
class CocoWithMaps(CocoSource):
    """Images with objects, and a map of classes in `stuffthingmaps/` each."""

    def read(self, split: str, start: int, stop: int) -> Iterator[SceneSample]:
        """Yield the images of a split from `start` to before `stop`, with their objects and maps."""
        part = self.parts[split]
        for place in part.places[start:stop].tolist():

            def target(part: CocoSplit = part, place: int = place) -> SceneTarget:
                objects = part.annotations.target(place, with_masks="masks" in self.annotations)
                return replace(
                    objects, class_map=read_map(self.root, map_file(part.annotations.images[place].file), _CLASSES)
                )

            yield SceneSample.of(self.root, part.annotations.images[place], target)


def open_coco_stuffthings(root: Path) -> SceneSource:
    """Open COCO's instances with the stuff-things maps; their 182 values stay as they are.

    Raises:
        DataError: A file is missing or damaged, or an image is in both splits.
    """
    source = open_coco(root)
    assert isinstance(source, CocoSource)
    if not (source.root / "stuffthingmaps").is_dir():
        raise DataError(
            f"{source.root}: holds no folder stuffthingmaps, to which stuffthingmaps_trainval2017.zip is unpacked"
        )
    maps = {split: [map_file(file) for file in part.files()] for split, part in source.parts.items()}
    values = {field.name: getattr(source, field.name) for field in fields(source)}
    values.update(
        annotations=(*source.annotations, "class_map"),
        map_class_names=STUFF_THING_NAMES,
        fingerprint=listing_fingerprint(source.root, maps, source.fingerprint),
    )
    return CocoWithMaps(**values)


def map_file(image: str) -> str:
    """Return the path of the map of an image relative to the root."""
    path = Path(image)
    return str(Path("stuffthingmaps", path.parent.name, f"{path.stem}.png"))

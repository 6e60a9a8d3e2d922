"""Annotated images: boxes, masks and maps of classes, in shards, as targets of detection and segmentation."""

from orchestrator.data.scenes.dataset import SceneDataset, Scenes, open_scenes, scene_batches
from orchestrator.data.scenes.embedded import list_scenes, prepare_scenes
from orchestrator.data.scenes.target import IGNORED, SceneTarget

__all__ = [
    "IGNORED",
    "SceneDataset",
    "SceneTarget",
    "Scenes",
    "list_scenes",
    "open_scenes",
    "prepare_scenes",
    "scene_batches",
]

"""Conversion of one shard of any source; what `prepare` and the tasks of Ray call."""

from __future__ import annotations

from orchestrator.data.conversion.scene_shards import convert_scene_shard
from orchestrator.data.conversion.shards import ShardRecord, ShardTask, convert_label_shard
from orchestrator.data.sources.scenes.scene_source import SceneSource
from orchestrator.data.sources.source import Source

__all__ = ["convert_shard"]


def convert_shard(source: Source, task: ShardTask) -> ShardRecord:
    """Write one shard, and then its record."""
    if isinstance(source, SceneSource):
        return convert_scene_shard(source, task)
    return convert_label_shard(source, task)

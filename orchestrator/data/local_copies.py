"""Copies of shards from an object store on this machine.

A dataset is copied once to a folder of this machine (`SPATIALSWEEP_CACHE`, or `~/.cache/spatialsweep`), which its
workers share.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from orchestrator.data.manifest import Shard
from orchestrator.data.storage import Folder
from orchestrator.files.contained_paths import contained

__all__ = ["copied_shards"]


def copied_shards(
    folder: Folder, content_hash: str, shards: Iterable[Shard], check: Callable[[Shard, Path], None]
) -> Path:
    """Return the folder of this machine that holds a copy of the shards, and copy the missing ones.

    Args:
        folder: Folder of the dataset.
        content_hash: Hash of the dataset, which names the folder of its copy.
        shards: Shards of the dataset.
        check: Function that checks the content of a copy; if it raises, the copy is removed.
    """
    target = contained(_cache(), content_hash, "hash of a dataset")
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as lock:  # the workers of this machine copy it once
        fcntl.flock(lock, fcntl.LOCK_EX)
        for shard in shards:
            place = contained(target, shard.file, "shard")
            if not place.exists() or place.stat().st_size != shard.bytes:
                folder.fetch(shard.file, place, partial(check, shard))
    return target


def _cache() -> Path:
    chosen = os.environ.get("SPATIALSWEEP_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "spatialsweep"

"""Copies of shards from an object store on this machine.

A dataset is copied once to a folder of this machine (`SPATIALSWEEP_CACHE`, or `~/.cache/spatialsweep`), which its
workers share. Shards are read ahead: while one is checked against its hash, those after it are on their way.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from orchestrator.data.manifest import Shard
from orchestrator.data.storage import Folder
from orchestrator.files.contained_paths import contained

__all__ = ["copied_shards"]

_READ_AHEAD = 4
"""Number of shards that are copied at once; a copy holds one chunk of a shard in memory."""


def copied_shards(
    folder: Folder, content_hash: str, shards: Iterable[Shard], check: Callable[[Shard, Path], None]
) -> Path:
    """Return the folder of this machine that holds a copy of the shards, and copy the missing ones.

    Args:
        folder: Folder of the dataset.
        content_hash: Hash of the dataset, which names the folder of its copy.
        shards: Shards of the dataset.
        check: Function that checks the content of a copy, in any thread; if it raises, the copy is removed.

    Raises:
        DataError: A shard cannot be read, or is not what its manifest says: the first such one in the order of the
            shards, whichever of them was copied first. No copy is begun after it.
    """
    target = contained(_cache(), content_hash, "hash of a dataset")
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as lock:  # the workers of this machine copy it once
        fcntl.flock(lock, fcntl.LOCK_EX)
        _copy_missing(folder, [(shard, contained(target, shard.file, "shard")) for shard in shards], check)
    return target


def _copy_missing(folder: Folder, shards: list[tuple[Shard, Path]], check: Callable[[Shard, Path], None]) -> None:
    """Copy the shards that are not whole in their places, some of them at once."""
    missing = iter([(shard, place) for shard, place in shards if _size(place) != shard.bytes])
    with ThreadPoolExecutor(_READ_AHEAD, thread_name_prefix="shards") as pool:
        running: deque[Future[None]] = deque()

        def begin() -> None:
            for shard, place in itertools.islice(missing, _READ_AHEAD - len(running)):
                running.append(pool.submit(folder.fetch, shard.file, place, partial(check, shard)))

        begin()
        while running:
            running.popleft().result()
            begin()


def _size(place: Path) -> int | None:
    return place.stat().st_size if place.exists() else None


def _cache() -> Path:
    chosen = os.environ.get("SPATIALSWEEP_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "spatialsweep"

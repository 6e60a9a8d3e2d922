"""Copies of shards that are read ahead: several at once, checked, and with errors in the order of the shards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.data.local_copies import copied_shards
from orchestrator.data.manifest import Shard
from orchestrator.data.storage import Folder, open_folder
from orchestrator.errors import DataError

HASH = "0123456789abcdef"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPATIALSWEEP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "store").mkdir()
    for number in range(9):
        (tmp_path / "store" / f"train-{number:05}.arrow").write_bytes(b"x" * (number + 1))
    return tmp_path


def shards(count: int = 9) -> list[Shard]:
    return [
        Shard(file=f"train-{number:05}.arrow", images=1, bytes=number + 1, content_hash=HASH) for number in range(count)
    ]


def checked(seen: list[str], wait: Callable[[], object] = lambda: None) -> Callable[[Shard, Path], None]:
    """Return a check that notes its shard and refuses the shards 3 and 5."""

    def check(shard: Shard, copy: Path) -> None:
        assert copy.stat().st_size == shard.bytes
        wait()
        seen.append(shard.file)
        if shard.file in ("train-00003.arrow", "train-00005.arrow"):
            raise DataError(f"{shard.file}: is not what its manifest says")

    return check


def test_four_shards_are_copied_at_once_and_no_more(place: Path) -> None:
    folder, seen = open_folder(place / "store"), []
    together, running, most = threading.Barrier(4, timeout=120), [0], [0]
    lock = threading.Lock()

    def wait() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        together.wait()  # passes once four are here
        with lock:
            running[0] -= 1

    expected = shards(3) + [Shard(file=s.file, images=1, bytes=s.bytes, content_hash=HASH) for s in shards()[6:7]]
    target = copied_shards(folder, HASH, expected, checked(seen, wait))
    assert most == [4]
    assert sorted(seen) == [shard.file for shard in expected]
    assert all((target / shard.file).read_bytes() == b"x" * shard.bytes for shard in expected)


def test_the_first_fault_in_the_order_of_the_shards_is_raised_and_whole_copies_stay(place: Path) -> None:
    folder, seen = open_folder(place / "store"), []
    with pytest.raises(DataError, match=r"train-00003\.arrow: is not what"):
        copied_shards(folder, HASH, shards(), checked(seen))
    target = place / "cache" / HASH
    kept = {path.name for path in target.iterdir()}
    assert {f"train-{number:05}.arrow" for number in range(3)} <= kept
    assert not kept & {"train-00003.arrow", "train-00005.arrow", "train-00007.arrow", "train-00008.arrow"}
    assert not any("partial" in name for name in kept)


def test_only_missing_and_cut_shards_are_copied(place: Path) -> None:
    folder, seen = open_folder(place / "store"), []
    target = copied_shards(folder, HASH, shards(3), checked(seen))
    (target / "train-00001.arrow").write_bytes(b"")
    (target / "train-00002.arrow").unlink()
    seen.clear()
    assert copied_shards(folder, HASH, shards(3), checked(seen)) == target
    assert sorted(seen) == ["train-00001.arrow", "train-00002.arrow"]


def test_a_shard_that_is_missing_in_the_store_is_named(place: Path) -> None:
    folder: Folder = open_folder(place / "store")
    (place / "store" / "train-00001.arrow").unlink()
    with pytest.raises(DataError, match=r"store/train-00001\.arrow"):
        copied_shards(folder, HASH, shards(3), checked([]))

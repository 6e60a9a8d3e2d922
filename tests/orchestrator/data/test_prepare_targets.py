"""Target folder of `data prepare`: foreign files are kept, and a damaged record costs one shard."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.data.conversion.prepare import prepare
from orchestrator.errors import DataError
from tests.support.tiny_archives import photo_tree


@pytest.mark.parametrize("taken", ["train-00000.arrow", ".parts/mine.txt", ".parts/mine/deep.txt"])
def test_nothing_foreign_is_overwritten_or_removed(taken: str, tmp_path: Path) -> None:
    root, target = photo_tree(tmp_path), tmp_path / "to"
    (target / taken).parent.mkdir(parents=True)
    (target / taken).write_text("mine")
    (target / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"which data prepare did not write and would overwrite; choose another folder"):
        prepare("folder", root, str(target))
    assert (target / taken).read_text() == (target / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in target.iterdir()) == sorted([Path(taken).parts[0], "notes.txt"])


def test_a_linked_parts_folder_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / ".parts").symlink_to(tmp_path / "precious")
    with pytest.raises(DataError, match="did not write and would overwrite"):
        prepare("digits", None, str(tmp_path / "to"))
    assert (tmp_path / "precious").is_dir()


def test_a_dataset_in_the_folder_of_its_source_removes_nothing(tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    manifest = prepare("folder", root, str(root))
    assert prepare("folder", root, str(root)) == manifest
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("damage", [b"words", b"{}", b"[" * 100_000, b'{"plan": "\xff"}', b"null"])
def test_the_shard_of_a_damaged_record_is_converted_again(damage: bytes, tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    (root / "train/dog/2.jpg").write_bytes(b"words")
    with pytest.raises(DataError, match="1 images cannot be read"):
        prepare("folder", root, str(tmp_path / "to"), images_per_shard=5)
    (tmp_path / "to" / ".parts" / "train-00000.json").write_bytes(damage)
    manifest = prepare("folder", root, str(tmp_path / "to"), images_per_shard=5, max_bad=1)
    assert manifest.splits["train"].images == 11
    assert not (tmp_path / "to" / ".parts").exists()

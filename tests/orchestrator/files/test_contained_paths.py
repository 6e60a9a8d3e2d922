"""Untrusted names and paths stay within the folder they are joined to."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UnsafePathError
from orchestrator.files.contained_paths import contained, plain_name

HOSTILE = [
    "",
    ".",
    "..",
    "/etc/passwd",
    "../x",
    "a/b",
    "a\\b",
    "C:x",
    "a\0b",
    "a\nb",
    "x" * 256,
    None,
    7,
    b"bytes",
    ["x"],
]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_name_that_could_leave_its_folder_is_refused(name: object) -> None:
    with pytest.raises(UnsafePathError, match="shard name"):
        plain_name(name, "shard name")


@pytest.mark.parametrize("name", ["train-00000.arrow", ".hidden", "a b", "ü.png", "..."])
def test_a_plain_name_is_returned(name: str) -> None:
    assert plain_name(name) == name


@pytest.mark.parametrize("path", ["..", "../x", "/etc/passwd", "a/../../x", "link/x", "loop", "loop/x", "a\0b"])
def test_a_path_outside_is_refused(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(UnsafePathError):
        contained(root, path)


def test_a_path_within_the_folder_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert contained(tmp_path, "link/x") == (tmp_path / "real/x").resolve()
    assert contained(tmp_path, tmp_path / "y") == (tmp_path / "y").resolve()

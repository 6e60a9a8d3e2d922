"""Cache of compiled kernels: only folders that no other user can write to."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from models.compiled import build
from tests.support.networks.tiny_kernel import tiny_kernel

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="there is no C++ compiler"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
OTHER_USER = 54321


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache folder of the user; temporary files go to a folder that all may write to."""
    for name in ("cache", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "cache" / "spatialsweep" / "kernels"


def temporary() -> Path:
    return Path(tempfile.gettempdir()) / f"spatialsweep-kernels-{os.getuid()}"


def test_the_cache_of_the_user_is_private(cache: Path) -> None:
    before = os.umask(0)
    try:
        assert build._cache_folder() == cache
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (cache, cache.parent)] == [0o700, 0o700]


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o702])
def test_a_cache_that_others_can_write_to_is_not_used(cache: Path, depth: int, mode: int) -> None:
    cache.mkdir(parents=True)
    (cache, *cache.parents)[depth].chmod(mode)
    assert build._cache_folder() == temporary()


@needs_root
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_cache_of_another_user_is_not_used(cache: Path, depth: int) -> None:
    cache.mkdir(parents=True)
    os.chown((cache, *cache.parents)[depth], OTHER_USER, OTHER_USER)
    assert build._cache_folder() == temporary()


def test_a_cache_that_is_a_link_is_not_used(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "planted").mkdir(mode=0o700)
    cache.parent.mkdir(parents=True)
    cache.symlink_to(tmp_path / "planted")
    assert build._cache_folder() == temporary()


def test_a_parent_link_is_accepted_where_no_other_user_could_have_made_it(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    cache.parent.symlink_to(tmp_path / "disk")
    assert build._cache_folder() == cache
    cache.rmdir()
    (tmp_path / "disk").chmod(0o777)
    assert build._cache_folder() == temporary()


def test_without_a_private_cache_a_new_folder_is_made_or_none(cache: Path, tmp_path: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    temporary().symlink_to(tmp_path)
    made = build._cache_folder()
    assert made.parent == tmp_path / "tmp"
    assert made != temporary()
    assert made.stat().st_mode & 0o777 == 0o700
    (tmp_path / "tmp").chmod(0o777)
    with pytest.raises(PermissionError, match="can be changed by other users"):
        build._cache_folder()


def test_a_user_without_a_home_has_a_folder_among_temporary_files(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-of-this-name/.cache")
    assert build._cache_folder() == temporary()


@needs_compiler
def test_a_library_that_was_planted_is_never_opened(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replace the library by a foreign file: this process builds it again before opening it."""
    kernel = tiny_kernel(tmp_path)
    built = build._library_path(kernel)
    assert built.parent == cache
    for spoil in (lambda: built.chmod(0o666), lambda: _replace_by_link(built, tmp_path / "planted.so")):
        spoil()
        assert build._library_path(kernel) == built
        assert not built.is_symlink()
        assert built.stat().st_mode & 0o022 == 0
        assert built.read_bytes()[:4] == b"\x7fELF"
    cache.chmod(0o777)
    assert build._library_path(kernel).parent == temporary()
    monkeypatch.setattr(build, "_cache_folder", lambda: (_ for _ in ()).throw(PermissionError("none")))
    monkeypatch.setenv(build.SWITCH, "1")
    assert build.compiled_library(kernel) is None


def _replace_by_link(library: Path, target: Path) -> None:
    target.write_bytes(b"planted")
    library.unlink()
    library.symlink_to(target)

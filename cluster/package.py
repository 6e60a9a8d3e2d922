"""Package of a job: files of the working directory, SpatialSweep's own packages, and the sweep file."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cluster.unpacked_files import LeftOut, is_secret
from orchestrator.config.network_files import NetworkSource, relative_path
from orchestrator.errors import ConfigError, Problem

IMPORT_ROOTS = ("cluster", "models", "orchestrator", "search_spaces")

# As git writes it, beside .gitignore and .rayignore.
NEVER_PACKED = [
    *(".git", ".hg", ".venv", "venv", "node_modules", "__pycache__", "*.py[co]", "*.egg-info", ".ipynb_checkpoints"),
    *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".import_linter_cache", ".DS_Store"),
]
# Only at the top of the working directory: deeper, `data` may be code.
NOT_AT_TOP = ["/data", "/runs", "/mlruns", "/mlflow.db*", "/build", "/dist"]

_NAMED = 5
_LOGGER = logging.getLogger(__name__)
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """Files to send to a cluster.

    Args:
        files: Local path of each file, by its name in the package.
        sweep: Name of the sweep file in the package.
        left_out: Files excluded without an ignore file, one line per reason.
    """

    files: Mapping[str, Path]
    sweep: str
    left_out: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of all files in bytes, before compression."""
        return sum(path.stat().st_size for path in self.files.values())

    def largest(self) -> list[tuple[str, int]]:
        """Return the largest files with their sizes in bytes."""
        sizes = [(name, path.stat().st_size) for name, path in self.files.items()]
        return sorted(sizes, key=lambda entry: (-entry[1], entry[0]))[:_NAMED]

    def write(self, target: Path) -> None:
        """Write a zip file; equal files give equal bytes, so that Ray uploads them only once."""
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, path in sorted(self.files.items()):
                entry = zipfile.ZipInfo(name, _FIXED_DATE)
                entry.external_attr = (path.stat().st_mode & 0o777) << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, _content(path))


def size_limit() -> int:
    """Return Ray's limit for one package, in bytes."""
    from orchestrator.runtime.ray_private.core import package_size_limit

    return package_size_limit()


def plan_package(
    folder: Path, sweep: Path, *, network_files: Sequence[NetworkSource] = (), limit: int | None = None
) -> Package:
    """Collect the files a job needs to run a sweep.

    Args:
        folder: Working directory.
        sweep: Sweep file; included even if it is ignored or outside the folder.
        network_files: Files of the sweep's networks; included beside the sweep file even if they are ignored.
        limit: Limit in bytes, before compression; None takes Ray's.

    Raises:
        ConfigError: The folder does not exist, holds packages named as SpatialSweep's, or exceeds the limit; or the
            sweep file is a link out of the folder, or has a name that marks secrets; or a file of a network is named
            by a path that the job lacks.
    """
    if not folder.is_dir():
        raise ConfigError([Problem("--working-dir", f"no such folder: {folder}")])
    given, folder = Path(os.path.abspath(folder)), folder.resolve()  # noqa: PTH100 - links as they are
    left_out = LeftOut(folder)
    kept = _kept(folder, [*NEVER_PACKED, *NOT_AT_TOP], left_out)
    files = {path.relative_to(folder).as_posix(): path for path in kept}
    files |= _own_code(folder)
    name = _name_of_sweep(sweep, given, folder)
    files[name] = sweep.resolve()
    files |= {_name_of_network(source, name): source.path for source in network_files}
    package = Package(files, name, tuple(left_out.in_words()))
    if package.bytes >= (size_limit() if limit is None else limit):
        raise ConfigError([_too_large(folder, package, size_limit() if limit is None else limit)])
    return package


def own_package() -> Package:
    """Return a package of SpatialSweep's own code alone."""
    return Package(_sources(), "")


def megabytes(size: int) -> str:
    """Format a size, such as `1.5 MiB`."""
    return f"{size / 2**20:.1f} MiB"


def _name_of_sweep(sweep: Path, given: Path, folder: Path) -> str:
    """Return the name of the sweep file in the package.

    Raises:
        ConfigError: The file is a link out of the folder, or has a name that marks secrets.
    """
    written, target = Path(os.path.abspath(sweep)), sweep.resolve()  # noqa: PTH100 - links as they are
    within = written.is_relative_to(given) or written.is_relative_to(folder)
    if within and not target.is_relative_to(folder):
        remedy = "leads outside of the working directory. Copy the file, or name it by its own path"
        raise ConfigError([Problem(str(sweep), f"is a link to {target}, which {remedy}")])
    name = target.relative_to(folder) if target.is_relative_to(folder) else Path(sweep.name)
    if any(is_secret(each) for each in (name, Path(sweep.name), Path(target.name))):
        raise ConfigError([Problem(str(sweep), "has a name of files that hold secrets. Call the sweep's file another")])
    return name.as_posix()


def _name_of_network(source: NetworkSource, sweep: str) -> str:
    """Return the name of a network's file in the package, where the job finds it: below the folder of the sweep file.

    Raises:
        ConfigError: Its name leads out of that folder.
    """
    path = relative_path(source.name)
    if path.is_absolute() or path.parts[0].startswith("~") or ".." in path.parts:
        message = f"{source.name} leads out of the sweep file's folder, which is all a job has. Put the file below it"
        raise ConfigError([Problem("model.name", message)])
    return (PurePosixPath(sweep).parent / path.as_posix()).as_posix()


def _kept(folder: Path, excluded: list[str], left_out: LeftOut) -> Iterator[Path]:
    """Yield the files that neither the rules of `ray job submit` nor our own rules exclude."""
    from orchestrator.runtime.ray_private.core import excluding

    try:
        yield from _files_below(folder, [excluding(folder, excluded)], left_out)
    except OSError as error:
        message = f"{error.filename} cannot be read: {error.strerror}. Name it in .rayignore, or make it readable"
        raise ConfigError([Problem("--working-dir", message)]) from None


def _files_below(path: Path, excludes: list[Callable[[Path], bool]], left_out: LeftOut) -> Iterator[Path]:
    from orchestrator.runtime.ray_private.core import ignore_rules

    if any(excluded(path) for excluded in excludes) or left_out.takes(path):
        return
    if path.is_dir():
        within = [*excludes, *ignore_rules(path, _LOGGER)]
        for inner in sorted(path.iterdir()):
            yield from _files_below(inner, within, left_out)
    else:
        yield path


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}. Name it in .rayignore, or make it readable"
        raise ConfigError([Problem("--working-dir", message)]) from None


def _own_code(folder: Path) -> dict[str, Path]:
    """Return the code of the running packages; empty if the folder is a checkout with its own."""
    there = [root for root in IMPORT_ROOTS if (folder / root).is_dir()]
    if len(there) == len(IMPORT_ROOTS):
        return {}
    if there:
        message = f"{folder / there[0]} would take the place of SpatialSweep's own package '{there[0]}'. Rename it, "
        raise ConfigError([Problem("--working-dir", f"{message}or choose another folder")])
    return _sources()


def _sources() -> dict[str, Path]:
    home = Path(__file__).resolve().parents[1]
    roots = [home / root for root in IMPORT_ROOTS]
    found = (path for root in roots for path in _kept(root, NEVER_PACKED, LeftOut(root)))
    return {path.relative_to(home).as_posix(): path for path in found}


def _too_large(folder: Path, package: Package, limit: int) -> Problem:
    named = ", ".join(f"{name} ({megabytes(size)})" for name, size in package.largest())
    return Problem(
        "--working-dir",
        f"{folder} holds {megabytes(package.bytes)} in {len(package.files)} files; Ray takes less than "
        f"{megabytes(limit)}. Largest: {named}. Name what the job does not need in .rayignore, "
        "or choose a folder with --working-dir",
    )

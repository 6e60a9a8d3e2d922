"""Files of the user's own networks, `FILE.py:FACTORY`: found, read, and registered before a sweep is checked.

A file that the user's sweep names lies beside the sweep file, or in the current folder. Of a stored sweep the file
comes from its records, and is run only where `orchestrator.files.known_code` has its hash.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.config.settings_text import read_text
from orchestrator.errors import ConfigError, Problem
from orchestrator.uris import without_secrets

__all__ = [
    "Finder",
    "NetworkFiles",
    "NetworkSource",
    "files_beside",
    "network_files_beside",
    "network_files_from",
    "no_files",
    "read_network_files",
    "relative_path",
]

_ALWAYS_THERE = frozenset({"cluster", "models", "orchestrator", "search_spaces"})
_MOST_NEIGHBOURS = 20


@dataclass(frozen=True)
class NetworkSource:
    """File of a network as it was read.

    Args:
        name: Name as the sweep writes it before the colon, such as `own_network.py`.
        text: Source code.
        path: Path of the file.
    """

    name: str
    text: str
    path: Path

    @property
    def sha256(self) -> str:
        """SHA-256 of the source code in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class NetworkFiles:
    """Files of a sweep's networks; excluded from comparisons, as the settings name them.

    Args:
        sources: Files that were read and run.
        withheld: Names of files of a stored sweep that were not run, since the user does not know them.
    """

    sources: tuple[NetworkSource, ...] = field(default=(), compare=False)
    withheld: tuple[str, ...] = field(default=(), compare=False)

    @property
    def texts(self) -> dict[str, str]:
        """Source code by name."""
        return {source.name: source.text for source in self.sources}

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 by name."""
        return {source.name: source.sha256 for source in self.sources}


Finder = Callable[[str], NetworkSource | None]
"""Function that finds a file by its name; None where it is withheld. It raises a `ConfigError` where there is none."""

_FINDER: ContextVar[Finder | None] = ContextVar("network_files", default=None)


@contextmanager
def network_files_from(finder: Finder) -> Iterator[None]:
    """Let configurations that are built within the context take the files of their networks from a finder."""
    token = _FINDER.set(finder)
    try:
        yield
    finally:
        _FINDER.reset(token)


@contextmanager
def network_files_beside(folder: Path) -> Iterator[None]:
    """Let configurations take the files of their networks from a folder, unless a finder was chosen already."""
    if _FINDER.get() is not None:
        yield
        return
    with network_files_from(files_beside(folder)):
        yield


def no_files(name: str) -> None:
    """Withhold every file: the finder of readers that need the settings of a sweep only."""
    del name


def files_beside(folder: Path) -> Finder:
    """Return the finder of files below a folder, else below the current one.

    Args:
        folder: Folder of the sweep file.
    """

    def find(name: str) -> NetworkSource:
        folders = dict.fromkeys([folder.resolve(), Path.cwd()])
        for path in (each / relative_path(name).expanduser() for each in folders):
            if path.is_file():
                return NetworkSource(name, _read(path), path.resolve())
        places = " and ".join(map(str, folders))
        beside = sorted(path.name for path in folder.glob("*.py"))[:_MOST_NEIGHBOURS]
        hint = f" {folder} holds {', '.join(beside)}." if beside else ""
        raise ConfigError([Problem(name, f"no file {relative_path(name)} in {places}.{hint}")])

    return find


def relative_path(name: str) -> Path:
    """Return the path that a name before the colon stands for: `nets.mine` is `nets/mine.py`."""
    return Path(name if name.endswith(".py") else f"{name.replace('.', '/')}.py")


def read_network_files(settings: Mapping[str, Any]) -> tuple[NetworkFiles, list[Problem]]:
    """Read and run the files that the settings of a sweep name, and return the problems with them.

    Args:
        settings: Settings of a sweep, as written.
    """
    finder = _FINDER.get() or files_beside(Path.cwd())
    sources, withheld, problems = [], [], []
    for name, where in _named_files(settings):
        source, faults = _registered(name, finder)
        problems += [Problem(where, fault) for fault in faults]
        if source is not None:
            sources.append(source)
        elif not faults:
            withheld.append(name)
    return NetworkFiles(tuple(sources), tuple(withheld)), problems


def _registered(name: str, finder: Finder) -> tuple[NetworkSource | None, list[str]]:
    """Find, read and run a file; return it, or the faults with it, or neither where it is withheld."""
    import models

    try:
        source = finder(name)
        if source is None:
            return None, []
        if not (faults := list(_unfit_to_send(source))):
            models.register_network_file(name, source.text)
            return source, []
    except ConfigError as error:
        faults = [problem.message for problem in error.problems]
    except models.NetworkFileError as error:
        faults = [str(error)]
    models.forget_network_file(name)  # of an earlier configuration
    return None, faults


def _named_files(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the names of the files, each once, with the setting that names it."""
    searched = settings.get("search")
    domain = searched.get("model") if isinstance(searched, Mapping) else None
    written = [domain, _entry(domain, "value"), _entry(domain, "choices")]  # the short forms of a domain, and the long
    names = [(_entry(settings.get("model"), "name"), "model.name")]
    for value in written:
        names += [(name, "search.model") for name in (value if isinstance(value, list | tuple) else [value])]
    texts = [(name, where) for name, where in names if isinstance(name, str) and ":" in name]
    if not texts:
        return []
    from models import split_reference

    found: dict[str, str] = {}
    for name, where in texts:
        if (parts := split_reference(name)) is not None:
            found.setdefault(parts[0], where)
    return list(found.items())


def _entry(section: Any, key: str) -> Any:
    return section.get(key) if isinstance(section, Mapping) else getattr(section, key, None)


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        raise ConfigError([Problem(str(path), f"{path} cannot be read: {error}")]) from None


def _unfit_to_send(source: NetworkSource) -> Iterator[str]:
    """Yield the reasons why a file cannot go to the workers and into the records."""
    if without_secrets(source.text) != source.text:
        yield (
            f"{source.name} holds a password or a token, and its text is recorded with the sweep. Read it from the "
            "environment instead"
        )
    yield from _local_imports(source)


def _local_imports(source: NetworkSource) -> Iterator[str]:
    """Yield the imports of a file that workers would not find: of other files beside it."""
    try:
        tree = ast.parse(source.text)
    except SyntaxError:
        return  # reported when the file is run
    for node in ast.walk(tree):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            imported = ["." * node.level + (node.module or "")]
        for name in imported:
            top = name.partition(".")[0]
            folder = source.path.parent
            beside = (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()
            if name.startswith(".") or (beside and top not in _ALWAYS_THERE):
                yield (
                    f"{source.name} imports {name!r}, which lies beside it; workers get the one file. Put both into "
                    "one file, or install the other as a package on every node"
                )

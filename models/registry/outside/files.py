"""Networks in files of the user's own, named `FILE.py:FACTORY`.

A file is registered with its text, so that every process of a sweep runs the same code, wherever it is. Its factory is
called as `FACTORY(num_classes=..., in_chans=..., [img_size=...], **options)` and returns a network.
"""

import functools
import hashlib
import importlib.abc
import importlib.util
import linecache
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

__all__ = [
    "NetworkFile",
    "NetworkFileError",
    "factory_of",
    "forget_network_file",
    "network_file",
    "register_network_file",
    "split_reference",
]

_REFERENCE = re.compile(r"(?P<file>[^:]+):(?P<factory>[A-Za-z_]\w*)")
_MODULE_PREFIX = "network_file_"
_DIGITS = 12


class NetworkFileError(ValueError):
    """File of a network that cannot be imported, or that lacks the named factory."""


@dataclass(frozen=True)
class NetworkFile:
    """File of a network.

    Args:
        name: Name as it is written before the colon, such as `own_network.py`.
        text: Source code.
    """

    name: str
    text: str

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the source code in UTF-8, in hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def module_name(self) -> str:
        """Name of its module, which no other code has."""
        return f"{_MODULE_PREFIX}{self.sha256[:_DIGITS]}"


_FILES: dict[str, NetworkFile] = {}
"""Registered files by name."""


def split_reference(name: str) -> tuple[str, str] | None:
    """Return file and factory of a name such as `own_network.py:make_network`; None for any other name."""
    match = _REFERENCE.fullmatch(name)
    return None if match is None else (match["file"], match["factory"])


def register_network_file(name: str, text: str) -> NetworkFile:
    """Run the code of a file, and offer its factories as networks under this name.

    A file of the same name takes the place of the former; equal text is not run again.

    Args:
        name: Name as it is written before the colon, such as `own_network.py`.
        text: Source code.

    Raises:
        NetworkFileError: The code cannot be run.
    """
    file = NetworkFile(name, text)
    forget_network_file(name)
    if file.module_name not in sys.modules:
        _import(file)
    _FILES[name] = file
    return file


def forget_network_file(name: str) -> None:
    """Stop offering the factories of a file, where there is one of this name.

    Args:
        name: Name as it is written before the colon.
    """
    _FILES.pop(name, None)


def network_file(name: str) -> NetworkFile | None:
    """Return the registered file of a network; None for a network of another kind.

    Args:
        name: Name of the network.
    """
    parts = split_reference(name)
    return None if parts is None else _FILES.get(parts[0])


def factory_of(name: str) -> Callable[..., Any]:
    """Return the factory that a name such as `own_network.py:make_network` refers to.

    Raises:
        NetworkFileError: The file is not registered, or has no such factory.
    """
    parts, file = split_reference(name), network_file(name)
    if parts is None or file is None:
        raise NetworkFileError("its file is not loaded")
    content = vars(sys.modules[file.module_name])
    found = content.get(parts[1])
    if not callable(found):
        own = [
            key for key, value in content.items() if getattr(value, "__module__", None) == file.module_name
        ]  # without what it imports
        raise NetworkFileError(f"{parts[0]} has no factory {parts[1]!r}; it defines {', '.join(own) or 'none'}")
    factory: Callable[..., Any] = found
    return factory


class _TextLoader(importlib.abc.ExecutionLoader):
    """Loader of a module from its text."""

    def __init__(self, file: NetworkFile) -> None:
        self._file = file

    def get_source(self, fullname: str) -> str:
        """Return the source code."""
        del fullname
        return self._file.text

    def get_filename(self, fullname: str) -> str:
        """Return the name that tracebacks show."""
        return f"<{self._file.name} {fullname}>"


def _import(file: NetworkFile) -> ModuleType:
    loader = _TextLoader(file)
    shown = loader.get_filename(file.module_name)
    spec = importlib.util.spec_from_loader(file.module_name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # Tracebacks and torch.compile read source code from here; entries without a time are never dropped.
    linecache.cache[shown] = (len(file.text), None, file.text.splitlines(keepends=True), shown)
    sys.modules[file.module_name] = module
    try:
        loader.exec_module(module)
    except Exception as error:
        del sys.modules[file.module_name]
        raise NetworkFileError(f"{file.name} cannot be imported: {_reason(error, shown)}") from error
    return module


def _reason(error: Exception, shown: str) -> str:
    """Return class and text of an error on one line, with the line of the file where it arose."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == shown:
            line = trace.tb_lineno
        trace = trace.tb_next
    text = getattr(error, "msg", None) if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{'' if line is None else f' (line {line})'}"

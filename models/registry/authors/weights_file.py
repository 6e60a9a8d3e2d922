"""Reading of files of weights: tensors only, without running code of a file; every error is one line."""

import argparse
import dataclasses
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.registry.authors.mismatch import AuthorsCheckpointError, printable

__all__ = ["WEIGHTS", "Weights", "read_weights"]

WEIGHTS = ("ema", "plain")
"""Kinds of weights of a file that holds both: their moving average, and the weights themselves."""

CONTAINERS = {"ema": ("state_dict_ema", "model_ema"), "plain": ("state_dict", "model", "net")}
PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel, DistributedDataParallel and torch.compile

_HEAD_BYTES = 512
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # magic number of files of torch.save before 1.6
_ARCHIVES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"Rar!": "rar", b"7z\xbc\xaf": "7z"}
_REFUSED = re.compile(r"(?:GLOBAL|Unsupported global: GLOBAL|Unsupported class) ([\w.]+)")


class _Unread:
    """Stand-in for an object of a file that is no tensor and is not read: it takes any content and keeps none."""

    def __new__(cls, *_: Any, **__: Any) -> "_Unread":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


_UNREAD_NAMES = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    f"{argparse.Namespace.__module__}.{argparse.Namespace.__qualname__}",
)
"""Names in files of training scripts (accuracies, arguments) that stand for an `_Unread`, never for what they name."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """State dict of a file.

    Args:
        tensors: Tensors by name, without the prefixes of wrappers.
        kind: `ema` or `plain`.
        notes: What was chosen and what was left out, a line each.
    """

    tensors: Mapping[str, Tensor] = dataclasses.field(repr=False)
    kind: str = "plain"
    notes: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors by name."""
        return {key: tuple(tensor.shape) for key, tensor in self.tensors.items()}


def read_weights(source: str | Path | Mapping[str, Any], *, weights: str | None = None) -> Weights:
    """Read the state dict of a file, or of its content.

    It stands alone or in an entry: `state_dict_ema` or `model_ema` for a moving average, `state_dict`, `model` or `net`
    for the weights themselves. Prefixes of wrappers (`module.`) are removed. Files are read with `weights_only=True`.

    Args:
        source: File, or its content.
        weights: `ema` or `plain`; None takes the moving average where there is one.

    Raises:
        AuthorsCheckpointError: It cannot be read, holds no state dict, or not the asked one.
    """
    if weights is not None and weights not in WEIGHTS:
        raise AuthorsCheckpointError(f"weights: got {weights!r}; use one of {', '.join(WEIGHTS)}")
    label = f"{source}: " if isinstance(source, str | Path) else ""
    content = _read_file(Path(source)) if isinstance(source, str | Path) else source
    if not isinstance(content, Mapping):
        raise AuthorsCheckpointError(f"{label}a checkpoint is a mapping, not a {type(content).__name__}")
    state, kind, note = _chosen(content, weights, label)
    others = sorted(printable(key) for key, value in state.items() if not _is_entry(key, value))
    if others or not state:
        holds = f"it holds {_listed(others)}" if others else "it is empty"
        raise AuthorsCheckpointError(f"{label}no state dict found: {holds}")
    tensors = {_bare(key): value for key, value in state.items()}
    if len(tensors) < len(state):
        raise AuthorsCheckpointError(f"{label}holds some entries twice, with and without the prefix of a wrapper")
    return Weights(tensors, kind, (note,) if note else ())


def _chosen(content: Mapping[Any, Any], weights: str | None, label: str) -> tuple[Mapping[Any, Any], str, str]:
    """Return the state dict of a file's content, its kind, and a note where there was a choice."""
    found = {
        kind: next((name for name in names if isinstance(content.get(name), Mapping)), None)
        for kind, names in CONTAINERS.items()
    }
    ema, plain = found["ema"], found["plain"]
    if ema is None and plain is None and weights != "ema":
        return content, "plain", ""
    kind = weights or ("plain" if ema is None else "ema")
    name = found[kind]
    if name is None:
        held = plain or ema or "a state dict alone"
        what = "moving average of the weights" if kind == "ema" else "weights beside their moving average"
        raise AuthorsCheckpointError(f"{label}holds no {what}, only {held}; use weights {WEIGHTS[kind == 'ema']}")
    other = plain if kind == "ema" else ema
    note = "" if other is None else f"the weights are those of {name}; {other} was not read"
    return content[name], kind, note


def _is_entry(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _bare(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.removeprefix(PREFIXES[0]).removeprefix(PREFIXES[1])
    return key


def _read_file(path: Path) -> Any:
    """Read a file without running code of it.

    Raises:
        AuthorsCheckpointError: It is missing, cut short, of another kind, or holds objects of unknown classes.
    """
    fault = _fault_of_kind(path)
    if fault:
        raise AuthorsCheckpointError(f"{path}: {fault}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        unread: list[Any] = [(_Unread, name) for name in _UNREAD_NAMES]
        with torch.serialization.safe_globals(unread):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the file may come from anyone: a reader may raise anything
        raise AuthorsCheckpointError(f"{path}: {_fault_of_content(error)}") from None


def _fault_of_kind(path: Path) -> str:
    """Return why a file cannot hold weights, by its first bytes; empty where it may."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        reasons = {
            FileNotFoundError: "no such file",
            IsADirectoryError: "is a folder; name the file in it, such as checkpoint.pth",
        }
        return reasons.get(type(error), f"cannot be read ({error.strerror})")
    if head.startswith(b"PK"):
        return _fault_of_zip(path)
    fault = _fault_of_head(head)
    is_known = fault or path.suffix == ".safetensors" or head.startswith(_LEGACY)
    return fault if is_known else "is no file of torch.save or safetensors"


def _fault_of_head(head: bytes) -> str:
    """Return the kind of a file that is no weights, and the remedy; empty where its first bytes are of no such kind."""
    archive = next((name for magic, name in _ARCHIVES.items() if head.startswith(magic)), "")
    archive = archive or ("tar" if head[257:262] == b"ustar" else "")
    page = "is a web page, not weights: the server sent a page in place of the file. Download it in a browser"
    pickled = "is a Python pickle, which can run code and is not read; it has to be written by torch.save"
    faults = {
        "is empty; download it again": not head,
        page: head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"),
        f"is a {archive} archive; unpack it and name the file in it": bool(archive),
        pickled: head.startswith(b"\x80") and not head.startswith(_LEGACY),
    }
    return next((fault for fault, applies in faults.items() if applies), "")


def _fault_of_zip(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        return "is cut short; download it again"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return ""
    return f"is a zip archive of {_listed([printable(name) for name in names])}; unpack it and name the file in it"


def _fault_of_content(error: Exception) -> str:
    text = " ".join(str(error).split())
    refused = _REFUSED.search(text)
    if refused:
        what = printable(refused[1])
        return f"holds an object of {what}, which could run code and is not read; save its state dict alone"
    if isinstance(error, EOFError | pickle.UnpicklingError):
        return "is cut short or damaged; download it again"
    return f"is damaged ({printable(text or type(error).__name__)}); download it again"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3]) or 'nothing'}{more}"

"""Import of timm and torchvision without torch's compiler and its distributed tensors: 1.4 s of processor time.

They import it to mark functions that it should leave alone, to look whether it is there, and to set its limits. What
uses it imports it later. timm's optimiser muon imports distributed tensors, and with them SymPy, to recognise them.
Private names of torch, as of 2.15: where they are others, the import takes longer, and
nothing else changes.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import torch

__all__ = ["import_timm"]

_COMPILER = "torch._dynamo"
_TENSORS = "torch.distributed.tensor"
_UTILITIES, _CONFIG = f"{_COMPILER}.utils", f"{_COMPILER}.config"


def import_timm() -> None:
    """Import timm with its optimisers, and torchvision; the compiler stays as it is where it has been imported."""
    if _COMPILER in sys.modules or not hasattr(torch, "_disable_dynamo"):
        _import()
        return
    marks: Any = torch.compiler
    utilities = _StandIn(_UTILITIES, is_compile_supported=_is_compile_supported)
    compiler, disable = _Compiler(_COMPILER), marks.disable
    sys.modules[_UTILITIES] = utilities
    torch._dynamo = compiler
    marks.disable = _disable_later
    try:
        _import()
    finally:
        marks.disable = disable
        utilities.leave()
        compiler.leave()


def _import() -> None:
    if _TENSORS in sys.modules:
        importlib.import_module("timm.optim")
    else:
        tensors = sys.modules[_TENSORS] = _StandIn(_TENSORS, DTensor=_DistributedTensor)
        try:
            importlib.import_module("timm.optim")
        except ImportError:  # of a module within that of the tensors, for which there is no stand-in
            tensors.leave()
            importlib.import_module("timm.optim")
        finally:
            tensors.leave()
    importlib.import_module("torchvision.tv_tensors")


class _StandIn(ModuleType):
    """Stand-in of a module, which imports it for all but what it is given.

    Args:
        name: Name of the module.
        given: Members by name.
    """

    def __init__(self, name: str, **given: Any) -> None:
        super().__init__(name)
        self._given = given

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._given:
            return self._given[name]
        self.leave()
        return getattr(importlib.import_module(self.__name__), name)

    def leave(self) -> None:
        """Make room for the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


class _Recognised(type):
    def __instancecheck__(cls, value: Any) -> bool:
        tensors = sys.modules.get(_TENSORS)
        return tensors is not None and isinstance(value, tensors.DTensor)


class _DistributedTensor(metaclass=_Recognised):
    """Class whose instances are those of torch's `DTensor`, of which there is none before that is imported."""


class _Compiler(ModuleType):
    """Stand-in of the compiler, which keeps the settings that are made until it is imported."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.config = ModuleType(_CONFIG)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(_COMPILER), name)

    def leave(self) -> None:
        """Make room for the compiler, which takes over the settings when it is imported."""
        if vars(torch).get("_dynamo") is self:
            del torch._dynamo
            settings = {name: value for name, value in vars(self.config).items() if not name.startswith("__")}
            if settings:
                sys.meta_path.insert(0, _Settings(settings))


class _Settings(MetaPathFinder, Loader):
    """Settings of the compiler, made when its configuration is imported.

    Args:
        settings: Values by name.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._loader: Any = None

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find the configuration where others find it, to be loaded by this loader."""
        if name != _CONFIG:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave it to the usual loader."""
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Load the configuration as usual, and make the settings."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        for name, value in self._settings.items():
            setattr(module, name, value)


def _is_compile_supported(device_type: Any) -> Any:
    """See `torch._dynamo.utils.is_compile_supported`."""
    return importlib.import_module(_UTILITIES).is_compile_supported(device_type)


def _disable_later(function: Callable[..., Any] | None = None, recursive: bool = True, **_: Any) -> Any:
    """See `torch.compiler.disable`; the compiler is imported when the function is called."""
    mark: Any = vars(torch)["_disable_dynamo"]  # which torch itself uses, for the same reason
    return mark(function, recursive)

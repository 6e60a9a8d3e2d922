"""Content of the two kinds of checkpoint, validated after their checksum, which does not vouch for the content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn
from typing_extensions import TypedDict

from orchestrator.errors import CheckpointError
from orchestrator.training.checkpoints.checkpoint_file import read_checkpoint

_ANY_KEY = ConfigDict(extra="allow", arbitrary_types_allowed=True, strict=True)
_SHOWN = 60
_MOST_CODE = 1 << 20

_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Weights = dict[str, Tensor]


def _one_row(losses: Tensor) -> Tensor:
    if losses.dim() != 1:
        raise ValueError(f"has {losses.dim()} dimensions, not 1")
    return losses


def _rows(buffers: Tensor) -> Tensor:
    if buffers.dim() != 2 or not len(buffers):
        raise ValueError(f"is of shape {tuple(buffers.shape)}, not one row for each rank")
    return buffers


class _Code(TypedDict):
    __pydantic_config__ = _ANY_KEY  # type: ignore[misc]
    file: str
    text: Annotated[str, Field(max_length=_MOST_CODE)]


class _Model(TypedDict):
    __pydantic_config__ = _ANY_KEY  # type: ignore[misc]
    name: str
    options: dict[str, Any]
    code: NotRequired[_Code]
    num_classes: Annotated[int, Field(ge=1, le=2**20)]
    in_chans: Annotated[int, Field(ge=1, le=2**12)]
    image_size: Annotated[int, Field(ge=1, le=2**14)]
    task: NotRequired[str]


class _Data(TypedDict):
    __pydantic_config__ = _ANY_KEY  # type: ignore[misc]
    pixel_mean: list[_Finite]
    pixel_std: list[Annotated[_Finite, Field(gt=0.0)]]
    class_names: list[str]


class _Best(TypedDict):
    __pydantic_config__ = _ANY_KEY  # type: ignore[misc]
    model: _Model
    data: _Data
    state_dict: _Weights
    epoch: NotRequired[_Count]
    metrics: NotRequired[dict[str, float]]


class _State(TypedDict):
    __pydantic_config__ = _ANY_KEY  # type: ignore[misc]
    epoch: _Count
    step: _Count
    losses: Annotated[Tensor, AfterValidator(_one_row)] | None
    metrics: dict[str, float]
    best: dict[str, float]
    state_dict: _Weights
    average: _Weights | None
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    lr_schedule: NotRequired[dict[str, Any]]
    accumulation_steps: NotRequired[Annotated[int, Field(ge=1, lt=2**31)]]
    rank_buffers: NotRequired[Annotated[Tensor, AfterValidator(_rows)]]


def _consistent(content: _Best) -> _Best:
    model, data = content["model"], content["data"]
    for name, wanted in (("pixel_mean", "in_chans"), ("pixel_std", "in_chans"), ("class_names", "num_classes")):
        if len(data[name]) != model[wanted]:  # type: ignore[literal-required]
            raise ValueError(f"data.{name} is not one for each of the {model[wanted]} of model.{wanted}")  # type: ignore[literal-required]
    return content


_BEST: TypeAdapter[_Best] = TypeAdapter(Annotated[_Best, AfterValidator(_consistent)])
_STATE: TypeAdapter[_State] = TypeAdapter(_State)


def read_best(path: Path, device: torch.device | None = None) -> dict[str, Any]:
    """Read the weights of the best epoch and the description of the network.

    Args:
        path: Path of a `best.pt`.
        device: Device of its tensors; None keeps the stored one.

    Raises:
        CheckpointError: The file is missing or damaged, or holds something else.
    """
    content = read_checkpoint(path, device)
    if "data" not in content and "optimizer" in content:
        raise CheckpointError(f"{path}: is a state to resume from; a network is read from best.pt in the same folder")
    _refuse_other_content(path, content, _BEST, "the weights of a trained network")
    return content


def read_state(path: Path, device: torch.device | None = None) -> dict[str, Any]:
    """Read the state to resume from.

    Args:
        path: Path of a `last.pt` or `previous.pt`.
        device: Device of its tensors; None keeps the stored one.

    Raises:
        CheckpointError: The file is missing or damaged, or holds something else.
    """
    content = read_checkpoint(path, device)
    _refuse_other_content(path, content, _STATE, "a state to resume from")
    return content


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load the weights of a checkpoint into a network.

    Args:
        network: Network of the same architecture.
        weights: Tensors by name.
        path: Path of the checkpoint, for the error.

    Raises:
        CheckpointError: Names or shapes are not those of the network.
    """
    own = network.state_dict()
    fault = next((f"lacks '{name}'" for name in own if name not in weights), "")
    fault = fault or next((f"has '{_cut(name)}', which the network lacks" for name in weights if name not in own), "")
    fault = fault or next(
        (
            f"has '{name}' of shape {tuple(weights[name].shape)}, not {tuple(tensor.shape)}"
            for name, tensor in own.items()
            if weights[name].shape != tensor.shape
        ),
        "",
    )
    if fault:
        raise CheckpointError(f"{path}: its weights are not those of the network it names: it {fault}")
    network.load_state_dict(dict(weights))


def _refuse_other_content(path: Path, content: Any, kind: TypeAdapter[Any], what: str) -> None:
    try:
        kind.validate_python(content)
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        where = _cut(".".join(str(part) for part in first["loc"]))
        fault = first["msg"] if first["type"] != "missing" else "missing"
        lead = f"{where}: " if where else ""
        raise CheckpointError(f"{path}: does not hold {what} ({lead}{fault})") from None


def _cut(text: str) -> str:
    shown = ascii(text)[1:-1]
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."

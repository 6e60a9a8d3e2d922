"""What a network may ask of the loop that trains it, without the loop knowing the network.

A module that adds to the loss, constrains its parameters or has something to show says so through a method of
its own; `penalty`, `project_` and `diagnostics` walk any `nn.Module` and collect. A network without such
modules gets a zero, nothing, and an empty mapping.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Protocol, cast

import torch
from torch import Tensor, nn

__all__ = ["Diagnosed", "Penalised", "Projected", "diagnostics", "penalty", "project_"]


class Penalised(Protocol):
    """A module with a term of its own in the loss."""

    def training_penalty(self) -> Tensor:
        """The term as a scalar, already weighted."""


class Projected(Protocol):
    """A module whose parameters must stay in a set that the optimiser does not know."""

    def project_parameters_(self) -> None:
        """Moves the parameters back into their set, in place."""


class Diagnosed(Protocol):
    """A module with numbers worth a curve."""

    def training_diagnostics(self) -> Mapping[str, float]:
        """Values under `<quantity>_<unit>`, such as `span_px`."""


def _asking(model: nn.Module, method: str) -> Iterator[nn.Module]:
    """The modules whose class has the method; asked of the class, as this runs in every step."""
    return (module for module in model.modules() if hasattr(type(module), method))


def penalty(model: nn.Module) -> Tensor:
    """Sum of the penalties of all modules of `model`, to be added to the loss.

    Returns:
        A scalar that is already weighted; zero, on the device and in the type of the parameters, when no
        module has one.
    """
    terms = [cast(Penalised, module).training_penalty() for module in _asking(model, "training_penalty")]
    if terms:
        return torch.stack(terms).sum()
    parameter = next(model.parameters(), None)
    return torch.zeros(()) if parameter is None else parameter.new_zeros(())


@torch.no_grad()
def project_(model: nn.Module) -> None:
    """Projects the parameters of `model` in place; call it after every step of the optimiser."""
    for module in _asking(model, "project_parameters_"):
        cast(Projected, module).project_parameters_()


@torch.no_grad()
def diagnostics(model: nn.Module) -> dict[str, float]:
    """What the modules of `model` report, per layer and averaged.

    Returns:
        For a quantity such as `span_px`: `span/mean_px`, the mean over the layers that have it, and
        `span/layer<i>_px` for each of them, counted from 0 in the order of the network.
    """
    layers: defaultdict[str, list[float]] = defaultdict(list)
    for module in _asking(model, "training_diagnostics"):
        for quantity, value in cast(Diagnosed, module).training_diagnostics().items():
            layers[quantity].append(value)
    report: dict[str, float] = {}
    for quantity, values in layers.items():
        topic, _, unit = quantity.rpartition("_")
        report[f"{topic}/mean_{unit}"] = sum(values) / len(values)
        report |= {f"{topic}/layer{index}_{unit}": value for index, value in enumerate(values)}
    return report

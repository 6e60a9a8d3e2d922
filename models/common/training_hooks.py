"""Hooks of a network in the training loop, without the loop depending on the network.

A module that adds to the loss, constrains its parameters or has values to report has a method for it; `penalty`,
`project_` and `diagnostics` walk any `nn.Module` and collect. A network without such modules gets a zero, nothing, and
an empty mapping.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

__all__ = [
    "Diagnosed",
    "Penalised",
    "Projected",
    "TrainingHooks",
    "diagnostics",
    "has_training_hooks",
    "penalty",
    "project_",
]

_HOOKS = ("training_penalty", "project_parameters_", "training_diagnostics")


class Penalised(Protocol):
    """Module with a term of its own in the loss."""

    def training_penalty(self) -> Tensor:
        """Return the term as a scalar, already weighted."""


class Projected(Protocol):
    """Module whose parameters must stay in a set."""

    def project_parameters_(self) -> None:
        """Project the parameters onto their set, in place."""


class Diagnosed(Protocol):
    """Module with values for curves."""

    def training_diagnostics(self) -> Mapping[str, float | Sequence[float]]:
        """Return values under `<quantity>_<unit>`, such as `span_px`; one, or one per head."""


def has_training_hooks(module: nn.Module) -> bool:
    """Return whether a module has a penalty, a projection or diagnostics of its own."""
    return any(hasattr(type(module), hook) for hook in _HOOKS)


def _asking(model: nn.Module, method: str) -> Iterator[nn.Module]:
    """Return the modules whose class has the method."""
    return (module for module in model.modules() if hasattr(type(module), method))


class TrainingHooks:
    """Modules of a network with hooks for every step, found once instead of at each step.

    Args:
        model: Whose modules stay the same from here on.
    """

    def __init__(self, model: nn.Module) -> None:
        self._penalised = [cast(Penalised, module) for module in _asking(model, "training_penalty")]
        self._projected = [cast(Projected, module) for module in _asking(model, "project_parameters_")]
        self._parameter = next(model.parameters(), None)

    def penalty(self) -> Tensor:
        """Return the penalty as `penalty` does."""
        if self._penalised:
            return torch.stack([module.training_penalty() for module in self._penalised]).sum()
        return torch.zeros(()) if self._parameter is None else self._parameter.new_zeros(())

    @torch.no_grad()
    def project_(self) -> None:
        """Project the parameters as `project_` does."""
        for module in self._projected:
            module.project_parameters_()


def penalty(model: nn.Module) -> Tensor:
    """Return the sum of the penalties of all modules of `model`, to be added to the loss.

    Returns:
        A scalar that is already weighted; zero, on the device and in the type of the parameters, when no
        module has one.
    """
    return TrainingHooks(model).penalty()


def project_(model: nn.Module) -> None:
    """Project the parameters of `model` in place; to be called after every step of the optimiser."""
    TrainingHooks(model).project_()


@torch.no_grad()
def diagnostics(model: nn.Module) -> dict[str, float]:
    """Return the values that the modules of `model` report, per layer and averaged.

    Returns:
        For a quantity such as `span_px`: `span/mean_px`, the mean over the layers that have it;
        `span/layer<i>_px` for each of them, counted from 0 in the order of the network; and, where a layer
        has a value per head, `span/layer<i>_head<j>_px`, whose mean is that of the layer.
    """
    layers: defaultdict[str, list[list[float]]] = defaultdict(list)
    for module in _asking(model, "training_diagnostics"):
        for quantity, value in cast(Diagnosed, module).training_diagnostics().items():
            layers[quantity].append(list(value) if isinstance(value, Sequence) else [value])
    report: dict[str, float] = {}
    for quantity, heads in layers.items():
        topic, _, unit = quantity.rpartition("_")
        means = [sum(values) / len(values) for values in heads]
        report[f"{topic}/mean_{unit}"] = sum(means) / len(means)
        for layer, values in enumerate(heads):
            report[f"{topic}/layer{layer}_{unit}"] = means[layer]
            if len(values) > 1:
                report |= {f"{topic}/layer{layer}_head{head}_{unit}": value for head, value in enumerate(values)}
    return report

"""Clipping of gradients: by the norm of all together, or by the norm of each output unit."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timm.utils.agc import adaptive_clip_grad
from torch import nn
from torch.distributed.tensor import DTensor

from orchestrator.config.sections.training import TrainingConfig

__all__ = ["clip_gradients_", "clips"]


def clips(training: TrainingConfig) -> bool:
    """Return whether the settings clip gradients."""
    return training.clip_grad_norm is not None or training.agc_factor is not None


def clip_gradients_(network: nn.Module, training: TrainingConfig) -> None:
    """Clip the gradients of a network in place, as the settings say; they must not be scaled.

    Args:
        network: Network after the backward pass.
        training: Training settings.
    """
    if training.clip_grad_norm is not None:
        _clip_by_norm_(list(network.parameters()), training.clip_grad_norm)
    if training.agc_factor is not None:
        adaptive_clip_grad(_without_classifier(network), clip_factor=training.agc_factor)


def _clip_by_norm_(parameters: list[nn.Parameter], most: float) -> None:
    """Clip by the norm of all gradients together; of a network that is divided among ranks every rank must call."""
    divided = [each.grad for each in parameters if isinstance(each.grad, DTensor)]
    if not divided:
        nn.utils.clip_grad_norm_(parameters, most)
        return
    rest = [each.grad for each in parameters if each.grad is not None and not isinstance(each.grad, DTensor)]
    of_divided = nn.utils.get_total_norm(divided)
    assert isinstance(of_divided, DTensor)  # as its gradients are
    norms = [of_divided.full_tensor(), *([nn.utils.get_total_norm(rest)] if rest else [])]
    total = torch.linalg.vector_norm(torch.stack(norms))
    for gradient in [*divided, *rest]:
        gradient.mul_((most / (total + 1e-6)).clamp(max=1.0))  # as torch's `clip_grads_with_norm_`


def _without_classifier(network: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters outside the classifiers, which Brock et al. 2021 (arXiv 2102.06171) do not clip."""
    find = getattr(network, "get_classifier", None)
    found = find() if callable(find) else ()
    classifiers = found if isinstance(found, tuple | list) else (found,)
    excluded = {
        id(parameter) for module in classifiers if isinstance(module, nn.Module) for parameter in module.parameters()
    }
    return (parameter for parameter in network.parameters() if id(parameter) not in excluded)

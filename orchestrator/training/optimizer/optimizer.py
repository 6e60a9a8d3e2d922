"""Optimiser of a network; parameters are grouped by their weight decay and, on request, by their layer."""

from __future__ import annotations

from typing import Any

from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn
from torch.optim import Optimizer

from orchestrator.config.sections.training import TrainingConfig

__all__ = ["create_optimizer", "peak_lr"]


def create_optimizer(network: nn.Module, training: TrainingConfig) -> Optimizer:
    """Create the optimiser of a network.

    Args:
        network: Network whose parameters it changes, not wrapped for DDP.
        training: Training settings.
    """
    averages: dict[str, Any] = {} if training.betas is None else {"betas": training.betas}
    return create_optimizer_v2(
        network,
        opt=training.optimizer,
        lr=peak_lr(training),
        weight_decay=training.weight_decay,
        momentum=training.momentum,
        layer_decay=training.layer_decay,
        param_group_fn=(lambda _: _decayed_groups(network, training)) if training.decay_norms_and_biases else None,
        **averages,
    )


def peak_lr(training: TrainingConfig) -> float:
    """Return the learning rate after the warm-up, scaled with the batch size where `lr_base_size` is set."""
    if training.lr_base_size is None:
        return training.lr
    return training.lr * training.batch_size / training.lr_base_size


def _decayed_groups(network: nn.Module, training: TrainingConfig) -> list[dict[str, Any]]:
    """Return groups in which every parameter is decayed: one, or one per layer."""
    decay = training.weight_decay
    if training.layer_decay is None:
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        return [{"params": trained, "weight_decay": decay}]
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        network, weight_decay=decay, weight_decay_exclude_1d=False, layer_decay=training.layer_decay
    )
    return groups

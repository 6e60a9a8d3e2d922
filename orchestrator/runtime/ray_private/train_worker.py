"""Private names of Ray Train (2.60) that run in the workers of a group; those that import torch do so when called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ray.train.v2._internal.execution.context import get_train_context


def set_environment(variables: Mapping[str, str]) -> None:
    """Set variables of the environment of this process; called in a worker before Train prepares it."""
    os.environ.update(variables)


def is_node_preempted() -> bool:
    """Return whether this worker has been notified that a node of its group is about to be taken away.

    `ray.train.get_preemption_info` is a barrier of all workers and goes through the controller each time.
    """
    return get_train_context().preemption_context.preemption_info is not None


def training_context() -> Any:
    """Return the context manager that selects a worker's GPU; that of `TorchTrainer`, which is not used here."""
    from ray.train.torch.config import TorchConfigContextManager

    return TorchConfigContextManager


def set_distributed_variables() -> None:
    """Set `RANK`, `WORLD_SIZE` and the like in this worker's environment, as the backend of `TorchTrainer` does."""
    from ray.train.torch.config import _set_torch_distributed_env_vars

    _set_torch_distributed_env_vars()


def leave_process_group(*, destroy: bool) -> None:
    """Free the GPU memory that torch caches, and leave the process group, as the backend of `TorchTrainer` does.

    Args:
        destroy: Leave the group as well.
    """
    from ray.train.torch.config import _shutdown_torch

    _shutdown_torch(destroy)

"""Compilation by torch: of a network, and with compiled autograd of the whole backward pass of a step.

`torch.compile` alone captures the backward pass of the network, apart from that of the loss and from the exchange of
gradients, which DDP runs from hooks. Compiled autograd captures what autograd executes, hooks included: DDP's Python
reducer has one for each parameter, and Inductor joins their exchanges into buckets and overlaps them with computation.

Settings of torch hold for all of a process, which trains other trials afterwards: they are set for a step at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from orchestrator.config.sections.training import TrainingConfig
from orchestrator.errors import TrialFailedError, first_line
from orchestrator.training.memory.out_of_memory import is_out_of_memory
from orchestrator.training.workers import Workers

__all__ = ["Compilation"]

_BACKEND = "inductor"
_BUCKET_MB = 25.0  # of DDP, for groups of gradients
_REDUCER = "torch.nn.parallel.distributed"


class Compilation:
    """Compilation of the steps of a trial: none, of the network, or of the whole backward pass as well.

    Args:
        training: Training settings.
        workers: This rank and its process group.
    """

    def __init__(self, training: TrainingConfig, workers: Workers) -> None:
        self._training = training
        self._exchanges = workers.world_size > 1

    @property
    def captures_exchange(self) -> bool:
        """True where the exchange of gradients is a part of the compiled backward pass."""
        return self._training.compiled_autograd and self._exchanges

    def compiled(self, network: nn.Module) -> Any:
        """Return the program that computes the network; the network itself where it is not compiled.

        Args:
            network: Result of `Workers.wrap` within `settings`.

        Raises:
            TrialFailedError: The network would be compiled again and again, until torch stops to do so.
        """
        if not self._training.compile:
            return network
        if self._training.compiled_autograd and any(map(_compiles_its_window, network.modules())):
            raise TrialFailedError(
                "training.compiled_autograd: got True; on this device each change of a learned span is compiled again, "
                "and torch stops after a few. Leave it out, or train on GPUs, whose kernels read the spans"
            )
        # Code for all sizes, which replaces that for one once there is a second, may round differently; a resumed trial
        # meets the sizes in another order.
        dynamic = False if self._training.compiled_autograd else None
        return torch.compile(network, backend=_BACKEND, dynamic=dynamic)

    @contextmanager
    def settings(self) -> Iterator[None]:
        """Set torch's settings for a network that is compiled within the block, and restore them after it."""
        if not self.captures_exchange:
            yield
            return
        size = self._training.bucket_mb or _BUCKET_MB
        with (
            torch._dynamo.config.patch(optimize_ddp="python_reducer"),
            torch._inductor.config.patch(_fuse_ddp_communication=True, _fuse_ddp_bucket_size=size),
            _traced_reducer(),
        ):
            yield

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Capture the backward pass within the block, together with the forward pass that leads to it.

        Raises:
            TrialFailedError: torch cannot capture it whole. In parts, ranks might exchange gradients in another order
                than each other.
        """
        if not self._training.compiled_autograd:
            yield
            return
        compiler = functools.partial(torch.compile, backend=_BACKEND, fullgraph=True, dynamic=False)
        try:
            with ExitStack() as stack:
                stack.enter_context(self.settings())
                stack.enter_context(torch._dynamo.compiled_autograd._enable(compiler, dynamic=False))
                yield
        except torch._dynamo.exc.TorchDynamoException as error:
            if is_out_of_memory(error):
                raise
            raise TrialFailedError(
                f"training.compiled_autograd: got True; torch cannot compile the training step of this network "
                f"({first_line(error)}). Leave it out"
            ) from error


def _compiles_its_window(layer: nn.Module) -> bool:
    return getattr(layer, "compiles_its_window", False)


@contextmanager
def _traced_reducer() -> Iterator[None]:
    """Let the compiler trace DDP's Python code within the block, as DDP itself does for the rest of the process."""
    rules = torch._dynamo.trace_rules
    known = _REDUCER in rules.LEGACY_MOD_INLINELIST
    if not known:
        rules.LEGACY_MOD_INLINELIST.add(_REDUCER)
        rules.get_legacy_mod_inlinelist.cache_clear()
    try:
        yield
    finally:
        if not known:
            rules.LEGACY_MOD_INLINELIST.discard(_REDUCER)
            rules.get_legacy_mod_inlinelist.cache_clear()

"""Tensors that a layer may compute by a path of its own: plain, eager, not traced; and gradients of its gradients."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ["are_plain", "gradients_of", "is_eager", "is_intercepted"]


def is_eager(*tensors: Tensor) -> bool:
    """Return whether operations on these tensors are carried out at once: not traced, not transformed.

    Functions with a backward pass of their own have no derivatives in forward mode.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None:
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    return all(type(x) in {Tensor, torch.nn.Parameter} and x.device.type != "meta" for x in tensors)


def is_intercepted() -> bool:
    """Return whether operations pass through a dispatch mode, as that of a counter of operations."""
    return _get_current_dispatch_mode() is not None


def are_plain(*tensors: Tensor) -> bool:
    """Return whether a compiled kernel may read these by their addresses: eager, on a CPU, strided, with elements.

    Where operations are intercepted, as by a counter, it may not: they would see nothing of the kernel.
    """
    if not is_eager(*tensors) or is_intercepted():
        return False
    return all(x.device.type == "cpu" and x.layout == torch.strided and x.numel() > 0 for x in tensors)


def gradients_of(
    formula: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor | None], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Compute the gradients of a formula by operations that have gradients themselves, for gradients of gradients.

    Args:
        formula: Function of the tensors.
        tensors: Inputs; those that require no gradient get None.
        grads: Gradient of each output; None for none.
    """
    wanted = [x for x in tensors if x is not None and x.requires_grad]
    given = [(y, grad) for y, grad in zip(formula(*tensors), grads, strict=True) if grad is not None]
    outputs, of_outputs = zip(*given, strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, of_outputs, create_graph=True, allow_unused=True))
    return [next(found) if x is not None and x.requires_grad else None for x in tensors]

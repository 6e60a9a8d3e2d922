"""Local attention on GPUs as operators of torch, which compilers keep whole and CUDA graphs record.

The operators are registered without Triton, which is imported on their first call. They read nothing back from the
device: the end of each head's mask, and of the window where it follows the mask, is found by the kernels.

Shapes: B images, C channels, G heads, H x W pixels, L radius of the table, K = 2 L + 1.
"""

import functools
import logging
import os
from typing import Any

import torch
from torch import Tensor

from models.compiled.build import kernels_enabled
from models.local_attention.gpu.layouts import like_queries
from models.padding import is_traced_to_file

__all__ = ["gpu_attention", "gpu_serves", "gpu_serves_layer"]

_log = logging.getLogger(__name__)

LARGEST_SIDE = 63  # px of a window: sums by column are held in registers
LARGEST_DIM = 128  # channels of a head
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTERPRETER = "TRITON_INTERPRET"  # Triton's own variable: 1 runs kernels in Python, on any device

_SCHEMA = "(Tensor q, Tensor k, Tensor v, Tensor table, Tensor? mask, int heads, bool before, bool follows)"
_BACKWARD_SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor table, Tensor? mask, Tensor out, Tensor stats, Tensor grad, int heads, "
    "bool before, bool follows) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def gpu_serves(x: Tensor, *, num_heads: int, side: int) -> bool:
    """Return whether the kernels compute attention of maps such as `x`: on a GPU with Triton, not for a file.

    Args:
        x: Queries (B, C, H, W); keys and values have their shape, type and device.
        num_heads: Heads, which share the channels.
        side: Side of the largest window in pixels.
    """
    if torch.compiler.is_exporting() or is_traced_to_file():
        return False
    if not (torch.compiler.is_compiling() or _is_plain(x)) or x.shape[0] * x.shape[2] * x.shape[3] == 0:
        return False
    return gpu_serves_layer(x, dim=x.shape[1] // num_heads, side=side)


def gpu_serves_layer(parameter: Tensor, *, dim: int, side: int) -> bool:
    """Return whether the kernels compute a layer, by device and type of one of its parameters.

    Args:
        parameter: Any of them; maps are of the same type, or of a narrower one.
        dim: Channels of a head.
        side: Side of the largest window in pixels.
    """
    fits = parameter.dtype in DTYPES and dim <= LARGEST_DIM and side <= LARGEST_SIDE
    return fits and _runs_on(parameter.device.type)


def gpu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    ring_mask: Tensor | None,
    *,
    num_heads: int,
    mask_before_softmax: bool = False,
    window_follows_mask: bool = False,
) -> Tensor:
    """Attend by the kernels, only where `gpu_serves`; see `models.local_attention.operator`.

    Rings of the mask behind the end of a head's ramp get no gradient.

    Shape: q, k, v (B, C, H, W), table (K, 2 R), ring_mask (num_heads, L + 1) -> (B, C, H, W), in the type of q.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        table: For each offset -L..L, the embedding of the row offset for the first R channels, then the embedding
            of the column offset for the last R channels; R is at least C / 2.
        ring_mask: Weight of each head for the rings 0..L; None is all ones, without the division.
        num_heads: Heads, which share the channels.
        mask_before_softmax: True to add the logarithm of the mask to the logits.
        window_follows_mask: True for a window that ends at the last ring with weight for any head, as if table
            and mask were cut there; at least 3 pixels wide.
    """
    attended: Tensor = _attend(q, k, v, table, ring_mask, num_heads, mask_before_softmax, window_follows_mask)[0]
    return attended


@torch.library.custom_op("spatialsweep::local_attention", mutates_args=(), schema=_SCHEMA + " -> (Tensor, Tensor)")
def _attend(  # noqa: PLR0917 - torch passes by position
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, mask: Tensor | None, heads: int, before: bool, follows: bool
) -> tuple[Tensor, Tensor]:
    from models.local_attention.gpu import launch

    return launch.attend(q, k, v, table, mask, heads=heads, before=before, follows=follows)


@torch.library.custom_op("spatialsweep::local_attention_backward", mutates_args=(), schema=_BACKWARD_SCHEMA)
def _attend_backward(  # noqa: PLR0917 - torch passes by position
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    mask: Tensor | None,
    out: Tensor,
    stats: Tensor,
    grad: Tensor,
    heads: int,
    before: bool,
    follows: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from models.local_attention.gpu import launch

    results = (out, stats, grad)
    return launch.attend_backward((q, k, v), table, mask, results, heads=heads, before=before, follows=follows)


@_attend.register_fake
def _(  # noqa: PLR0917 - torch passes by position
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, mask: Tensor | None, heads: int, before: bool, follows: bool
) -> tuple[Tensor, Tensor]:
    del k, v, table, mask, before, follows
    return like_queries(q), q.new_empty(3, q.shape[0], heads, *q.shape[2:], dtype=torch.float32)


@_attend_backward.register_fake
def _(  # noqa: PLR0917 - torch passes by position
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    mask: Tensor | None,
    out: Tensor,
    stats: Tensor,
    grad: Tensor,
    heads: int,
    before: bool,
    follows: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    del out, stats, grad, heads, before, follows
    grad_table = table.new_empty(table.shape, dtype=torch.float32)
    grad_mask = q.new_empty(0, dtype=torch.float32) if mask is None else mask.new_empty(mask.shape, dtype=torch.float32)
    return like_queries(q), like_queries(q, k.dtype), like_queries(q, v.dtype), grad_table, grad_mask


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.heads, ctx.before, ctx.follows = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    q, k, v, table, mask, out, stats = ctx.saved_tensors
    numbers = (ctx.heads, ctx.before, ctx.follows)
    *grads, grad_table, grad_mask = _attend_backward(q, k, v, table, mask, out, stats, grad, *numbers)
    small = (grad_table.to(table.dtype), None if mask is None else grad_mask.to(mask.dtype))
    return *grads, *small, None, None, None


_attend.register_autograd(_gradients, setup_context=_keep)


def _is_plain(x: Tensor) -> bool:
    """Return whether a map has elements to be read: it is not a fake one, whose device need not be there."""
    strided = type(x) in {Tensor, torch.nn.Parameter} and x.layout == torch.strided
    return strided and torch._C._functorch.peek_interpreter_stack() is None


def _runs_on(kind: str) -> bool:
    """Return whether the kernels run on a type of device: not where they are off, or Triton is missing or fails."""
    if not kernels_enabled():
        return False
    if os.environ.get(INTERPRETER, "0").strip().lower() in {"1", "true", "on", "yes"}:
        return kind in {"cpu", "cuda"}
    return kind == "cuda" and _works()


# as `torch.compiler.assume_constant_result` does, which imports the compiler: a second of every start
_runs_on._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _works() -> bool:
    """Return whether a kernel can be compiled and launched, which needs a C compiler and a GPU that Triton supports."""
    try:
        from models.local_attention.gpu import launch

        x = torch.zeros(1, 2, 1, 1, device="cuda", dtype=torch.bfloat16)
        launch.attend(x, x, x, x.new_zeros(1, 2), None, heads=1, before=False, follows=False)
    except Exception as error:  # whatever Triton, a compiler or a driver raises: it costs speed, never the training
        _log.warning("local attention runs without its kernels for GPUs, more slowly: %s", error)
        return False
    return True

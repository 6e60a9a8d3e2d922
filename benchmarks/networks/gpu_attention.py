"""Local attention alone on a GPU: errors against double precision, equal bits, and times beside FlexAttention."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from side_by_side import Ratio, peak_bytes, rounds_within, take_turns
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.local_attention.gpu.operator import gpu_serves
from models.local_attention.operator import local_attention
from tests.support.networks.attention_oracle import unfold_attention

__all__ = ["INTERPRETED", "SIZES", "AttentionCase", "correctness_cases", "exactness", "time_attention"]

CASE_S = 10.0  # of the timing of a case
NAMES = ("output", "q", "k", "v", "rel_h", "rel_w", "mask")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionCase:
    """Maps and window of one call.

    Args:
        size: B, C, H and W.
        heads: Heads, which share the channels.
        side: Side of the window in pixels.
        mask: `none`, `after` the softmax or `before` it, with spans that differ by head.
        dtype: Type of the maps.
        channels_last: True for maps with channels side by side.
    """

    size: tuple[int, int, int, int]
    heads: int
    side: int
    mask: str = "none"
    dtype: torch.dtype = torch.float32
    channels_last: bool = True

    @property
    def name(self) -> str:
        """Name in the report."""
        layout = "channels_last" if self.channels_last else "contiguous"
        shape = "x".join(map(str, self.size))
        kind = str(self.dtype).removeprefix("torch.")
        return f"{shape} heads={self.heads} window={self.side} mask={self.mask} {kind} {layout}"

    def inputs(self, device: torch.device) -> list[Tensor]:
        """Draw queries, keys, values, tables and the mask, the same each time."""
        generator = torch.Generator().manual_seed(0)
        scale = (self.size[1] // self.heads) ** -0.25  # logits of about one
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        maps = scale * torch.randn(3, *self.size, generator=generator)
        given = [x.to(device, self.dtype).contiguous(memory_format=layout) for x in maps]
        given += (scale * torch.randn(2, self.size[1] // 2, self.side, generator=generator)).to(device)
        if self.mask == "none":
            return given
        radius, ring = self.side // 2, torch.arange(self.side // 2 + 1)
        reach = torch.linspace(max(1, radius // 2), radius + 1, self.heads)[:, None]
        return [*given, ((reach - ring) / 2 + 0.5).clamp(0, 1).to(device)]

    def call(self, attend: Callable[..., Tensor], given: list[Tensor]) -> Tensor:
        """Attend by one implementation."""
        mask = given[5] if len(given) > 5 else None
        before = self.mask == "before"
        return attend(*given[:5], num_heads=self.heads, ring_mask=mask, mask_before_softmax=before)

    def outcome(self, attend: Callable[..., Tensor], given: list[Tensor]) -> list[Tensor]:
        """Return the output and the gradients of all inputs."""
        given = [x.detach().clone().requires_grad_() for x in given]
        y = self.call(attend, given)
        probe = torch.linspace(-1, 1, y.numel(), device=y.device).view(y.shape).to(y.dtype)
        return [y.detach(), *torch.autograd.grad(y, given, probe)]


SIZES = {
    "medium": AttentionCase(size=(50, 64, 32, 32), heads=4, side=7, dtype=torch.bfloat16),
    "medium, deep": AttentionCase(size=(50, 256, 8, 8), heads=4, side=7, dtype=torch.bfloat16),
    "large": AttentionCase(size=(32, 64, 56, 56), heads=4, side=7, dtype=torch.bfloat16),
    "large, window 11": AttentionCase(size=(16, 64, 56, 56), heads=4, side=11, dtype=torch.bfloat16),
    "large, deep": AttentionCase(size=(32, 256, 14, 14), heads=4, side=7, dtype=torch.bfloat16),
}


def _interpreted(
    size: tuple[int, int, int, int], heads: int, side: int, mask: str, dtype: torch.dtype, *, channels_last: bool = True
) -> AttentionCase:
    return AttentionCase(size=size, heads=heads, side=side, mask=mask, dtype=dtype, channels_last=channels_last)


INTERPRETED = (
    _interpreted((2, 16, 7, 7), 4, 15, "after", torch.float32),
    _interpreted((1, 12, 14, 11), 2, 7, "before", torch.float32, channels_last=False),
    _interpreted((1, 48, 9, 5), 2, 5, "after", torch.float32),
    _interpreted((1, 256, 5, 6), 2, 3, "after", torch.float32),
    _interpreted((1, 96, 6, 4), 1, 7, "none", torch.float32, channels_last=False),
    _interpreted((1, 128, 8, 8), 8, 9, "after", torch.bfloat16),
    _interpreted((1, 64, 9, 9), 2, 5, "before", torch.float16),
    _interpreted((1, 4, 3, 64), 1, 11, "after", torch.float32),
    _interpreted((1, 8, 256, 4), 2, 3, "after", torch.float32, channels_last=False),
    _interpreted((3, 8, 32, 32), 2, 3, "after", torch.bfloat16),
    _interpreted((1, 8, 4, 256), 2, 3, "before", torch.float32),
    _interpreted((1, 40, 13, 18), 2, 5, "after", torch.float16, channels_last=False),
    _interpreted((1, 8, 1, 1), 2, 13, "after", torch.float32),
    _interpreted((1, 8, 40, 40), 2, 5, "none", torch.float32),
)
"""Cases that Triton's interpreter computes in minutes on a CPU."""


def correctness_cases(*, quick: bool) -> Iterator[AttentionCase]:
    """Yield cases over types, masks, layouts, heads, windows and maps; every one compiles kernels of its own."""
    shapes = [((2, 8, 4, 4), 2, 3), ((1, 24, 9, 13), 4, 5)]
    if not quick:
        shapes += [
            ((2, 16, 7, 7), 4, 15),
            ((2, 48, 14, 14), 2, 7),
            ((1, 64, 17, 31), 4, 11),
            ((2, 64, 32, 32), 4, 7),
            ((1, 192, 28, 28), 2, 5),
            ((1, 256, 14, 14), 2, 9),
            ((1, 32, 56, 56), 4, 13),
            ((1, 8, 256, 200), 2, 3),
        ]
    masks = ("none", "after", "before")
    for index, (size, heads, side) in enumerate(shapes):
        case = AttentionCase(size=size, heads=heads, side=side, channels_last=index % 2 == 0)
        for mask in masks if index < 2 else masks[index % 3 :][:1]:
            yield dataclasses.replace(case, mask=mask)
        narrow = (torch.float16, torch.bfloat16) if index < 2 else (torch.float16, torch.bfloat16)[index % 2 :][:1]
        for dtype in narrow:
            yield dataclasses.replace(case, mask=masks[(index + 1) % 3], dtype=dtype)


def exactness(case: AttentionCase, device: torch.device) -> dict[str, Any]:
    """Compare with unfolded windows in double precision over the same rounded inputs, and two runs by their bits."""
    given = case.inputs(device)
    found, again = (case.outcome(local_attention, given) for _ in range(2))
    expected = case.outcome(unfold_attention, [x.double() for x in given])
    if len(given) > 5:  # rings behind the end of a ramp get no gradient, by the rule of the operator
        expected[6] = torch.where(found[6] == 0, 0.0, expected[6])
    errors = {}
    for name, ours, reference in zip(NAMES, found, expected, strict=False):
        largest = max(float(reference.abs().max()), 1e-12)
        errors[name] = float((ours.double() - reference).abs().max()) / largest
    return {
        "kernel": "triton" if gpu_serves(given[0], num_heads=case.heads, side=case.side) else "other",
        "relative_errors": errors,
        "largest_error": max(errors.values()),
        "same_bits_twice": all(torch.equal(a, b) for a, b in zip(found, again, strict=True)),
    }


def time_attention(case: AttentionCase, device: torch.device, *, rounds: int) -> dict[str, Any]:
    """Time forward and backward pass of ours, unfolded windows and FlexAttention, and measure their peaks."""
    given = case.inputs(device)
    row: dict[str, Any] = {}
    programs: dict[str, Callable[[], None]] = {}
    for name, make in implementations(device).items():
        try:
            programs[name] = pass_of(case, make(case, device), given)
            programs[name]()
            row[f"{name}_peak_mb"] = round(peak_bytes(programs[name], device) / 1e6, 1)
        except Exception as error:
            programs.pop(name, None)
            row[f"{name}_error"] = f"{type(error).__name__}: {error}"[:300]
    timings = take_turns(programs, rounds=rounds_within(CASE_S, programs, rounds, device), device=device)
    row |= {f"{name}_ms": round(timing.median_ms, 4) for name, timing in timings.items()}
    for name in timings.keys() - {"ours"}:
        if "ours" in timings:
            row[f"{name}_over_ours"] = dataclasses.asdict(Ratio.of(timings[name], timings["ours"]))
    return row


def pass_of(case: AttentionCase, attend: Callable[..., Tensor], given: list[Tensor]) -> Callable[[], None]:
    """Make a forward and backward pass."""
    given = [x.detach().clone().requires_grad_() for x in given]
    probe = torch.ones_like(given[0])

    def run() -> None:
        torch.autograd.grad(case.call(attend, given), given, probe)

    return run


def implementations(
    device: torch.device,
) -> Mapping[str, Callable[[AttentionCase, torch.device], Callable[..., Tensor]]]:
    """Return what is compared; FlexAttention has gradients on GPUs alone."""
    known: dict[str, Callable[[AttentionCase, torch.device], Callable[..., Tensor]]] = {
        "ours": lambda _case, _device: local_attention,
        "unfold": lambda _case, _device: unfold_attention,
    }
    if device.type == "cuda":
        known["unfold_compiled"] = lambda _case, _device: torch.compile(unfold_attention)
        known["flex"] = flex
    return known


def flex(case: AttentionCase, device: torch.device) -> Callable[..., Tensor]:
    """Make local attention by FlexAttention: keys padded with zeros, positions as buffers of q times the tables."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    _, channels, height, width = case.size
    side, radius, padded = case.side, case.side // 2, width + 2 * (case.side // 2)
    keys = (height + 2 * radius) * padded

    def offsets(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return key // padded - query // width, key % padded - query % width

    def in_window(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:  # noqa: ARG001
        dy, dx = offsets(query, key)
        return (dy >= 0) & (dy < side) & (dx >= 0) & (dx < side)

    blocks = create_block_mask(in_window, None, None, height * width, keys, device=str(device))
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *, num_heads: int, **_: Any) -> Tensor:
        q, k, v = (
            torch.nn.functional.pad(x, (grow,) * 4)
            .unflatten(1, (num_heads, -1))
            .flatten(3)
            .transpose(2, 3)
            .contiguous()
            for x, grow in ((q, 0), (k, radius), (v, radius))
        )
        nothing = torch.zeros_like(rel_h)
        rows = torch.cat([rel_h, nothing]).unflatten(0, (num_heads, -1)).to(q.dtype)
        cols = torch.cat([nothing, rel_w]).unflatten(0, (num_heads, -1)).to(q.dtype)
        by_row, by_col = q @ rows, q @ cols  # (B, G, N, K)

        def with_positions(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            dy, dx = (offset.clamp(0, side - 1) for offset in offsets(query, key))
            return score + by_row[batch, head, query, dy] + by_col[batch, head, query, dx]

        attended = compiled(q, k, v, score_mod=with_positions, block_mask=blocks, scale=1.0)
        return attended.transpose(2, 3).reshape(-1, channels, height, width)

    return attend

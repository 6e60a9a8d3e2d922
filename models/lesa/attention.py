"""LESA: self-attention whose local term is a convolution.

Attention of a position to itself is its unary term, that to the others its binary term. Here the unary term
is a convolution, the binary term self-attention, and a gate computed from both decides, per channel and position, how
much of the binary term to add. The layer takes the place of the 3x3 convolutions of the late stages of a ResNet.

Source: Yang et al. 2021, "Locally Enhanced Self-Attention" (arXiv 2107.05637).
Differs: other forms of the unary term and of the gate, and the unary term alone, are choices; maps of any size,
declared at construction.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.common.merging import normed_conv
from models.common.options import ModelOptionError, OptionProblem
from models.lesa.binary_term import BinaryTerm
from models.lesa.deformable import DeformableConv

__all__ = ["FUSIONS", "UNARIES", "Fusion", "LocallyEnhancedAttention", "UnaryTerm", "one_term_is_left"]

UNARIES = ("none", "1x1", "grouped", "dcn", "full")
FUSIONS = ("none", "scalar", "full")


class UnaryTerm(nn.Module):
    """Local term: a normed convolution.

    Shape: x (B, dim, H, W) -> the same.

    Args:
        dim: Channels.
        form: `1x1`, `grouped` (3x3 in groups, then 1x1), `dcn` (the same with a deformable 3x3) or `full` (3x3).
        groups: Groups of the forms `grouped` and `dcn`; with one group no 1x1 follows.
    """

    def __init__(self, dim: int, *, form: str, groups: int) -> None:
        super().__init__()
        grouped = form in ("grouped", "dcn") and groups > 1
        side, groups = 1 if form == "1x1" else 3, groups if grouped else 1
        conv = (
            DeformableConv(dim, dim, side, groups=groups)
            if form == "dcn"
            else nn.Conv2d(dim, dim, side, padding=side // 2, groups=groups, bias=False)
        )
        self.convs = nn.Sequential(conv, *([nn.Conv2d(dim, dim, 1, bias=False)] if grouped else []))
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise."""
        *before, last = self.convs
        for conv in before:
            x = conv(x)
        return normed_conv(last, self.bn, x)


class Fusion(nn.Module):
    """Gate of the binary term, from both terms.

    Shape: unary (B, dim, H, W), binary (B, dim, H, W) -> (B, dim or 1, H, W), between 0 and 1.

    Args:
        dim: Channels of a term.
        form: `full` for a gate per channel and position, `scalar` for one that all channels share.
        shrinks: Divisor of the channels at each layer; the first layer reads 2 * dim.
        kernel_sizes: Side of the convolution of each layer, odd; 1 when left out.
        groups: Groups of the convolution of each layer and of the last one; 1 when left out.
    """

    def __init__(
        self,
        dim: int,
        *,
        form: str,
        shrinks: Sequence[int],
        kernel_sizes: Sequence[int] | None = None,
        groups: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        sides, groups = kernel_sizes or [1] * len(shrinks), groups or [1] * (len(shrinks) + 1)
        chs = 2 * dim
        self.layers = nn.Sequential()
        for shrink, side, parts in zip(shrinks, sides, groups[:-1], strict=True):
            in_chs, chs = chs, int(chs / shrink)
            conv = nn.Conv2d(in_chs, chs, side, padding=side // 2, groups=parts, bias=False)
            self.layers.extend([conv, nn.BatchNorm2d(chs), nn.ReLU(inplace=True)])
        out_chs = 1 if form == "scalar" else dim
        self.conv = nn.Conv2d(chs, out_chs, 1, groups=groups[-1], bias=False)
        self.bn = nn.BatchNorm2d(out_chs)

    def forward(self, unary: Tensor, binary: Tensor) -> Tensor:
        """Compute the gate."""
        x = torch.cat([unary, binary], dim=1).relu_()
        layers = list(self.layers)
        for conv, bn, act in zip(layers[::3], layers[1::3], layers[2::3], strict=True):
            x = act(normed_conv(conv, bn, x))
        return normed_conv(self.conv, self.bn, x).sigmoid_()


class LocallyEnhancedAttention(nn.Module):
    """Unary term plus gated binary term, behind it an average pooling with a stride.

    Shape: x (B, dim, H, W) -> (B, dim, ceil(H / stride), ceil(W / stride)).

    Args:
        dim: Channels.
        map_size: H and W; see `BinaryTerm`.
        groups: Heads of the binary term and groups of the unary one.
        position_embedding: Position embedding of the binary term, see `BinaryTerm`.
        unary: Form of the unary term, or `none`, which leaves nothing to fuse: the layer is the binary term.
        fusion: Form of the gate, or `none` for the plain sum.
        fusion_shrinks: Divisor of the channels at each layer of the gate.
        fusion_kernel_sizes: Sides of the convolutions of the gate; 1 when left out.
        fusion_groups: Groups of the convolutions of the gate; 1 when left out.
        binary: False for the unary term alone, with nothing to fuse.
        recompute_terms: True to compute the terms again in the backward pass instead of keeping what they need for it;
            batch norms in training mode then count each batch twice in their running statistics, which the training
            loop restores.
        stride: Side of the average pooling at the end; 1 for none.

    Raises:
        ModelOptionError: There is no such form, no term is left, or groups or shrinks do not fit the channels.

    Source: Yang et al. 2021.
    """

    def __init__(
        self,
        dim: int,
        *,
        map_size: tuple[int, int],
        groups: int,
        position_embedding: str,
        unary: str,
        fusion: str,
        fusion_shrinks: Sequence[int],
        fusion_kernel_sizes: Sequence[int] | None = None,
        fusion_groups: Sequence[int] | None = None,
        binary: bool = True,
        recompute_terms: bool = False,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.recompute_terms = recompute_terms
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        for option, given, known in (("unary", unary, UNARIES), ("fusion", fusion, FUSIONS)):
            if given not in known:
                rule = f"{option} is one of {', '.join(map(repr, known))}"
                raise ModelOptionError([OptionProblem(option, given, rule, f"Use {known[-1]!r}.")])
        if unary == "none" and not binary:
            raise ModelOptionError([one_term_is_left()])
        self.binary = self.unary = self.fusion = None
        if binary:
            self.binary = BinaryTerm(dim, map_size=map_size, groups=groups, position_embedding=position_embedding)
        if unary != "none":
            self.unary = UnaryTerm(dim, form=unary, groups=groups)
        if self.unary is not None and self.binary is not None and fusion != "none":
            self.fusion = Fusion(
                dim,
                form=fusion,
                shrinks=fusion_shrinks,
                kernel_sizes=fusion_kernel_sizes,
                groups=fusion_groups,
            )

    def forward(self, x: Tensor) -> Tensor:
        """Fuse the terms, then pool."""
        y: Tensor = self.pool(self._fused(x))
        return y

    def _fused(self, x: Tensor) -> Tensor:
        unary, gate, binary = self.terms(x)
        if unary is None or binary is None:
            only = binary if unary is None else unary
            assert only is not None
            return only
        if gate is None:
            return unary + binary
        gated = gate * binary
        gated += unary
        return gated

    def terms(self, x: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Compute the terms to be fused: unary term, gate, binary term.

        Shape: x (B, dim, H, W) -> (B, dim, H, W) or None, (B, dim or 1, H, W) or None, (B, dim, H, W) or None.
        """
        binary, unary = self._term(self.binary, x), self._term(self.unary, x)
        gate: Tensor | None = None
        if self.fusion is not None:
            gate = self.fusion(unary, binary)
        return unary, gate, binary

    def _term(self, term: nn.Module | None, x: Tensor) -> Tensor | None:
        if term is None:
            return None
        again = self.recompute_terms and self.training and torch.is_grad_enabled()
        y: Tensor = checkpoint(term, x, use_reentrant=False) if again else term(x)
        return y


def one_term_is_left() -> OptionProblem:
    """Return the problem of a layer with neither of its terms."""
    return OptionProblem("unary", "none", "with binary: false the unary term is all that is left", "Use 'grouped'.")

"""Compiled batch norm against torch's, forward and backward, in both orders of maps; and where it is not used."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from models.common.bottleneck import ConvNorm
from models.common.merging import normed
from models.common.sync_batch_norm import SyncBatchNorm2d
from models.compiled import build, norm
from models.compiled.norm import norm_serves

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="there is no C++ compiler"
)
pytestmark = needs_compiler
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}  # of the largest value


@pytest.fixture(autouse=True)
def kernels_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Turn kernels on, for small maps and few channels too."""
    monkeypatch.setenv(build.SWITCH, "1")
    monkeypatch.setattr(norm, "_LEAST_ELEMENTS", 1)
    monkeypatch.setattr(norm, "_LEAST_CHANNELS", 1)
    yield


def batch_norm(chs: int, dtype: torch.dtype = torch.float64) -> nn.BatchNorm2d:
    torch.manual_seed(0)
    built = nn.BatchNorm2d(chs)
    for tensor in (built.weight, built.bias, built.running_mean, built.running_var):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 1.5)
    return built.to(dtype)


def random_map(shape: tuple[int, ...], last: bool, dtype: torch.dtype = torch.float64) -> Tensor:
    order = torch.channels_last if last else torch.contiguous_format
    return (3 * torch.randn(shape, dtype=dtype) + 5).contiguous(memory_format=order).requires_grad_()


def outcome(bn: nn.BatchNorm2d, x: Tensor, other: Tensor | None, act: nn.Module | None) -> dict[str, Tensor]:
    """Return output, gradients and running statistics, of a copy of the norm."""
    bn = copy.deepcopy(bn)
    y = normed(bn, x, act=act, other=other)
    torch.manual_seed(1)
    inputs = [tensor for tensor in (x, bn.weight, bn.bias, other) if tensor is not None]
    grads = torch.autograd.grad(y, inputs, torch.randn(y.shape).to(y.dtype))
    assert bn.running_mean is not None and bn.running_var is not None and bn.num_batches_tracked is not None
    found = [y.detach(), *grads, bn.running_mean, bn.running_var, bn.num_batches_tracked]
    return {str(index): value for index, value in enumerate(found)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(3, 24, 5, 7), (2, 130, 4, 4), (1, 3, 40, 33), (5, 8, 1, 1), (1, 1, 150, 160)])
def test_the_kernel_computes_what_torch_does(
    dtype: torch.dtype, last: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare with torch in double precision, with every combination of what follows the norm."""
    bn, x, other = batch_norm(shape[1], dtype), random_map(shape, last, dtype), random_map(shape, not last, dtype)
    for added in (None, other):
        for act in (None, nn.ReLU(inplace=True)):
            assert norm_serves(bn, x, added)
            found = outcome(bn, x, added, act)
            exact = [None if y is None else y.detach().double().requires_grad_() for y in (x, added)]
            with monkeypatch.context() as patch:
                patch.setenv(build.SWITCH, "0")
                assert exact[0] is not None and not norm_serves(copy.deepcopy(bn).double(), exact[0], exact[1])
                expected = outcome(copy.deepcopy(bn).double(), exact[0], exact[1], act)
            for key, value in expected.items():
                rounding = 1.0 if dtype == torch.float64 else x[:, 0].numel() ** 0.5  # of sums with cancellation
                largest = max(rounding, float(value.abs().max()))
                assert float((found[key].double() - value).abs().max()) < TOLERANCE[dtype] * largest, key


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    try:
        for last in (False, True):
            x, found = random_map((4, 16, 40, 40), last, torch.float32), []
            for count in (1, 3):
                torch.set_num_threads(count)
                found.append(outcome(batch_norm(16, torch.float32), x, None, nn.ReLU()))
            for key, value in found[0].items():
                assert torch.equal(value, found[1][key]), key
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("adds", [False, True])
def test_gradients_of_gradients(adds: bool) -> None:
    """Compare the norm of the gradient of the input, differentiated, with torch's."""
    bn, x = batch_norm(4), random_map((2, 4, 3, 3), False)
    other = random_map((2, 4, 3, 3), False) if adds else None
    found = []
    for switch in (True, False):
        y = normed(bn, x, act=nn.ReLU(), other=other) if switch else torch.relu(_sum(bn(x), other))
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [x, bn.weight, bn.bias]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def _sum(x: Tensor, other: Tensor | None) -> Tensor:
    return x if other is None else x + other


def test_norms_and_maps_that_the_kernel_leaves_to_torch() -> None:
    bn, x = batch_norm(4, torch.float32), random_map((2, 4, 6, 6), False, torch.float32)
    assert norm_serves(bn, x)
    assert not norm_serves(copy.deepcopy(bn).eval(), x)
    assert not norm_serves(bn, x.bfloat16()) and not norm_serves(bn, x.double())
    assert not norm_serves(bn, x[:, :, ::2]) and not norm_serves(bn, x[:1, :, :1, :1]) and not norm_serves(bn, x[:0])
    assert not norm_serves(bn, x, x[:, :, :1])
    assert not norm_serves(nn.BatchNorm2d(4, affine=False), x)
    assert not norm_serves(bn, x.to("meta"))
    synchronised = SyncBatchNorm2d(4)
    torch.testing.assert_close(normed(synchronised, x), nn.BatchNorm2d(4)(x))  # of a single process


def test_hooks_and_frozen_statistics_see_the_single_layers() -> None:
    layer, x = ConvNorm(4, 8), random_map((2, 4, 6, 6), True, torch.float32)
    merged, seen = layer(x), []
    handle = layer.bn.register_forward_hook(lambda _module, _given, y: seen.append(y))
    torch.testing.assert_close(layer(x), merged)
    handle.remove()
    assert len(seen) == 1
    no_average = nn.BatchNorm2d(8, momentum=None)
    expected = copy.deepcopy(no_average)
    for scale in (1.0, 2.0):
        y = random_map((2, 8, 6, 6), False, torch.float32) * scale
        torch.testing.assert_close(normed(no_average, y), expected(y))
    torch.testing.assert_close(no_average.running_var, expected.running_var)

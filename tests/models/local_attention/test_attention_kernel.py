"""Compiled attention against unfolded windows and against the tiles, forward and backward; fallbacks without it."""

import copy
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.adaptive_span.attention import AdaptiveAttention, LocalAttention
from models.compiled import build
from models.local_attention.kernel import kernel_attention, kernel_serves
from models.local_attention.operator import local_attention
from models.local_attention.tiled import tiled_attention
from tests.support.networks.attention_oracle import assert_same, outcome, random_maps, unfold_attention

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="there is no C++ compiler"
)
SIZES = [(1, 1), (2, 3), (4, 4), (9, 7), (8, 8), (13, 18), (3, 33)]


@pytest.fixture(autouse=True)
def kernels_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(build.SWITCH, "1")
    yield


def adaptive(spans: list[float], *, ramp: float = 2.0, max_span: int = 5, before: bool = False) -> AdaptiveAttention:
    torch.manual_seed(0)
    heads = len(spans)
    layer = AdaptiveAttention(
        16,
        num_heads=heads,
        max_span=max_span,
        ramp=ramp,
        span_init=0.0,
        span_penalty=0.0,
        mask_before_softmax=before,
    )
    with torch.no_grad():
        layer.span.copy_(torch.tensor(spans))
        for parameter in (layer.qkv.weight, layer.rel_h, layer.rel_w):
            parameter.mul_(0.5)  # logits at which float32 still has four digits
    return layer


def small_inputs(side: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 3, 4, dtype=dtype)
    return tuple(x.requires_grad_() for x in (q, k, v, *torch.randn(2, 2, side, dtype=dtype)))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel_size", [1, 3, 7, 11, 15])
def test_fixed_window(kernel_size: int, size: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = LocalAttention(16, num_heads=4, kernel_size=kernel_size).to(dtype)
    x = random_maps(size, dtype)
    assert kernel_serves(x)
    assert_same(outcome(layer, x), outcome(layer, x, unfold_attention))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ramp", [0.5, 1.0, 2.0, 2.5, 4.0])
@pytest.mark.parametrize("spans", [[0.13], [0.42, 0.0], [0.13, 0.0, 0.42, 1.0]])
def test_adaptive_window(spans: list[float], ramp: float, size: tuple[int, int], dtype: torch.dtype) -> None:
    layer, x = adaptive(spans, ramp=ramp).to(dtype), random_maps(size, dtype)
    assert_same(outcome(layer, x), outcome(layer, x, unfold_attention))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ramp", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("spans", [[0.13], [0.42, 0.0], [0.13, 0.0, 0.42, 1.0]])
def test_mask_before_the_softmax(spans: list[float], ramp: float, size: tuple[int, int], dtype: torch.dtype) -> None:
    layer, x = adaptive(spans, ramp=ramp, before=True).to(dtype), random_maps(size, dtype)
    assert_same(outcome(layer, x), outcome(layer, x, unfold_attention))


@needs_compiler
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("threads", [1, 3])
def test_few_images_and_several_threads(batch: int, threads: int) -> None:
    layer, x = adaptive([0.2, 0.4]).double(), random_maps((10, 9), torch.float64, batch=batch)
    reference = outcome(layer, x, unfold_attention)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same(outcome(layer, x), reference)
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_maps_that_are_not_contiguous() -> None:
    layer, x = adaptive([0.2, 0.4]).double(), random_maps((10, 9), torch.float64)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    reference = outcome(layer, x, unfold_attention)
    for view in (turned, x.to(memory_format=torch.channels_last)):
        assert_same(outcome(layer, view), reference)


@needs_compiler
@pytest.mark.parametrize(("masked", "before"), [(False, False), (True, False), (True, True)])
def test_gradients_by_differences(masked: bool, before: bool) -> None:
    inputs = small_inputs(5)
    mask = torch.tensor([[1.0, 0.7, 0.2], [1.0, 0.4, 0.1]], dtype=torch.float64, requires_grad=True)
    given = (*inputs, mask) if masked else inputs

    def attend(*tensors: Tensor) -> Tensor:
        mask = tensors[5] if masked else None
        return local_attention(*tensors[:5], num_heads=2, ring_mask=mask, mask_before_softmax=before)

    assert torch.autograd.gradcheck(attend, given)


@needs_compiler
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_kernel_and_tiles_agree(dtype: torch.dtype, before: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 12, 9, 11, dtype=dtype)
    rel, mask = torch.randn(2, 14, 6, dtype=dtype), torch.rand(2, 4, dtype=dtype)
    given = [x.requires_grad_() for x in (q, k, v, rel, mask)]
    outcomes = []
    for attend in (kernel_attention, tiled_attention):
        y = attend(*given, mask_before_softmax=before)
        outcomes.append([y.detach(), *torch.autograd.grad(y.square().sum(), given)])
    assert_same(*outcomes)


@needs_compiler
def test_without_gradients_and_in_half_precision() -> None:
    layer, x = adaptive([0.2, 0.4]), random_maps((8, 8), torch.float32)
    with torch.no_grad():
        plain = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(layer(x).float(), plain, rtol=0.1, atol=0.2)
    torch.testing.assert_close(layer(x), plain)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@needs_compiler
def test_extreme_and_missing_numbers() -> None:
    q, k, v = 1e3 * torch.randn(3, 1, 8, 6, 6)
    assert torch.isfinite(local_attention(q, k, v, *torch.randn(2, 4, 5), num_heads=2)).all()
    q[0, 0, 2, 2] = torch.nan
    assert local_attention(q, k, v, *torch.randn(2, 4, 5), num_heads=2).isnan().any()


@needs_compiler
def test_copies_compute_the_same() -> None:
    layer, x = adaptive([0.2, 0.4]), random_maps((8, 8), torch.float32)
    expected = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(x), expected, rtol=0, atol=0)


def test_kernel_refuses_unsupported_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 4, 3, 3)
    assert not kernel_serves(x.to("meta"))
    assert not kernel_serves(torch.empty(0, 4, 3, 3))
    assert not kernel_serves(x.long())
    torch.export.export(LocalAttention(4, num_heads=2, kernel_size=3), (x,))
    monkeypatch.setenv(build.SWITCH, "0")
    assert not kernel_serves(x)


def test_a_compiler_that_fails_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken-compiler"
    broken.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build._open_or_build.cache_clear()
    try:
        layer, x = adaptive([0.2, 0.4]).double(), random_maps((5, 5), torch.float64)
        assert not kernel_serves(x)
        assert_same(outcome(layer, x), outcome(layer, x, unfold_attention))
    finally:
        build._open_or_build.cache_clear()


@pytest.mark.parametrize("switch", ["0", "1"])
def test_a_ring_behind_the_end_of_a_ramp_gets_no_gradient(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.SWITCH, switch)
    mask = torch.tensor([[1.0, 0.5, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 0.0]], requires_grad=True)
    local_attention(*torch.randn(3, 1, 4, 6, 6), *torch.randn(2, 2, 9), num_heads=2, ring_mask=mask).sum().backward()
    assert (mask.grad != 0).tolist() == [[True, True, True, False, False], [True] * 5]

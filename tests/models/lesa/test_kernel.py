"""The compiled attention of LESA against the definition, entry by entry, forward and backward."""

import copy
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from models.compiled import build
from models.lesa import kernel
from models.lesa.attending import AttentionTerms, attend
from models.lesa.binary_term import BinaryTerm
from models.lesa.kernel import lesa_kernel_serves
from tests.support.networks.lesa_oracle import plain_binary

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="there is no C++ compiler"
)


@pytest.fixture(autouse=True)
def kernels_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(build.SWITCH, "1")
    yield


def terms(
    maps: int, count: int, query_chs: int, value_chs: int, dtype: torch.dtype = torch.float64, *, spread: float = 1.0
) -> AttentionTerms:
    torch.manual_seed(0)
    small, large, entries = (maps, count, query_chs), (maps, count, value_chs), 2 * count - 1
    shapes = (small, small, large, small, small, (query_chs, entries), (query_chs, entries), (value_chs, entries))
    return AttentionTerms(*((spread * torch.randn(shape)).to(dtype).requires_grad_() for shape in shapes))


def operands(given: AttentionTerms) -> list[Tensor]:
    return [x for x in given.tensors() if x is not None]


def naive(given: AttentionTerms) -> list[Tensor]:
    q, k, v, q_at, k_at, q_table, k_table, v_table = (x.double() for x in operands(given))
    place = torch.arange(q.shape[1])
    near = place[:, None] + place
    logits = q @ k.mT + torch.einsum("mid,dij->mij", q_at, q_table[:, near])
    weights = (logits + torch.einsum("mjd,dij->mij", k_at, k_table[:, near])).softmax(-1)
    return [weights @ v, torch.einsum("mij,cij->mic", weights, v_table[:, near])]


def with_gradients(outputs: list[Tensor], given: AttentionTerms) -> list[Tensor]:
    probes = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y) for y in outputs]
    return [*outputs, *torch.autograd.grad(outputs, operands(given), probes)]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "size", [(1, 1, 1, 1), (3, 2, 5, 3), (5, 7, 4, 8), (18, 13, 8, 16), (2, 64, 16, 36), (1, 98, 3, 64)]
)
def test_kernel_equals_the_definition(size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    given = terms(*size, dtype, spread=0.5)
    assert lesa_kernel_serves(given.tensors()[:8], None)
    found, expected = with_gradients(attend(given), given), with_gradients(naive(given), given)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for ours, theirs in zip(found, expected, strict=True):
        largest = max(1e-3, float(theirs.detach().abs().max()))
        torch.testing.assert_close(ours, theirs.to(dtype), rtol=0, atol=tolerance * largest)


@needs_compiler
def test_sharp_and_large_logits_stay_finite() -> None:
    given = terms(2, 20, 4, 4, torch.float32, spread=30.0)
    for value in with_gradients(attend(given), given):
        assert value.isfinite().all()


@needs_compiler
def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        given = terms(18, 9, 4, 8, torch.float32)
        results.append(with_gradients(attend(given), given))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@needs_compiler
@pytest.mark.parametrize("strided", [(), (0, 5), range(8)])
def test_gradients_of_gradients_are_those_of_the_formula(strided: Sequence[int]) -> None:
    given = operands(terms(2, 3, 2, 2))

    def attended(*x: Tensor) -> tuple[Tensor, ...]:
        laid = [y.mT.contiguous().mT if index in strided else y for index, y in enumerate(x)]
        return tuple(attend(AttentionTerms(*laid)))

    assert torch.autograd.gradgradcheck(attended, given)


@needs_compiler
def test_layer_equals_its_formula_through_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = BinaryTerm(16, map_size=(3, 5), groups=2, position_embedding="classification").double()
    plain, x = copy.deepcopy(layer), torch.randn(2, 16, 3, 5, dtype=torch.double)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    steps: list[str] = []
    call = kernel._call
    monkeypatch.setattr(kernel, "_call", lambda step, *more: (steps.append(step), call(step, *more))[1])
    found, expected = layer(x), plain_binary(plain, x)
    pairs = [(found, expected), *zip(layer.buffers(), plain.buffers(), strict=True)]
    gradients = [
        torch.autograd.grad(y.square().sum(), [x, *form.parameters()], allow_unused=True, materialize_grads=True)
        for y, form in ((found, layer), (expected, plain))
    ]
    pairs += zip(*gradients, strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)
    assert steps == ["forward", "backward"] and gradients[0][0].is_contiguous(memory_format=torch.channels_last)


REFUSED: dict[str, Any] = {
    "no tables": lambda given: ([*given[:7], None], None),
    "padding": lambda given: (given, torch.zeros(2, 1, 3, dtype=torch.bool)),
    "half precision": lambda given: ([x.half() for x in given], None),
    "two types": lambda given: ([*given[:7], given[7].float()], None),
    "shapes alone": lambda given: ([x.to("meta") for x in given], None),
    "a large map": lambda given: ([x.expand(2, 257, -1) if x.shape[0] == 1 else x for x in given], None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_kernel_leaves_other_operands_to_torch(case: str) -> None:
    given = operands(terms(1, 1, 2, 2) if case == "a large map" else terms(2, 3, 2, 2))
    assert not lesa_kernel_serves(*REFUSED[case](given))


def test_kernel_is_off_with_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.SWITCH, "0")
    given = terms(2, 3, 2, 2)
    assert not lesa_kernel_serves(given.tensors()[:8], None)
    for ours, theirs in zip(with_gradients(attend(given), given), with_gradients(naive(given), given), strict=True):
        torch.testing.assert_close(ours, theirs)

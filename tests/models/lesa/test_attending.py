"""LESA's attention by chunks, its moments and its paired norm against the formulas, forward and backward."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.lesa import binary_term
from models.lesa.attending import AttentionTerms, attend, overlap_sum, windows
from models.lesa.binary_term import BinaryTerm
from models.lesa.moments import product_moments, window_moments
from models.lesa.paired_norm import normed_pairs

KINDS = ("flattened", "axial", "none")
HEIGHT, WIDTH, QUERY_CHS, VALUE_CHS, MAPS = 3, 5, 4, 6, 2
COUNT = HEIGHT * WIDTH


def terms(kind: str, *, padded: bool = False) -> AttentionTerms:
    def given(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64).requires_grad_()

    torch.manual_seed(0)
    more: dict[str, Tensor] = {}
    if kind == "flattened":
        more = {name: given(MAPS, COUNT, QUERY_CHS) for name in ("q_at", "k_at")}
        more |= {name: given(QUERY_CHS, 2 * COUNT - 1) for name in ("q_table", "k_table")}
        more["v_table"] = given(VALUE_CHS, 2 * COUNT - 1)
    elif kind == "axial":
        more = {"rows": given(MAPS, COUNT, HEIGHT), "columns": given(MAPS, COUNT, WIDTH)}
    if padded:
        more["outside"] = torch.arange(COUNT).expand(MAPS, 1, -1) >= COUNT - 2
    q, k = given(MAPS, COUNT, QUERY_CHS), given(MAPS, COUNT, QUERY_CHS)
    return AttentionTerms(q, k, given(MAPS, COUNT, VALUE_CHS), **more)


def naive(given: AttentionTerms) -> list[Tensor]:
    """Attend entry by entry, from the definition of each operand."""
    logits = torch.einsum("mid,mjd->mij", given.q, given.k)
    place = torch.arange(COUNT)
    near = place[:, None] + place
    if given.q_at is not None and given.q_table is not None and given.k_at is not None and given.k_table is not None:
        logits = logits + torch.einsum("mid,dij->mij", given.q_at, given.q_table[:, near])
        logits = logits + torch.einsum("mjd,dij->mij", given.k_at, given.k_table[:, near])
    if given.rows is not None and given.columns is not None:
        logits = logits + given.rows[:, :, place // WIDTH] + given.columns[:, :, place % WIDTH]
    if given.outside is not None:
        logits = logits.masked_fill(given.outside, -torch.inf)
    weights = logits.softmax(-1)
    values = [weights @ given.v]
    if given.v_table is not None:
        values.append(torch.einsum("mij,cij->mic", weights, given.v_table[:, near]))
    return values


def gradients(outputs: list[Tensor], given: AttentionTerms, **options: Any) -> tuple[Tensor, ...]:
    inputs = [x for x in given.tensors() if x is not None and x.requires_grad]
    return torch.autograd.grad(
        outputs, inputs, [torch.linspace(-1, 1, y.numel()).view_as(y) for y in outputs], **options
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("queries", [1, 4, COUNT])
def test_chunks_of_any_size_attend_as_the_formula_does(kind: str, padded: bool, queries: int) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        given = terms(kind, padded=padded)
        largest = queries * MAPS * COUNT
        assert {last - first for first, last in given.chunks(0, largest)} <= {queries, COUNT % queries}
        found, expected = attend(given, kept=0, largest=largest), naive(given)
        pairs = [*zip(found, expected, strict=True)]
        pairs += zip(gradients(found, given), gradients(expected, given), strict=True)
    finally:
        torch.set_default_dtype(torch.float32)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_few_weights_are_kept_in_one_chunk() -> None:
    given = terms("none")
    whole = MAPS * COUNT * COUNT
    assert given.chunks(whole, 1) == [(0, COUNT)]
    assert given.chunks(whole - 1, 6 * MAPS * COUNT) == [(0, 6), (6, 12), (12, COUNT)]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_gradients(kind: str) -> None:
    """Compare the squared gradients, differentiated, of two chunks and of the formula."""
    given, found = terms(kind), []
    for values in (attend(given, kept=0, largest=8 * MAPS * COUNT), naive(given)):
        first = torch.autograd.grad(
            sum(y.square().sum() for y in values), [given.q, given.k, given.v], create_graph=True
        )
        found.append(torch.autograd.grad(sum(x.square().sum() for x in first), [given.q, given.k, given.v]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


class LargestTensor(TorchDispatchMode):
    """Record of the largest memory that an operation returned, in elements."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for y in result if isinstance(result, tuple | list) else [result]:
            if isinstance(y, Tensor):
                self.largest = max(self.largest, y.untyped_storage().nbytes() // y.itemsize)
        return result


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_as_large_as_positions_times_positions(kind: str) -> None:
    """Allow the sums over windows of a chunk, which are one position wider than the table, and the operands."""
    given = terms(kind)
    operands = max(x.numel() for x in given.tensors() if x is not None)
    with LargestTensor() as record:
        gradients_of_chunk = gradients([y.float() for y in attend(given, kept=0, largest=MAPS * COUNT)], given)
    assert len(gradients_of_chunk) >= 3
    assert record.largest <= max(operands, VALUE_CHS * (COUNT + 1)) < MAPS * COUNT * COUNT


def test_narrow_types_are_close_to_double_precision() -> None:
    exact = terms("flattened")
    narrow = [None if x is None else x.detach().bfloat16().requires_grad_() for x in exact.tensors()]
    given = AttentionTerms(*narrow)  # type: ignore[arg-type]
    wide = AttentionTerms(*(None if x is None else x.detach().double().requires_grad_() for x in narrow))  # type: ignore[arg-type]
    for ours, theirs in zip(attend(given, kept=0, largest=4 * MAPS * COUNT), naive(wide), strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), theirs, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("width", [1, 3, 6])
def test_sums_of_overlapping_windows(width: int) -> None:
    table = torch.arange(12.0).view(2, 6).requires_grad_()
    parts = torch.randn(7 - width, 2, width)
    (expected,) = torch.autograd.grad(windows(table, width), table, parts)
    torch.testing.assert_close(overlap_sum(parts), expected)


def test_moments_of_products_and_of_windows() -> None:
    """Compare with the products themselves, with gradients of first and second order."""
    given = terms("flattened")
    assert given.q_table is not None
    near = torch.arange(COUNT)[:, None] + torch.arange(COUNT)
    products = (
        torch.einsum("mid,mjd->mij", given.q, given.k),
        torch.einsum("mid,dij->mij", given.q, given.q_table[:, near]),
    )
    inputs = [given.q, given.k, given.q_table]
    weight = torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=torch.float64)
    found = []
    for first, second in (
        [torch.stack([x.sum((1, 2)), x.square().sum((1, 2))]) for x in products],
        [product_moments(given.q, given.k), window_moments(given.q, given.q_table)],
    ):
        total = (weight * first).sum() + (weight * second).sum()
        grads = torch.autograd.grad(total, inputs, create_graph=True)
        again = torch.autograd.grad(sum(grad.square().sum() for grad in grads), inputs)
        found.append([first, second, *grads, *again])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("hooked", [False, True])
def test_paired_norm_equals_the_norm_of_interleaved_channels(training: bool, hooked: bool) -> None:
    norm = nn.BatchNorm2d(8, momentum=None if hooked else 0.1).double().train(training)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 1.5)
    reference = copy.deepcopy(norm)
    if hooked:
        norm.register_forward_hook(lambda *_: None)
    even, odd = (torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = normed_pairs(norm, even, odd)
    expected = reference(torch.stack([even, odd], dim=2).flatten(1, 2)).unflatten(1, (4, 2)).sum(2)
    torch.testing.assert_close(found, expected)
    probe = torch.randn_like(found)
    ours = torch.autograd.grad(found, [even, odd, norm.weight, norm.bias], probe)
    theirs = torch.autograd.grad(expected, [even, odd, reference.weight, reference.bias], probe)
    for one, other in zip((*ours, *norm.buffers()), (*theirs, *reference.buffers()), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("position_embedding", ["classification", "detection", "none"])
def test_the_path_of_compilers_and_tracers_computes_the_same(
    position_embedding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    term = BinaryTerm(16, map_size=(3, 4), groups=2, position_embedding=position_embedding).double()
    x = torch.randn(2, 16, 3, 4, dtype=torch.float64, requires_grad=True)
    parameters, found = [x, *term.parameters()], []
    for eager in (True, False):
        monkeypatch.setattr(binary_term, "is_eager", lambda *_, eager=eager: eager)
        y = term(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), parameters)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)

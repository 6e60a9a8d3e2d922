"""Local attention by tiles against the naive operator, forward and backward; windows and masks."""

import pytest
import torch
from torch import nn

import models.local_attention.tiled
from models import ModelOptionError
from models.adaptive_span.attention import AdaptiveAttention, LocalAttention
from models.compiled import build
from models.local_attention.operator import local_attention
from tests.support.networks.attention_oracle import assert_same, outcome, random_maps, unfold_attention

SIZES = [
    (1, 1),
    (2, 2),
    (3, 5),
    (4, 4),
    (8, 8),
    (9, 7),
    (13, 18),
]  # smaller than the window, odd, several tiles


@pytest.fixture(autouse=True)
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.SWITCH, "0")


def assert_equals_oracle(layer: nn.Module, size: tuple[int, int]) -> None:
    layer, x = layer.double(), random_maps(size)
    assert_same(outcome(layer, x), outcome(layer, x, unfold_attention))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_fixed_window(size: tuple[int, int], kernel_size: int) -> None:
    torch.manual_seed(0)
    layer = LocalAttention(16, num_heads=4, kernel_size=kernel_size)
    assert_equals_oracle(layer, size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ramp", [0.5, 1.0, 2.0, 2.5, 4.0])
@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_adaptive_window(size: tuple[int, int], ramp: float, num_heads: int) -> None:
    torch.manual_seed(0)
    layer = AdaptiveAttention(16, num_heads=num_heads, max_span=5, ramp=ramp, span_init=0.0, span_penalty=0.0)
    with torch.no_grad():
        layer.span.copy_(torch.tensor([0.13, 0.0, 0.42, 0.3])[:num_heads])
    assert_equals_oracle(layer, size)


OPTIONS = [
    {"mask_before_softmax": True},
    {"scaled": True},
    {"shared_span": True},
    {"mask_before_softmax": True, "scaled": True, "shared_span": True},
]


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 7)])
@pytest.mark.parametrize("ramp", [1.0, 2.5])
@pytest.mark.parametrize("options", OPTIONS)
def test_options_of_adaptive_attention(options: dict[str, bool], ramp: float, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = AdaptiveAttention(16, num_heads=4, max_span=5, ramp=ramp, span_init=0.0, span_penalty=0.0, **options)
    with torch.no_grad():
        layer.span.copy_(torch.tensor([0.42] if "shared_span" in options else [0.13, 0.0, 0.42, 0.3]))
    assert_equals_oracle(layer, size)


def test_a_fixed_window_with_scaled_logits() -> None:
    torch.manual_seed(0)
    layer = LocalAttention(16, num_heads=4, kernel_size=5, scaled=True)
    assert_equals_oracle(layer, (6, 7))
    half = LocalAttention(16, num_heads=4, kernel_size=5)  # four channels per head: half of every logit
    half.load_state_dict(layer.state_dict())
    with torch.no_grad():
        half.qkv.weight[:16] /= 2
    x = random_maps((6, 7), torch.float32)
    torch.testing.assert_close(layer.float()(x), half(x))


def test_a_shared_span_is_that_of_every_head_and_counts_once() -> None:
    layer = AdaptiveAttention(8, num_heads=4, max_span=5, ramp=1.0, span_init=0.5, span_penalty=0.1, shared_span=True)
    assert layer.span.shape == (1,)
    assert layer.training_penalty().item() == pytest.approx(0.05)
    assert torch.equal(layer.ring_mask(4).detach(), torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.5]]).expand(4, -1))
    assert (layer.head_radii(), layer.spans_px()) == ([4] * 4, [2.5] * 4)
    assert layer.training_diagnostics() == {"span_px": [2.5]}
    layer(torch.randn(1, 8, 5, 5)).square().sum().backward()
    assert layer.span.grad is not None and layer.span.grad.item() != 0


@pytest.mark.parametrize("switch", ["0", "1"])
def test_before_the_softmax_attention_is_over_the_span_alone(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put nearly all of the softmax outside of the mask: masked after it, the epsilon takes what is left."""
    monkeypatch.setenv(build.SWITCH, switch)
    q, k, v = torch.zeros(3, 1, 2, 3, 3, dtype=torch.float64)
    q += 1
    k[0, 0, 0, 0] = 800.0  # the corner, far beyond the underflow of the exponential
    v += 1
    tables, mask = torch.zeros(2, 1, 3, dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    after, before = (
        local_attention(q, k, v, *tables, num_heads=1, ring_mask=mask, mask_before_softmax=place)
        for place in (False, True)
    )
    centre = (0, 0, 1, 1)
    assert after[centre] == 0
    assert before[centre] == 1
    half = local_attention(
        q,
        0 * k,
        v.cumsum(3),
        *tables,
        num_heads=1,
        ring_mask=torch.tensor([[1.0, 0.5]], dtype=torch.float64),
        mask_before_softmax=True,
    )
    assert half[centre].item() == pytest.approx((2 + 0.5 * (2 + 2 + 3 * 1 + 3 * 3)) / (1 + 0.5 * 8))


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_the_formula_for_compilers(size: tuple[int, int], before: bool) -> None:
    torch.manual_seed(0)
    layer = AdaptiveAttention(
        16,
        num_heads=4,
        max_span=5,
        ramp=2.0,
        span_init=0.3,
        span_penalty=0.0,
        mask_before_softmax=before,
        scaled=before,
    ).double()
    x = random_maps(size)
    expected = outcome(layer, x, unfold_attention)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert_same(outcome(layer, x), expected)


def test_compiled_programs_use_the_window_of_the_last_eager_pass() -> None:
    layer = AdaptiveAttention(8, num_heads=2, max_span=5, ramp=1.0, span_init=1.0, span_penalty=0.0)

    def compiled_radius() -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            return layer.window_radius()

    assert compiled_radius() == 5
    with torch.no_grad():
        layer.span.fill_(0.1)
        layer.project_parameters_()
    assert compiled_radius() == 2
    layer.load_state_dict({**layer.state_dict(), "span": torch.tensor([0.3, 0.5])})
    assert compiled_radius() == 4


@pytest.mark.parametrize("chunk", [1, 1 << 14])
def test_chunks_make_no_difference(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.local_attention.tiled, "CHUNK_ELEMENTS", chunk)
    torch.manual_seed(0)
    layer = AdaptiveAttention(16, num_heads=2, max_span=3, ramp=1.0, span_init=0.4, span_penalty=0.0)
    assert_equals_oracle(layer, (9, 6))


@pytest.mark.parametrize("span", [0.0, 1.0])
def test_a_span_at_its_bound_still_gets_a_gradient(span: float) -> None:
    layer = AdaptiveAttention(8, num_heads=2, max_span=2, ramp=1.0, span_init=span, span_penalty=0.1)
    (layer(torch.randn(1, 8, 5, 5)).sum() + layer.training_penalty()).backward()
    assert layer.span.grad is not None
    assert torch.isfinite(layer.span.grad).all()


@pytest.mark.parametrize(
    ("spans", "ramp", "radius"),
    [
        ((0.0, 0.0), 1.0, 1),
        ((0.0, 0.0), 0.5, 1),
        ((0.1, 0.0), 2.0, 3),
        ((0.1, 0.5), 2.0, 5),
        ((0.3, 0.1), 1.0, 3),
    ],
)
def test_the_window_follows_the_longest_span(spans: tuple[float, ...], ramp: float, radius: int) -> None:
    layer = AdaptiveAttention(8, num_heads=2, max_span=5, ramp=ramp, span_init=0.0, span_penalty=0.0)
    with torch.no_grad():
        layer.span.copy_(torch.tensor(spans))
    assert layer.window_radius() == radius
    beyond = layer.ring_mask(5)[:, radius + 1 :]
    assert not beyond.any()


def test_the_ramp_of_the_paper() -> None:
    layer = AdaptiveAttention(8, num_heads=1, max_span=5, ramp=3.0, span_init=0.1, span_penalty=0.0)
    expected = torch.tensor([[1.0, 1.0, 0.8333333, 0.5, 0.1666667, 0.0]])
    torch.testing.assert_close(layer.ring_mask(5).detach(), expected)


def test_extreme_logits_stay_finite() -> None:
    q, k, v = 1e3 * torch.randn(3, 1, 8, 6, 6)
    tables = torch.randn(2, 4, 5)
    mask = torch.tensor([[1.0, 0.5, 0.0]]).expand(2, -1)
    for ring_mask in (None, mask):
        assert torch.isfinite(local_attention(q, k, v, *tables, num_heads=2, ring_mask=ring_mask)).all()


def test_shapes_that_do_not_fit() -> None:
    q = torch.randn(1, 6, 4, 4)
    with pytest.raises(ModelOptionError, match="num_heads divides the 6 channels"):
        local_attention(q, q, q, torch.randn(3, 3), torch.randn(3, 3), num_heads=4)
    with pytest.raises(ModelOptionError, match="a window side is odd"):
        local_attention(q, q, q, torch.randn(3, 4), torch.randn(3, 4), num_heads=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [None, {"mask_before_softmax": False}, {"mask_before_softmax": True}])
def test_half_precision_trains_and_sums_in_single_precision(
    dtype: torch.dtype, options: dict[str, bool] | None
) -> None:
    torch.manual_seed(0)
    usual = {"max_span": 4, "ramp": 2.0, "span_init": 0.5, "span_penalty": 0.0}
    layer: nn.Module = LocalAttention(16, num_heads=2, kernel_size=3)
    if options is not None:
        layer = AdaptiveAttention(16, num_heads=2, **usual, **options)
    inputs = [random_maps((9, 7), torch.float32).requires_grad_(), *layer.parameters()]
    expected = layer(inputs[0])
    with torch.autocast("cpu", dtype):
        found = layer(inputs[0])
    assert found.dtype == dtype
    tolerance = 0.1 if dtype == torch.bfloat16 else 0.02  # of the largest value
    probe = torch.randn_like(expected)  # the backward pass is outside autocast, as in training
    exact = [expected, *torch.autograd.grad(expected, inputs, probe)]
    for half, single in zip([found, *torch.autograd.grad(found, inputs, probe.to(dtype))], exact, strict=True):
        torch.testing.assert_close(half.float(), single, rtol=0, atol=tolerance * single.abs().max().item())

"""Counted costs equal those of the built network, with the cache and with skipped layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import models
from models.adaptive_span.attention import AdaptiveAttention, LocalAttention
from models.fcvit.context import GlobalContext
from models.registry import arithmetic, counting, operations
from models.registry.operations import MetaOperations
from models.registry.shapes import on_shapes
from search_spaces import KINDS, kind_of, named_space, setting_of
from search_spaces.domains import FloatDomain

SIDE = 32
SHAPE = {"num_classes": 10, "in_chans": 3, "image_size": SIDE}
DEEP = ("101", "110", "152", "164", "b48")  # more of the blocks that others have fewer of
SMALLEST = {kind.networks[0] for kind in KINDS.values()}


def drawn(name: str, count: int) -> list[dict[str, Any]]:
    """Draw options from the natural space of a network that it accepts."""
    space = named_space(KINDS[kind_of(name) or ""].family, [name])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=len(name)))
    found: list[dict[str, Any]] = []
    while len(found) < count:
        values = {setting_of(key): value for key, value in space.sample(study.ask()).items()}
        options = {key: value for key, value in values.items() if key in models.searchable_options(name)}
        if not models.check_options(name, options, **SHAPE):
            found.append(options)
    return found


def counted_whole(name: str, options: dict[str, Any]) -> models.ModelCost:
    """Count every layer of a network built with every option, by torch's own counter."""
    learned_windows = "span_init" in models.model_options(name)
    with torch.device("cpu" if learned_windows else "meta"):
        network = models.create_model(name, **options, **SHAPE).eval()
    assert counting.depends_on_values(network) == learned_windows
    params = sum(parameter.numel() for parameter in network.parameters())
    layers = counting.stand_in(network)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network.to("meta")(torch.empty(1, 3, SIDE, SIDE, device="meta"))
    return models.ModelCost(params, counter.get_total_flops() // 2 + sum(layer.macs for layer in layers))


@pytest.mark.parametrize("name", [name for name in models.list_models() if not any(deep in name for deep in DEEP)])
def test_cost_is_that_of_the_network_that_would_be_built(name: str) -> None:
    for options in drawn(name, 2 if name in SMALLEST else 1):
        expected = counted_whole(name, options)
        assert models.model_cost(name, options, **SHAPE) == expected, options
        if name in SMALLEST:
            assert models.model_params(name, options, **SHAPE) == expected.params


def counted_by_torch(layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        layer(x)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("batch", [1, 3])
def test_layers_that_count_themselves_count_by_their_formula(batch: int) -> None:
    x = torch.randn(batch, 16, 5, 6)
    for layer, side in (
        (LocalAttention(16, num_heads=2, kernel_size=7), 7),
        (AdaptiveAttention(16, num_heads=2, max_span=6, ramp=1.5, span_init=0.4, span_penalty=0.0), 9),
    ):
        assert layer.macs(x) == counted_by_torch(layer.qkv, x) + 2 * side**2 * x.numel()
    for similarity, competition in itertools.product((False, True), repeat=2):
        context = GlobalContext(16, num_heads=2, gc_reduction=4, similarity=similarity, competition=competition)
        products = x.numel() if similarity else 0
        assert context.macs(x) == counted_by_torch(context.context, x.mean((2, 3))) + products


IMAGE, CELLS = torch.empty(2, 3, 8, 6, device="meta"), torch.empty(3, 1, 1, device="meta")
ROWS, BIAS = torch.empty(4, 5, device="meta"), torch.empty(7, device="meta")
OPERATIONS: dict[Any, list[tuple[Any, ...]]] = {
    torch.ops.aten._safe_softmax.default: [(IMAGE, -1)],
    torch.ops.aten.add.Tensor: [(IMAGE, CELLS), (CELLS, IMAGE), (IMAGE, 1e-5), (IMAGE, IMAGE.bool())],
    torch.ops.aten.addmm.default: [(BIAS, ROWS, torch.empty(5, 7, device="meta"))],
    torch.ops.aten.cat.default: [([IMAGE, IMAGE], 1), ([IMAGE, IMAGE[:, :, :3]], -2), ([ROWS, ROWS],)],
    torch.ops.aten.clamp_min.default: [(IMAGE, 0), (IMAGE.int(), 0.5)],
    torch.ops.aten.div.Tensor: [(IMAGE, CELLS), (IMAGE.int(), 2), (IMAGE.int(), IMAGE.int())],
    torch.ops.aten.grid_sampler_2d.default: [(IMAGE, torch.empty(2, 5, 4, 2, device="meta"), 0, 0, False)],
    torch.ops.aten.mean.dim: [(IMAGE, [-1, -2]), (IMAGE, [2, 3], True), (IMAGE, [0]), (IMAGE, None)],
    torch.ops.aten.mul.Scalar: [(IMAGE, 0.5), (IMAGE.int(), 0.5)],
    torch.ops.aten.mul.Tensor: [(IMAGE, CELLS), (IMAGE, IMAGE), (IMAGE.int(), 0.5)],
    torch.ops.aten.native_batch_norm.default: [
        (IMAGE, *[torch.empty(3, device="meta")] * 4, training, 0.1, 1e-5) for training in (False, True)
    ],
    torch.ops.aten.pow.Tensor_Scalar: [(IMAGE.double(), 2), (IMAGE.int(), 0.5)],
    torch.ops.aten.relu.default: [(IMAGE,)],
    torch.ops.aten.remainder.Scalar: [(IMAGE.long(), 7), (IMAGE.bool(), 7), (IMAGE.long(), 0.7), (IMAGE, 7)],
    torch.ops.aten.rsqrt.default: [(IMAGE,), (IMAGE.int(),)],
    torch.ops.aten.sigmoid_.default: [(IMAGE,)],
    torch.ops.aten.stack.default: [([ROWS, ROWS, ROWS], dim) for dim in (0, 1, 2, -1)] + [([ROWS, ROWS],)],
    torch.ops.aten.sub.Tensor: [(IMAGE, CELLS)],
    torch.ops.aten.upsample_bilinear2d.default: [(IMAGE, [4, 9], False), (IMAGE, [16, 12], True, 2.0, 2.0)],
}


def test_shapes_computed_here_are_those_of_torch() -> None:
    assert OPERATIONS.keys() == operations._SHAPES.keys()
    for operation, cases in OPERATIONS.items():
        for case in cases:
            with MetaOperations():
                found = operation(*case)
            expected = operation(*case)
            pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
            assert all((one.shape, one.dtype) == (other.shape, other.dtype) for one, other in pairs), (operation, case)


SHORT, OTHER = IMAGE[:, :, :3], torch.empty(4, 6, device="meta")
MISFITS: list[tuple[Any, tuple[Any, ...]]] = [
    (torch.ops.aten.add.Tensor, (IMAGE, SHORT)),
    (torch.ops.aten.addmm.default, (BIAS, OTHER, torch.empty(5, 7, device="meta"))),
    (torch.ops.aten.addmm.default, (CELLS[:2, 0, 0], ROWS, torch.empty(5, 7, device="meta"))),
    (torch.ops.aten.cat.default, ([IMAGE, SHORT], 1)),
    (torch.ops.aten.cat.default, ([ROWS, IMAGE], 0)),
    (torch.ops.aten.cat.default, ([ROWS, ROWS], 2)),
    (torch.ops.aten.mean.dim, (IMAGE, [2, 9])),
    (torch.ops.aten.mean.dim, (IMAGE.int(), [2])),
    (torch.ops.aten.native_batch_norm.default, (IMAGE, *[torch.empty(4, device="meta")] * 4, False, 0.1, 1e-5)),
    (torch.ops.aten.stack.default, ([IMAGE, SHORT], 1)),
    (torch.ops.aten.stack.default, ([ROWS, ROWS], 3)),
    (torch.ops.aten.grid_sampler_2d.default, (IMAGE, torch.empty(3, 5, 4, 2, device="meta"), 0, 0, False)),
]


@pytest.mark.parametrize(("operation", "case"), MISFITS)
def test_tensors_that_do_not_fit_together_are_the_error_of_torch(operation: Any, case: tuple[Any, ...]) -> None:
    with pytest.raises((RuntimeError, IndexError)) as expected:
        operation(*case)
    with pytest.raises(expected.type), MetaOperations():
        operation(*case)


def test_tensors_with_values_are_computed_while_products_are_counted() -> None:
    x = torch.randn(2, 3)
    with MetaOperations():
        assert torch.equal(torch.ops.aten.relu.default(x), x.clamp(min=0))


@pytest.mark.parametrize("name", sorted(SMALLEST))
def test_networks_on_shapes_have_the_tensors_of_networks_on_meta(name: str) -> None:
    def tensors() -> list[tuple[str, torch.Size, torch.dtype, bool, torch.device]]:
        network = models.create_model(name, **SHAPE)
        state = network.state_dict(keep_vars=True)
        return [(key, one.shape, one.dtype, one.requires_grad, one.device) for key, one in state.items()]

    with on_shapes():
        found = tensors()
    with torch.device("meta"):
        assert found == tensors()


def test_on_shapes_skips_nothing_but_the_filling_of_tensors_without_values() -> None:
    with on_shapes():
        empty = torch.empty(2, 3)
        assert torch.nn.init.normal_(empty) is empty
        assert (torch.ones(2, dtype=torch.int64) * 0.5).dtype is torch.float32
        assert torch.mul(0.5, torch.ones(3)).shape == (3,)
        filled = torch.zeros(3, device="cpu").fill_(2.0).mul_(3.0)
        with pytest.raises(RuntimeError, match=r"broadcast|match"):
            empty.add_(torch.empty(2, 4))
    assert filled.tolist() == [6.0, 6.0, 6.0]


@pytest.mark.parametrize("name", sorted(SMALLEST))
def test_costless_options_change_no_count(name: str) -> None:
    known = models.searchable_options(name)
    free = sorted(arithmetic.COSTLESS & known.keys())
    assert {"drop_rate", "drop_path_rate"} <= set(free)
    plain = counted_whole(name, {})
    for ends in range(2):
        options: dict[str, Any] = {}
        for key in free:
            option = known[key]
            if option.type is bool:
                options[key] = bool(ends)
            else:
                options[key] = [option.low if option.low is not None else 1e-6, option.high or 1.0][ends]
        assert counted_whole(name, options) == plain, options


@pytest.mark.parametrize("name", sorted(SMALLEST))
def test_continuous_options_of_named_spaces_are_costless_or_decide_on_windows(name: str) -> None:
    """Check the cache key: options with endless values would fill the cache."""
    options = KINDS[kind_of(name) or ""].options
    endless = {setting_of(key) for key, domain in options.items() if isinstance(domain, FloatDomain)}
    assert endless <= arithmetic.COSTLESS | {"ramp", "span_init"}


def test_networks_that_differ_in_costless_options_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    create = arithmetic.create_model
    monkeypatch.setattr(arithmetic, "create_model", lambda *given, **more: built.append(1) or create(*given, **more))
    shape = {"num_classes": 7, "in_chans": 3, "image_size": 24}  # no other test counts these
    costs = {
        models.model_cost("lsas_resnet29_cifar", {"stages": stages, "drop_path_rate": rate, "scale_init": 1}, **shape)
        for stages in ("FFT", [False, False, True])
        for rate in (0.0, 0.1, 0.2)
    }
    assert len(costs) == 1
    assert len(built) == 1

"""Non-local blocks against a naive form, alone and beside a spatial bias."""

import pytest
import timm
import torch
from torch import Tensor

import models
from models.common import non_local
from models.common.non_local import NonLocal
from models.spatial_bias.bias import SpatialBias


def naive(block: NonLocal, x: Tensor, *, scaled: bool) -> Tensor:
    """Weights of all pairs of positions written out, one softmax per position that reads."""
    theta, phi, g = block.embed(x).chunk(3, dim=1)
    phi, g = block.pool(phi), block.pool(g)
    logits = torch.einsum("bchw,bcij->bhwij", theta, phi) / (theta.shape[1] ** 0.5 if scaled else 1.0)
    weights = logits.flatten(3).softmax(-1).reshape(logits.shape)
    return block.bn(block.expand(torch.einsum("bhwij,bcij->bchw", weights, g))) + x


@pytest.mark.parametrize("weights", ["computed again", "kept"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("side", "pool_keys", "scaled", "reduction"),
    [((8, 8), False, True, 2), ((5, 7), True, False, 4), ((1, 1), True, True, 64), ((3, 9), False, False, 1)],
)
def test_block_equals_the_naive_form_forward_and_backward(
    side: tuple[int, int],
    pool_keys: bool,
    scaled: bool,
    reduction: int,
    layout: torch.memory_format,
    weights: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    fused: list[Tensor] = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda q, *more, **options: (fused.append(q), attend(q, *more, **options))[1],
    )
    if weights == "kept":
        monkeypatch.setattr(non_local, "WIDE", 1)
    block = NonLocal(16, reduction=reduction, pool_keys=pool_keys, scaled=scaled).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(3, 16, *side, dtype=torch.float64).contiguous(memory_format=layout)
    results = []
    for compute in (block, lambda x: naive(block, x, scaled=scaled)):
        leaf = x.clone().requires_grad_()
        y = compute(leaf)
        results.append([y, *torch.autograd.grad(y.square().sum(), [leaf, *block.parameters()])])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-8)
    assert len(fused) == (weights == "computed again")
    with torch.no_grad():
        torch.testing.assert_close(block(x), results[0][0], rtol=1e-9, atol=1e-8)
    assert len(fused) == 1 + (weights == "computed again")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
def test_a_traced_block_computes_the_same_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(non_local, "WIDE", 1)
    block, x = NonLocal(16, reduction=2).eval(), torch.randn(2, 16, 4, 4)
    traced = torch.jit.trace(block, x)  # which compares with a second trace, of a block without gradients
    torch.testing.assert_close(traced(x), block(x))


def test_a_block_starts_as_an_identity_and_keeps_the_layout() -> None:
    x = torch.randn(2, 16, 4, 6).contiguous(memory_format=torch.channels_last)
    y = NonLocal(16)(x)
    torch.testing.assert_close(y, x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert NonLocal(16)(x.contiguous()).is_contiguous()
    with pytest.raises(models.ModelOptionError, match="reduction"):
        NonLocal(16, reduction=0)


def blocks_with(network: torch.nn.Module, kind: type[torch.nn.Module]) -> list[list[int]]:
    return [
        [index for index, block in enumerate(stage) if any(isinstance(part, kind) for part in block.modules())]
        for stage in network.stages  # type: ignore[union-attr]
    ]


def test_places_of_the_blocks() -> None:
    with torch.device("meta"):
        large, small = timm.create_model("nonlocal_resnet50"), timm.create_model("nonlocal_resnet56_cifar")
        one = timm.create_model("nonlocal_resnet50", stages=(False, False, True, False), every=5)
        both = timm.create_model("sb_resnet50", nonlocal_stages=(False, True, False, True), nonlocal_every=3)
        biased = timm.create_model("nonlocal_resnet56_cifar", bias_stages=(True, False, False), pooled_size=4)
        plain = timm.create_model("nonlocal_resnet50", stages=(False,) * 4)
    assert blocks_with(large, NonLocal) == [[], [1, 3], [1, 3, 5], []]
    assert blocks_with(large, SpatialBias) == [[]] * 4
    assert blocks_with(small, NonLocal) == [[], [1, 3, 5], [1, 3, 5]]
    assert blocks_with(one, NonLocal) == [[], [], [4], []]
    assert blocks_with(both, NonLocal) == [[], [2], [], [2]]
    assert [len(found) for found in blocks_with(both, SpatialBias)] == [3, 4, 6, 0]
    assert [len(found) for found in blocks_with(biased, SpatialBias)] == [6, 0, 0]
    assert sum(parameter.numel() for parameter in plain.parameters()) == 25_557_032


@pytest.mark.parametrize("side", [8, 13])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sb_resnet29_cifar", {"nonlocal_stages": (True, True, True), "nonlocal_every": 3, "pooled_size": 4}),
        (
            "sb_resnet29_cifar",
            {"nonlocal_stages": (False, False, True), "nonlocal_every": 1, "nonlocal_pool_keys": True},
        ),
        ("nonlocal_resnet56_cifar", {"bias_stages": (False, True, True), "pooled_size": 4, "reduction": 64}),
        ("nonlocal_resnet56_cifar", {"every": 6, "pool_keys": True, "scaled": False}),
    ],
)
def test_both_kinds_of_context_train_together(name: str, options: dict[str, object], side: int) -> None:
    network = models.create_model(name, num_classes=2, in_chans=1, image_size=side, drop_path_rate=0.1, **options)
    network(torch.randn(2, 1, side, side)).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    with torch.no_grad():
        assert torch.isfinite(network.eval()(torch.randn(1, 1, side, side))).all()


def test_blocks_that_no_stage_is_long_enough_for() -> None:
    (problem,) = models.check_options("nonlocal_resnet50", {"every": 5})
    assert str(problem) == (
        "every: got 5; the shortest stage that is to have non-local blocks has 4 residual blocks. Use 4."
    )
    assert models.check_options("nonlocal_resnet50", {"every": 6, "stages": [False, False, True, False]}) == []
    given = {"nonlocal_every": 4, "nonlocal_stages": (True, False, False)}
    (problem,) = models.check_options("sb_resnet29_cifar", given)
    assert problem.option == "nonlocal_every"
    assert models.check_options("sb_resnet29_cifar", {"nonlocal_every": 4}) == []


def test_networks_without_authors_code_load_no_checkpoint() -> None:
    state = {"fc.weight": torch.zeros(2, 256)}
    with pytest.raises(models.AuthorsCheckpointError, match="no code of its authors"):
        models.load_authors_checkpoint("nonlocal_resnet56_cifar", state)
    both = models.create_model("sb_resnet29_cifar", num_classes=2, nonlocal_stages=(False, False, True))
    with pytest.raises(models.AuthorsOptionError, match="no non-local blocks"):
        models.load_authors_checkpoint(both, state)


def test_exports_for_any_batch() -> None:
    options = {"nonlocal_stages": (False, False, True), "nonlocal_pool_keys": True, "pooled_size": 4}
    network = models.create_model("sb_resnet29_cifar", num_classes=2, **options).double().eval()
    for module in network.modules():
        if isinstance(module, NonLocal):
            torch.nn.init.ones_(module.bn.weight)
    batch = torch.export.Dim("batch", min=1, max=64)
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    exported = torch.export.export(network, (images,), dynamic_shapes=({0: batch},)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(images[:1]), network(images[:1]), rtol=1e-9, atol=1e-9)

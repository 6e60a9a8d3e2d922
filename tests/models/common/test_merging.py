"""Merged layers against the same layers run one by one; whole networks against their formulas."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import models
from models.common.merging import convolved, may_merge, normed_conv
from models.common.staged import in_cpu_order
from tests.support.networks.plain_networks import assert_equals_plain, stir


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adaptive_resnet26_small", {}),
        ("local_resnet26_small", {}),
        ("fcvit_micro_cifar", {}),
        *(("lesa_resnet26_cifar", {"position_embedding": form}) for form in ("classification", "detection", "none")),
        ("lesa_resnet26_cifar", {"unary": "1x1", "fusion": "none"}),
        ("sa_resnet26_cifar", {}),
        *(("lsas_resnet29_cifar", {"order": order}) for order in (0, 1, 5)),
        ("senet_resnet29_cifar", {}),
        ("sb_resnet29_cifar", {}),
        *(
            ("sb_resnet_cifar", {"depth": 11, "pooled_size": 4, **options})
            for options in (
                {"mixing": "linear", "key_size": 2, "attention": "se"},
                {"read_point": "block_input", "join_point": "conv2_input"},
                {"read_point": "block_input", "join_point": "conv3_input", "stages": "TFT", "attention": "cbam"},
                {"join_point": "conv2_input", "mixing": "linear", "bias_channels": 1},
                {"join_point": "conv3_input", "attention": "eca"},
                {"read_point": "conv2_output", "join_point": "conv2_output"},
                {"read_point": "conv2_output", "join_point": "conv3_input"},
            )
        ),
        ("nonlocal_resnet56_cifar", {}),
    ],
)
def test_network_equals_its_formulas(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = models.create_model(name, num_classes=3, image_size=16, **options)
    stir(network)
    assert_equals_plain(network.double(), torch.randn(2, 3, 16, 16, dtype=torch.double))


def layers(**options: Any) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Make a convolution and a norm, in double precision, none of whose values is zero or one."""
    torch.manual_seed(0)
    conv, bn = nn.Conv2d(4, 6, **options).double(), nn.BatchNorm2d(6).double()
    for tensor in [*bn.parameters(), bn.running_mean, bn.running_var]:
        nn.init.uniform_(tensor, 0.5, 2.0)
    return conv.eval(), bn.eval()


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1, "bias": False},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "dilation": 2, "padding": 2, "groups": 2, "bias": False},
    ],
)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_folded_norm_equals_the_norm_forward_and_backward(options: dict[str, Any], momentum: float | None) -> None:
    conv, bn = layers(**options)
    bn.momentum = momentum
    x = torch.randn(3, 4, 9, 7, dtype=torch.double, requires_grad=True)
    leaves = [x, *conv.parameters(), *bn.parameters()]
    calls: list[Tensor] = []
    bn.forward = calls.append  # type: ignore[assignment]
    folded = normed_conv(conv, bn, x)
    assert calls == []
    del bn.forward
    expected = bn(conv(x))
    torch.testing.assert_close(folded, expected)
    probe = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(folded, leaves, probe), torch.autograd.grad(expected, leaves, probe), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("listener", ["conv", "bn"])
def test_a_hook_on_either_layer_is_called(listener: str) -> None:
    conv, bn = layers(kernel_size=1)
    seen: list[Tensor] = []
    hook = {"conv": conv, "bn": bn}[listener].register_forward_hook(lambda module, given, y: seen.append(y))
    x = torch.randn(3, 4, 9, 7, dtype=torch.double)
    y = normed_conv(conv, bn, x)
    assert len(seen) == 1 and not may_merge(x, conv, bn)
    hook.remove()
    torch.testing.assert_close(normed_conv(conv, bn, x), y)
    assert may_merge(x, conv, bn)


def test_training_norms_see_the_map_and_small_maps_are_normed_by_themselves() -> None:
    conv, bn = layers(kernel_size=3)
    calls: list[Tensor] = []
    bn.register_forward_pre_hook(lambda module, given: calls.append(given[0]))
    x = torch.randn(2, 4, 3, 3, dtype=torch.double)
    torch.testing.assert_close(normed_conv(conv, bn, x), bn(conv(x)))
    bn.train()
    before = bn.running_mean.clone()
    normed_conv(conv, bn, x)
    assert not torch.equal(bn.running_mean, before)


def test_hooks_of_a_gate_are_called_without_gradients() -> None:
    network = models.create_model("senet_resnet29_cifar", num_classes=2).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        logits = network(images)
        seen: list[Tensor] = []
        for block in network.stages[0]:
            block.gate.register_forward_hook(lambda module, given, y: seen.append(y))
        torch.testing.assert_close(network(images), logits)
    assert len(seen) == 3


@pytest.mark.parametrize("name", ["lsas_resnet29_cifar", "sb_resnet29_cifar", "nonlocal_resnet56_cifar"])
def test_maps_keep_the_order_that_is_fast_on_a_cpu(name: str) -> None:
    network = models.create_model(name, num_classes=2).eval()
    for images in (torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)):
        maps = network.forward_intermediates(images, intermediates_only=True)
        assert all(feature.is_contiguous(memory_format=torch.channels_last) for feature in maps)


PATHS = {
    "few images, one thread": ((2, 16, 32, 24), {"out_channels": 12, "kernel_size": 1}, (16, 16, 1, 96)),
    "the same with a bias": ((1, 8, 33, 32), {"out_channels": 12, "kernel_size": 1, "bias": True}, (16, 8, 1, 66)),
    "few positions": ((2, 16, 16, 16), {"out_channels": 4, "kernel_size": 1}, (2, 16, 16, 16)),
    "odd channels": ((2, 19, 16, 16), {"out_channels": 4, "kernel_size": 1}, (16, 19, 1, 32)),
    "odd channels, few positions": ((2, 19, 8, 8), {"out_channels": 4, "kernel_size": 1}, (2, 19, 8, 8)),
    "heavy weight, stride": ((2, 8, 5, 5), {"out_channels": 200, "kernel_size": 1, "stride": 2}, (2, 8, 3, 3)),
    "light weight, stride": ((2, 8, 9, 9), {"out_channels": 12, "kernel_size": 1, "stride": 2}, (2, 8, 9, 9)),
    "heavy 3x3": ((2, 8, 4, 4), {"out_channels": 40, "kernel_size": 3, "padding": 1}, "default layout"),
    "light 3x3": ((2, 8, 9, 9), {"out_channels": 12, "kernel_size": 3, "padding": 1}, (2, 8, 9, 9)),
}


@pytest.mark.parametrize("case", PATHS)
def test_convolutions_of_channels_last_maps_take_the_measured_path(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, options, path = PATHS[case]
    torch.manual_seed(0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    conv = nn.Conv2d(shape[1], **{"bias": False, **options})
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    read: list[Tensor] = []
    convolve = torch.nn.functional.conv2d
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "conv2d", lambda x, *more: (read.append(x), convolve(x, *more))[1])
        y = convolved(conv, x)
    is_default = read[0].is_contiguous()
    assert path == ("default layout" if is_default else tuple(read[0].shape))
    assert y.is_contiguous(memory_format=torch.channels_last)
    in_double = copy.deepcopy(conv).double()
    x_in_double = x.detach().double().requires_grad_()
    expected = in_double(x_in_double)
    probe = torch.randn_like(expected)
    found = torch.autograd.grad(y, [x, *conv.parameters()], probe.float())
    torch.testing.assert_close(y, expected.float(), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(
        found, torch.autograd.grad(expected, [x_in_double, *in_double.parameters()], probe), strict=True
    ):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("listener", ["forward", "backward", "global"])
def test_a_hook_of_a_convolution_sees_its_map(listener: str) -> None:
    conv, x = nn.Conv2d(8, 12, 1), torch.randn(2, 8, 32, 24).contiguous(memory_format=torch.channels_last)
    seen: list[nn.Module] = []
    register = {
        "forward": conv.register_forward_pre_hook,
        "backward": conv.register_full_backward_pre_hook,
        "global": nn.modules.module.register_module_forward_pre_hook,
    }[listener]
    hook = register(lambda module, given: seen.append(module))
    y = convolved(conv, x)
    y.sum().backward()
    hook.remove()
    assert seen == [conv] and not torch.equal(y, torch.zeros_like(y))


def test_networks_of_large_images_compute_the_same_in_either_layout() -> None:
    torch.manual_seed(0)
    network = models.create_model("nonlocal_resnet50", num_classes=3, image_size=64)
    stir(network)
    images, losses = torch.randn(2, 3, 64, 64), []
    for layout in (True, False):
        network.channels_last_on_cpu = layout
        network.zero_grad()
        loss = network.train()(images).square().sum()
        loss.backward()
        losses.append([loss.detach(), network.stem.conv.weight.grad, network.stages[3][0].spatial.weight.grad])
    for ours, theirs in zip(*losses, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


@pytest.mark.parametrize("case", [case for case in PATHS if "heavy" in case])
def test_layouts_allow_batches_of_gradients_and_forward_mode(case: str) -> None:
    shape, options, _ = PATHS[case]
    conv = nn.Conv2d(shape[1], bias=False, **options)
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    y, expected = convolved(conv, x), conv(x)
    probes = torch.randn(2, *y.shape)
    batches = [torch.autograd.grad(form, x, probes, is_grads_batched=True)[0] for form in (y, expected)]
    torch.testing.assert_close(*batches, rtol=1e-4, atol=1e-4)
    with forward_ad.dual_level():
        moved = convolved(conv, forward_ad.make_dual(x.detach(), torch.ones_like(x)))
        torch.testing.assert_close(forward_ad.unpack_dual(moved).tangent, conv(torch.ones_like(x)))


def test_torch_func_takes_maps_that_have_an_order_on_a_cpu() -> None:
    x = torch.randn(3, 2, 4, 4)
    gradients = torch.func.vmap(torch.func.grad(lambda image: in_cpu_order(image[None]).pow(2).sum()))(x)
    torch.testing.assert_close(gradients, 2 * x)
    ordered = torch.compile(in_cpu_order, backend="eager", fullgraph=True)(x)
    assert ordered.is_contiguous(memory_format=torch.channels_last)

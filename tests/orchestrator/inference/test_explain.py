"""Numbers of `explain` against known values, and pictures of every family."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models.adaptive_span.network import AdaptiveSpanResNet
from models.fcvit.context import GlobalContext
from models.lesa.attention import LocallyEnhancedAttention
from models.lesa.binary_term import BinaryTerm
from models.lsas.sub_attention import SubAttention
from models.spatial_bias.bias import SpatialBias
from orchestrator.errors import CheckpointError, ExplainError
from orchestrator.inference.explain import explain_network
from orchestrator.inference.explain.bias_channels import _numbers as numbers_of_bias
from orchestrator.inference.explain.compared import Comparison, load_compared
from orchestrator.inference.explain.grad_cam import bias_rates, grad_cam
from orchestrator.inference.explain.irrelevance import (
    attention_of_vit,
    irrelevance,
    mean_pairwise_cosine,
)
from orchestrator.inference.explain.lesa_terms import _self_weight, _shares
from orchestrator.inference.explain.regions import ink, regions_for
from orchestrator.inference.explain.spans import span_records
from orchestrator.inference.explain.subject import EXPLAINERS, layers_of
from orchestrator.inference.trained_network import TrainedNetwork
from tests.support.networks.random_images import noise
from tests.support.networks.tiny_networks import SIDE, TINY

pytestmark = pytest.mark.usefixtures("one_thread")


def untrained(network: nn.Module) -> TrainedNetwork:
    network.class_names = tuple("abc")
    return TrainedNetwork(network=network.eval(), label="known", name="tiny", options={}, epoch=1, checkpoint_bytes=0)


PICTURES = {
    "conv": [],
    "adaptive": ["span_masks", "span_trajectories", "spans"],
    "fcvit": ["similarity_maps"],
    "lesa": ["lesa_gates", "lesa_terms", "query_irrelevance"],
    "lsas": ["gates"],
    "spatial_bias_with_nonlocal": ["bias_channels", "bias_weights"],
}


@pytest.mark.parametrize("family", PICTURES)
def test_every_family_has_its_pictures_and_numbers(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reports = {epoch: {"span/layer0_head0_px": 0.1 * epoch, "span/layer0_px": 1.0} for epoch in (1, 2)}
    known = dataclasses.replace(untrained(TINY[family]()), reports=reports)
    regions = torch.zeros(6, SIDE, SIDE, dtype=torch.bool)
    regions[:, 2:4, 2:4] = True
    state = {key: value.clone() for key, value in known.network.state_dict().items()}
    found = explain_network(known, noise(), tmp_path / "new", regions=regions, drawn=2)
    names = [path.stem for path in found.pictures]
    assert names == sorted(["bias_rates", "grad_cam", *PICTURES[family]])
    for path in found.pictures:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 200
    table = json.loads((tmp_path / "new" / "explain.json").read_text())
    assert table["network"] == "tiny"
    assert table["grad_cam"]["rates"]["threshold"] == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert all(torch.equal(value, state[key]) for key, value in known.network.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in known.network.modules())


def test_learned_spans_are_reported_in_pixels(tmp_path: Path) -> None:
    network = AdaptiveSpanResNet(
        depths=(1,), widths=(8,), strides=(1,), num_heads=2, max_span=5, ramp=1.0, num_classes=3
    )
    network.stages[0][0].spatial.span.data = torch.tensor([0.0, 0.5])
    found = explain_network(
        untrained(network), noise(), tmp_path, drawn=1, compare=[Comparison("vit_tiny_patch16_224")]
    )
    networks = json.loads((tmp_path / "explain.json").read_text())["query_irrelevance"]["networks"]
    (beside,) = networks.items()
    assert beside[0] == "vit_tiny_patch16_224 (untrained)"
    assert (beside[1]["trained"], len(beside[1]["layers"])) == (False, 12)
    assert "query_irrelevance" in [path.stem for path in found.pictures]
    (layer,) = found.numbers["adaptive_span"]["layers"].values()
    assert layer["span_px"] == [0.0, 2.5]
    assert layer["window_px"] == [3, 9]  # z S + R is 1 and 3.5
    assert found.numbers["adaptive_span"]["trajectories_of"].startswith("nothing")
    assert "rates" not in found.numbers["grad_cam"]


def test_recorded_heads_are_preferred_to_means_of_layers() -> None:
    reports = {
        1: {"span/layer0_px": 2.0, "span/layer0_head1_px": 3.0, "span/layer1_px": 1.0, "span/mean_px": 9.0},
        2: {"span/layer0_head1_px": 2.5, "span/layer1_px": 0.5, "val/top1": 0.9},
    }
    assert span_records(reports) == {(0, 1): {1: 3.0, 2: 2.5}, (1, None): {1: 1.0, 2: 0.5}}
    assert span_records({1: {"val/top1": 0.5}}) == {}


def test_cosines_of_known_rows() -> None:
    same = torch.tensor([[1.0, 2.0], [2.0, 4.0], [0.5, 1.0]])
    assert mean_pairwise_cosine(same) == pytest.approx(1)
    assert mean_pairwise_cosine(torch.eye(4)) == pytest.approx(0)
    assert mean_pairwise_cosine(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])) == pytest.approx(1 / 3)
    uniform = irrelevance(torch.full((2, 3, 4, 4), 0.25))
    assert uniform == pytest.approx({"cosine_over_queries": 1, "cosine_over_heads": 1, "entropy_over_uniform": 1})
    own = irrelevance(torch.eye(4).expand(2, 3, 4, 4))
    assert own == pytest.approx({"cosine_over_queries": 0, "cosine_over_heads": 1, "entropy_over_uniform": 0}, abs=1e-6)


def binary_term(position_embedding: str) -> BinaryTerm:
    term = BinaryTerm(8, map_size=(2, 3), groups=2, position_embedding=position_embedding).eval().requires_grad_(False)
    term.qkv.conv.weight.zero_()
    term.qkv.bn.bias.fill_(1.0)  # queries, keys and values are all ones
    return term


def test_the_self_weight_of_known_attention() -> None:
    term = binary_term("classification")
    assert term.flattened is not None
    term.flattened.table.zero_()
    x = torch.randn(2, 8, 2, 3)
    assert _self_weight(term.attention(x)) == pytest.approx({"self_weight": 1 / 6, "uniform_weight": 1 / 6})
    term.flattened.table[: term.qk_chs, 5] = 100.0  # distance 0
    torch.testing.assert_close(term.attention(x), torch.eye(6).expand(2, 2, 6, 6))
    term.flattened.table.zero_()
    term.flattened.table[: term.qk_chs, 6] = 100.0  # the position before
    assert (term.attention(x)[:, :, 3, 2] > 0.99).all()


def test_the_explained_attention_is_the_one_in_use() -> None:
    torch.manual_seed(0)
    for position_embedding in ("none", "detection"):
        term = BinaryTerm(8, map_size=(2, 3), groups=2, position_embedding=position_embedding).eval()
        x = torch.randn(2, 8, 2, 3)
        values = term.qkv(x).flatten(2).unflatten(1, (2, -1))[:, :, 2 * term.qk_chs :]  # (B, groups, v, N)
        attended = torch.einsum("bgij,bgdj->bgdi", term.attention(x), values).flatten(1, 2).unflatten(2, (2, 3))
        torch.testing.assert_close(term.bn_output(attended), term(x))


def test_terms_are_compared_after_the_gate() -> None:
    unary, binary = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.tensor([0.0, 10.0]).view(1, 2, 1, 1)
    assert _shares(unary, torch.tensor(0.5), binary)["unary_share"] == pytest.approx(0.5)
    assert _shares(unary, None, binary)["binary_share"] == pytest.approx(10 / 15)
    assert _shares(None, None, binary) == {"unary_share": 0.0, "binary_share": 1.0}
    layer = LocallyEnhancedAttention(
        8,
        map_size=(2, 2),
        groups=2,
        position_embedding="classification",
        unary="grouped",
        fusion="full",
        fusion_shrinks=[2],
    ).eval()
    x = torch.randn(2, 8, 2, 2)
    terms = layer.terms(x)
    assert terms[0] is not None
    assert terms[1] is not None
    assert terms[2] is not None
    torch.testing.assert_close(layer(x), terms[0] + terms[1] * terms[2])


def test_layers_without_attention_have_no_explanation_of_it() -> None:
    shape = {"map_size": (2, 2), "groups": 2, "position_embedding": "none", "fusion": "full", "fusion_shrinks": [2]}
    for binary in (True, False):
        layer = LocallyEnhancedAttention(8, unary="dcn", binary=binary, **shape)
        assert bool(layers_of(layer, EXPLAINERS["lesa"][0])) == binary


def test_the_factors_of_a_gate_are_those_of_the_paper() -> None:
    sub = SubAttention(4, order=2)
    factors = sub.factors(torch.zeros(1, 4))
    assert [float(factor.detach()[0, 0]) for factor in factors] == pytest.approx([0.5, 0.3775, 0.3208], abs=1e-4)
    product = torch.stack(factors).prod(0)
    torch.testing.assert_close(sub(torch.zeros(1, 4)), product)
    assert float(product.detach()[0, 0]) == pytest.approx(0.0606, abs=1e-4)


def test_weights_of_cells_that_feed_only_themselves() -> None:
    bias = SpatialBias(4, bias_channels=2, key_size=3, pooled_size=3).requires_grad_(False)
    bias.mix.weight.zero_()
    bias.mix.weight[torch.arange(9), torch.arange(9), 1] = 2.0
    torch.testing.assert_close(bias.position_weights(), 2 * torch.eye(9))
    numbers = numbers_of_bias(bias.position_weights(), bias(torch.randn(2, 4, 6, 6)))
    assert (numbers["weight_on_itself"], numbers["mean_distance_of_weights"]) == (1.0, 0.0)
    even = numbers_of_bias(torch.ones(9, 9), torch.zeros(1, 2, 3, 3))
    assert even["mean_distance_of_weights"] == pytest.approx(even["mean_distance_uniform"])


def test_similarity_maps_weigh_the_context() -> None:
    torch.manual_seed(0)
    context = GlobalContext(8, num_heads=2, gc_reduction=2, similarity=True, competition=True).requires_grad_(False)
    x = torch.randn(2, 8, 3, 4)
    maps = context.similarity_maps(x)
    assert maps.shape == (2, 2, 3, 4)
    added = maps.repeat_interleave(4, dim=1) * context.context(x.mean((2, 3)))[:, :, None, None]
    torch.testing.assert_close(context(x), x + added)


class HalvesOfOneMap(nn.Module):
    """Network whose logits are the sum of the map and its negative."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.map(x).sum((1, 2, 3))
        return torch.stack([total, -total], dim=1)


def test_grad_cam_finds_a_late_map_of_any_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    maps = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
    network = nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    assert explain_network(untrained(network), noise(), tmp_path, drawn=2).numbers["grad_cam"]["layer"] == "2"
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3))
    with pytest.raises(ExplainError, match="no layer of this network returns a map"):
        explain_network(untrained(flat), noise(), tmp_path, drawn=2)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExplainError, match=r"--output .*file: is a file; name a folder, such as .*file-explained"):
        explain_network(untrained(network), noise(), tmp_path / "file", drawn=2)


def test_grad_cam_of_a_map_that_is_summed_is_the_map() -> None:
    images = torch.rand(3, 1, 4, 4).requires_grad_()
    found = grad_cam(HalvesOfOneMap(), "map", images, torch.tensor([0, 1, 0]))
    torch.testing.assert_close(found[[0, 2]], images.detach()[[0, 2], 0])
    assert (found[1] == 0).all()
    with pytest.raises(ExplainError, match=r"--layer mop: no such layer\. Did you mean 'map'"):
        grad_cam(HalvesOfOneMap(), "mop", images, torch.zeros(3, dtype=torch.long))
    network = TINY["lsas"]().eval()
    with pytest.raises(ExplainError, match=r"--layer head\.fcc: no such layer\. Did you mean 'head\.fc'"):
        grad_cam(network, "head.fcc", torch.randn(2, 3, SIDE, SIDE), torch.tensor([0, 1]))
    for layer in ("head.fc", "head.global_pool"):
        with pytest.raises(ExplainError, match=f"--layer {layer}: (its output is no map|Grad-CAM cannot read it)"):
            grad_cam(network, layer, torch.randn(2, 3, SIDE, SIDE), torch.tensor([0, 1]))


def test_bias_rates_of_known_boxes() -> None:
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[2:6, 2:6] = True
    contained, beside, beyond, nothing = torch.zeros(4, 8, 8)
    contained[3:5, 3:5] = 1.0
    beside[0:2, 0:2] = 1.0
    beyond[2:4, 2:4], beyond[0:2, 2:4] = 1.0, 0.5
    rates = bias_rates(torch.stack([contained, beside, beyond, nothing]), region.expand(4, 8, 8), (0.3, 0.5, 0.6))
    assert rates["position_bias"] == pytest.approx([1 / 3] * 3)
    assert rates["range_bias"] == pytest.approx([1 / 3, 1 / 3, 0])
    assert rates["outside"] == pytest.approx([(0 + 1 + 0.5) / 3, (0 + 1 + 0.5) / 3, 1 / 3])
    assert rates["coverage"] == pytest.approx([(4 + 0 + 4) / 16 / 3] * 3)
    assert np.isnan(bias_rates(nothing[None], region[None])["range_bias"]).all()


def test_ink_differs_from_the_border() -> None:
    dark, light = torch.zeros(1, 6, 6), torch.ones(1, 6, 6)
    dark[0, 2:4, 3], light[0, 1:5, 2] = 0.9, 0.2
    dark[0, 4, 3] = 0.3
    found = ink(torch.stack([dark, light, torch.full((1, 6, 6), 0.4)]))
    assert found.sum((1, 2)).tolist() == [2, 4, 0]
    assert found[0, 2:4, 3].all()
    assert found[1, 1:5, 2].all()


def test_regions_come_from_boxes_and_masks(tmp_path: Path) -> None:
    images = dataclasses.replace(noise(2, side=8), positions=(3, 7))
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("image,x0,y0,x1,y1\n3,1,2,4,6\n3,0,0,1,1\n5,0,0,8,8\n")
    regions, origin = regions_for(images, boxes)
    assert regions is not None
    assert origin == "boxes of boxes.csv"
    assert regions.sum((1, 2)).tolist() == [13, 0]
    assert regions[0, 2:6, 1:4].all()
    # resized by a half to 16 x 10, of which the middle 8 x 8 are seen
    files = dataclasses.replace(images, crop_pct=0.8, sizes_px=((32, 20), (32, 20)))
    boxes.write_text("image,x0,y0,x1,y1\n7,10,4,14,18\n")
    regions, _ = regions_for(files, boxes)
    assert regions is not None
    assert regions[1].nonzero().amin(0).tolist() == [1, 1]
    assert regions[1].nonzero().amax(0).tolist() == [7, 2]
    masks = np.zeros((8, 8, 8), dtype=bool)
    masks[7, 0] = True
    np.savez(tmp_path / "masks.npz", masks=masks)
    regions, _ = regions_for(images, tmp_path / "masks.npz")
    assert regions is not None
    assert regions.sum((1, 2)).tolist() == [0, 8]
    assert regions_for(images, None)[0] is None
    boxes.write_text("image,x0\n1,2\n")
    (tmp_path / "boxes.txt").write_text("")
    np.savez(tmp_path / "small.npz", masks=masks[:3])
    for name, why in {
        "boxes.csv": "its first line is to name the columns image, x0, y0, x1, y1",
        "boxes.txt": "give a .csv of boxes or a .npz of masks",
        "small.npz": r"has the shape \(3, 8, 8\); it is to be .*at least 8 of them",
        "gone.csv": "no such file",
    }.items():
        with pytest.raises(ExplainError, match=why):
            regions_for(images, tmp_path / name)


def npy(content: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, content)
    return buffer.getvalue()


def npz(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("masks.npy", content)
    return buffer.getvalue()


def npy_of_shape(*shape: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|b1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


HEAD = b"image,x0,y0,x1,y1\n"
DAMAGED = {
    "words.npz": b"words",
    "empty.npz": b"",
    "array.npz": npy(np.zeros((8, 8, 8))),
    "zip.npz": b"PK\x03\x04" + bytes(60),
    "cut.npz": npz(npy(np.zeros((8, 8, 8))))[:90],
    "changed.npz": npz(npy(np.zeros((8, 8, 8)))).replace(bytes(99), bytes(98) + b"1"),
    "bytes.npz": npz(b"words"),
    "huge.npz": npz(npy_of_shape(1 << 50, 8, 8)),
    "objects.npz": npz(npy(np.full((8, 8, 8), None, dtype=object))),
    "texts.npz": npz(npy(np.full((8, 8, 8), "x"))),
    "pairs.npz": npz(npy(np.zeros((8, 8, 8), dtype="f4,f4"))),
    "nan.csv": HEAD + b"3,nan,0,2,2\n",
    "infinite.csv": HEAD + b"3,0,0,2,inf\n",
    "large.csv": HEAD + b"3,0,0,2,1e400\n",
    "latin.csv": "image,x0,y0,x1,y1,name\n3,0,0,2,2,caf\xe9\n".encode("latin-1"),
    "nul.csv": HEAD + b"3,0,0\0,2,2\n",
    "long.csv": HEAD + b"3,0,0,2," + b"1" * 200_000 + b"\n",
    "digits.csv": HEAD + b"9" * 5000 + b",0,0,2,2\n",
    "short.csv": HEAD + b"3,0\n",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_regions_are_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    images = dataclasses.replace(noise(2, side=8), positions=(3, 7))
    with pytest.raises(ExplainError, match=f"--regions {path}: ") as caught:
        regions_for(images, path)
    assert "\n" not in str(caught.value)


def test_a_vit_of_timm_is_loaded_for_comparison() -> None:
    images = noise(2, channels=1, side=8)
    (found,) = load_compared([Comparison("vit_tiny_patch16_224")], images, 10)
    rows = attention_of_vit(found.network, found.inputs)
    assert len(rows) == 12
    for attention in rows.values():
        assert attention.shape == (2, 3, 17, 17)  # 4 x 4 patches and the class token
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, 3, 17))
    with pytest.raises(CheckpointError, match=r"vit_tinny_patch16_224: timm has no such network\. Did you mean"):
        load_compared([Comparison("vit_tinny_patch16_224")], images, 10)
    with pytest.raises(CheckpointError, match=r"--compare xyz: .* `spatialsweep models --timm '\*vit\*'` lists names$"):
        load_compared([Comparison("xyz")], images, 10)
    with pytest.raises(CheckpointError, match="--compare resnet18: "):
        load_compared([Comparison("resnet18")], images, 10)

"""Attention at query points: what is read, the numbers of known maps, and the pictures of several networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from orchestrator.errors import ExplainError
from orchestrator.inference.explain import explain_network
from orchestrator.inference.explain.compared import ComparedNetwork, Comparison
from orchestrator.inference.explain.irrelevance import attention_of_vit, irrelevance
from orchestrator.inference.explain.query_maps import QUERIES, Reading, query_points, read_attention
from orchestrator.inference.trained_network import TrainedNetwork
from tests.support.networks.random_images import noise
from tests.support.networks.tiny_networks import TINY

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 8  # of the images, in pixels: 4 x 4 patches


def transformer(name: str = "test_vit", *, count: int = 10) -> ComparedNetwork:
    torch.manual_seed(0)
    network = timm.create_model(name, img_size=SIDE, patch_size=2, num_classes=3).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return ComparedNetwork(name, "untrained", network, noise(count, side=SIDE).inputs)


@pytest.mark.parametrize(("name", "other_tokens"), [("test_vit", 1), ("deit_tiny_distilled_patch16_224", 2)])
def test_the_rows_of_the_queries_are_read_without_other_tokens(name: str, other_tokens: int) -> None:
    compared = transformer(name)
    reading = read_attention(compared, [(0.5, 0.5), (0.0, 0.9), (1.0, 1.0)])
    assert reading.cells == ((2, 2), (3, 0), (3, 3))
    attention = attention_of_vit(compared.network, compared.inputs)
    assert reading.block == list(attention)[-1]
    last = attention[reading.block]
    assert last.shape[-1] == 16 + other_tokens
    for query, place in enumerate((10, 12, 15)):
        expected = last[:, :, other_tokens + place, other_tokens:].unflatten(-1, (4, 4))
        torch.testing.assert_close(reading.maps[:, :, query], expected)
    for block, rows in attention.items():  # in two batches as in one
        assert reading.layers[block] == pytest.approx(irrelevance(rows), abs=1e-6)
    fused: Any = compared.network.blocks[0].attn.fused_attn
    assert fused == timm.create_model(name).blocks[0].attn.fused_attn


def test_numbers_of_known_maps() -> None:
    maps = torch.zeros(1, 2, 2, 2, 3)  # images, heads, queries, rows, columns
    maps[0, 0] = 0.1
    maps[0, 1, 0, 0, 0] = 0.5
    maps[0, 1, 1, 1, 2] = 0.25
    numbers = Reading(transformer(count=1), {}, "blocks.11.attn", ((0, 0), (1, 2)), maps).numbers()
    assert (numbers["block"], numbers["head"], numbers["patches"]) == ("blocks.11.attn", 1, [2, 3])
    assert numbers["query_cells"] == [[0, 0], [1, 2]]
    assert numbers["weight_on_patches"] == pytest.approx(0.375)
    assert numbers["share_of_5_largest"] == pytest.approx(1)
    assert numbers["cosine_between_queries"] == pytest.approx(0)
    assert numbers["cosine_between_heads"] == pytest.approx(6**-0.5)
    uniform = Reading(transformer(count=1), {}, "b", ((0, 0), (1, 2)), torch.full((1, 2, 2, 2, 3), 0.1)).numbers()
    assert uniform["share_of_5_largest"] == pytest.approx(5 / 6)
    assert uniform["cosine_between_queries"] == pytest.approx(1)


def red_pixels(path: Path) -> int:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert pixels.std() > 10, "blank"
    return int(((pixels[..., 0] > 240) & (pixels[..., 1:].max(-1) < 40)).sum())


def test_pictures_of_several_networks_beside_fcvit(tmp_path: Path) -> None:
    network = TINY["fcvit"]().eval()
    network.class_names = tuple("abc")
    trained = TrainedNetwork(network=network, label="known", name="tiny", options={}, epoch=1, checkpoint_bytes=0)
    torch.save(transformer().network.state_dict(), tmp_path / "vit.pth")
    beside = [
        Comparison("test_vit", str(tmp_path / "vit.pth")),
        Comparison("deit_tiny_distilled_patch16_224"),
    ]
    found = explain_network(
        trained, noise(3, side=SIDE), tmp_path / "out", drawn=1, compare=beside, queries=[(0.1, 0.9)]
    )
    names = {path.stem for path in found.pictures}
    last_blocks = {
        "last_block_maps_test_vit",
        "last_block_maps_deit_tiny_distilled_patch16_224_untrained",
    }
    assert names == {"grad_cam", "query_irrelevance", "query_maps", "similarity_maps", *last_blocks}
    for name in ("query_maps", *last_blocks):
        assert red_pixels(tmp_path / "out" / f"{name}.png") > 50
    table = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert table["query_maps"]["queries"] == [[0.1, 0.9]]
    networks = table["query_maps"]["networks"]
    assert list(networks) == [
        "test_vit", "deit_tiny_distilled_patch16_224 (untrained)"
    ]  # fmt: skip
    assert all(numbers["query_cells"] == [[3, 0]] for numbers in networks.values())
    assert {numbers["patches"][0] for numbers in networks.values()} == {4}
    assert networks["deit_tiny_distilled_patch16_224 (untrained)"]["head"] == 2
    assert table["query_irrelevance"]["networks"]["test_vit"]["trained"]


def test_an_explained_transformer_is_drawn_itself(tmp_path: Path) -> None:
    network: Any = transformer(count=2).network
    network.class_names = tuple("abc")
    trained = TrainedNetwork(network=network, label="known", name="own", options={}, epoch=1, checkpoint_bytes=0)
    found = explain_network(trained, noise(2, side=SIDE), tmp_path, drawn=1, layer="patch_embed.proj")
    names = [path.stem for path in found.pictures]
    assert names == ["grad_cam", "last_block_maps_own", "query_irrelevance", "query_maps"]
    assert list(found.numbers["query_maps"]["networks"]) == ["own"]
    assert found.numbers["query_maps"]["queries"] == [list(point) for point in QUERIES]
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_query_points_need_a_network_with_attention(tmp_path: Path) -> None:
    network = TINY["fcvit"]().eval()
    network.class_names = tuple("abc")
    trained = TrainedNetwork(network=network, label="known", name="tiny", options={}, epoch=1, checkpoint_bytes=0)
    with pytest.raises(ExplainError, match=r"--query: tiny is no vision transformer, .* --compare"):
        explain_network(trained, noise(2, side=SIDE), tmp_path / "out", queries=[(0.5, 0.5)])


def test_query_points_are_shares_of_the_image() -> None:
    assert query_points([]) == ()
    assert query_points(["0.5,0.25", "1, 0"]) == ((0.5, 0.25), (1.0, 0.0))
    for text in ("0.5", "2,0", "a,b", "0.1,0.2,0.3", "nan,0.5"):
        with pytest.raises(ExplainError, match=f"--query {text}: give X,Y as shares of width and height"):
            query_points([text])

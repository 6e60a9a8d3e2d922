"""Networks of timm, and of files of the user's own: options of their signatures, and costs by hand or by torch."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import models

DATA: dict[str, Any] = {"image_size": 8, "in_chans": 1, "num_classes": 10}
LINEAR = """
from torch import nn

def make(num_classes, in_chans, img_size, width: int = 4, *, act: str = "relu", rate=0.0, shape: tuple[int, ...] = ()):
    if act not in ("relu", "gelu"):
        raise ValueError(f"no activation {act}")
    hidden = nn.Linear(in_chans * img_size**2, width)
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(width, num_classes))

def reads_values(num_classes, in_chans):
    network = make(num_classes, in_chans, 8)
    if float(network[1].weight.detach().sum()) == 0.0:
        raise ValueError("all weights are zero")
    return network

def attends(num_classes, in_chans):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, num_classes)

        def forward(self, x):
            rows = x[:, 0]
            return self.head(self.attention(rows, rows, rows, need_weights=False)[0].mean(1))
    return Attends()

def any_option(num_classes, in_chans, **others):
    return make(num_classes, in_chans, 8, **others)

def needs_depth(num_classes, in_chans, depth: int):
    return make(num_classes, in_chans, 8)

def no_logits(num_classes, in_chans):
    return nn.Conv2d(in_chans, 3, 3)

def no_module(num_classes, in_chans):
    return 5

def lazy(num_classes, in_chans):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

def no_classes(in_chans):
    return make(10, in_chans, 8)

class Whole(nn.Sequential):
    def __init__(self, num_classes, in_chans, width=4):
        super().__init__(*make(num_classes, in_chans, 8, width))
"""


@pytest.fixture(autouse=True, scope="module")
def _files() -> None:
    models.register_network_file("nets.py", LINEAR)


def only_problem(name: str, options: dict[str, Any] | None = None) -> str:
    (problem,) = models.check_options(name, options or {}, **DATA)
    return str(problem)


def test_costs_of_a_file_are_those_by_hand() -> None:
    # 64 x 6 + 6 and 6 x 10 + 10 learned numbers; 64 x 6 + 6 x 10 products
    assert models.model_cost("nets.py:make", {"width": 6}, **DATA) == models.ModelCost(params=460, macs=444)
    assert models.model_params("nets.py:make", {"width": 6}, **DATA) == 460
    assert models.model_cost("nets.py:Whole", {"width": 6}, **DATA) == models.ModelCost(params=460, macs=444)


def test_a_network_that_reads_values_is_counted_on_the_cpu_without_drawing_the_callers_numbers() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert models.model_cost("nets.py:reads_values", {}, **DATA).macs == 64 * 4 + 4 * 10
    assert torch.equal(torch.rand(3), expected)


def test_torchs_own_attention_is_counted_as_its_products() -> None:
    # 8 rows of 8: in 8 x 24, scores and sums 8 x 8 each per row, out 8 x 8; then the head
    assert models.model_cost("nets.py:attends", {}, **DATA).macs == 8 * 8 * 24 + 2 * 8 * 8 * 8 + 8 * 8 * 8 + 8 * 10


@pytest.mark.parametrize(
    ("name", "options"),
    [("test_resnet", {}), ("test_vit", {"depth": 2}), ("test_efficientnet", {"drop_path_rate": 0.1})],
)
def test_costs_of_timm_are_those_of_torchs_counter(name: str, options: dict[str, Any]) -> None:
    network = models.create_model(name, num_classes=7, in_chans=3, image_size=64, **options).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network(torch.zeros(1, 3, 64, 64))
    found = models.model_cost(name, options, num_classes=7, in_chans=3, image_size=64)
    assert found.macs * 2 == counter.get_total_flops()
    assert found.params == sum(parameter.numel() for parameter in network.parameters())


def test_a_network_of_timm_is_the_one_that_timm_builds() -> None:
    torch.manual_seed(1)
    ours = models.create_model("test_vit", num_classes=3, in_chans=1, image_size=32, depth=1)
    torch.manual_seed(1)
    theirs = timm.create_model("test_vit", num_classes=3, in_chans=1, img_size=32, depth=1)
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))
    assert models.model_family("test_vit") == "timm"


def test_options_are_the_keywords_of_the_signature() -> None:
    assert list(models.model_options("nets.py:make")) == ["img_size", "width", "act", "rate", "shape"]
    assert {"depth", "embed_dim", "drop_path_rate", "img_size"} <= set(models.searchable_options("test_vit"))
    assert not {"num_classes", "in_chans", "self", "pretrained"} & set(models.model_options("test_vit"))
    assert {"width_factor", "depth"} & set(models.model_options("regnety_002"))  # of its description, a dataclass


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("nets.py:make", {"widht": 4}, "nets.py:make has no option of this name. Did you mean 'width'?"),
        ("nets.py:make", {"width": 4.5}, "width: got 4.5; width is an int. Leave it out for its default."),
        ("nets.py:make", {"width": True}, "width is an int"),
        ("nets.py:make", {"rate": "high"}, "rate is a number"),
        ("nets.py:make", {"shape": "one"}, "shape is a sequence such as [2, 2]"),
        ("nets.py:make", {"act": "tanh"}, "cannot be built for these data: ValueError: no activation tanh"),
        ("nets.py:make", {"num_classes": 4}, "num_classes follows from the dataset. Leave it out."),
        ("nets.py:any_option", {"wide": 3}, "TypeError: make() got an unexpected keyword argument 'wide'"),
        ("nets.py:needs_depth", {}, "nets.py:needs_depth has no default for it. Set model.options.depth."),
        ("nets.py:no_logits", {}, "it returns (1, 3, 6, 6) for one image, not logits of shape (1, 10)"),
        ("nets.py:no_module", {}, "returns a int, not a torch.nn.Module"),
        ("nets.py:lazy", {}, "it has lazy layers"),
        ("nets.py:no_classes", {}, "the factory takes no num_classes; it is called as FACTORY(num_classes=..."),
        ("nets.py:mak", {}, "nets.py has no factory 'mak'; it defines make, reads_values, attends"),
        ("other.py:make", {}, "its file is not loaded"),
        ("test_vit", {"dept": 4}, "test_vit has no option of this name. Did you mean 'depth'?"),
        ("test_vit", {"depth": "deep"}, "depth is an int"),
        ("test_vit", {"patch_size": 16}, "cannot be built for these data"),
        ("regnety_002", {"group_siz": 4}, "Did you mean 'group_size'?"),
        (
            "test_vitt",
            {},
            "Did you mean 'test_vit'? Networks are those of `spatialsweep models`, all of timm, and FILE.py",
        ),
        ("test_vit.r160_in1k", {}, "Use 'test_vit'; its weights are model.checkpoint: timm:r160_in1k."),
    ],
)
def test_each_fault_is_one_line_with_a_remedy(name: str, options: dict[str, Any], text: str) -> None:
    assert text in only_problem(name, options)
    assert "\n" not in only_problem(name, options)
    if "." not in name.partition(":")[2] and models.name_problem(name) is None:
        with pytest.raises(models.ModelOptionError):
            models.model_cost(name, options, **DATA)


def test_sequences_may_be_written_as_text_where_they_are_searched() -> None:
    costs = [
        models.model_cost("test_resnet", {"layers": layers}, num_classes=3, in_chans=3, image_size=32)
        for layers in ("1, 1, 2, 1", [1, 1, 2, 1], (1, 1, 2, 1))
    ]
    assert costs[0] == costs[1] == costs[2]
    assert models.check_options("nets.py:make", {"shape": "2, 2"}, **DATA) == []


def test_a_changed_file_takes_the_place_of_the_former() -> None:
    name = "changed.py"
    models.register_network_file(name, LINEAR.replace("width: int = 4", "width: int = 5"))
    assert models.model_cost(f"{name}:make", {}, **DATA).params == 64 * 5 + 5 + 5 * 10 + 10
    models.register_network_file(name, LINEAR.replace("width: int = 4", "breadth: int = 4"))
    assert "Did you mean 'breadth'?" in only_problem(f"{name}:make", {"breath": 5})
    models.register_network_file(name, LINEAR)
    assert models.model_cost(f"{name}:make", {}, **DATA).params == 64 * 4 + 4 + 4 * 10 + 10


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("import torch\nimport nothing_like_it\n", "ModuleNotFoundError: No module named 'nothing_like_it' (line 2)"),
        ("x = (\n", "SyntaxError: '(' was never closed (line 1)"),
        ("def f():\n    return 1 / 0\n\nf()\n", "ZeroDivisionError: division by zero (line 2)"),
    ],
)
def test_code_that_cannot_be_run_is_reported_with_its_line(text: str, fault: str) -> None:
    with pytest.raises(models.NetworkFileError) as error:
        models.register_network_file("broken.py", text)
    assert str(error.value) == f"broken.py cannot be imported: {fault}"
    assert models.network_file("broken.py:make") is None


def test_only_names_of_a_file_and_a_factory_are_references() -> None:
    assert models.split_reference("nets/mine.py:make_network") == ("nets/mine.py", "make_network")
    assert models.split_reference("nets.mine:Network") == ("nets.mine", "Network")
    for other in ("resnet18", "hf-hub:timm/resnet18", "runs:/abc", "a.py:", ":make", "a.py:b:c", "a.py:b.c"):
        assert models.split_reference(other) is None


def test_timms_names_are_listed_without_ours() -> None:
    assert "vit_tiny_patch16_224" in models.list_timm_models("vit_tiny*")
    assert not set(models.list_timm_models()) & set(models.list_models())

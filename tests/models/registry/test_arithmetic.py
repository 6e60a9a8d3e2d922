"""Parameters and multiply-accumulates of every network, and the page that lists them."""

import dataclasses
import json
from pathlib import Path

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import models
from orchestrator.cli.main import app
from orchestrator.cli.tables import models as model_table
from orchestrator.cli.tables import stored_models as stored_module
from orchestrator.cli.tables.stored_models import STORED, stored_models, text_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "networks" / "models.md"


@pytest.fixture(scope="module")
def facts() -> list[models.ModelFacts]:
    return [models.model_facts(name) for name in models.list_models()]


def test_the_page_and_the_stored_facts_are_current(facts: list[models.ModelFacts]) -> None:
    remedy = "run: python tools/model_facts.py"
    rows = [dataclasses.asdict(entry) for entry in facts]
    assert PAGE.read_text(encoding="utf-8") == model_table.as_markdown(rows), remedy
    assert STORED.read_text(encoding="utf-8") == text_of(rows), remedy


def test_facts_of_other_sources_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources, stored = tmp_path / "models", tmp_path / "models.json"
    (sources / "family").mkdir(parents=True)
    for name in ("__init__.py", "family/network.py"):
        (sources / name).write_text(f'"""{name}"""\n')
    stored.write_text(text_of([{"name": "one", "macs": 7}], sources))
    assert stored_models(stored, sources) == {"one": {"name": "one", "macs": 7}}
    (sources / "family" / "network.py").write_text("WIDTH = 8\n")
    assert stored_models(stored, sources) == {}
    stored.write_text(text_of([{"name": "one", "macs": 8}], sources))
    (sources / "family" / "network.py").rename(sources / "network.py")
    assert stored_models(stored, sources) == {}
    for damaged in ("{", "[]", "{}", '{"sources": 1, "networks": [2]}'):
        stored.write_text(damaged)
        assert stored_models(stored, sources) == {}
    stored.write_text(text_of([{"name": "one", "macs": 9}], sources))
    assert stored_models(stored, sources)["one"]["macs"] == 9
    monkeypatch.setattr(stored_module, "version", lambda _: "0.0")
    assert stored_models(stored, sources) == {}


def test_every_network_is_counted_and_has_a_source(facts: list[models.ModelFacts]) -> None:
    assert [entry.name for entry in facts] == models.list_models()
    for entry in facts:
        assert entry.params > 100_000
        assert entry.macs > 10_000_000
        assert entry.source.startswith("arXiv:")


@pytest.mark.parametrize("name", ["sb_resnet29_cifar", "lesa_resnet26_cifar", "lsas_resnet29_cifar"])
def test_shapes_alone_count_the_same_as_images(name: str) -> None:
    facts = models.model_facts(name)
    network = timm.create_model(name).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.randn(1, *facts.input_size))
    assert facts.macs == counter.get_total_flops() // 2


def test_the_similarity_of_fcvit_counts_once_per_channel() -> None:
    assert models.model_facts("fcvit_tiny").macs == 901_541_376  # as counted on the authors' network


def test_macs_of_the_layouts_of_the_span_paper() -> None:
    """Check: a convolution of C channels costs 9 C^2 per pixel, attention to K x K windows 3 C^2 + 2 K^2 C."""
    sites = [(32, 1024), (64, 256), (128, 64)]  # channels, pixels
    conv = models.model_facts("conv_resnet26_small").macs
    assert conv == 52_316_160
    for name, side in (("local_resnet26_small", 5), ("adaptive_resnet26_small", 7)):
        difference = sum(pixels * (2 * side**2 * width - 6 * width**2) for width, pixels in sites)
        assert models.model_facts(name).macs == conv + difference


def test_options_and_images_change_what_is_counted() -> None:
    facts = models.model_facts("lsas_resnet29_cifar")
    cost = models.model_cost("lsas_resnet29_cifar", {}, num_classes=100, in_chans=3, image_size=32)
    assert (cost.params, cost.macs) == (facts.params, facts.macs)
    assert models.model_params("lsas_resnet29_cifar", {}, num_classes=100, in_chans=3, image_size=32) == cost.params
    gated = models.model_cost("lsas_resnet29_cifar", {"stages": "TTT"}, num_classes=100, in_chans=3, image_size=32)
    assert gated.params > cost.params
    small = models.model_cost("lsas_resnet29_cifar", {}, num_classes=100, in_chans=3, image_size=16)
    assert small.params == cost.params
    assert small.macs < cost.macs / 3
    with pytest.raises(models.ModelOptionError, match="stages"):
        models.model_cost("lsas_resnet29_cifar", {"stages": "TT"}, num_classes=2, in_chans=1, image_size=8)


def test_the_command_writes_json_and_a_table(monkeypatch: pytest.MonkeyPatch, facts: list[models.ModelFacts]) -> None:
    by_name = {entry.name: entry for entry in facts}
    monkeypatch.setattr(models, "model_facts", by_name.__getitem__)
    monkeypatch.setattr(stored_module, "stored_models", dict)  # as after a change in `models/`
    listed = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert listed == json.loads(json.dumps([dataclasses.asdict(entry) for entry in facts]))
    shown = CliRunner().invoke(app, ["models"]).stdout
    assert all(entry.name in shown and f"{entry.macs:,}" in shown for entry in facts)
    assert CliRunner().invoke(app, ["models", "--markdown"]).stdout == PAGE.read_text(encoding="utf-8")

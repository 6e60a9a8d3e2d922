"""Weights of other programs, such as those that authors published: evaluated, exported, explained and registered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import models
from models.registry.authors.loading import family_of
from orchestrator.cli.main import app
from orchestrator.config.recipe import load_recipe
from orchestrator.config.recipes import list_recipes
from orchestrator.data import PixelImages, open_dataset, prepare_dataset
from orchestrator.data.conversion.prepare import prepare
from orchestrator.errors import CheckpointError
from orchestrator.inference.evaluate import evaluate_checkpoint
from orchestrator.inference.trained_network import find_network
from orchestrator.inference.weights.converted import WeightsOf, converted_weights
from tests.support.tiny_archives import photo_tree

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = "conv_resnet26_small"


def theirs(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network as its authors would have saved it."""
    ours = network.state_dict()
    return {
        key: entry.to_authors(ours[entry.ours]).clone() for key, entry in family_of(network).entries(network).items()
    }


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(3)
    return models.create_model(NETWORK, num_classes=10, in_chans=1).eval()


@pytest.fixture(scope="module")
def weights(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a file as the authors' script would, with a number of numpy and a moving average that is all zeros."""
    path = tmp_path_factory.mktemp("theirs") / "best.pth.tar"
    state = {f"module.{key}": value for key, value in theirs(network).items()}
    average = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": average, "best_acc": np.float64(0.7)}, path)
    return path


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_eval_agrees_with_a_count_by_hand(
    network: nn.Module, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("eval", weights, "--model", NETWORK, "--weights", "plain", "--dataset", "digits", "--json")
    found = json.loads(done.output)
    test = open_dataset(prepare_dataset("digits", tmp_path / "runs" / "datasets")).splits["test"]
    assert isinstance(test, PixelImages)
    cfg = timm.get_pretrained_cfg(NETWORK)
    mean, std = sum(cfg.mean) / 3, sum(cfg.std) / 3
    with torch.no_grad():
        logits = network((torch.tensor(test.images) / 255 - mean) / std)
    labels = torch.tensor(test.labels, dtype=torch.long)
    hits = logits.argmax(1) == labels
    assert found["top1"] == pytest.approx(float(hits.float().mean()), abs=1e-6)
    assert found["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), abs=1e-4)
    assert found["notes"][0] == "the weights are those of state_dict; state_dict_ema was not read"
    assert found["notes"][1].startswith("images of 8 px, mean 0.4")
    averaged = command("eval", weights, "--model", NETWORK, "--dataset", "digits")
    assert "Note: the weights are those of state_dict_ema" in averaged.output


def test_images_are_cropped_as_the_network_describes(tmp_path: Path) -> None:
    prepare("folder", photo_tree(tmp_path, per_class=2), str(tmp_path / "photos"))
    state = models.create_model("lsas_resnet18", num_classes=3).state_dict()
    torch.save({"net": state, "epoch": 95}, tmp_path / "checkpoint")
    found = evaluate_checkpoint(tmp_path / "checkpoint", str(tmp_path / "photos"), split="test", model="lsas_resnet18")
    assert found.images == 6
    assert "images of 224 px, mean 0.485 0.456 0.406, std 0.229 0.224 0.225, crop_pct 0.875, bilinear" in found.notes


def test_networks_describe_the_images_of_their_recipes() -> None:
    compared = 0
    for name in list_recipes():
        settings = load_recipe(name).settings
        if settings.get("task", "classification") != "classification":
            continue  # their images have the size of another task
        dataset, cfg = settings["dataset"], timm.get_pretrained_cfg(settings["model"]["name"])
        described = {"crop_pct": cfg.crop_pct, "interpolation": cfg.interpolation, "image_size": cfg.input_size[-1]}
        described |= {"mean": list(cfg.mean), "std": list(cfg.std)}
        wanted = {key: dataset[key] for key in described if key in dataset}
        if wanted.get("interpolation") == "random":
            wanted["interpolation"] = "bicubic"  # of its evaluation
        assert {key: described[key] for key in wanted} == wanted, name
        compared += len(wanted)
    assert compared > 40


@pytest.mark.parametrize(
    ("content", "model", "message"),
    [
        ({"fc.weight": torch.zeros(10, 3)}, NETWORK, rf"is not of {NETWORK}: the checkpoint does not fit the network"),
        (None, "conv_resnet26_smal", r"--model conv_resnet26_smal: .*Did you mean 'conv_resnet26_small'"),
        ("headless", NETWORK, "has no classifier.*nothing to evaluate"),
        ("seven", NETWORK, "its 7 classes are not the 10 of digits"),
        (b"<html>", NETWORK, "is a web page, not weights"),
    ],
)
def test_weights_that_cannot_be_used_are_reported(
    content: Any, model: str, message: str, network: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    state = theirs(network)
    if content == "headless":
        content = {key: value for key, value in state.items() if not key.startswith("dense")}
    elif content == "seven":
        content = {**state, "dense.weight": torch.zeros(7, 512), "dense.bias": torch.zeros(7)}
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content or state, path)
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        find_network(path, runs_dir=tmp_path, of=WeightsOf(model, dataset="digits"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "w.pth", "--dataset", "digits", "--weights", "ema"], "name the network of the file with --model"),
        (["eval", "w.pth", "--dataset", "digits", "--model", NETWORK, "--weights", "x"], "use ema or plain"),
        (["eval", "w.pth", "--dataset", "digits", "--model", NETWORK], "w.pth: no such file"),
        (["register", "w.pth", "--as", "m", "--model", NETWORK, "--trial", "1"], "have no trials"),
        (["explain", "w.pth", "--model", NETWORK, "--trial", "1"], "leave --trial out"),
    ],
)
def test_options_are_checked(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command(*arguments)
    assert done.exit_code
    assert message in " ".join(f"{done.output} {done.exception}".replace("│", " ").split())


def test_without_the_option_the_error_names_it(weights: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint of SpatialSweep.*another program with --model NETWORK"):
        find_network(weights)


def test_a_checkpoint_of_ours_is_not_read_as_weights_of_another_program(weights: Path, tmp_path: Path) -> None:
    with converted_weights(weights, WeightsOf(NETWORK)) as converted:
        ours = Path(shutil.copy(converted.path, tmp_path / "best.pt"))
    with pytest.raises(CheckpointError, match=r"best\.pt: is a checkpoint of SpatialSweep, .* Leave out --model"):
        evaluate_checkpoint(ours, "digits", model=NETWORK, datasets_folder=tmp_path)
    assert find_network(ours).name == NETWORK


def test_export_and_explain_take_weights(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = ["--model", NETWORK, "--weights", "plain", "--dataset", "digits", "--images", "2"]
    done = command("export", weights, "--format", "torch-export", *chosen)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "best.pt2").stat().st_size > 0
    assert f"best.pt2: {NETWORK}, best; " in done.output
    done = command("explain", weights, "--show", "1", *chosen)
    assert done.exit_code == 0, done.output
    table = json.loads((tmp_path / "best-explained" / "explain.json").read_text())
    assert (table["network"], table["source"]) == (NETWORK, "best")
    assert "not logged to MLflow" in done.output

"""Recipes: every file is a valid sweep of one trial over its dataset, and is found by its name."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.config.recipe import load_recipe, recipe_sweep
from orchestrator.config.recipes import list_recipes
from orchestrator.config.sweep import SweepConfig
from orchestrator.config.trial import resolve_trial
from orchestrator.errors import RecipeError
from tests.support.paper_datasets import write_paper_datasets


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare every dataset of the papers with its classes and image size, with black images."""
    return write_paper_datasets(tmp_path_factory.mktemp("datasets"))


def sweep(name: str, datasets: Path, *overrides: str) -> SweepConfig:
    return recipe_sweep(name, [f"dataset.uri={datasets / load_recipe(name).dataset}", *overrides])


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_is_a_sweep_of_one_trial(name: str, datasets: Path) -> None:
    recipe, config = load_recipe(name), sweep(name, datasets)
    assert config.name == name
    assert config.trials == 1
    assert not config.search
    assert resolve_trial(config, 0, {}).model == config.model
    assert recipe.title
    assert recipe.source
    assert recipe.expected is None or 50 < recipe.expected < 100


def test_the_set_up_of_a_paper(datasets: Path) -> None:
    """Zhong et al. 2023 train ResNet164 for 164 epochs at 0.1, a tenth of it after 81 and 122."""
    training = sweep("lsas_cifar100", datasets).training
    assert (training.epochs, training.global_batch_size, training.lr) == (164, 128, 0.1)
    assert (training.decay_milestones, training.decay_rate) == ((81, 122), 0.1)
    assert (training.optimizer, training.momentum, training.weight_decay) == ("momentum", 0.9, 1e-4)
    assert (training.crop_padding, training.hflip) == (4, 0.5)


CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def test_images_are_those_of_the_papers(datasets: Path) -> None:
    """Mean and deviation, and the images that choose the epoch, are those of the authors' scripts."""
    for name in set(list_recipes()) - {"spatial_bias_resnet101_imagenet", "spatial_bias_resnet152_imagenet"}:
        found, family = sweep(name, datasets).dataset, name.split("_")[0]
        if found.uri and found.uri.endswith("imagenet"):
            assert (found.normalization, found.mean, found.select_on) == ("imagenet", None, "test"), name
        elif family in ("lsas", "senet"):
            assert ((found.mean, found.std), found.select_on) == (CIFAR10, "test"), name
        elif family in ("adaptive", "conv", "local"):
            assert ((found.mean, found.std), found.select_on) == (CIFAR100, "validation"), name


@pytest.mark.parametrize("name", ["fcvit_tiny_imagenet", "fcvit_b48_imagenet", "spatial_bias_resnet50_imagenet"])
def test_a_recipe_of_timms_script_mixes_and_measures_as_it_does(name: str, datasets: Path) -> None:
    config = sweep(name, datasets)
    training, images = config.training, config.dataset
    assert (images.interpolation, training.mixup_mode, training.precision) == ("random", "batch", "float16")
    assert (training.dist_bn, training.drop_last) == ("reduce", True)
    assert training.erase_after_mixing == (training.erasing > 0)


def test_stl10_is_cropped_as_in_the_papers_script(datasets: Path) -> None:
    for name in ("lsas_stl10", "senet_stl10"):
        training = sweep(name, datasets).training
        assert (training.crop_px, training.crop_padding, training.drop_last) == (32, 4, True)


def test_a_setting_is_overridden(datasets: Path) -> None:
    assert sweep("fcvit_b12_imagenet", datasets, "training.epochs=20").training.epochs == 20


def test_missing_requirements_of_a_recipe_are_reported(datasets: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe is called 'lsas_cifar1'\. Did you mean 'lsas_cifar1"):
        load_recipe("lsas_cifar1")
    with pytest.raises(RecipeError, match=r"trains on cifar100\. Prepare it with `spatialsweep data prepare cifar100"):
        recipe_sweep("lsas_cifar100")
    with pytest.raises(RecipeError, match=r"trains on cifar100; .*cifar10 holds cifar10"):
        recipe_sweep("lsas_cifar100", [f"dataset.uri={datasets / 'cifar10'}"])


def test_the_command_lists_them() -> None:
    listed = CliRunner().invoke(app, ["recipes", "--json"])
    assert [entry["name"] for entry in json.loads(listed.output)] == list_recipes()
    shown = CliRunner().invoke(app, ["recipes"]).output
    assert "lsas_cifar100" in shown
    assert "76.47" in shown


def test_the_command_fails_before_any_work() -> None:
    refused = CliRunner().invoke(app, ["train", "lsas_cifar100"])
    assert isinstance(refused.exception, RecipeError)


def test_a_dry_run_prints_the_size_of_a_recipe(datasets: Path, tmp_path: Path) -> None:
    arguments = ["train", "fcvit_b12_imagenet", "--dry-run", "--json", "--runs-dir", str(tmp_path / "runs")]
    done = CliRunner().invoke(app, [*arguments, "--set", f"dataset.uri={datasets / 'imagenet'}"])
    found = json.loads(done.stdout)
    [proposal] = found["proposals"]
    assert (proposal["model"], proposal["epochs"], found["bounds"]["epochs"]) == ("fcvit_b12", 310, 310)
    needs = found["largest"]["footprint"]
    assert needs["activations"] > 100e6 * needs["images_at_once"] / 2  # 224 px, in bfloat16 if at all
    assert needs["images"] == 0
    assert not (tmp_path / "runs").exists()

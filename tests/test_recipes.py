"""Published set-ups: every file is a sound sweep of one trial, and is found by its name."""

import json

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.config import load_sweep
from orchestrator.config.schema import resolve_trial
from orchestrator.errors import RecipeError
from orchestrator.recipes import list_recipes, load_recipe


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_is_a_sweep_of_one_trial(name: str) -> None:
    recipe = load_recipe(name)
    config = load_sweep(recipe.settings, label=name)
    assert config.name == name
    assert config.trials == 1
    assert not config.search
    assert resolve_trial(config, 0, {}).model == config.model
    assert recipe.title
    assert recipe.source
    assert recipe.expected is None or 50 < recipe.expected < 100


def test_the_set_up_of_a_paper() -> None:
    """Zhong et al. 2023 train ResNet164 for 164 epochs at 0.1, a tenth of it after 81 and 122."""
    training = load_sweep(load_recipe("lsas_cifar100").settings).training
    assert (training.epochs, training.global_batch_size, training.lr) == (164, 128, 0.1)
    assert (training.decay_milestones, training.decay_rate) == ((81, 122), 0.1)
    assert (training.optimizer, training.momentum, training.weight_decay) == ("momentum", 0.9, 1e-4)
    assert (training.crop_padding, training.hflip) == (4, 0.5)


def test_a_misspelt_name() -> None:
    with pytest.raises(RecipeError, match=r"no recipe is called 'lsas_cifar1'\. Did you mean 'lsas_cifar1"):
        load_recipe("lsas_cifar1")


def test_the_command_lists_them() -> None:
    listed = CliRunner().invoke(app, ["recipes", "--json"])
    assert [entry["name"] for entry in json.loads(listed.output)] == list_recipes()
    shown = CliRunner().invoke(app, ["recipes"]).output
    assert "lsas_cifar100" in shown
    assert "76.47" in shown

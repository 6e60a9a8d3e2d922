"""Recipes: every file is a valid sweep of one trial over its dataset, and is found by its name."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import models
from orchestrator.cli.main import app
from orchestrator.config.recipe import load_recipe, recipe_sweep
from orchestrator.config.recipes import list_recipes
from orchestrator.config.sweep import SweepConfig
from orchestrator.config.trial import resolve_trial
from orchestrator.data.conversion.prepare import prepare
from orchestrator.errors import ConfigError, RecipeError
from orchestrator.training.checkpoints.checkpoints import build_network, describe_network
from tests.orchestrator.data.scenes.tiny_scenes import HEIGHT, WIDTH, ade_tree, class_map, coco_tree
from tests.support.paper_datasets import SIDES, write_paper_datasets


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare every dataset of the papers with its classes, and images of its size or tiny annotated ones."""
    folder = write_paper_datasets(tmp_path_factory.mktemp("datasets"))
    maps = {name: np.full((30, 40), 1) for name in ("training/1", "training/2", "validation/3")}
    prepare("ade20k", ade_tree(tmp_path_factory.mktemp("ade"), maps), str(folder / "ade20k"))
    root = coco_tree(tmp_path_factory.mktemp("coco"))
    prepare("coco", root, str(folder / "coco"))
    for image in root.glob("*2017/*.jpg"):
        class_map(root / "stuffthingmaps" / image.parent.name / f"{image.stem}.png", np.zeros((HEIGHT, WIDTH)))
    prepare("coco-stuffthings", root, str(folder / "coco-stuffthings"))
    return folder


def sweep(name: str, datasets: Path, *overrides: str) -> SweepConfig:
    recipe = load_recipe(name)
    weights = ["model.checkpoint=random"] if recipe.starts_from else []
    return recipe_sweep(name, [f"dataset.uri={datasets / recipe.dataset}", *weights, *overrides])


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_is_a_sweep_of_one_trial(name: str, datasets: Path) -> None:
    recipe, config = load_recipe(name), sweep(name, datasets)
    assert config.name == name
    assert config.trials == 1
    assert not config.search
    model = resolve_trial(config, 0, {}).model
    assert config.model is not None
    assert model == config.model.model_copy(update={"checkpoint": model.checkpoint})
    assert recipe.title
    assert recipe.source
    least = 50 if recipe.task.name == "classification" else 30
    for numbers in (recipe.published, *recipe.published_on.values()):
        assert set(numbers) <= {metric.name for metric in recipe.task.tested}
        assert all(value is None or least < value < 100 for value in numbers.values())
    assert recipe.expected_top5 is None or (recipe.expected or 100) < recipe.expected_top5 < 100


def test_the_set_up_of_a_paper(datasets: Path) -> None:
    """Zhong et al. 2023 train ResNet164 for 164 epochs at 0.1, a tenth of it after 81 and 122."""
    training = sweep("lsas_cifar100", datasets).training
    assert (training.epochs, training.global_batch_size, training.lr) == (164, 128, 0.1)
    assert (training.decay_milestones, training.decay_rate) == ((81, 122), 0.1)
    assert (training.optimizer, training.momentum, training.weight_decay) == ("momentum", 0.9, 1e-4)
    assert (training.crop_padding, training.hflip) == (4, 0.5)


@pytest.mark.parametrize("layout", ["resnet50", "wrn50"])
def test_controls_of_lesa_differ_in_the_network_alone(layout: str) -> None:
    lesa = load_recipe(f"lesa_{layout}_imagenet").settings
    for control in (f"sa_{layout}_imagenet", f"lesa_conv_{layout}_imagenet"):
        settings = load_recipe(control).settings
        assert {key for key in lesa if settings[key] != lesa[key]} == {"name", "model"}
        shape = {"num_classes": 1000, "in_chans": 3, "image_size": 224}
        cost = models.model_cost(settings["model"]["name"], settings["model"].get("options", {}), **shape)
        published = {"sa_resnet50": 18.051, "lesa_resnet50": 25.557, "sa_wrn50": 38.273, "lesa_wrn50": 68.883}
        assert cost.params / 1e6 == pytest.approx(published[settings["model"]["name"]], abs=6e-4)


@pytest.mark.parametrize(
    ("baseline", "with_context"),
    [
        ("resnet50_imagenet", "spatial_bias_resnet50_imagenet"),
        ("resnet38_cifar100", "spatial_bias_resnet38_cifar100"),
        ("resnet65_cifar100", "spatial_bias_resnet65_cifar100"),
        *((f"resnet164_{name}", f"senet_{name}") for name in ("cifar10", "cifar100")),
    ],
)
def test_a_backbone_is_trained_as_the_network_with_its_addition(baseline: str, with_context: str) -> None:
    plain, other = load_recipe(baseline).settings, load_recipe(with_context).settings
    assert {**plain, "name": "", "model": {}} == {**other, "name": "", "model": {}}
    assert plain["model"]["name"] == other["model"]["name"]
    assert set(plain["model"]["options"]["stages"]) == {"F"}


def test_published_errors_of_spatial_bias_on_cifar100(datasets: Path) -> None:
    """Compare error and parameters with the bias in no stage, the first, the first two and all three."""
    published = {
        38: {"FFF": (23.98, 0.43), "TFF": (23.86, 0.45), "TTF": (22.44, 0.46), "TTT": (22.46, 0.48)},
        65: {"FFF": (21.87, 0.71), "TFF": (20.81, 0.74), "TTF": (20.77, 0.77), "TTT": (None, 0.80)},
    }
    forms = {
        "FFF": "resnet{}",
        "TFF": "spatial_bias_resnet{}_stage1",
        "TTF": "spatial_bias_resnet{}_stages12",
        "TTT": "spatial_bias_resnet{}",
    }
    for depth, rows in published.items():
        for stages, (error, millions) in rows.items():
            recipe = load_recipe(f"{forms[stages].format(depth)}_cifar100")
            model = recipe.settings["model"]
            params = models.model_params(
                model["name"], model["options"], num_classes=100, in_chans=3, image_size=SIDES["cifar100"]
            )
            assert model["options"]["stages"] == stages
            assert round(params / 1e6, 2) == millions
            assert recipe.expected == (None if error is None else pytest.approx(100 - error))
            assert "not found" in recipe.notes  # the optimiser is ours


def test_published_accuracies_of_the_backbone_of_sub_attention() -> None:
    assert [load_recipe(f"resnet164_{name}").expected for name in ("cifar10", "cifar100")] == [93.39, 74.30]


CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def test_images_are_those_of_the_papers(datasets: Path) -> None:
    """Mean and deviation, and the images that choose the epoch, are those of the authors' scripts."""
    for name in list_recipes():
        found, family = sweep(name, datasets).dataset, name.split("_")[0]
        if found.uri and found.uri.endswith("imagenet"):
            assert (found.normalization, found.mean, found.select_on) == ("imagenet", None, "test"), name
        elif family in ("lsas", "senet", "resnet164"):
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


def test_numbers_by_metric_stand_beside_those_of_classification() -> None:
    found = {
        name: load_recipe(name) for name in ("lesa_resnet50_imagenet", "fcvit_b12_fpn_ade20k", "fcvit_b24_fpn_ade20k")
    }
    assert found["lesa_resnet50_imagenet"].published == {"top1": 79.55, "top5": 94.79}
    assert [found[f"fcvit_{size}_fpn_ade20k"].published for size in ("b12", "b24")] == [{"miou": 43.3}, {"miou": 45.5}]
    assert found["fcvit_b12_fpn_ade20k"].expected is None


def test_published_numbers_of_coco() -> None:
    """Compare box and mask AP of val2017 and, where they are published, of test-dev2017."""
    val = {
        "fcvit_b12_mask_rcnn_coco": (42.3, 38.6),
        "fcvit_b24_mask_rcnn_coco": (44.1, 39.9),
        "lesa_resnet50_mask_rcnn_coco": (44.0, 39.2),
        "lesa_wrn50_htc_coco": (50.1, 43.9),
    }
    test_dev = {"lesa_resnet50_mask_rcnn_coco": (44.2, 39.6), "lesa_wrn50_htc_coco": (50.5, 44.4)}
    for name, numbers in val.items():
        recipe = load_recipe(name)
        assert (recipe.published["ap"], recipe.published["mask_ap"]) == numbers
        others = recipe.published_on.get("test-dev")
        assert (others and (others["ap"], others["mask_ap"])) == test_dev.get(name)


@pytest.mark.parametrize(
    ("name", "image_size", "resize", "batch", "workers", "head"),
    [
        ("fcvit_b24_mask_rcnn_coco", 800, "keep_ratio", 32, 8, "mask_rcnn"),
        ("lesa_resnet50_mask_rcnn_coco", 1024, "square", 8, 8, "mask_rcnn"),
        ("lesa_wrn50_htc_coco", 1280, "square", 4, 4, "htc"),
    ],
)
def test_the_set_up_of_a_detector(
    name: str, image_size: int, resize: str, batch: int, workers: int, head: str, datasets: Path
) -> None:
    config = sweep(name, datasets)
    assert (config.dataset.image_size, config.dataset.resize) == (image_size, resize)
    assert (config.training.global_batch_size, config.resources.workers) == (batch, workers)
    assert config.model is not None
    assert config.model.options["head"] == head
    with torch.device("meta"):
        network: Any = build_network(
            describe_network(config.model, num_classes=80, in_chans=3, image_size=image_size, task=config.task)
        )
    body = network.backbone
    is_lesa = name.startswith("lesa")
    assert (body.settings.frozen_stages, body.settings.norm) == ((1, "eval") if is_lesa else (0, "train"))
    assert body.settings.output_norm == ("none" if is_lesa else "groupnorm1")
    assert network.only_px == (image_size if is_lesa else None)
    if is_lesa:
        assert body.settings.options["deformable_stages"] == (False, True, True, True)
        with pytest.raises(
            ConfigError, match=r"dataset.resize: got keep_ratio; lesa_.* is built for images of one size"
        ):
            sweep(name, datasets, "dataset.resize=keep_ratio")
        with pytest.raises(ConfigError, match=r"global_batch_size: got \d; .* needs at least 1 image a step"):
            sweep(name, datasets, f"resources.workers={batch + 1}")
    else:
        assert not any(not parameter.requires_grad for parameter in network.parameters())


def test_a_semantic_branch_needs_maps_of_its_classes(datasets: Path) -> None:
    assert sweep("lesa_wrn50_htc_coco", datasets).model
    for value, uri, rule in (
        (182, "coco", "these images have no maps of classes. Use others, such as coco-stuffthings"),
        (181, "coco-stuffthings", "the maps of these images have 182 classes. Use 182"),
    ):
        changes = [f"model.options.semantic_classes={value}", f"dataset.uri={datasets / uri}"]
        with pytest.raises(ConfigError, match=f"semantic_classes: got {value}; {re.escape(rule)}"):
            sweep("lesa_wrn50_htc_coco", datasets, *changes)


def test_a_recipe_of_a_pretrained_backbone_asks_for_its_weights(datasets: Path) -> None:
    uri = f"dataset.uri={datasets / 'ade20k'}"
    with pytest.raises(
        RecipeError, match=r"starts from ImageNet weights of FCViT-B12 .*--set model\.checkpoint=FILE, or"
    ):
        recipe_sweep("fcvit_b12_fpn_ade20k", [uri])
    named = recipe_sweep("fcvit_b12_fpn_ade20k", [uri, "model.checkpoint=weights.pth"])
    assert named.model is not None
    assert named.model.checkpoint == "weights.pth"
    assert recipe_sweep("fcvit_b12_fpn_ade20k", [uri, "search.checkpoint=[random, weights.pth]"]).search


def test_the_set_up_of_a_segmentation(datasets: Path) -> None:
    """Ma et al. 2022 train 40,000 iterations of 32 crops of 512 px, of images of half to twice the size."""
    config = sweep("fcvit_b12_fpn_ade20k", datasets)
    training = config.training
    assert training.epochs * (training.epoch_steps or 0) == 40_000
    assert (training.global_batch_size, training.drop_last, training.warmup_steps) == (32, True, 0)
    assert (training.crop_px, training.scale_range, training.cat_max_ratio) == (512, (0.5, 2.0), 0.75)
    assert (config.dataset.image_size, config.task, config.objective.metric) == (512, "segmentation", "val/miou")


def test_the_command_lists_them() -> None:
    listed = CliRunner().invoke(app, ["recipes", "--json"])
    entries = {entry["name"]: entry for entry in json.loads(listed.output)}
    assert list(entries) == list_recipes()
    lesa = [entries[f"lesa_{layout}_imagenet"] for layout in ("resnet50", "wrn50")]
    assert [(entry["expected"], entry["expected_top5"]) for entry in lesa] == [(79.55, 94.79), (80.18, 95.07)]
    shown = CliRunner().invoke(app, ["recipes"]).output
    assert "lsas_cifar100" in shown
    assert "76.47" in shown
    assert "94.79" in shown
    assert "mIoU 43.30" in shown
    assert "10 of 4,000 steps" in shown
    assert "test-dev: mask AP 39.60" in shown


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

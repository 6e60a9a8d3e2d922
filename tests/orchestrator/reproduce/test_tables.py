"""Tables of the papers: every row is a checked sweep of one trial, and the grid trains exactly the rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import load_sweep, resolve_trial
from orchestrator.config.recipe import recipe_sweep
from orchestrator.config.recipes import list_recipes
from orchestrator.errors import ConfigError, DataError, ReproduceError
from orchestrator.reproduce.catalogue import PaperTable, list_tables, load_table, merged
from orchestrator.reproduce.rows import ResolvedRow, chosen_rows, resolve_rows
from orchestrator.reproduce.sweeps import cell_of, cells_of, sweeps_of
from orchestrator.reproduce.tables import list_papers
from search_spaces import ConstantDomain, SearchSpace
from search_spaces.grid import grid_points
from tests.support.paper_datasets import write_paper_datasets

TABLES = [load_table(paper, table) for paper in list_papers() for table in list_tables(paper)]
IDS = [f"{table.paper}-{table.name}" for table in TABLES]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_paper_datasets(tmp_path_factory.mktemp("datasets"))


def rows_at(table: PaperTable, scale: str, datasets: Path) -> list[ResolvedRow]:
    if scale == "small":
        return resolve_rows(table, scale)
    recipe = table.settings[scale].get("recipe") or table.rows[0].settings[scale]["recipe"]
    dataset = recipe.rpartition("_")[2]
    return resolve_rows(table, scale, assignments=[f"dataset.uri={datasets / dataset}"])


def whole(space: SearchSpace, point: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a point of a grid with the constants whose condition holds, as a trial has them."""
    values = dict(point)
    for name, domain in space.items():
        if isinstance(domain, ConstantDomain) and domain.is_active(values):
            values[name] = domain.value
    return values


@pytest.mark.parametrize("table", TABLES, ids=IDS)
def test_a_table_says_what_was_published_and_where(table: PaperTable) -> None:
    assert table.title
    assert table.source
    assert table.scales
    names = [row.name for row in table.rows]
    assert all(row.control in ("", *names) for row in table.rows)
    numbers = [row.published.value for row in table.rows if row.published.value is not None]
    assert all(50 < number < 100 if table.measure.name == "top1" else 0 < number < 50 for number in numbers)
    known = numbers or any(row.published.gain for row in table.rows)
    assert bool(table.published_in) == bool(known)
    assert all(recipe in list_recipes() for recipe in recipes_of(table))


def recipes_of(table: PaperTable) -> set[str]:
    settings = [*table.settings.values(), *(own for row in table.rows for own in row.settings.values())]
    return {own["recipe"] for own in settings if "recipe" in own}


@pytest.mark.parametrize(
    ("table", "scale"),
    [(table, scale) for table in TABLES for scale in table.scales],
    ids=[f"{name}-{scale}" for table, name in zip(TABLES, IDS, strict=True) for scale in table.scales],
)
def test_the_grid_trains_every_row_with_its_own_settings(table: PaperTable, scale: str, datasets: Path) -> None:
    rows = {row.name: row for row in rows_at(table, scale, datasets)}
    found = []
    for settings in sweeps_of(list(rows.values()), {row: [0, 1] for row in rows}):
        config = load_sweep({"name": "grid", **settings})
        assert config.trial_scheduler.name == "none"
        for point in grid_points(config.space):
            values = whole(config.space, point)
            cell = cell_of(values)
            assert cell is not None
            trial, own = resolve_trial(config, 0, values), rows[cell[0]].config
            alone = resolve_trial(own, 0, {})
            assert (trial.model, trial.training, trial.seed) == (alone.model, alone.training, cell[1])
            assert (config.dataset, config.resources) == (own.dataset, own.resources)
            found.append(cell)
        assert config.trials == len(cells_of(config.space))
    assert sorted(found) == sorted((row, seed) for row in rows for seed in (0, 1))


def test_a_row_of_the_scale_of_the_paper_is_its_recipe(datasets: Path) -> None:
    uri = f"dataset.uri={datasets / 'cifar100'}"
    rows = {row.name: row.config for row in resolve_rows(load_table("lsas", "cifar100"), "paper", assignments=[uri])}
    for row, recipe in (("senet", "senet_cifar100"), ("lsas", "lsas_cifar100")):
        config = recipe_sweep(recipe, [uri])
        assert (rows[row].model, rows[row].training) == (config.model, config.training)
    assert rows["order0"].model is not None
    assert rows["order0"].model.options == {"order": 0}


def test_rows_that_lack_different_seeds_are_one_sweep() -> None:
    rows = resolve_rows(load_table("lsas", "cifar100"), "small")
    [settings] = sweeps_of(rows, {"senet": [2], "order0": [], "lsas": [0, 2]})
    config = load_sweep({"name": "rest", **settings})
    assert sorted(cells_of(config.space)) == [("lsas", 0), ("lsas", 2), ("senet", 2)]
    assert config.trials == 3


def test_settings_that_cannot_be_searched_divide_a_table() -> None:
    """Milestones are a list: two rows with different ones need two sweeps."""
    one, two = resolve_rows(load_table("lesa", "resnet50"), "small")[:2]
    steps = {"lr_schedule": "multistep", "decay_milestones": [1, 2]}
    shared = one.config.model_dump(exclude={"name", "model", "training"}, exclude_defaults=True)
    other = ResolvedRow(two.row, load_sweep({**shared, "name": "x", "model": {"name": two.network}, "training": steps}))
    assert len(sweeps_of([one, other], {one.name: [0], other.name: [0]})) == 2
    assert len(sweeps_of([one, two], {one.name: [0], two.name: [0]})) == 1


def test_another_network_begins_without_the_options_of_the_first() -> None:
    base = {"model": {"name": "a", "options": {"x": 1, "y": 2}}, "training": {"lr": 1.0}}
    assert merged(base, {"model": {"options": {"x": 3}}})["model"] == {"name": "a", "options": {"x": 3, "y": 2}}
    assert merged(base, {"model": {"name": "b"}})["model"] == {"name": "b"}
    assert merged(base, {"training": {"epochs": 2}})["training"] == {"lr": 1.0, "epochs": 2}


def test_what_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(ReproduceError, match=r"no paper is called 'lsass'. Did you mean 'lsas'\?"):
        load_table("lsass", "order")
    with pytest.raises(ReproduceError, match=r"lsas has no table 'orders'. Did you mean 'order'\?"):
        load_table("lsas", "orders")
    order = load_table("lsas", "order")
    with pytest.raises(ReproduceError, match=r"lsas order has no scale 'tiny'. Use --scale paper, small"):
        resolve_rows(order, "tiny")
    with pytest.raises(ReproduceError, match=r"no row 'order7' at scale small. Did you mean 'order"):
        chosen_rows(order, "small", ["order7"])
    assert chosen_rows(order, "small", ["order2", "order0"]) == ["order0", "order2"]


def test_an_assignment_is_laid_over_every_row_and_checked(datasets: Path) -> None:
    order = load_table("lsas", "order")
    assert {row.config.training.epochs for row in resolve_rows(order, "small", assignments=["training.epochs=2"])} == {
        2
    }
    with pytest.raises(ConfigError, match=r"lsas order, row order0: training.epoch: unknown setting") as caught:
        resolve_rows(order, "small", assignments=["training.epoch=2", "nonsense"])
    assert "--set nonsense: an assignment is written key=value" in str(caught.value)
    with pytest.raises(ConfigError, match=r"--set trials=3: is not for tables: --seeds sets"):
        resolve_rows(order, "small", assignments=["trials=3", "search.lr=0.1"])
    with pytest.raises(ReproduceError, match=r"row order0 trains on cifar100. Prepare it with"):
        resolve_rows(order, "paper")
    with pytest.raises(ReproduceError, match=r"row order0 trains on cifar100; .*cifar10 holds cifar10"):
        resolve_rows(order, "paper", assignments=[f"dataset.uri={datasets / 'cifar10'}"])
    # a dataset by URI replaces the one with a name
    rows = resolve_rows(order, "small", assignments=[f"dataset.uri={datasets / 'cifar10'}"])
    assert {row.config.dataset.name for row in rows} == {None}


def test_fashion_mnist_has_to_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"fashion-mnist": (tmp_path / "nowhere", "dataset-fashion-mnist")}
    monkeypatch.setattr("orchestrator.data.sources.INSTALLED", missing)
    options = ["model.options.img_size=28", "dataset.name=fashion-mnist"]
    with pytest.raises(DataError, match="apt-get install -y dataset-fashion-mnist"):
        resolve_rows(
            load_table("lesa", "resnet50"), "small", assignments=options, values={"runs_dir": str(tmp_path / "runs")}
        )

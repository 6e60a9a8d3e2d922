"""Fixed settings in a sweep with a named space: in the space, in the first trials and in messages."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrator import ConfigError, load_sweep
from orchestrator.cli.main import app
from orchestrator.config import ModelConfig, SweepConfig, TrainingConfig, resolve_trial
from orchestrator.config.plans import resolve_plans
from orchestrator.data import locate_dataset
from orchestrator.errors import ResumeError
from orchestrator.plain_output import say
from orchestrator.search.proposals.enqueued_trials import enqueue_trials
from orchestrator.search.proposals.space_summary import summarize_space
from orchestrator.search.storage import open_storage
from orchestrator.search.study import open_study
from orchestrator.sweep.compatibility import identity, refuse_changes
from orchestrator.sweep.dry_run_trials import Preview, preview_trials
from orchestrator.sweep.study_setup import fill_queue
from search_spaces import ConstantDomain, FloatDomain, IntDomain, named_space, setting_of

BASE: dict[str, Any] = {"name": "t", "dataset": {"name": "digits"}, "resources": {"workers": 1}}
LSAS, SENET, PLAIN, BIASED, VISION = (
    "lsas_resnet29_cifar",
    "senet_resnet29_cifar",
    "conv_resnet26_small",
    "sb_resnet29_cifar",
    "fcvit_micro_cifar",
)
FIXED = {"global_batch_size": 256, "optimizer": "adamw"}


def sweep(*overrides: str, **settings: Any) -> SweepConfig:
    return load_sweep({**BASE, **settings}, overrides)


def preview(config: SweepConfig, count: int) -> Preview:
    plans = resolve_plans(config)
    return preview_trials(plans.search, count, plans.paths.study_uri)


def summary(config: SweepConfig) -> list[tuple[str, str]]:
    return summarize_space(resolve_plans(config).search)


def settings_of(config: SweepConfig) -> set[str]:
    return set(map(setting_of, config.search))


WAYS = {
    "file": lambda: sweep(space="spatial_zoo", training=FIXED),
    "set": lambda: sweep("training.global_batch_size=256", "training.optimizer=adamw", space="spatial_zoo"),
    "python": lambda: SweepConfig(**BASE, space="spatial_zoo", training=FIXED),
    "section": lambda: SweepConfig(**BASE, space="spatial_zoo", training=TrainingConfig(**FIXED)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_trial_has_the_fixed_settings(way: str) -> None:
    config = WAYS[way]()
    assert not {"global_batch_size", "optimizer"} & settings_of(config)
    rate = config.space["adamw/lr"]
    assert rate == FloatDomain(low=3e-4, high=1e-2, log=True)  # its condition is met for good
    assert not {"sgd/lr", "lamb/lr", "sgd/weight_decay"} & set(config.search)
    proposed = preview(config, 5).trials
    assert {(row.trial.training.global_batch_size, row.trial.training.optimizer) for row in proposed} == {
        (256, "adamw")
    }
    assert all(3e-4 <= row.trial.training.lr <= 1e-2 for row in proposed)


def test_a_written_default_is_fixed_and_an_unwritten_one_is_not() -> None:
    default = TrainingConfig().global_batch_size
    for training in ({"global_batch_size": default}, TrainingConfig(global_batch_size=default)):
        assert "global_batch_size" not in sweep(space="conv", model={"name": PLAIN}, training=training).search
    for training in ({}, {"epochs": 3}, TrainingConfig(), TrainingConfig(epochs=3)):
        assert "global_batch_size" in sweep(space="conv", model={"name": PLAIN}, training=training).search


def test_options_of_the_network_are_fixed_with_their_dependents() -> None:
    def searched(network: str, **options: Any) -> set[str]:
        return set(sweep(space="spatial_zoo", model={"name": network, "options": options}).search)

    context = {"similarity", "competition", "gc_reduction", "num_heads"}
    assert not (context | {"global_context"}) & searched(VISION, global_context=False)
    assert context <= searched(VISION, global_context=True)
    assert not {"similarity", "num_heads"} & searched(VISION, similarity=False)
    assert "kernel_size_2" not in searched(VISION, mixing_steps=1)
    every = {"nonlocal_every", "nonlocal_reduction"}
    assert every <= searched(BIASED, nonlocal_stages="FTT")
    assert every <= searched(BIASED, nonlocal_stages=[False, True, True])  # the same in another spelling
    assert not every & searched(BIASED, nonlocal_stages=[False, False, False])
    assert "drop_path_rate" not in searched(LSAS, drop_path_rate=0.1)
    built = SweepConfig(**BASE, space="lsas", model=ModelConfig(name=LSAS, options={"order": 2}))
    assert "order" not in built.search
    assert resolve_trial(built, 0, {}).model.options["order"] == 2
    both = sweep(
        space="spatial_zoo", search={"model": [LSAS, SENET]}, model={"name": LSAS, "options": {"reduction": 8}}
    )
    assert not [name for name in both.search if setting_of(name) == "reduction"]


def test_a_fixed_value_that_optimisers_share_is_fixed_for_all_of_them() -> None:
    config = sweep(space="conv", model={"name": PLAIN}, training={"lr": 0.02})
    assert not [name for name in config.search if setting_of(name) == "lr"]
    assert {"optimizer", "sgd/weight_decay", "adamw/weight_decay"} <= set(config.search)


def test_names_in_search_are_searched_although_fixed() -> None:
    config = sweep(
        space="conv",
        model={"name": PLAIN},
        training={"lr": 0.02, "global_batch_size": 64, "optimizer": "sgd", "label_smoothing": 0.1},
        search={
            "global_batch_size": {"low": 32},
            "optimizer": ["sgd", "adamw"],
            "adamw/lr": {"low": 1e-3},
            "label_smoothing": 0.0,
        },
    )
    assert config.space["global_batch_size"] == IntDomain(low=32, high=256, log=True)
    assert config.space["adamw/lr"] == FloatDomain(low=1e-3, high=1e-2, log=True, when={"optimizer": ("adamw",)})
    assert config.space["label_smoothing"] == ConstantDomain(value=0.0)
    assert "sgd/lr" not in config.search  # that of the space; the sweep fixes 0.02
    assert resolve_trial(config, 0, {"optimizer": "sgd"}).training.lr == 0.02
    assert resolve_trial(config, 0, {"optimizer": "adamw", "adamw/lr": 2e-3}).training.lr == 2e-3


def test_a_search_conditional_on_a_fixed_choice_follows_it_or_is_an_error() -> None:
    fixed = {"space": "conv", "model": {"name": PLAIN}, "training": {"optimizer": "adamw"}}
    narrower = sweep(**fixed, search={"adamw/lr": {"low": 1e-3}})
    assert narrower.space["adamw/lr"] == FloatDomain(low=1e-3, high=1e-2, log=True)
    own = {"type": "float", "low": 0.001, "high": 0.002, "when": {"optimizer": "adamw"}}
    assert sweep(**fixed, search={"adamw/lr": own}).space["adamw/lr"] == FloatDomain(low=0.001, high=0.002)
    for content in ({"low": 0.02}, 0.1, {**own, "when": {"optimizer": "sgd"}}):
        with pytest.raises(ConfigError) as caught:
            sweep(**fixed, search={"sgd/lr": content})
        assert str(caught.value) == (
            "search.sgd/lr: is searched beside optimizer sgd only, and training.optimizer fixes adamw. "
            "Write search.lr instead, or leave training.optimizer out"
        )


def test_an_optimiser_outside_the_space_leaves_the_rate_to_the_user_with_a_notice() -> None:
    config = sweep(space="conv", model={"name": PLAIN}, training={"optimizer": "rmsprop"})
    assert not {"lr", "weight_decay"} & settings_of(config)
    message = dict(summary(config))
    assert message["Fixed"] == "training.optimizer rmsprop: written in the sweep, so the space leaves it alone"
    assert message["Default"].startswith(
        "lr 0.05, weight_decay 0.0005: by default; the space varies it only beside other "
    )
    own = sweep(space="conv", model={"name": PLAIN}, training={"optimizer": "rmsprop", "lr": 1e-3})
    assert resolve_trial(own, 0, {}).training.lr == 1e-3
    assert "Default" not in dict(summary(sweep(space="conv", model={"name": PLAIN}, training={"lr": 1.0})))


def test_settings_narrowed_by_search_are_not_reported_as_fixed() -> None:
    config = sweep(space="conv", model={"name": PLAIN}, search={"optimizer": ["adamw"]})
    assert [heading for heading, _ in summary(config)] == ["Space"]
    assert summary(sweep(model={"name": PLAIN}, search={"optimizer": ["adamw"]})) == []


def test_the_papers_values_are_adapted_to_fixed_settings_with_a_notice() -> None:
    config = sweep(space="lsas", model={"name": LSAS}, training={**FIXED, "label_smoothing": 0.0}, trials=2)
    found = preview(config, 2)
    cifar, without, stl = found.tried_first
    assert cifar == (
        "Tried first: lsas_resnet29_cifar with the values of Zhong et al. 2023 (arXiv 2305.05200), on CIFAR, except "
        "optimizer (theirs momentum; training.optimizer fixes adamw), "
        "global_batch_size (theirs 128; training.global_batch_size fixes 256), "
        "lr (theirs 0.1; it is meant for momentum, not for adamw), "
        "weight_decay (theirs 0.0001; it is meant for momentum, not for adamw)"
    )
    assert without.startswith("Tried first: lsas_resnet29_cifar with the values of Zhong et al. 2023")
    assert stl.startswith(
        "Not tried first: lsas_resnet29_cifar with the values of Zhong et al. 2023 (arXiv 2305.05200), on STL10: here "
        "it is the same as lsas_resnet29_cifar with the values of Zhong et al. 2023 (arXiv 2305.05200), on CIFAR; "
        "it differs in optimizer (theirs momentum; training.optimizer fixes adamw), global_batch_size (theirs 16; "
    )
    assert [row.trial.model.options["order"] for row in found.trials] == [1, 0]
    few = sweep(space="lsas", model={"name": LSAS}, trials=1)
    assert (
        preview(few, 1).tried_first[1].endswith("without sub-attention: the sweep has no trial left for it (trials 1)")
    )
    nothing = sweep(model={"name": PLAIN}, training=FIXED, search={"lr": {"type": "float", "low": 1e-4, "high": 1e-2}})
    (message,) = preview(nothing, 1).tried_first
    assert ": nothing of it is left to try: optimizer (theirs sgd; training.optimizer fixes adamw), " in message


def test_configurations_by_hand_may_repeat_but_not_contradict_fixed_settings() -> None:
    by_hand = [{"optimizer": "adamw", "lr": 1e-3}]
    config = sweep(space="conv", model={"name": PLAIN}, training=FIXED, try_first=by_hand)
    assert preview(config, 1).trials[0].trial.training.lr == 1e-3
    with pytest.raises(ConfigError) as caught:
        sweep(space="conv", model={"name": PLAIN}, training=FIXED, try_first=[{"optimizer": "sgd"}])
    assert str(caught.value) == (
        "try_first.0.optimizer: got 'sgd'; training.optimizer fixes adamw. Leave one of them out"
    )


def test_a_name_that_is_not_text_is_reported_with_a_named_space() -> None:
    with pytest.raises(ConfigError, match=r"search\.3: got 3; a name is text"):
        sweep(space="conv", model={"name": PLAIN}, search={3: [1, 2]})


def test_the_dry_run_and_the_start_print_the_same(tmp_path: Path) -> None:
    config = sweep(space="lsas", model={"name": LSAS}, training=FIXED)
    storage = open_storage(f"sqlite:///{tmp_path / 'optuna.db'}")
    shown = io.StringIO()
    plan, console = resolve_plans(config).search, Console(file=shown, width=160)
    fill_queue(open_study(plan, "t", storage), plan, storage, lambda text: say(console, text))
    at_start = shown.getvalue().splitlines()
    arguments = ["run", str(_written(tmp_path)), "--dry-run", "--runs-dir", str(tmp_path / "runs")]
    previewed = CliRunner().invoke(app, arguments).stdout.splitlines()
    for heading, text in summary(config):
        assert f"{heading}: {text}" in at_start
        assert f"{heading:<9}{text}" in previewed
    tried = [line for line in at_start if "ried first: " in line]
    assert len(tried) == 3
    assert [line for line in previewed if "ried first: " in line] == tried


def _written(folder: Path) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(
        f"{{name: t, dataset: {{name: digits}}, resources: {{workers: 1}}, space: lsas, model: {{name: {LSAS}}}, "
        "training: {global_batch_size: 256, optimizer: adamw}}"
    )
    return path


def test_an_earlier_sweep_resumes_with_its_recorded_space(tmp_path: Path) -> None:
    """Earlier versions let the space override fixed settings; their sweeps record the domains written out."""
    located = locate_dataset("digits", None, tmp_path)
    before = SweepConfig(**BASE, model={"name": PLAIN}, training=FIXED, search=dict(named_space("conv", [PLAIN])))
    stored = load_sweep(before.model_dump(mode="json"))
    assert stored == before
    assert stored.space["global_batch_size"] == IntDomain(low=16, high=256, log=True)
    refuse_changes(identity(before, located), identity(stored, located), name="t")
    from_file = sweep(space="conv", model={"name": PLAIN}, training=FIXED)
    with pytest.raises(ResumeError, match=r"search\.global_batch_size\.low: was 16, is nothing"):
        refuse_changes(identity(before, located), identity(from_file, located), name="t")
    again = load_sweep(from_file.model_dump(mode="json"))
    refuse_changes(identity(from_file, located), identity(again, located), name="t")
    assert again == from_file


def test_the_values_of_a_recorded_space_are_queued_as_they_were(tmp_path: Path) -> None:
    config = sweep(space="lsas", model={"name": LSAS}, training=FIXED)
    again = load_sweep(config.model_dump(mode="json"))
    queued = []
    for number, each in enumerate((config, again)):
        storage = open_storage(f"sqlite:///{tmp_path / str(number)}.db")
        plan = resolve_plans(each).search
        queued.append([found.params for found in enqueue_trials(open_study(plan, "t", storage), plan, storage)])
    assert queued[0] == queued[1]
    assert len(queued[0]) == 2

"""Dry run of a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
import torch
from typer.testing import CliRunner

import models
from orchestrator import ConfigError, SweepConfig, dry_run, load_sweep, run_sweep
from orchestrator.cli.main import app
from orchestrator.cli.tables.dry_run import plan_lines
from orchestrator.config import ModelConfig, TrainingConfig, TrialConfig
from orchestrator.config.plans import resolve_plans, study_uri
from orchestrator.data.datasets import DatasetFacts
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger
from orchestrator.runtime.lane_plan import LanePlan, plan_lanes
from orchestrator.search.proposals.enqueued_trials import enqueue_trials
from orchestrator.search.searcher import StudySearcher
from orchestrator.search.storage import open_storage
from orchestrator.search.study import close_study, open_study
from orchestrator.sweep import dry_run as dry_run_module
from orchestrator.sweep import session
from orchestrator.sweep.dry_run import Bounds, cost_bounds
from orchestrator.sweep.dry_run_trials import Preview, preview_trials
from orchestrator.training.memory.memory_estimate import estimate_memory
from tests.support.networks import own_file
from tests.support.networks.small_networks import SMALL_NETWORKS

DIGITS = Path(__file__).resolve().parents[3] / "sweeps" / "digits.yaml"
FACTS = DatasetFacts(image_size=8, in_chans=1, num_classes=10, train_images=1000)


def digits(tmp_path: Path, *overrides: str) -> SweepConfig:
    return load_sweep(DIGITS, [f"runs_dir={tmp_path}", *overrides])


def preview(config: SweepConfig, count: int) -> Preview:
    plans = resolve_plans(config)
    return preview_trials(plans.search, count, plans.paths.study_uri)


def bounds_of(config: SweepConfig, plan: LanePlan) -> Bounds:
    return cost_bounds(config.budget, config.trials * config.max_epochs, plan, config.resources.cpus_per_worker)


def test_the_demo_is_described_and_nothing_is_started(tmp_path: Path) -> None:
    found = dry_run(digits(tmp_path))
    assert [proposal.number for proposal in found.proposals] == [0, 1, 2, 3, 4]
    assert all(proposal.certain and proposal.params > 0 and proposal.macs > 0 for proposal in found.proposals)
    assert found.bounds.epochs == 144
    assert found.largest.footprint.total > 4 * 4 * found.largest.params  # weights, gradients, two moments
    assert found.notice == ""
    assert list(tmp_path.iterdir()) == []
    assert not ray.is_initialized()


def test_the_points_of_a_grid_that_auto_has_chosen_are_certain(tmp_path: Path) -> None:
    network = "model={name: conv_resnet26_small}"
    config = digits(tmp_path, "search={lr: [0.001, 0.002, 0.003]}", network, "sampler={startup_trials: 1}")
    found = dry_run(config)
    assert found.strategy[0].startswith("Sampler grid: ")
    assert [proposal.certain for proposal in found.proposals] == [True] * 3


def test_rules_of_auto_beside_a_named_sampler_are_said_to_have_no_effect(tmp_path: Path) -> None:
    no_effect = "sampler.rules 1 has no effect: they choose for auto, and the sweep has random"
    found = dry_run(digits(tmp_path, "sampler={name: random, rules: 1}"))
    assert no_effect in found.strategy
    assert no_effect in found.as_dict()["strategy"]
    for other in ("sampler={name: random}", "sampler={rules: 1}"):
        assert not any("no effect" in line for line in dry_run(digits(tmp_path, other)).strategy)


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_the_first_proposals_are_those_of_the_sweep(tmp_path: Path, sampler: str) -> None:
    search = "{lr: [0.001, 0.002, 0.003], weight_decay: [0.1, 0.2]}"
    config = digits(tmp_path, f"sampler.name={sampler}", f"search={search}", "model={name: conv_resnet26_small}")
    proposed, rejected, _ = preview(config, 4)
    assert rejected == 0
    storage = open_storage(study_uri(config.storage, tmp_path))
    plan = resolve_plans(config).search
    study = open_study(plan, "real", storage)
    enqueue_trials(study, plan, storage)
    with Journal(tmp_path / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        searcher = StudySearcher(study, plan, ledger)
        for tune_id in "abcd":
            searcher.suggest(tune_id)
    assert [dict(first.values) for first in proposed] == [dict(record.params) for record in ledger.trials()]


def test_the_best_of_earlier_sweeps_are_proposed_and_nothing_is_written(tmp_path: Path) -> None:
    search = "search={lr: {low: 0.001, high: 0.01, type: float}}"
    overrides = [search, "model={name: conv_resnet26_small}", "warm_start=[before]", "try_first=[]"]
    config = digits(tmp_path, *overrides)
    with pytest.raises(ConfigError, match=r"no earlier sweep 'before' in this database\.$"):
        preview(config, 2)
    assert list(tmp_path.iterdir()) == []
    earlier = open_study(resolve_plans(config).search, "before", open_storage(study_uri(config.storage, tmp_path)))
    trial = earlier.ask({"lr": optuna.distributions.FloatDistribution(0.001, 0.01)})
    earlier.tell(trial, 0.9)
    close_study(earlier)
    proposed = preview(config, 2).trials
    assert (proposed[0].values["lr"], proposed[0].source) == (trial.params["lr"], "trial 0 of before")
    assert proposed[1].source is None
    assert optuna.get_all_study_names(study_uri(config.storage, tmp_path)) == ["before"]


def test_a_grid_has_no_more_proposals_than_points(tmp_path: Path) -> None:
    config = digits(tmp_path, "sampler.name=grid", "search={lr: [0.001, 0.002]}", "model={name: conv_resnet26_small}")
    assert len(preview(config, 5).trials) <= 5
    assert {first.values["lr"] for first in preview(config, 2).trials} == {0.001, 0.002}


def test_the_lanes_are_those_of_the_nodes_given() -> None:
    config = load_sweep(DIGITS, ["resources={workers: 2, cpus_per_worker: 2}"])
    assert plan_lanes(config.resources, 20, [{"CPU": 9.0}, {"CPU": 4.0}]).lanes == 3
    assert plan_lanes(config.resources, 20, [{"CPU": 16.0, "GPU": 4.0}]) == LanePlan(2, 2, 1.0, 20)


def test_the_tightest_limit_bounds_the_cost() -> None:
    prices = "price_per_cpu_hour: 1.0, price_per_gpu_hour: 10.0"
    plan = LanePlan(lanes=3, workers=2, gpus_per_worker=1.0)
    config = load_sweep(DIGITS, [f"budget={{wall_clock: 2h, gpu_hours: 100, {prices}}}"])
    bounds = bounds_of(config, plan)
    assert (bounds.wall_s, bounds.cpu_hours, bounds.gpu_hours, bounds.price) == (7200, 12, 12, 132)
    config = load_sweep(DIGITS, [f"budget={{wall_clock: 2h, gpu_hours: 4, {prices}}}"])
    assert bounds_of(config, plan).price == pytest.approx(44)
    unbounded = bounds_of(load_sweep(DIGITS), plan)
    assert (unbounded.epochs, unbounded.wall_s, unbounded.cpu_hours, unbounded.price) == (144, None, None, None)


def trial(model: str, **training: Any) -> TrialConfig:
    return TrialConfig(
        number=0,
        model=ModelConfig(name=model),
        training=TrainingConfig(**{"global_batch_size": 64, **training}),
        seed=0,
    )


@pytest.mark.parametrize("kind", SMALL_NETWORKS)
def test_every_kind_of_network_has_a_memory_estimate(kind: str) -> None:
    needs = estimate_memory(trial(SMALL_NETWORKS[kind].model, optimizer="adamw"), FACTS, workers=2)
    assert needs.activations > 0
    assert needs.images_at_once == 32
    assert needs.optimizer == pytest.approx(2 * needs.gradients, rel=0.01)


def test_a_memory_estimate_depends_on_the_settings() -> None:
    plain = estimate_memory(trial("conv_resnet26_small"), FACTS, workers=1)
    weights = sum(p.numel() for p in _network().parameters()) * 4
    assert plain.gradients == plain.optimizer == weights  # one momentum
    assert estimate_memory(trial("conv_resnet26_small", optimizer="adamw"), FACTS, workers=1).optimizer > weights
    assert (
        estimate_memory(trial("conv_resnet26_small", crop_px=4), FACTS, workers=1).activations < plain.activations / 2
    )
    parts = estimate_memory(trial("conv_resnet26_small", accumulation_steps=4), FACTS, workers=2)
    assert (parts.images_at_once, parts.activations) == (8, plain.activations // 8)
    half = estimate_memory(trial("conv_resnet26_small", precision="bfloat16", ema_decay=0.9), FACTS, workers=1)
    assert half.activations == plain.activations // 2
    assert half.average == half.weights
    assert plain.images == 1000 * 64


def test_networks_of_timm_and_of_files_are_estimated_too() -> None:
    models.register_network_file("own_net.py", own_file.TEXT)
    own = estimate_memory(trial(own_file.NAME), FACTS, workers=1)
    assert own.weights == 4 * (64 * 8 + 8 + 8 * 10 + 10)
    assert own.activations == 64 * 4 * (64 + 8)  # images at once, bytes, pixels and hidden numbers
    reads = own_file.TEXT.replace(
        "    return Own", "    assert float(nn.Linear(1, 1).weight.detach()) < 9\n    return Own"
    )
    models.register_network_file("own_net.py", reads)
    assert estimate_memory(trial(own_file.NAME), FACTS, workers=1) == own
    assert estimate_memory(trial("test_resnet"), FACTS, workers=1).activations > 0


def test_estimated_activations_are_those_that_autograd_keeps() -> None:
    """Compare the estimate with a forward pass on real numbers."""
    network, kept = _network(), {}
    own = {tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = network(torch.zeros(64, 1, 8, 8))
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del logits
    estimated = estimate_memory(trial("conv_resnet26_small"), FACTS, workers=1).activations
    assert estimated == pytest.approx(measured, rel=0.05)


def _network() -> torch.nn.Module:
    from orchestrator.training.checkpoints.checkpoints import build_network

    model = {"name": "conv_resnet26_small", "options": {}, "num_classes": 10, "in_chans": 1, "image_size": 8}
    return build_network(model).train()


def test_shares_of_a_gpu_and_what_memory_decides_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimates of the demo's networks are far below 0.25 GB, so that all 12 trials would share a GPU of 20 GB."""

    class Properties:
        total_memory = 20 * 2**30

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(dry_run_module, "this_machine", lambda: {"CPU": 32.0, "GPU": 1.0})
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    config = digits(tmp_path, "resources={workers: 1, gpus_per_worker: auto}", "training.on_out_of_memory=accumulate")
    found = dry_run(config)
    assert found.plan is not None
    assert (found.plan.lanes, found.plan.gpus_per_worker) == (12, 0.0833)  # no more than trials
    lines = [text for heading, text in plan_lines(found) if heading in ("GPU", "Batch")]
    assert lines == [
        "gpus_per_worker: auto is measured when the sweep starts, by steps of the largest configuration on a GPU; "
        "0.0833 is an estimate",
        "12 trials on each, and each may take 8% of its memory; without NVIDIA's MPS here, their kernels take turns",
        "a step that runs out of memory is computed again in twice as many parts (not in networks with batch norms)",
    ]
    costly = cost_bounds(found.plans.budget.model_copy(update={"wall_clock": 3600.0}), 144, found.plan, 1.0)
    assert costly.gpu_hours == pytest.approx(12 * 0.0833)

    (tmp_path / "control").touch()
    fixed = ["resources={workers: 1, gpus_per_worker: 0.5}", "training.global_batch_size=auto"]
    lines = [text for heading, text in plan_lines(dry_run(digits(tmp_path, *fixed))) if heading in ("GPU", "Batch")]
    assert lines == [
        "2 trials on each, and each may take 50% of its memory; NVIDIA's MPS runs here",
        "found at the start of each trial: the largest power of two times 1 worker(s) that fits, at most 1,024 images "
        "(Memory is for that many)",
    ]


def test_the_configuration_that_needs_most_memory_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[TrialConfig, int]] = []

    def measured(largest: TrialConfig, facts: DatasetFacts, files: Any, lanes: int) -> float:
        seen.append((largest, lanes))
        return 0.25

    monkeypatch.setattr(session, "measured_share", measured)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 1.0})
    search = "search={model: [conv_resnet26_small, conv_resnet26_large], global_batch_size: [16, 64]}"
    plans = resolve_plans(digits(tmp_path, search, "resources={workers: 1, gpus_per_worker: auto, lanes: 7}"))
    assert session.measured_gpu_share(plans, 20) == 0.25
    ((largest, lanes),) = seen
    assert (largest.model.name, largest.training.global_batch_size, lanes) == ("conv_resnet26_large", 64, 7)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    assert session.measured_gpu_share(plans, 20) == 1.0
    assert len(seen) == 1


def test_the_command_prints_a_summary_or_json(tmp_path: Path) -> None:
    one = ["search={lr: {low: 0.001, high: 0.01, type: float}}", "model={name: conv_resnet26_small}"]
    arguments = ["run", str(DIGITS), "--runs-dir", str(tmp_path / "runs"), "--dry-run"]
    arguments += [part for setting in one for part in ("--set", setting)]
    shown = CliRunner().invoke(app, [*arguments, "--set", "budget.wall_clock=10m"])
    assert "digits is valid. Nothing was started." in shown.output
    assert "The first 5 of at most 12 trials" in shown.output
    assert "144 at most: 12 trials of 12" in shown.output
    assert "at most 10m00s by the clock" in shown.output
    data = json.loads(CliRunner().invoke(app, [*arguments, "--json", "--set", "resources.cpus_per_worker=4096"]).stdout)
    assert "a trial needs 2 workers of 4096 CPU" in data["plan_problem"]
    assert data["largest"]["footprint"]["images_at_once"] == 16
    assert not (tmp_path / "runs").exists()


def test_folders_that_cannot_be_used_are_errors_of_their_settings_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    absent = f"storage.uri=sqlite:///{tmp_path}/absent/studies.db"
    config = load_sweep(DIGITS, [f"runs_dir={tmp_path / 'file'}", absent])

    for begin in (dry_run, run_sweep):
        with pytest.raises(ConfigError) as error:
            begin(config)
        assert [problem.where for problem in error.value.problems] == ["runs_dir", "storage.uri"]


def test_an_address_whose_variable_is_not_set_is_refused_as_by_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = digits(tmp_path, "notify=$HOOK_OF_NOBODY")
    with pytest.raises(ConfigError, match=r"notify: \$HOOK_OF_NOBODY: the environment variable is not set"):
        dry_run(config)
    monkeypatch.setenv("HOOK_OF_NOBODY", "https://hooks.example.com/a")
    assert dry_run(config).plan is not None

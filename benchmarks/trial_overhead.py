"""Overhead of a trial besides its training: plain Tune over Train against warm lanes.

    python benchmarks/trial_overhead.py [--trials 8] [--epochs 4] [--workers 2] [--lanes-only | --study-only]

Runs the same trials (same networks, data, seeds, epochs; no early stopping) twice in one process, one after the
other: once with one `TorchTrainer.fit()` per Tune trial, as Ray's documentation has it, and once through
SpatialSweep's lanes, one trial at a time in both. With `--lanes-only` the first is left out, and the times
between trials are printed one by one (`gaps_s`). With `--study-only` neither is run: it times what a trial sets in its
study on the way from its last report to the next proposal, in memory and in the database, in turns. Prints JSON.

    total_s       from the call to the result, Ray itself already running
    per_trial_s   total over trials
    marginal_s    median, over all trials but the first, of the time from the end of one trial to the end of the next,
                  less what the training loop itself measured (epochs with evaluation and checkpoints)
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

LR = (1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--lanes-only", action="store_true", help="leave the plain way out")
    parser.add_argument("--study-only", action="store_true", help="time the writes to the study, without Ray")
    arguments = parser.parse_args()
    if arguments.study_only:
        print(json.dumps(measure_study(), indent=2))
        return
    if arguments.lanes_only:
        measure_lanes(arguments)
        return

    import ray

    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Plain Tune over Train needs the dashboard to clean up after stopped trials, so both runs get it.
    ray.init(address="local", include_dashboard=True, log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        config = sweep_config(Path(folder), arguments)
        plain = summary(*run_plain(config, Path(folder)))
        lanes = summary(*run_lanes(config))
    ray.shutdown()
    result = {
        "setting": vars(arguments) | {"cpus": os.cpu_count()},
        "plain": plain,
        "lanes": lanes,
        "ratio": {key: round(lanes[key] / plain[key], 3) for key in plain},
    }
    print(json.dumps(result, indent=2))


def measure_lanes(arguments: argparse.Namespace) -> None:
    """Run the trials on lanes alone, on a private instance, and print the result."""
    with tempfile.TemporaryDirectory() as folder:
        total_s, ends = run_lanes(sweep_config(Path(folder), arguments))
    gaps_s = [round(gap, 3) for gap in gaps(ends)]
    setting = vars(arguments) | {"cpus": os.cpu_count()}
    print(json.dumps({"setting": setting, "lanes": summary(total_s, ends), "gaps_s": gaps_s}, indent=2))


def measure_study(trials: int = 60) -> dict[str, dict[str, list[float]]]:
    """Return quartiles of the milliseconds from the last report of a trial to the next proposal, per number of values.

    Args:
        trials: Number of trials of each kind.
    """
    import optuna

    from orchestrator.search.storage import open_storage, quieten
    from orchestrator.search.write_behind import WriteBehindStorage

    quieten()
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for values in (1, 10):
            database = open_storage(f"sqlite:///{folder}/{values}.db")
            memory = WriteBehindStorage(database)
            studies = {
                "in_memory": optuna.create_study(storage=memory, sampler=optuna.samplers.RandomSampler(seed=0)),
                "in_database": optuna.create_study(storage=database, sampler=optuna.samplers.RandomSampler(seed=0)),
            }
            times: dict[str, list[tuple[float, float]]] = {"in_memory": [], "in_database": [], "written_behind": []}
            for trial in range(2 * trials):
                kind = list(studies)[(trial + trial // 2) % 2]
                times[kind].append(clocks(lambda: pass_through_study(studies[kind], values)))  # noqa: B023
                if kind == "in_memory":
                    times["written_behind"].append(clocks(memory.flush))
            found[f"{values} values"] = {
                f"{kind}_{clock}_ms": [round(1e3 * cut, 1) for cut in statistics.quantiles(column, n=4)]
                for kind, rows in times.items()
                for clock, column in zip(("wall", "cpu"), zip(*rows, strict=True), strict=True)
            }
    return found


def clocks(call: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds of a call, by the wall clock and of processor time."""
    started = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def pass_through_study(study: Any, values: int) -> None:
    """Propose a trial and end it with its last report, as the driver does.

    Args:
        study: Study of Optuna.
        values: Number of searched values.
    """
    trial = study.ask()
    for index in range(values):
        trial.suggest_float(f"x{index}", 0, 1)
    trial.set_user_attr("tune_trial", "0")
    study._storage.set_trial_intermediate_value(trial._trial_id, 1, 0.5)
    trial.set_user_attr("outcome", "finished")
    study.tell(trial, 0.5)


def sweep_config(folder: Path, arguments: argparse.Namespace) -> Any:
    """Create the configuration of both runs."""
    from orchestrator import SweepConfig

    return SweepConfig(
        name="overhead",
        dataset={"name": "digits"},
        model={"name": "conv_resnet26_small"},
        training={"epochs": arguments.epochs, "global_batch_size": 256, "optimizer": "adamw"},
        search={"lr": {"choices": list(LR)}},
        trials=arguments.trials,
        sampler={"name": "random"},
        trial_scheduler={"name": "none"},
        resources={"workers": arguments.workers, "lanes": 1},
        runs_dir=str(folder),
    )


def run_lanes(config: Any) -> tuple[float, list[tuple[float, float]]]:
    """Run the sweep on lanes; return total seconds, and for each trial its end and its training seconds."""
    from orchestrator import run_sweep

    started = time.time()
    result = run_sweep(config)
    total = time.time() - started
    ends = [
        (record.ended_s, sum(report["epoch_time_s"] for report in record.reports))
        for record in result.records
        if record.ended_s is not None
    ]
    assert len(ends) == config.trials
    return total, ends


def run_plain(config: Any, folder: Path) -> tuple[float, list[tuple[float, float]]]:
    """Run the trials with one `TorchTrainer.fit()` per Tune trial; the result is that of `run_lanes`."""
    from ray import tune

    from orchestrator.data import prepare_dataset

    dataset = prepare_dataset("digits", folder / "datasets")
    started = time.time()
    trainable = tune.with_parameters(plain_trial, sweep=config, dataset=str(dataset), folder=str(folder / "plain"))
    # The CPUs are for the workers, which a trial that reserved one could starve on a small machine.
    placement = tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
    tuner = tune.Tuner(
        tune.with_resources(trainable, placement),
        param_space={"lr": tune.choice(LR)},
        tune_config=tune.TuneConfig(metric="val/top1", mode="max", num_samples=config.trials, max_concurrent_trials=1),
        run_config=tune.RunConfig(name="plain", storage_path=str(folder), verbose=0),
    )
    results = tuner.fit()
    total = time.time() - started
    assert not results.errors, results.errors
    return total, sorted((result.metrics["timestamp"], result.metrics["train_s"]) for result in results)


def plain_trial(params: Mapping[str, Any], sweep: Any, dataset: str, folder: str) -> None:
    """Run a Tune trial that starts a Train run of its own, as Ray's documentation shows."""
    from ray import tune
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.config import RunConfig, ScalingConfig
    from ray.tune.integration.ray_train import TuneReportCallback

    trial_id = tune.get_context().get_trial_id()
    TorchTrainer(
        plain_worker,
        train_loop_config={"lr": params["lr"], "sweep": sweep, "dataset": dataset, "folder": f"{folder}/{trial_id}"},
        scaling_config=ScalingConfig(num_workers=sweep.resources.workers),
        run_config=RunConfig(name=trial_id, storage_path=f"{folder}/train", callbacks=[TuneReportCallback()]),
    ).fit()


def plain_worker(setting: Mapping[str, Any]) -> None:
    """Run SpatialSweep's training loop on a Train worker, with reports through Train."""
    import ray.train
    import torch

    from orchestrator.config import resolve_trial
    from orchestrator.data import open_dataset
    from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints
    from orchestrator.training.images.placement import place_dataset
    from orchestrator.training.trial import Trial
    from orchestrator.training.workers import Workers

    sweep, context = setting["sweep"], ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size(), torch.device("cpu"))
    data = place_dataset(open_dataset(setting["dataset"]), workers.device, sweep.dataset)
    spent = 0.0

    def report(_epoch: int, metrics: Mapping[str, float]) -> None:
        nonlocal spent
        spent += metrics["epoch_time_s"]
        ray.train.report({**metrics, "train_s": spent})

    trial = resolve_trial(sweep, 0, {"lr": setting["lr"]})
    Trial(trial, sweep.objective, data, workers, TrialCheckpoints(Path(setting["folder"]))).run(report)


def summary(total_s: float, ends: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Compute the numbers that the module's docstring explains."""
    return {
        "total_s": round(total_s, 2),
        "per_trial_s": round(total_s / len(ends), 2),
        "marginal_s": round(statistics.median(gaps(ends)), 3),
    }


def gaps(ends: Sequence[tuple[float, float]]) -> list[float]:
    """Return the seconds between the ends of successive trials, less those of training."""
    return [end - before - spent for (before, _), (end, spent) in itertools.pairwise(sorted(ends))]


if __name__ == "__main__":
    main()

"""Strategies of search compared on tabulated learning curves, ours and those of other packages.

    python benchmarks/search/search_quality.py run --cache FOLDER [--curves FOLDER] [--lanes 1 4 16] [--seeds 30]
    python benchmarks/search/search_quality.py table --cache FOLDER [--curves FOLDER] [--pictures FOLDER]
    python benchmarks/search/search_quality.py page --cache FOLDER --curves FOLDER --to FILE.md
    python benchmarks/search/search_quality.py pack --cache FOLDER --to benchmarks/results/search/runs.parquet

`run` simulates what the cache does not hold yet, and may be interrupted; `table` prints the comparison in Markdown;
`page` writes the tables of a page again, with its pictures; `pack` writes all searches of the cache to one file. The
folder of that file is a cache, too.
Every strategy gets the same epochs, twenty times a complete training; on tables of final scores fifty trainings.
Methods whose packages are missing are named and left out.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from lane_simulation import Run, simulate
from methods import METHODS, Search
from recorded_runs import Key, append_runs, pack_runs, read_runs
from tasks import HELD_BACK, Task, digits_tasks, tabular_tasks, taskset_tasks

SOURCES = ("digits", "taskset", "tabular")
_TRAININGS, _FINAL_SCORES = 20, 50


def budget_of(task: Task) -> int:
    """Return the epochs of all lanes together."""
    return task.epochs * (_TRAININGS if task.epochs > 1 else _FINAL_SCORES)


def read_tasks(sources: Sequence[str], curves: Path | None, cache: Path) -> list[Task]:
    """Read the tasks of some sources, and say which are missing.

    Args:
        sources: Names of sources.
        curves: Folder of recorded curves; None where there is none.
        cache: Folder of the cache.
    """
    found: list[Task] = []
    if "digits" in sources:
        found += digits_tasks()
    if "taskset" in sources and curves is None:
        print("taskset: left out; give the folder of the recorded curves with --curves")
    elif "taskset" in sources and curves is not None:
        found += taskset_tasks(curves)
    if "tabular" in sources:
        try:
            found += tabular_tasks(cache / "tables")
        except ModuleNotFoundError as error:
            print(f"tabular: left out; {error}")
    return found


def missing_packages(method: str) -> list[str]:
    """Return the modules that a method needs and that are not installed."""
    missing = []
    for package in METHODS[method].packages:
        try:
            known = find_spec(package) is not None
        except ModuleNotFoundError:
            known = False
        if not known:
            missing.append(package)
    return missing


def run_all(arguments: argparse.Namespace, keys: Iterator[tuple[Task, Key]]) -> None:
    """Simulate what the cache does not hold yet, until the time is over."""
    started, known = time.monotonic(), read_runs(arguments.cache)
    file = arguments.cache / f"runs-{os.getpid()}.jsonl"
    for task, key in keys:
        if key in known:
            continue
        if time.monotonic() - started > arguments.seconds:
            return
        append_runs(file, [(key, run_one(task, key))])


def run_one(task: Task, key: Key) -> Run:
    """Simulate one search."""
    strategy = METHODS[key.method].create(Search(task, key.seed, key.budget))
    return simulate(task, strategy, lanes=key.lanes, budget=key.budget)


def wanted_keys(arguments: argparse.Namespace) -> Iterator[tuple[Task, Key]]:
    """Yield the searches that are asked for: all methods with the first seed, then with the next."""
    methods = []
    for name in arguments.methods or METHODS:
        if missing := missing_packages(name):
            print(f"{name}: left out; it needs {', '.join(missing)}")
        else:
            methods.append(name)
    tasks = [
        task
        for task in read_tasks(arguments.sources, arguments.curves, arguments.cache)
        if arguments.held_back or task.name not in HELD_BACK
    ]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    for seed, lanes, task, name in itertools.product(seeds, arguments.lanes, tasks, methods):
        is_copy = task.epochs == 1 and METHODS[name].same_on_final_scores
        if METHODS[name].needs_known and not task.known:
            continue
        if not is_copy:
            yield task, Key(task.name, name, lanes, seed, budget_of(task))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table", "page", "pack"))
    parser.add_argument("--cache", type=Path, required=True, help="folder of the simulated searches")
    parser.add_argument("--curves", type=Path, help="folder of the recorded curves of other tasks")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES)
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS))
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--held-back", action="store_true", help="include the tasks that no choice is made on")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no search after this many seconds")
    parser.add_argument("--pictures", type=Path, help="folder for the pictures")
    parser.add_argument("--to", type=Path, help="Parquet file of `pack`, or Markdown file of `page`")
    arguments = parser.parse_args()
    quieten()
    if arguments.action in ("page", "pack") and arguments.to is None:
        parser.error(f"{arguments.action}: name the file with --to")
    if arguments.action == "run":
        run_all(arguments, wanted_keys(arguments))
    elif arguments.action == "pack":
        pack_runs(arguments.to, read_runs(arguments.cache))
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Print the tables of the searches, or write those of a page."""
    from comparison import Comparison, print_comparison
    from result_page import update_page

    tasks = read_tasks(arguments.sources, arguments.curves, arguments.cache)
    comparison = Comparison(arguments.cache, tasks, {task.name: budget_of(task) for task in tasks})
    if arguments.action == "page":
        update_page(arguments.to, comparison)
    else:
        print_comparison(arguments, comparison)


def quieten() -> None:
    """Silence the notices that other packages write for each search."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if find_spec("optuna") is not None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)


if __name__ == "__main__":
    main()

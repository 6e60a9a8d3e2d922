"""Comparison of the simulated searches as tables and pictures."""

from __future__ import annotations

import argparse
import itertools
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from lane_simulation import Run
from methods import AUTO, METHODS, method_of_auto
from ranks import SHARES, Interval, average_ranks, expected_epochs, geometric_mean, worst
from recorded_runs import Key, read_runs
from tasks import HELD_BACK, Task

RANDOM = "random"
_COLUMNS = (
    "method",
    "rank at 25%",
    "at 50%",
    "at 100%",
    "regret at 100%",
    "epochs to random's best",
    "worst task",
    "seeds",
)
_COLUMNS += ("s a proposal",)
Runs = Mapping[tuple[str, str, int], Sequence[Run]]
"""Searches by task, method and number of lanes."""


def runs_by_method(known: Mapping[Key, Run], tasks: Sequence[Task]) -> Runs:
    """Group searches; where there are no curves, a method takes those of the method that it is the same as."""
    found: dict[tuple[str, str, int], list[Run]] = {}
    for key in sorted(known):
        found.setdefault((key.task, key.method, key.lanes), []).append(known[key])
    lanes = {key.lanes for key in known}
    for task in (task for task in tasks if task.epochs == 1):
        for name, method in METHODS.items():
            for count in lanes:
                same = found.get((task.name, method.same_on_final_scores, count))
                if same is not None:
                    found[task.name, name, count] = same
    for task, count in itertools.product(tasks, lanes):
        chosen = found.get((task.name, method_of_auto(task), count))
        if chosen is not None:
            found[task.name, AUTO, count] = chosen
    return found


def compared(runs: Runs, tasks: Sequence[Task], lanes: int, methods: Sequence[str]) -> tuple[list[Task], list[str]]:
    """Return the methods that ran on a task at least, and the tasks that all of these ran on."""
    present = [name for name in methods if any((task.name, name, lanes) in runs for task in tasks)]
    complete = [task for task in tasks if all((task.name, name, lanes) in runs for name in present)]
    return complete, present


def rank_rows(
    runs: Runs, tasks: Sequence[Task], lanes: int, methods: Sequence[str], budgets: Mapping[str, int]
) -> list[list[Interval]]:
    """Return the average ranks, a row for each share of the budget."""
    rows = []
    for share in SHARES:
        matrices = [
            _padded(
                [
                    [_shown(run.best_at(share * budgets[task.name])) for run in runs[task.name, name, lanes]]
                    for name in methods
                ]
            )
            for task in tasks
        ]
        rows.append(average_ranks(matrices))
    return rows


def _shown(score: float) -> float:
    return score if math.isfinite(score) else -1e300  # one before the first report ranks last


def _padded(rows: Sequence[Sequence[float]]) -> np.ndarray:
    found = np.full((len(rows), max(map(len, rows))), math.nan)
    for at, row in enumerate(rows):
        found[at, : len(row)] = row
    return found


def ratios_to_random(
    runs: Runs, tasks: Sequence[Task], lanes: int, method: str, budgets: Mapping[str, int]
) -> dict[str, float]:
    """Return the epochs to the median of what random search finds, as a ratio to random search, by task."""
    found = {}
    for task in tasks:
        base = runs[task.name, RANDOM, lanes]
        target = statistics.median(run.best_at(budgets[task.name]) for run in base)
        mine = expected_epochs([run.epochs_to(target) for run in runs[task.name, method, lanes]], budgets[task.name])
        found[task.name] = mine / expected_epochs([run.epochs_to(target) for run in base], budgets[task.name])
    return found


def regrets(runs: Runs, task: Task, lanes: int, method: str, epochs: float) -> float:
    """Return the mean regret of a method on a task after a number of epochs."""
    return statistics.fmean(task.regret(run.best_at(epochs)) for run in runs[task.name, method, lanes])


class Comparison:
    """Searches of a cache, by source of tasks and number of lanes.

    Args:
        cache: Folder of the simulated searches.
        tasks: Tasks.
        budgets: Epochs of all lanes together, by task.
    """

    def __init__(self, cache: Path, tasks: Sequence[Task], budgets: Mapping[str, int]) -> None:
        self.runs, self.tasks, self.budgets = runs_by_method(read_runs(cache), tasks), tasks, budgets

    def write(
        self, heading: str, lanes: int, asked: Sequence[str], pictures: Path | None = None
    ) -> tuple[str, list[str]] | None:
        """Return the title and the lines of a table, and write its picture; None where too little was searched.

        Args:
            heading: Name of a group of tasks, see `groups`.
            lanes: Number of lanes.
            asked: Methods; those without a search are left out.
            pictures: Folder of the pictures; None writes none.
        """
        group = dict(groups(self.tasks, held_back=True))[heading]
        methods, chosen = list(asked), {method_of_auto(task) for task in group}
        if len(chosen) > 1:  # otherwise it is one of the others, which the table would hold twice
            methods.append(AUTO)
        whole, present = compared(self.runs, group, lanes, methods)
        if RANDOM not in present or not whole:
            return None
        lines = [f"`strategy: auto` is `{chosen.pop()}` here.", ""] if len(chosen) == 1 else []
        lines += _table(self.runs, whole, lanes, present, self.budgets)
        title = f"{heading}, {lanes} lane{'s' * (lanes > 1)}"
        if pictures is not None:
            from pictures import draw

            draw(
                pictures / picture_of(heading, lanes),
                title,
                runs=self.runs,
                tasks=whole,
                lanes=lanes,
                methods=present,
                budgets=self.budgets,
            )
        return f"{title}: {len(whole)} of {len(group)} tasks", lines


def picture_of(heading: str, lanes: int) -> str:
    """Return the name of the picture of a group of tasks."""
    return f"search_{heading.replace(', ', '_').replace(' ', '_')}_{lanes}.png"


def print_comparison(arguments: argparse.Namespace, comparison: Comparison) -> None:
    """Print the tables in Markdown, and write the pictures."""
    for lanes in arguments.lanes:
        for heading, _ in groups(comparison.tasks, held_back=arguments.held_back):
            found = comparison.write(heading, lanes, arguments.methods or list(METHODS), arguments.pictures)
            if found is not None:
                print(f"\n### {found[0]}\n")
                print("\n".join(found[1]))


def groups(tasks: Sequence[Task], *, held_back: bool) -> Iterator[tuple[str, list[Task]]]:
    """Yield the tasks of each source, and those that were kept back."""
    for source in dict.fromkeys(task.source for task in tasks):
        yield source, [task for task in tasks if task.source == source and task.name not in HELD_BACK]
    if held_back:
        for source in dict.fromkeys(task.source for task in tasks):
            kept = [task for task in tasks if task.name in HELD_BACK and task.source == source]
            if kept:
                yield f"{source}, kept back", kept


def _table(
    runs: Runs, tasks: Sequence[Task], lanes: int, methods: Sequence[str], budgets: Mapping[str, int]
) -> Iterator[str]:
    """Yield the lines of a table, the best average rank at the end of the budget first."""
    by_share = rank_rows(runs, tasks, lanes, methods, budgets)
    yield f"| {' | '.join(_COLUMNS)} |"
    yield f"{'|---' * len(_COLUMNS)}|"
    for at in sorted(range(len(methods)), key=lambda at: by_share[-1][at].value):
        name = methods[at]
        cells = [f"{row[at].value:.1f} ({row[at].low:.1f} - {row[at].high:.1f})" for row in by_share]
        ratios = ratios_to_random(runs, tasks, lanes, name, budgets)
        where, ratio = worst(ratios)
        regret = statistics.fmean(regrets(runs, task, lanes, name, budgets[task.name]) for task in tasks)
        seeds = [len(runs[task.name, name, lanes]) for task in tasks]
        cells += [
            f"{regret:.3f}",
            _ratio(geometric_mean(list(ratios.values()))),
            f"{_ratio(ratio)} ({_short(where)})",
        ]
        cells += [str(min(seeds)) if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"]
        all_runs = [run for task in tasks for run in runs[task.name, name, lanes]]
        cells.append(f"{sum(run.decision_s for run in all_runs) / sum(run.trials for run in all_runs):.3f}")
        yield f"| {name} | {' | '.join(cells)} |"


def _short(task: str) -> str:
    """Return the name of a task without what it has in common with others of its source."""
    return re.sub("^(imdb_patch|(hpobench|hpolib|nasbench201)_)", "", task.partition("/")[2])


def _ratio(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "never"

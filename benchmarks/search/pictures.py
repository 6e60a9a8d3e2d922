"""Pictures of compared strategies: average ranks with intervals, and regret over the budget."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from comparison import Runs, rank_rows, regrets
from methods import METHODS
from ranks import SHARES
from tasks import Task

mpl.use("agg")

from matplotlib import pyplot as plt  # noqa: E402 - the backend is chosen first

_STEPS = 40


def draw(
    folder: Path,
    heading: str,
    runs: Runs,
    tasks: Sequence[Task],
    lanes: int,
    methods: Sequence[str],
    budgets: Mapping[str, int],
) -> None:
    """Write one picture: regret over the budget on the left, average ranks on the right.

    Args:
        folder: Folder of the picture.
        heading: Name of the group of tasks.
        runs: Searches by task, method and number of lanes.
        tasks: Tasks.
        lanes: Number of lanes.
        methods: Methods.
        budgets: Epochs of all lanes together, by task.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    colours = plt.get_cmap("tab20")
    shares = np.linspace(1 / _STEPS, 1, _STEPS)
    rows = rank_rows(runs, tasks, lanes, methods, budgets)
    order = sorted(range(len(methods)), key=lambda at: rows[-1][at].value)
    for place, at in enumerate(order):
        name, colour = methods[at], colours(at % 20)
        curve = [
            statistics.fmean(regrets(runs, task, lanes, name, share * budgets[task.name]) for task in tasks)
            for share in shares
        ]
        left.plot(100 * shares, curve, color=colour, label=name, ls="-" if METHODS[name].is_ours else "--")
        for offset, row in zip((-0.22, 0, 0.22), rows, strict=True):
            at_share = row[at]
            error = [[at_share.value - at_share.low], [at_share.high - at_share.value]]
            right.errorbar(at_share.value, place + offset, xerr=error, fmt="o", ms=4, color=colour, capsize=2)
    left.set(xlabel="share of the budget in %", ylabel="mean regret", yscale="log", title=f"{heading}, lanes: {lanes}")
    left.legend(fontsize=6, ncols=2)
    labels = ", ".join(f"{round(100 * share)}%" for share in SHARES)
    right.set(xlabel=f"average rank at {labels} of the budget (downwards)", yticks=range(len(order)))
    right.set_yticklabels([methods[at] for at in order], fontsize=7)
    right.invert_yaxis()
    figure.savefig(folder / f"{heading.replace(', ', '_').replace(' ', '_')}_{lanes}_lanes.png", dpi=80)
    plt.close(figure)

"""Pictures of compared strategies: average ranks with intervals, and regret over the budget."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from comparison import Runs, rank_rows, regrets
from methods import AUTO, METHODS
from ranks import SHARES
from tasks import Task

mpl.use("agg")

from matplotlib import pyplot as plt

_STEPS = 40


def draw(
    file: Path,
    title: str,
    *,
    runs: Runs,
    tasks: Sequence[Task],
    lanes: int,
    methods: Sequence[str],
    budgets: Mapping[str, int],
) -> None:
    """Write one picture: regret over the budget on the left, average ranks on the right.

    Args:
        file: File of the picture.
        title: Title of the picture.
        runs: Searches by task, method and number of lanes.
        tasks: Tasks.
        lanes: Number of lanes.
        methods: Methods.
        budgets: Epochs of all lanes together, by task.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
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
        left.plot(
            100 * shares, curve, color=colour, label=name, ls="-" if name == AUTO or METHODS[name].is_ours else "--"
        )
        for offset, row in zip((-0.22, 0, 0.22), rows, strict=True):
            at_share = row[at]
            error = [[at_share.value - at_share.low], [at_share.high - at_share.value]]
            right.errorbar(at_share.value, place + offset, xerr=error, fmt="o", ms=4, color=colour, capsize=2)
    left.set(xlabel="share of the budget in %", ylabel="mean regret", yscale="log", title=title)
    left.legend(fontsize=6, ncols=2)
    labels = ", ".join(f"{round(100 * share)}%" for share in SHARES)
    right.set(xlabel=f"average rank at {labels} of the budget (downwards)", yticks=range(len(order)))
    right.set_yticklabels([methods[at] for at in order], fontsize=7)
    right.invert_yaxis()
    figure.savefig(file, dpi=80)
    plt.close(figure)

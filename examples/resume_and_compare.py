"""Add trials to a sweep, and compare sweeps as pandas tables.

    python examples/resume_and_compare.py predict --trials 6
    python examples/resume_and_compare.py digits zoo

The search continues from all earlier trials: none of them is trained again.
"""

from __future__ import annotations

import argparse

import pandas as pd
from rich.console import Console

from orchestrator import SweepResult, load_result, resume_sweep


def compare(results: list[SweepResult]) -> pd.DataFrame:
    """Return the best trial of each network of each sweep, best first.

    Args:
        results: Finished, running or interrupted sweeps.
    """
    trials = pd.concat([result.to_pandas().assign(sweep=result.name) for result in results])
    best = trials.sort_values("value", ascending=False).groupby(["sweep", "model"], sort=False).head(1)
    return best[["sweep", "model", "trial", "status", "value", "test_top1", "epochs", "cpu_s"]].reset_index(drop=True)


def curves(result: SweepResult, metric: str) -> pd.DataFrame:
    """Return a metric with a row for each epoch and a column for each trial.

    Args:
        result: The sweep.
        metric: Such as `val/top1`; docs/tracking.md lists them.
    """
    reports = result.reports.to_pandas()
    return reports[reports["metric"] == metric].pivot(index="epoch", columns="trial", values="value")


def main() -> None:
    """Resume the first sweep if `--trials` is given, then print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", metavar="NAME", help="sweeps in runs/, or their folders")
    parser.add_argument("--trials", type=int, help="resume the first sweep up to this number of trials")
    given = parser.parse_args()
    if given.trials is not None:
        resume_sweep(given.sweeps[0], [f"trials={given.trials}"], console=Console())
    results = [load_result(name) for name in given.sweeps]
    print(compare(results).to_string())
    print(curves(results[0], results[0].metric).round(3).to_string())


if __name__ == "__main__":
    main()

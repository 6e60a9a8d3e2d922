"""CPU seconds of commands that a user waits for: help, list of networks, reports, dry runs.

    python benchmarks/commands.py [--rounds 5] [--against FOLDER] [--only NAME ...]

Runs each command in a process of its own, with one thread, and counts the processor time of that process and of those
that it waited for. With `--against`, another checkout takes turns with this one, in the order A B B A, so that other
load on the machine meets both. The reports are those of two synthetic sweeps, of 12 trials and of 1,000, up to 30
epochs each, without an MLflow database. Prints JSON: medians in seconds, quartiles of each command, and with
`--against` the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from orchestrator.records.ledger import TrialStatus
from tests.support.sweeps.fake_sweeps import write_sweep

ROOT = Path(__file__).resolve().parents[1]
_EPOCHS = 30


def main() -> None:
    """Measure the commands in turns and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", nargs="+")
    arguments = parser.parse_args()
    checkouts = {"here": ROOT, **({"against": arguments.against.resolve()} if arguments.against else {})}
    with tempfile.TemporaryDirectory() as folder:
        write_sweeps(Path(folder))
        given = commands(Path(folder))
        chosen = {name: given[name] for name in arguments.only or given}
        seconds = measured(chosen, checkouts, arguments.rounds)
    print(
        json.dumps({"setting": {"rounds": arguments.rounds, "load": os.getloadavg()[0]}, "seconds": seconds}, indent=1)
    )


def commands(runs_dir: Path) -> dict[str, list[str]]:
    """Return the arguments of the commands by name.

    Args:
        runs_dir: Folder of the synthetic sweeps.
    """
    page = ["--runs-dir", str(runs_dir), "--output", str(runs_dir / "report.html")]
    return {
        "help": ["--help"],
        "models": ["models"],
        "report, 12 trials": ["report", "small", *page],
        "report, 1000 trials": ["report", "large", *page],
        "dry run, digits": ["run", "sweeps/digits.yaml", "--dry-run"],
        "dry run, zoo": ["run", "sweeps/zoo.yaml", "--dry-run"],
    }


def write_sweeps(runs_dir: Path) -> None:
    """Write two sweeps of trials with invented learning curves, of which a third is trained to the end."""
    chance = random.Random(0)
    for name, count in (("small", 12), ("large", 1000)):
        trials = []
        for number in range(count):
            finished, pace = number % 3 == 0, 8 + 8 * chance.random()
            epochs = _EPOCHS if finished else chance.randint(1, _EPOCHS - 1)
            curve = [0.3 + 0.6 * (1 - math.exp(-(epoch + 1) / pace)) for epoch in range(epochs)]
            trials.append((TrialStatus.FINISHED if finished else TrialStatus.PRUNED, curve))
        write_sweep(runs_dir, name, trials)


def measured(
    chosen: Mapping[str, list[str]], checkouts: Mapping[str, Path], rounds: int
) -> dict[str, dict[str, float | list[float]]]:
    """Return the processor time of each command, in seconds.

    Args:
        chosen: Arguments by name of the command.
        checkouts: Folders of the code by name.
        rounds: Number of runs of each command in each checkout.
    """
    found: dict[str, dict[str, float | list[float]]] = {}
    for name, words in chosen.items():
        times: dict[str, list[float]] = {checkout: [] for checkout in checkouts}
        for number in range(rounds):
            for checkout in list(checkouts)[:: 1 if number % 2 == 0 else -1]:
                times[checkout].append(cpu_seconds(words, checkouts[checkout]))
        row: dict[str, float | list[float]] = {}
        for checkout, values in times.items():
            low, middle, high = statistics.quantiles(values, n=4) if rounds > 1 else values * 3
            row |= {checkout: round(middle, 2), f"{checkout}_quartiles": [round(low, 2), round(high, 2)]}
        if "against" in times:
            row["ratio"] = round(statistics.median(times["against"]) / statistics.median(times["here"]), 2)
        found[name] = row
    return found


def cpu_seconds(words: list[str], checkout: Path) -> float:
    """Run a command once and return its processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=checkout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()

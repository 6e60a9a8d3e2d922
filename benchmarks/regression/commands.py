"""Processor seconds of commands that train nothing, in units of a fixed loop of Python.

    python benchmarks/regression/commands.py [--rounds 3]

Each round measures every command once: the help, the table of networks, a dry run of the demo, and the report of a
sweep of 50 trials. Processes that a command starts and waits for count. Prints JSON: for each command its units, and
the median of its processor seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from measurements import ROOT, unit_s

TRIALS, EPOCHS = 50, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    units, seconds = defaultdict(list), defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        commands = commands_in(Path(folder))
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                before = unit_s()
                took_s = processor_seconds(command)
                seconds[name].append(took_s)
                units[name].append(round(took_s / statistics.mean((before, unit_s())), 3))
    medians = {name: round(statistics.median(found), 2) for name, found in seconds.items()}
    print(json.dumps({"setting": vars(arguments), "units": units, "median_s": medians}, indent=2))


def commands_in(folder: Path) -> dict[str, list[str]]:
    """Return the commands; those with a sweep find it in a folder.

    Args:
        folder: Folder of results, in which a sweep is written.
    """
    from orchestrator.records.ledger import TrialStatus
    from tests.support.sweeps.fake_sweeps import write_sweep

    curves = [[0.5 + 0.4 * (number * 7 % TRIALS) / TRIALS * epoch / EPOCHS for epoch in range(1, EPOCHS + 1)]
              for number in range(TRIALS)]  # fmt: skip
    write_sweep(folder, "watched", [(TrialStatus.FINISHED, curve) for curve in curves])
    page = ["--output", str(folder / "report.html")]
    return {
        "--help": ["--help"],
        "models": ["models"],
        "run --dry-run": ["run", "sweeps/digits.yaml", "--dry-run", "--runs-dir", str(folder)],
        "report": ["report", "watched", "--runs-dir", str(folder), *page],
    }


def processor_seconds(command: Sequence[str]) -> float:
    """Run a command of `spatialsweep`; return the processor seconds of its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "orchestrator", *command],
        cwd=ROOT,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()

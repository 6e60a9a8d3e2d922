"""Ratios of the main benchmarks beside the recorded ones: what got worse by more than a tenth, with its spread.

    make bench-check [UPDATE=1] [ONLY="hub records"]
    python benchmarks/regression/check.py [--update] [--only hub records] [--recorded PATH]

Runs each benchmark of `measurements.py` in turn, and once more where a ratio got worse beyond its spread: the spread
within one run may be smaller than that between runs. Exits with 1 where it is worse both times, a ratio was not
measured again, or a benchmark failed; with 2 where the file of recorded ratios cannot be used, or nothing can be
measured. `--update` records what was measured instead.
"""

from __future__ import annotations

import argparse
import datetime
import difflib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from measurements import MEASUREMENTS, ROOT, Measurement, MeasurementError, measure
from ratios import Better, Block, Comparison, Ratio, RecordError, Verdict, compare, read_recorded, write_recorded
from rich.console import Console
from rich.table import Table

RECORDED = ROOT / "benchmarks" / "results" / "ratios.json"
FAILED, UNUSABLE = 1, 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="record what was measured")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--recorded", type=Path, default=RECORDED, help="file of recorded ratios")
    given = parser.parse_args()
    try:
        chosen = choose(given.only)
        recorded = {} if given.update and not given.recorded.exists() else read_recorded(given.recorded)
    except RecordError as error:
        print(error, file=sys.stderr)
        return UNUSABLE
    if not (chosen := possible(chosen)):
        print("nothing is left to measure on this machine", file=sys.stderr)
        return UNUSABLE
    found, failures = run(chosen)
    if given.update:
        kept = {name: block for name, block in recorded.items() if name in MEASUREMENTS}
        write_recorded(given.recorded, {**kept, **found})
        print(f"recorded: {', '.join(found) or 'nothing'} in {given.recorded}")
    else:
        # One that no longer exists is missing, where all are measured; those left out here are not.
        left_out = set(MEASUREMENTS) - set(chosen) if given.only is None else set(recorded) - set(chosen)
        before = {name: block for name, block in recorded.items() if name not in left_out}
        rows = compare(flat(before), flat(found))
        worse = {row.name.partition(": ")[0] for row in rows if row.verdict is Verdict.WORSE}
        if worse:
            print(f"once more, since worse: {', '.join(sorted(worse))}", file=sys.stderr)
            second, errors = run({name: chosen[name] for name in chosen if name in worse})
            failures += errors
            found |= {name: better_of(found[name], block) for name, block in second.items()}
            rows = compare(flat(before), flat(found))
        show(rows, before, found)
        failures += [row.name for row in rows if row.fails]
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return FAILED if failures else 0


def choose(names: list[str] | None) -> Mapping[str, Measurement]:
    """Return the measurements with these names; all where there are none.

    Raises:
        RecordError: There is none with a name.
    """
    for name in names or ():
        if name not in MEASUREMENTS:
            close = difflib.get_close_matches(name, MEASUREMENTS, 1)
            hint = f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(MEASUREMENTS)}."
            raise RecordError(f"--only: unknown measurement '{name}'. {hint}")
    return MEASUREMENTS if not names else {name: MEASUREMENTS[name] for name in names}


def possible(chosen: Mapping[str, Measurement]) -> Mapping[str, Measurement]:
    """Return the measurements that this machine can do; print why others are left out."""
    missing = {name: reason for name, measurement in chosen.items() if (reason := measurement.needs())}
    for name, reason in missing.items():
        print(f"left out: {name} {reason}", file=sys.stderr)
    return {name: measurement for name, measurement in chosen.items() if name not in missing}


def run(chosen: Mapping[str, Measurement]) -> tuple[dict[str, Block], list[str]]:
    """Run measurements; return the ratios of those that succeeded, and the errors of the others."""
    found, failures = {}, []
    facts = {"commit": commit(), "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        for name, measurement in chosen.items():
            began = time.monotonic()
            try:
                ratios = measure(measurement, Path(folder))
            except MeasurementError as error:
                failures.append(str(error))
                continue
            found[name] = Block(**facts, command=measurement.command, ratios=ratios)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return found, failures


def better_of(first: Block, second: Block) -> Block:
    """Return two runs of a measurement as one, each ratio as it was in the run with the better median."""
    ratios = dict(first.ratios)
    for name, now in second.ratios.items():
        before = ratios.get(name, now)
        is_better = now.median > before.median if now.better is Better.HIGHER else now.median < before.median
        ratios[name] = now if is_better else before
    return first.model_copy(update={"ratios": ratios})


def flat(blocks: Mapping[str, Block]) -> dict[str, Ratio]:
    """Return ratios by `measurement: ratio`."""
    return {f"{name}: {ratio}": value for name, block in blocks.items() for ratio, value in block.ratios.items()}


def show(rows: list[Comparison], recorded: Mapping[str, Block], found: Mapping[str, Block]) -> None:
    """Print what changed by more than a tenth, what is new or missing, and how many are the same."""
    console = Console(width=160)
    elsewhere = sorted({block.machine for block in recorded.values()} - {block.machine for block in found.values()})
    for place in elsewhere:
        console.print(f"Some were recorded on another machine, where ratios may differ: {place}", highlight=False)
    notable = [row for row in rows if row.verdict is not Verdict.SAME]
    if notable:
        table = Table("ratio", "recorded", "now", "worse by", "verdict")
        for row in notable:
            worse = f"{row.change:+.0%}" if row.recorded and row.found else ""
            table.add_row(row.name, str(row.recorded or ""), str(row.found or ""), worse, row.verdict)
        console.print(table)
    console.print(f"{len(rows) - len(notable)} of {len(rows)} ratios within 10% of the recorded ones", highlight=False)


def commit() -> str:
    """Return the short name of the commit; `+` follows where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
    ).stdout
    own = str(RECORDED.relative_to(ROOT))
    return name.strip() + ("+" if any(not line.endswith(own) for line in changed.splitlines()) else "")


def machine() -> str:
    """Return processor, cores and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray"))
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    sys.exit(main())

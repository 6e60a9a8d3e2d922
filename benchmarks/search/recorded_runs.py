"""Simulated searches kept in files, so that a comparison can be made in stretches: lines, or packed in Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from lane_simulation import Run

_PAIR = ("epochs", "scores")  # columns of `Run.improvements`


@dataclass(frozen=True, order=True)
class Key:
    """Identity of a simulated search.

    Args:
        task: Name of the task.
        method: Name of the method.
        lanes: Number of lanes.
        seed: Seed.
        budget: Epochs of all lanes together.
    """

    task: str
    method: str
    lanes: int
    seed: int
    budget: int


def read_runs(folder: Path) -> dict[Key, Run]:
    """Read the searches of a folder.

    Args:
        folder: Folder of the files: packed ones, and one for each process that wrote.
    """
    found = {}
    for file in sorted(folder.glob("runs*.parquet")):
        found |= dict(_packed(file))
    for file in sorted(folder.glob("runs*.jsonl")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            run = row.pop("run")
            run["improvements"] = [(spent, score) for spent, score in run["improvements"]]
            found[Key(**row)] = Run(**run)
    return found


def append_runs(file: Path, runs: Iterable[tuple[Key, Run]]) -> None:
    """Append searches to a file.

    Args:
        file: File of this process.
        runs: Searches by identity.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        for key, run in runs:
            lines.write(json.dumps({**vars(key), "run": vars(run)}) + "\n")
            lines.flush()


def pack_runs(file: Path, runs: Mapping[Key, Run]) -> None:
    """Write searches to a Parquet file, a row each.

    Args:
        file: File, which is replaced.
        runs: Searches by identity.
    """
    import pyarrow as pa
    from pyarrow import parquet

    rows = []
    for key in sorted(runs):
        run = vars(runs[key]) | {name: [pair[at] for pair in runs[key].improvements] for at, name in enumerate(_PAIR)}
        rows.append({**vars(key), **{name: value for name, value in run.items() if name != "improvements"}})
    parquet.write_table(pa.Table.from_pylist(rows), file, compression="zstd", compression_level=19)


def _packed(file: Path) -> Iterator[tuple[Key, Run]]:
    from pyarrow import parquet

    names = {field.name for field in fields(Key)}
    for row in parquet.read_table(file).to_pylist():
        key = Key(**{name: row.pop(name) for name in names})
        pairs = [row.pop(name) for name in _PAIR]
        yield key, Run(improvements=list(zip(*pairs, strict=True)), **row)

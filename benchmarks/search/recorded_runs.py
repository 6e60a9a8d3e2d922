"""Simulated searches kept in a file, a line each, so that a comparison can be made in stretches."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lane_simulation import Run


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
        folder: Folder of the files, one for each process that wrote.
    """
    found = {}
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

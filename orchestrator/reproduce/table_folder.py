"""Folder of a reproduced table: the settings of its rows, the files of its sweeps, and its report.

The folder is `<runs_dir>/reproduce/<name>`; the sweeps `<name>-1`, `<name>-2`, ... have ordinary folders in `runs_dir`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.flat_names import flat_names
from orchestrator.config.load import load_sweep, read_settings
from orchestrator.config.settings_text import as_yaml
from orchestrator.config.sweep import SweepConfig
from orchestrator.data.datasets import current_hash
from orchestrator.errors import ReproduceError
from orchestrator.files.atomic_files import atomic_file
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.reproduce.rows import ResolvedRow
from orchestrator.reproduce.sweeps import PLACES
from orchestrator.uris import masked

__all__ = ["DATASET_CONTENT", "TABLES", "PlannedSweep", "TableFolder"]

TABLES = "reproduce"
"""Folder of all tables, in the folder of all results."""
DATASET_CONTENT = "dataset_content"
"""Key of the dataset in the identity of a table."""
_RECORD = "table.json"


@dataclass(frozen=True)
class PlannedSweep:
    """Sweep of a table, begun or not.

    Args:
        file: File with its settings.
        folder: Folder of the sweep.
        settings: Content of the file.
    """

    file: Path
    folder: SweepFolder
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return str(self.settings["name"])

    def config(self, row: ResolvedRow) -> SweepConfig:
        """Return the checked settings, with places of this command.

        Args:
            row: Row of the same table, whose settings name the places.
        """
        now = row.config.model_dump(mode="json", exclude_defaults=True)
        places = {key: now[key] for key in (*PLACES, "dataset") if key in now}
        return load_sweep({**self.settings, **places}, label=self.file.name)


class TableFolder:
    """Folder of one table under one name.

    Args:
        runs_dir: Folder of all results.
        name: Name of the table's results.
    """

    def __init__(self, runs_dir: Path, name: str) -> None:
        self.name = name
        self.path = runs_dir / TABLES / name
        self._runs_dir = runs_dir

    def begin(self, identity: Mapping[str, Any], rows: Sequence[ResolvedRow]) -> None:
        """Record what the table is made of, or check that it is continued with the same.

        Args:
            identity: Paper, table, scale and dataset.
            rows: Rows of this command; those of earlier commands stay recorded.

        Raises:
            ReproduceError: The table was begun with other settings; the text lists every difference.
        """
        before = self.check(identity, rows)
        now = {row.name: _deciding(row.config) for row in rows}
        recorded = {**identity, "rows": {**before.get("rows", {}), **now}}
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.path / _RECORD) as partial:
            partial.write_text(json.dumps(recorded, indent=2) + "\n", encoding="utf-8")

    def check(self, identity: Mapping[str, Any], rows: Sequence[ResolvedRow]) -> dict[str, Any]:
        """Check that the table is continued with the settings it was begun with; return its record, empty before.

        Args:
            identity: Paper, table, scale and dataset.
            rows: Rows of this command.

        Raises:
            ReproduceError: The table was begun with other settings; the text lists every difference.
        """
        before = self.record()
        if before:
            self._refuse_changes(before, identity, {row.name: _deciding(row.config) for row in rows})
        return before

    def record(self) -> dict[str, Any]:
        """Return what was recorded when the table was begun; empty before.

        Raises:
            ReproduceError: The record is damaged.
        """
        path = self.path / _RECORD
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ReproduceError(f"{path}: cannot be read ({error}). Remove it, and repeat the command") from None
        if not isinstance(content, dict) or not isinstance(content.get("rows"), dict):
            raise ReproduceError(f"{path}: is no record of a table. Remove it, and repeat the command")
        return content

    def sweeps(self) -> list[PlannedSweep]:
        """Return the sweeps of the table, in the order they were planned."""
        numbered = sorted((int(path.stem.partition("-")[2]), path) for path in self.path.glob("sweep-*.yaml"))
        return [self._planned(path, read_settings(path)) for _, path in numbered]

    def plan(self, settings: Sequence[Mapping[str, Any]], *, write: bool = True) -> list[PlannedSweep]:
        """Name further sweeps of the table, and write their files.

        Args:
            settings: Settings of each sweep, without name and places.
            write: False for a dry run.
        """
        planned = []
        first = len(list(self.path.glob("sweep-*.yaml"))) + 1
        for number, content in enumerate(settings, start=first):
            named = {"name": f"{self.name}-{number}", **content}
            file = self.path / f"sweep-{number}.yaml"
            if write:
                with atomic_file(file) as partial:
                    partial.write_text(as_yaml(dict(masked(named)), default_flow_style=None, width=120), "utf-8")
            planned.append(self._planned(file, named))
        return planned

    def _planned(self, file: Path, settings: Mapping[str, Any]) -> PlannedSweep:
        return PlannedSweep(file, SweepFolder(self._runs_dir / str(settings["name"])), settings)

    def _refuse_changes(self, before: Mapping[str, Any], identity: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        content = before.get(DATASET_CONTENT, identity.get(DATASET_CONTENT))  # earlier versions recorded none
        before = {**before, DATASET_CONTENT: current_hash(content) if isinstance(content, str) else content}
        lines = [
            f"  {key}: was {before.get(key)}, is {identity[key]}"
            for key in identity
            if before.get(key) != identity[key]
        ]
        for name in now.keys() & before["rows"].keys():
            old, new = dict(flat_names(before["rows"][name])), dict(flat_names(now[name]))
            lines += [
                f"  row {name}: {key} was {old.get(key, 'the default')}, is {new.get(key, 'the default')}"
                for key in sorted({*old, *new})
                if old.get(key) != new.get(key)
            ]
        if lines:
            listing = "\n".join(sorted(lines))
            raise ReproduceError(
                f"'{self.name}' was begun with other settings:\n{listing}\nRestore them, or give another --name"
            )


def _deciding(config: SweepConfig) -> dict[str, Any]:
    """Return the settings that decide the results of a row, as plain data; defaults are left out."""
    written = config.model_dump(mode="json", exclude_defaults=True)
    kept = {key: written[key] for key in ("model", "training", "dataset") if key in written}
    kept["dataset"] = {key: value for key, value in kept["dataset"].items() if key not in ("uri", "decode_processes")}
    return dict(json.loads(json.dumps(kept)))

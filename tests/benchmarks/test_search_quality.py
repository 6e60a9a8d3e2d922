"""The benchmark of the search: its table, and that it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from optuna.trial import FixedTrial

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks" / "search"


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import search_quality

    return search_quality


def test_the_table_holds_whole_curves_of_the_benchmarks_own_space(quality: ModuleType) -> None:
    table = quality.DigitsTable.read()
    cells = sys.modules["digits_table"].all_cells()
    assert set(table) <= set(cells)
    assert set(cells[:128]) <= set(table)  # the coarse half of the grid
    assert {len(curve) for curve in table.values()} == {quality.EPOCHS}
    space = quality.sweep_config({}, trials=1, seed=0).space
    for cell, curve in table.items():
        assert space.sample(FixedTrial(cell.params)) == cell.params
        assert table.look_up(cell.params) is curve
        assert all(0 <= epoch.val_top1 <= 1 for epoch in curve)


def test_a_table_is_the_same_after_a_round_trip(quality: ModuleType, tmp_path: Path) -> None:
    table = quality.DigitsTable.read()
    table.write(tmp_path / "table.parquet")
    assert quality.DigitsTable.read(tmp_path / "table.parquet") == table


def test_every_way_to_search_runs_and_early_stopping_saves_epochs(quality: ModuleType) -> None:
    found = quality.compare(quality.DigitsTable.read(), trials=6, seeds=2, lanes=2)
    assert list(found) == ["random", "random + ASHA", "TPE", "TPE + ASHA"]
    assert found["random"]["ratio"] == 1
    assert found["random"]["epochs_in_all"] == found["TPE"]["epochs_in_all"] == 6 * quality.EPOCHS
    assert found["random + ASHA"]["epochs_in_all"] < 6 * quality.EPOCHS

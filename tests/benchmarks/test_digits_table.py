"""The table that the benchmark of the search uses."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from optuna.trial import FixedTrial

from orchestrator import SweepConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks" / "search"


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import digits_table

    return digits_table


def test_the_table_holds_whole_curves_of_the_benchmarks_own_space(digits: ModuleType) -> None:
    table = digits.DigitsTable.read()
    cells = sys.modules["digits_table"].all_cells()
    assert set(table) == set(cells)
    assert {len(curve) for curve in table.values()} == {digits.EPOCHS}
    space = SweepConfig(name="t", dataset={"name": "digits"}, search=digits.SEARCH, training=digits.TRAINING).space
    for cell, curve in table.items():
        assert space.sample(FixedTrial(cell.params)) == cell.params
        assert table.look_up(cell.params) is curve
        assert all(0 <= epoch.val_top1 <= 1 for epoch in curve)


def test_a_table_is_the_same_after_a_round_trip(digits: ModuleType, tmp_path: Path) -> None:
    table = digits.DigitsTable.read()
    table.write(tmp_path / "table.parquet")
    assert digits.DigitsTable.read(tmp_path / "table.parquet") == table

"""Short run of `tools/fuzz/journal.py`, which damages journals at random."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "fuzz" / "journal.py"


@pytest.fixture(scope="module")
def fuzzer() -> Any:
    spec = importlib.util.spec_from_file_location("fuzz_journal", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.HANG_S = 60.0  # a busy machine may stop for some seconds
    return module


@pytest.mark.parametrize("old", [False, True])
def test_damage_is_found_and_never_ends_in_a_traceback(fuzzer: Any, old: bool) -> None:
    counts = fuzzer.fuzz(150, seed=3, old=old, reports=False)
    found = counts.as_dict()
    assert (found["files"], found["tracebacks"], found["hangs"], found["unrepaired"]) == (150, 0, 0, 0), found
    assert found["reported"] > 100
    if not old:  # without checksums a changed digit cannot be seen
        assert found["silent"] == 0, found
        assert found["reported"] + found["prefixes"] + found["harmless"] == 150

"""Short run of `tools/fuzz/configurations.py`, which changes sweep files at random."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "fuzz" / "configurations.py"


def test_every_changed_configuration_is_accepted_or_refused_with_a_message() -> None:
    spec = importlib.util.spec_from_file_location("fuzz_configurations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    fuzzer = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = fuzzer
    spec.loader.exec_module(fuzzer)
    found = fuzzer.fuzz(400, 8.0, seed=7).as_dict()
    assert (found["tracebacks"], found["hangs"]) == (0, 0), found
    assert found["accepted"] + found["refused"] == found["configurations"] > 50, found
    assert found["accepted"] > 3

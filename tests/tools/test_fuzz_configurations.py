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
    fuzzer.HANG_S = 60.0  # a busy machine may stop for some seconds
    found = fuzzer.fuzz(300, 250.0, seed=7).as_dict()
    assert (found["tracebacks"], found["hangs"]) == (0, 0), found
    assert found["accepted"] + found["refused"] == found["configurations"] == 300, found
    assert found["accepted"] > 3

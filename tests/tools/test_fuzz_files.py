"""Short run of `tools/fuzz/files.py`: damage in every kind of file is reported in one line, or does no harm."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "fuzz" / "files.py"
CASES = 6


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """Load the script as a module, by its name, which dataclasses look up."""
    spec = importlib.util.spec_from_file_location("fuzz_files", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_files"] = module
    spec.loader.exec_module(module)
    module.HANG_S = 60.0  # a busy machine may stop for some seconds
    return module


def test_damaged_files_are_reported_in_one_line(tool: ModuleType) -> None:
    summary = tool.fuzz(seed=0, cases=CASES, seconds=250)
    assert summary.findings == 0, summary.to_json()
    assert len(summary.files) == 23
    assert set(summary.files.values()) == {CASES}
    assert sum(summary.refused.values()) > 0.5 * sum(summary.files.values())  # the damage is no trifle


def test_every_kind_of_failure_is_reported(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a reader that dies, hangs, shows a traceback or accepts anything is reported as such."""
    import file_subjects

    def reader(act: str) -> object:
        return file_subjects.Subject(act, 0, b"content", lambda _content, _case: lambda: exec(act), lambda _case: None)

    acts = {
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": "crashes",
        "import time; time.sleep(60)": "hangs",
        "{}['key']": "tracebacks",
        "from orchestrator.errors import DataError; raise DataError('two\\nlines')": "tracebacks",
    }
    for act, finding in acts.items():
        monkeypatch.setattr(tool, "HANG_S", 0.5 if finding == "hangs" else 60.0)
        monkeypatch.setattr(tool, "subjects", lambda _folder, act=act: [reader("pass"), reader(act)])
        summary = tool.fuzz(seed=0, cases=1, seconds=200)
        assert len(getattr(summary, finding)) == summary.findings == 1, (act, summary.to_json())
    trips = file_subjects.Subject("x", 0, b"x", lambda _content, _case: lambda: None, lambda _case: {}["key"])
    monkeypatch.setattr(tool, "subjects", lambda _folder: [trips])
    assert len(tool.fuzz(seed=0, cases=1, seconds=200).silently_accepted) == 1

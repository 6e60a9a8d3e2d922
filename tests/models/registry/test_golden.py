"""Our networks against reference outputs of the authors' code.

The fixtures are read from the folder that SPATIALSWEEP_GOLDEN names, else from a folder beside the
repository, else from the copies of the small ones next to these tests.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models.registry import verify
from models.registry.authors.family import FAMILIES

TESTS = Path(__file__).resolve().parents[2]
COPIES = TESTS / "models" / "golden"
LARGE_INPUT = 64 * 64


def golden_folder() -> Path:
    named = os.environ.get("SPATIALSWEEP_GOLDEN")
    if named:
        return Path(named)
    beside = TESTS.parents[1] / "shared" / "golden"
    return beside if beside.is_dir() else COPIES


def fixtures() -> list[object]:
    found: list[object] = []
    for path in sorted(golden_folder().glob("*/*.json")):
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["family"] in FAMILIES:
            large = about["input_shape"][-1] ** 2 > LARGE_INPUT
            marks = [pytest.mark.slow] if large else []
            found.append(pytest.param(path, id=f"{about['family']}-{about['case']}", marks=marks))
    return found


@pytest.mark.parametrize("path", fixtures())
def test_equals_the_authors_code(path: Path) -> None:
    fixture = verify.Fixture.read(path)
    large = fixture.about["input_shape"][-1] ** 2 > LARGE_INPUT
    rows = verify.compare(fixture, dtypes=[torch.float64] if large else verify.DTYPES)
    assert len(rows) > 5
    assert [row for row in rows if not row.passed] == []


def test_copies_cover_every_family() -> None:
    assert {path.parent.name for path in COPIES.glob("*/*.json")} >= set(FAMILIES)


def test_generator_draws_the_documented_numbers() -> None:
    first = verify.draw_weight("conv1.weight", 302, (3,), "bias") / 0.1
    np.testing.assert_allclose(first, [-0.616252809, 0.161616354, -0.318370415], rtol=1e-7)
    spans = verify.draw_weight("layers.0.0.conv2.0.adaptive_mask.current_val", 172, (4, 1), "span")
    np.testing.assert_allclose(spans.ravel(), [0.664258488, 0.881924481, 0.658528014, 0.168155060], rtol=1e-7)


def test_command_reports_and_fails_on_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = COPIES / "adaptive_span" / "cnn_small"
    for suffix in (".json", ".npz"):
        shutil.copy(case.with_suffix(suffix), tmp_path)
    path = tmp_path / "cnn_small.json"
    assert verify.main([str(path)]) == 0
    assert "logits" in capsys.readouterr().out

    with np.load(path.with_suffix(".npz")) as arrays:
        changed = dict(arrays)
    changed["logits"] = changed["logits"] + 1e-5
    np.savez(path.with_suffix(".npz"), **changed)
    assert verify.main([str(path)]) == 1
    assert "BEYOND TOLERANCE" in capsys.readouterr().out

    assert verify.main([str(tmp_path / "absent.json")]) == 1
    assert "absent.json" in capsys.readouterr().err

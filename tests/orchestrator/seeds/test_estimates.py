"""Means and intervals against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from orchestrator.seeds.estimates import estimate, paired_difference


def test_the_interval_of_three_values() -> None:
    """t of 95% with two degrees of freedom is 4.3027: 4.3027 * 1 / sqrt(3) = 2.4842."""
    found = estimate([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.count, found.mean, found.deviation) == (3, 2.0, 1.0)
    assert found.half_width == pytest.approx(2.48414, abs=1e-4)
    assert found.as_dict()["low"] == pytest.approx(-0.48414, abs=1e-4)
    assert not found.is_resolved


def test_the_interval_of_two_values() -> None:
    """t of 95% with one degree of freedom is 12.7062."""
    found = estimate([10.0, 10.2])
    assert found is not None
    assert found.half_width == pytest.approx(12.7062 * 0.1 * math.sqrt(2) / math.sqrt(2), abs=1e-4)
    assert found.is_resolved


def test_a_single_value_has_no_interval() -> None:
    found = estimate([3.0])
    assert found is not None
    assert (found.mean, found.half_width, found.is_resolved) == (3.0, None, False)
    assert estimate([]) is None


def test_differences_are_paired_by_seed() -> None:
    """Seeds differ by far more than rows: pairing removes what they share."""
    control = {0: 10.0, 1: 50.0, 2: 90.0, 3: 5.0}
    found = paired_difference({0: 11.0, 1: 51.0, 2: 91.5}, control)
    assert found is not None
    assert found.count == 3
    assert found.mean == pytest.approx(3.5 / 3)
    assert found.half_width == pytest.approx(4.30265 * math.sqrt(1 / 12) / math.sqrt(3), abs=1e-4)
    assert found.is_resolved
    assert paired_difference({7: 1.0}, control) is None

"""Model of learning curves against a reference that inverts whole matrices, and its calibration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from orchestrator.search.allocation.learning_curves import CurveModel, shapes

EPOCHS = 12


def curves_of(trials: int, epochs: int = EPOCHS, seed: int = 0, noise: float = 0.01) -> np.ndarray:
    """Draw curves that rise to a last value as powers of the epoch, with noise."""
    chance = np.random.default_rng(seed)
    epoch = np.arange(1, epochs + 1)
    last, gap = chance.normal(0.0, 0.5, (trials, 1)), chance.normal(-0.6, 0.3, (trials, 1))
    power = chance.choice([0.5, 1.0, 2.0], (trials, 1))
    return last + gap * epoch**-power + chance.normal(0.0, noise, (trials, epochs))


def cut(curves: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.where(np.arange(curves.shape[1]) < lengths[:, None], curves, np.nan)


def reference(model: CurveModel, curve: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Condition a normal distribution over the epochs of one curve; weights, means and deviations by shape."""
    known = np.flatnonzero(np.isfinite(curve))
    newest = known[-1] + 1
    noise = model.noise * (newest / (known + 1.0)) ** 2  # earlier epochs weigh less
    weights, means, deviations = [], [], []
    for share, shape in zip(model.shares, shapes(len(curve)), strict=True):
        basis = np.stack([np.ones(len(known)), shape[known]], axis=1)
        at = np.array([1.0, shape[epoch - 1]])
        together = basis @ model.covariance @ basis.T + np.diag(noise)
        gain = at @ model.covariance @ basis.T @ np.linalg.inv(together)
        means.append(at @ model.mean + gain @ (curve[known] - basis @ model.mean))
        deviations.append(math.sqrt(at @ model.covariance @ at - gain @ basis @ model.covariance @ at))
        weights.append(share * multivariate_normal.pdf(curve[known], basis @ model.mean, together))
    return np.array(weights) / sum(weights), np.array(means), np.array(deviations)


def test_shapes_fall_from_one_to_zero() -> None:
    for shape in shapes(10):
        assert shape[0] == 1
        assert shape[-1] == 0
        assert (np.diff(shape) < 0).all()
    assert (shapes(1) == 0).all()


def test_predictions_equal_those_of_the_reference() -> None:
    curves = cut(curves_of(6), np.array([1, 2, 4, 7, 11, 12]))
    curves[3, 1] = np.nan  # an epoch without a report
    model = CurveModel(EPOCHS)
    model.fit(curves, 3)
    prediction = model.predict(curves, [5, 12])
    for row, curve in enumerate(curves):
        for column, epoch in enumerate((5, 12)):
            weights, means, deviations = reference(model, curve, epoch)
            assert prediction.weights[row] == pytest.approx(weights, abs=1e-9)
            assert prediction.means[row, column] == pytest.approx(means, abs=1e-9)
            assert prediction.deviations[row, column] == pytest.approx(deviations, abs=1e-6)


def test_a_trial_without_reports_is_predicted_from_the_others() -> None:
    curves = curves_of(300)
    model = CurveModel(EPOCHS)
    model.fit(curves, 20)
    prediction = model.predict(np.full((1, EPOCHS), np.nan), [EPOCHS])
    assert prediction.mean()[0, 0] == pytest.approx(curves[:, -1].mean(), abs=0.05)
    assert prediction.deviation()[0, 0] == pytest.approx(curves[:, -1].std(), rel=0.1)


@pytest.mark.parametrize("length", [2, 4, 8])
def test_intervals_hold_about_as_often_as_they_should(length: int) -> None:
    curves = curves_of(200, noise=0.03)
    known = cut(curves, np.full(200, length))
    model = CurveModel(EPOCHS)
    model.fit(np.vstack([known[:100], curves[100:]]), 30)
    prediction = model.predict(known[:100], [EPOCHS])
    deviation = np.sqrt(prediction.deviation()[:, 0] ** 2 + model.noise)
    inside = np.abs(curves[:100, -1] - prediction.mean()[:, 0]) < 1.28 * deviation  # 80%
    assert 0.65 <= inside.mean() <= 0.97
    last_known = curves[:100, length - 1]
    error = np.abs(curves[:100, -1] - prediction.mean()[:, 0]).mean()
    assert error < np.abs(curves[:100, -1] - last_known).mean()

"""Prediction of learning curves: a Bayesian ensemble of power laws, fitted to all trials of a sweep together.

A curve is its last value plus a gap that closes with a given shape: y(t) = a + b shape(t), where shape is 1 at the
first epoch and 0 at the last one. For each of a few fixed shapes (negative powers of the epoch, and powers of the share
of the epochs that is done), a and b follow from a linear regression with a normal prior, in closed form. The shapes are
weighted by their evidence. Shares of the shapes, priors and noise are fitted by expectation maximisation over all
trials, so that a trial of few epochs, or of none, is predicted from the others. Everything is computed for all trials
and shapes at once.

Close to Domhan et al. 2015 (an ensemble of parametric curves) and Kadra et al. 2023 (power laws). Differs: no sampling
and no network, since a decision must take milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_NEGATIVE_POWERS = (2.0, 1.0, 0.5, 0.05)
_SHARE_POWERS = (0.5, 1.0, 2.0, 4.0)
_NOISE = 0.05  # standard deviation, in units of the spread of the trials, before any data
_LEAST_NOISE = 1e-3
_PRIOR_TRIALS = 4.0
"""Weight of the common prior in that of each shape, as a number of trials."""
_FORGETTING = 2.0
"""Power of (epoch / newest epoch) by which earlier epochs of a curve weigh less."""


def shapes(epochs: int) -> Array:
    """Return the values of all shapes at each epoch, (shapes, epochs): 1 at the first epoch, 0 at the last one.

    Args:
        epochs: Epochs of a complete trial.
    """
    epoch = np.arange(1, epochs + 1, dtype=np.float64)
    if epochs == 1:
        return np.zeros((len(_NEGATIVE_POWERS) + len(_SHARE_POWERS), 1))
    powers = [epoch**-power for power in _NEGATIVE_POWERS]
    powers += [1 - ((epoch - 1) / (epochs - 1)) ** power for power in _SHARE_POWERS]
    found = np.array(powers)
    return np.asarray((found - found[:, -1:]) / (found[:, :1] - found[:, -1:]))


@dataclass(frozen=True)
class Prediction:
    """Mixture of normal distributions for each trial; the last axis is that of the shapes.

    Args:
        weights: Probability of each shape, (trials, shapes).
        means: Mean by shape at each epoch asked for, (trials, epochs, shapes).
        deviations: Standard deviation by shape, (trials, epochs, shapes).
    """

    weights: Array
    means: Array
    deviations: Array

    def mean(self) -> Array:
        """Return the mean of the mixture, (trials, epochs)."""
        return np.asarray(np.einsum("nk,nek->ne", self.weights, self.means))

    def deviation(self) -> Array:
        """Return the standard deviation of the mixture, (trials, epochs)."""
        square = np.einsum("nk,nek->ne", self.weights, self.deviations**2 + self.means**2) - self.mean() ** 2
        return np.asarray(np.sqrt(np.maximum(square, 0.0)))


class CurveModel:
    """Model of the learning curves of a sweep; each fit continues from the previous one.

    Args:
        epochs: Epochs of a complete trial.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        shape = shapes(epochs)
        count = len(shape)
        self._gaps = np.ascontiguousarray(shape.T)  # (epochs, shapes)
        weight = np.arange(1, epochs + 1, dtype=np.float64) ** _FORGETTING
        ones, gaps = np.ones(epochs), shape.T
        self._weight = weight
        # Sums over the epochs of a curve, as products with a matrix: of basis times basis, and of basis times value.
        self._squares = weight[:, None] * np.concatenate([ones[:, None], gaps, gaps**2], axis=1)
        self._values = weight[:, None] * np.concatenate([ones[:, None], gaps], axis=1)
        self.shares = np.full(count, 1.0 / count)
        self.mean = np.zeros(2)
        self.covariance = np.eye(2)
        self.noise = _NOISE**2

    def fit(self, curves: Array, iterations: int = 1) -> None:
        """Fit shares, priors and noise to the curves.

        Args:
            curves: Values by trial and epoch, (trials, epochs), of order 1; NaN where there is none yet.
            iterations: Steps of expectation maximisation.
        """
        sums = self._sums(curves)
        for _ in range(iterations if len(curves) else 0):
            self._maximise(sums, self._posterior(sums))

    def predict(self, curves: Array, epochs: Sequence[int] | Array) -> Prediction:
        """Return the predictions of the latent curve, without the noise of a single epoch.

        Args:
            curves: Values by trial and epoch, (trials, epochs); NaN where there is none. A trial without any value gets
                the prior.
            epochs: Epochs to predict: the same for all trials, or (trials, epochs).
        """
        found = self._posterior(self._sums(curves))
        asked = np.broadcast_to(np.atleast_1d(np.asarray(epochs, dtype=np.int64)), (len(curves), np.shape(epochs)[-1]))
        gap = self._gaps[asked - 1]  # (trials, epochs, shapes)
        means = found.last[:, None] + gap * found.gap[:, None]
        variance = found.last_variance[:, None] + gap * (
            2 * found.covariance[:, None] + gap * found.gap_variance[:, None]
        )
        return Prediction(found.weights, means, np.sqrt(np.maximum(variance, 1e-12)))

    def _sums(self, curves: Array) -> _Sums:
        known = np.isfinite(curves)
        values = np.where(known, curves, 0.0)
        # Weights are relative to the newest epoch, which counts fully.
        newest = np.where(known.any(axis=1), self.epochs - np.argmax(known[:, ::-1], axis=1), 1)
        scale = 1.0 / self._weight[newest - 1][:, None]
        squares = scale * (known.astype(np.float64) @ self._squares)
        products = scale * (values @ self._values)
        count = len(self.shares)
        return _Sums(
            count=squares[:, 0],
            gap=squares[:, 1 : count + 1],
            gap_square=squares[:, count + 1 :],
            value=products[:, 0],
            gap_value=products[:, 1:],
            value_square=scale[:, 0] * (values**2 @ self._weight),
        )

    def _posterior(self, sums: _Sums) -> _Posterior:
        """Return the probability of each shape, and the distribution of its two coefficients, for each trial."""
        prior = np.linalg.inv(self.covariance)
        pull = prior @ self.mean
        last_precision = (prior[0, 0] + sums.count / self.noise)[:, None]
        both_precision = prior[0, 1] + sums.gap / self.noise
        gap_precision = prior[1, 1] + sums.gap_square / self.noise
        determinant = np.maximum(last_precision * gap_precision - both_precision**2, 1e-12)
        last_pull = (pull[0] + sums.value / self.noise)[:, None]
        gap_pull = pull[1] + sums.gap_value / self.noise
        last = (gap_precision * last_pull - both_precision * gap_pull) / determinant
        gap = (last_precision * gap_pull - both_precision * last_pull) / determinant
        # What the shapes have in common does not change their weights.
        log_weights = np.log(self.shares) + 0.5 * (last * last_pull + gap * gap_pull - np.log(determinant))
        weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
        return _Posterior(
            weights=weights / weights.sum(axis=1, keepdims=True),
            last=last,
            gap=gap,
            last_variance=gap_precision / determinant,
            gap_variance=last_precision / determinant,
            covariance=-both_precision / determinant,
        )

    def _maximise(self, sums: _Sums, found: _Posterior) -> None:
        weights = found.weights
        trials = len(weights) + _PRIOR_TRIALS
        self.mean = np.array([(weights * found.last).sum(), (weights * found.gap).sum()]) / trials
        last_square = found.last_variance + found.last**2
        gap_square = found.gap_variance + found.gap**2
        product = found.covariance + found.last * found.gap
        cross = (weights * product).sum()
        second = np.array([[(weights * last_square).sum(), cross], [cross, (weights * gap_square).sum()]])
        guess = _PRIOR_TRIALS * np.eye(2)
        self.covariance = (second + guess) / trials - np.outer(self.mean, self.mean) + 1e-6 * np.eye(2)
        total = weights.sum(axis=0) + 1
        self.shares = total / total.sum()
        squares = (
            sums.value_square[:, None]
            - 2 * (found.last * sums.value[:, None] + found.gap * sums.gap_value)
            + last_square * sums.count[:, None]
            + 2 * product * sums.gap
            + gap_square * sums.gap_square
        )
        left = float((weights * np.maximum(squares, 0.0)).sum()) + _PRIOR_TRIALS * _NOISE**2
        self.noise = max(left / (float(sums.count.sum()) + _PRIOR_TRIALS), _LEAST_NOISE**2)


@dataclass(frozen=True)
class _Posterior:
    """Weights of the shapes, and the normal distribution of last value and gap, by trial and shape."""

    weights: Array
    last: Array
    gap: Array
    last_variance: Array
    gap_variance: Array
    covariance: Array


@dataclass(frozen=True)
class _Sums:
    """Weighted sums over the epochs of each curve: of 1, shape and value, of their squares, and of their product."""

    count: Array
    gap: Array
    gap_square: Array
    value: Array
    gap_value: Array
    value_square: Array

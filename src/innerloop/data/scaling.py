"""The units in which meta-training works: standardised features and a column for the intercept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray
from innerloop.data.tasks import TaskSet

# Beside a square of so much weight, that of an average row keeps a few digits in a sum of many.
_LARGEST_WEIGHT = 1e12


@final
@dataclass(frozen=True, eq=False)
class Scaling:
    """An affine map of features and targets: ``[(x - x_mean) * x_rate, 1]`` and ``(y - y_mean) * y_rate``.

    Constant features, which say nothing, are left out (`kept` is false for them). Several targets are brought to unit
    deviation, so that none decides the choices made for all; one keeps its unit (`y_rate` is 1). Weights of rows are
    divided by their mean, `weight_unit`: only their ratios matter.

    Means and rates are rounded to 14 bits (of the spread, and of themselves): features have mean 0 and deviation 1 to
    four digits, and mapping data that were given to a few digits rounds nothing, which poorly conditioned fits would
    blow up.
    """

    kept: NDArray[np.bool_]
    x_mean: FloatArray
    x_rate: FloatArray
    y_mean: FloatArray
    y_rate: FloatArray
    intercept: bool
    weight_unit: float = 1.0

    @classmethod
    def fit(
        cls, tasks: TaskSet, standardize: bool, intercept: bool, extremes: tuple[FloatArray, FloatArray] | None = None
    ) -> Scaling:
        """Read the map off the rows.

        Without an intercept nothing is centred, and features are divided by their root mean square.

        Parameters
        ----------
        tasks
        standardize, intercept
        extremes : (n_features,), (n_features,)
            Smallest and largest values of the features where these tasks are a sample of more: a feature is left out if
            it is constant in all of them. One that is constant in the sample alone is divided by its largest distance
            from there.
        """
        X, y, weights, unit = tasks.X, tasks.y, tasks.weights, 1.0
        if weights is not None:
            unit = float(weights[0] if np.ptp(weights) == 0 else weights.mean())
            weights = None if np.ptp(weights) == 0 else weights / unit
        low, high = (X.min(axis=0), X.max(axis=0)) if extremes is None else extremes
        kept = _differ(low, high) if intercept else np.maximum(np.abs(low), np.abs(high)) > 0
        X = X[:, kept]
        x_mean, y_mean = np.zeros(X.shape[1]), np.zeros(y.shape[1:])
        if intercept:
            x_mean, y_mean = (_near(_mean(part, weights), np.ptp(part, axis=0)) for part in (X, y))
        x_rate = np.ones(X.shape[1])
        if standardize:
            # Of a sample's features some may vary elsewhere only.
            seen = extremes is None or (_varies(X) if intercept else np.abs(X).max(axis=0) > 0)
            if np.all(seen):
                x_rate = _rate(X - x_mean, weights)
            else:
                x_rate[seen] = _rate((X - x_mean)[:, seen], weights)
                unseen = np.maximum(high[kept] - x_mean, x_mean - low[kept])[~seen]
                x_rate[~seen] = _near(1 / unseen, 1 / unseen)
        y_rate = np.ones(y.shape[1:])
        if y_rate.size > 1:
            varies = _varies(y)
            y_rate[varies] = _rate((y - y_mean)[:, varies], weights)
        return cls(kept, x_mean, x_rate, y_mean, y_rate, intercept, unit)

    @property
    def n_columns(self) -> int:
        """Number of columns in these units."""
        return len(self.x_rate) + self.intercept

    def design(self, X: FloatArray) -> FloatArray:
        """Return the features in these units: (n_rows, n_kept [+ 1])."""
        n_kept = len(self.x_rate)
        columns = np.ones((len(X), self.n_columns))  # row by row in memory: episodes gather rows
        np.subtract(X if self.kept.all() else X[:, self.kept], self.x_mean, out=columns[:, :n_kept])
        columns[:, :n_kept] *= self.x_rate
        return columns

    def check_weights(self, tasks: TaskSet) -> None:
        """Refuse weights of which an average row of `fit`, whose weight is 1, would be lost to rounding.

        In `fit` itself no weight is more than the number of rows times their mean.
        """
        weights = tasks.weights
        if weights is not None and (largest := float(weights.max()) / self.weight_unit) > _LARGEST_WEIGHT:
            raise ValueError(
                f"weights must be at most {_LARGEST_WEIGHT:g} times the average weight in the fit, got {largest:g} "
                "times; give them in the unit of those of the fit."
            )

    def tasks(self, tasks: TaskSet) -> TaskSet:
        """Return the same tasks in these units, with weights of mean 1 over the rows of `fit`, if they have any."""
        weights = tasks.weights
        if weights is not None:
            weights = None if (weights == self.weight_unit).all() else weights / self.weight_unit
        y = (tasks.y - self.y_mean) * self.y_rate
        return TaskSet(self.design(tasks.X), y, tasks.starts, tasks.ids, weights=weights)

    def original(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return coefficients and intercept in the user's units.

        Parameters
        ----------
        theta : (..., n_kept [+ 1], n_targets)
            Coefficients in these units.

        Returns
        -------
        coef : (..., n_features, n_targets)
        intercept : (..., n_targets)
        """
        theta = theta / self.y_rate
        slopes = theta[..., : len(self.x_rate), :] * self.x_rate[:, None]
        coef = np.zeros((*theta.shape[:-2], len(self.kept), theta.shape[-1]))
        coef[..., self.kept, :] = slopes
        if not self.intercept:
            return coef, np.zeros((*theta.shape[:-2], theta.shape[-1]))
        return coef, self.y_mean + theta[..., -1, :] - np.einsum("j,...jk->...k", self.x_mean, slopes)


def _varies(columns: FloatArray) -> NDArray[np.bool_]:
    return _differ(columns.min(axis=0), columns.max(axis=0))


def _differ(low: FloatArray, high: FloatArray) -> NDArray[np.bool_]:
    return np.asarray(high - low > 4 * np.finfo(float).eps * np.maximum(np.abs(low), np.abs(high)))


def _mean(columns: FloatArray, weights: FloatArray | None) -> FloatArray:
    return np.asarray(columns.mean(axis=0) if weights is None else np.average(columns, axis=0, weights=weights))


def _rate(centred: FloatArray, weights: FloatArray | None) -> FloatArray:
    """Return about one over the root mean square of each column."""
    unit = np.abs(centred).max(axis=0)
    rate = 1 / (unit * np.sqrt(_mean((centred / unit) ** 2, weights)))
    return _near(rate, rate)


def _near(value: FloatArray, unit: FloatArray) -> FloatArray:
    """Return `value` rounded to a multiple of 2**-14 of `unit`'s power of two."""
    unit = np.where(unit > 0, unit, 1.0)
    step = np.exp2(np.floor(np.log2(unit)) - 14)
    return np.asarray(np.round(value / step) * step)

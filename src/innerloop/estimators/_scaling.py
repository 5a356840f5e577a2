"""The units in which meta-training works: standardised features and a column for the intercept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from innerloop._checks import FloatArray
from innerloop.tasks import TaskSet


@final
@dataclass(frozen=True, eq=False)
class Scaling:
    """An affine map of features and targets: ``[(x - x_mean) * x_rate, 1]`` and ``y - y_mean``.

    Constant features, which say nothing, are left out (`kept` is false for them). Means and rates are rounded
    to 14 bits (of the spread, and of themselves): features have mean 0 and deviation 1 to four digits, and
    mapping data that were given to a few digits rounds nothing, which poorly conditioned fits would blow up.
    """

    kept: np.ndarray[tuple[int], np.dtype[np.bool_]]
    x_mean: FloatArray
    x_rate: FloatArray
    y_mean: FloatArray
    intercept: bool

    @classmethod
    def fit(cls, X: FloatArray, y: FloatArray, standardize: bool, intercept: bool) -> Scaling:
        """Read the map off the rows.

        Without an intercept nothing is centred, and features are divided by their root mean square.
        """
        low, high = X.min(axis=0), X.max(axis=0)
        size = np.maximum(np.abs(low), np.abs(high))
        kept = high - low > 4 * np.finfo(float).eps * size if intercept else size > 0
        X = X[:, kept]
        if intercept:
            x_mean, y_mean = (
                _near(X.mean(axis=0), np.ptp(X, axis=0)),
                _near(y.mean(axis=0), np.ptp(y, axis=0)),
            )
        else:
            x_mean, y_mean = np.zeros(X.shape[1]), np.zeros(y.shape[1:])
        rate = np.ones(X.shape[1])
        if standardize:
            unit = np.abs(X - x_mean).max(axis=0)
            rate = 1 / (unit * np.sqrt(np.mean(((X - x_mean) / unit) ** 2, axis=0)))
            rate = _near(rate, rate)
        return cls(kept, x_mean, rate, y_mean, intercept)

    @property
    def n_columns(self) -> int:
        """Number of columns in these units."""
        return len(self.x_rate) + self.intercept

    def design(self, X: FloatArray) -> FloatArray:
        """Return the features in these units: (n_rows, n_kept [+ 1])."""
        n_kept = len(self.x_rate)
        columns = np.ones((len(X), self.n_columns))  # row by row in memory: episodes gather rows
        np.subtract(X[:, self.kept], self.x_mean, out=columns[:, :n_kept])
        columns[:, :n_kept] *= self.x_rate
        return columns

    def tasks(self, tasks: TaskSet) -> TaskSet:
        """Return the same tasks in these units."""
        return replace(tasks, X=self.design(tasks.X), y=tasks.y - self.y_mean, feature_names=None)

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
        slopes = theta[..., : len(self.x_rate), :] * self.x_rate[:, None]
        coef = np.zeros((*theta.shape[:-2], len(self.kept), theta.shape[-1]))
        coef[..., self.kept, :] = slopes
        if not self.intercept:
            return coef, np.zeros((*theta.shape[:-2], theta.shape[-1]))
        return coef, self.y_mean + theta[..., -1, :] - np.einsum("j,...jk->...k", self.x_mean, slopes)


def _near(value: FloatArray, unit: FloatArray) -> FloatArray:
    """Return `value` rounded to a multiple of 2**-14 of `unit`'s power of two."""
    unit = np.where(unit > 0, unit, 1.0)
    step = np.exp2(np.floor(np.log2(unit)) - 14)
    return np.asarray(np.round(value / step) * step)

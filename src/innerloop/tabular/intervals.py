"""Calibration of prediction intervals on held-out tasks, so that they cover at their level whatever the noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from scipy.special import stdtrit

from innerloop._base.checks import FloatArray, IntArray, as_number

# Levels at which quantiles are stored; between them they are interpolated.
LEVELS = np.concatenate((np.arange(100) / 100, [0.9925, 0.995, 0.9975, 0.999, 0.9999]))
# Levels by which the similarity of a task's residuals is measured.
_SHARES = np.arange(1, 20) / 20


def as_level(value: Any) -> float:
    """Return the level of an interval, if it is within the stored quantiles."""
    level = as_number(value, "level")
    if not 0 < level <= LEVELS[-1]:
        raise ValueError(f"`level` must be above 0 and at most {LEVELS[-1]}, got {level}.")
    return level


@final
@dataclass(frozen=True, eq=False)
class Calibration:
    """Quantiles of absolute held-out residuals, standardised by the model, by the number of adaptation rows.

    Tasks have equal weight, whatever their number of rows.

    Parameters
    ----------
    n_rows : (n_points,)
        Numbers of adaptation rows, increasing.
    scale : (n_points, n_targets)
        Root mean square of the standardised residuals.
    quantiles : (n_points, n_targets, n_levels)
        Quantiles of the absolute residual of a further task, at `LEVELS`.
    """

    n_rows: FloatArray
    scale: FloatArray
    quantiles: FloatArray = field(repr=False)

    @classmethod
    def of(cls, residuals: dict[int, list[tuple[FloatArray, IntArray]]]) -> Calibration:
        """Return the quantiles of residuals, given with the task of each, for every number of adaptation rows."""
        scale, quantiles = [], []
        for parts in residuals.values():
            z = np.abs(np.concatenate([values for values, _ in parts]))
            task = np.unique(np.concatenate([task for _, task in parts]), return_inverse=True)[1]
            weight = 1 / np.bincount(task)[task]
            weight /= weight.sum()
            scale.append(np.sqrt(weight @ z**2))
            quantiles.append([_quantiles(column, weight, task) for column in z.T])
        return cls(np.array(list(residuals), dtype=float), np.array(scale), np.array(quantiles))

    def at_least(self, other: Calibration) -> Calibration:
        """Return the larger factors of this calibration and another one at the same numbers of rows."""
        return Calibration(
            self.n_rows, np.maximum(self.scale, other.scale), np.maximum(self.quantiles, other.quantiles)
        )

    def std_factor(self, n_rows: IntArray) -> FloatArray:
        """Return the factor of the model's standard deviation: (n, n_targets)."""
        return self._between(n_rows, self.scale)

    def half_width(self, n_rows: IntArray, level: float) -> FloatArray:
        """Return the half width of intervals, in units of the model's standard deviation: (n, n_targets)."""
        at_level = np.array([[np.interp(level, LEVELS, q) for q in point] for point in self.quantiles])
        return self._between(n_rows, at_level)

    def _between(self, n_rows: IntArray, values: FloatArray) -> FloatArray:
        at, known = np.log1p(n_rows), np.log1p(self.n_rows)
        return np.stack([np.interp(at, known, column) for column in values.T], axis=-1)


def _quantiles(values: FloatArray, weight: FloatArray, task: IntArray) -> FloatArray:
    """Return quantiles for a further residual, beside n independent ones, with the tail of Student's t.

    A further residual is equally likely in each of the n + 1 gaps between n others. So the level t becomes
    ``t + (t - 1/2) / n`` where residuals have half of their weight below themselves; levels above ``n / (n + 1)`` lie
    beyond all residuals.
    """
    order = np.argsort(values)
    below = np.append(0.0, np.cumsum(weight[order]) - weight[order] / 2)
    sizes = np.append(0.0, values[order])
    n = _n_independent(values, np.interp(_SHARES, below, sizes), task)
    within = np.minimum(LEVELS, n / (n + 1))
    tail = stdtrit(n, (1 + LEVELS[1:]) / 2) / stdtrit(n, (1 + within[1:]) / 2)  # 1 within
    return np.asarray(np.interp(within + (within - 0.5) / n, below, sizes) * np.append(1.0, tail))


def _n_independent(values: FloatArray, quantiles: FloatArray, task: IntArray) -> float:
    """Return the effective number of independent residuals, as those of one task are correlated.

    It is the variance of single indicators "below a quantile" over the variance of their mean over tasks. Half a task
    with identical residuals is added: all that is known of a task before any is seen is that the correlation of its
    indicators lies between 0 and 1.
    """
    n_tasks, n_levels = int(task.max()) + 1, len(quantiles)
    place = np.searchsorted(quantiles, values)
    counts = np.bincount(task * (n_levels + 1) + place, minlength=n_tasks * (n_levels + 1))
    below = counts.reshape(n_tasks, -1).cumsum(axis=1)
    share = below[:, :-1] / below[:, -1:]
    mean = share.mean(axis=0)
    single = float(np.sum(mean * (1 - mean)))
    return n_tasks**2 * single / (float(np.sum((share - mean) ** 2)) + single / 2) if single > 0 else float(n_tasks)

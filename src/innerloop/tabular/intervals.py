"""Prediction intervals that hold what they promise, whatever the noise: calibrated on held-out tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from scipy.special import stdtrit

from innerloop._base.checks import FloatArray, IntArray, as_number

# Levels at which quantiles are kept; between them they are interpolated.
LEVELS = np.concatenate((np.arange(100) / 100, [0.9925, 0.995, 0.9975, 0.999, 0.9999]))
# Levels at which tasks' shares of residuals are compared.
_SHARES = np.arange(1, 20) / 20


def as_level(value: Any) -> float:
    """Return the probability of an interval, within what quantiles are kept for."""
    level = as_number(value, "level")
    if not 0 < level <= LEVELS[-1]:
        raise ValueError(f"`level` must be above 0 and at most {LEVELS[-1]}, got {level}.")
    return level


@final
@dataclass(frozen=True, eq=False)
class Calibration:
    """Sizes of held-out residuals, in units of the model's standard deviation, by the number of adaptation rows.

    Tasks count alike, however many rows they have.

    Parameters
    ----------
    n_rows : (n_points,)
        Numbers of adaptation rows, increasing.
    scale : (n_points, n_targets)
        Root mean square of the standardised residuals.
    quantiles : (n_points, n_targets, n_levels)
        What the absolute value of a further task's residual stays below with probabilities `LEVELS`.
    """

    n_rows: FloatArray
    scale: FloatArray
    quantiles: FloatArray = field(repr=False)

    @classmethod
    def of(cls, residuals: dict[int, list[tuple[FloatArray, IntArray]]]) -> Calibration:
        """Read the sizes off residuals, with the task of each, for every number of adaptation rows."""
        scale, quantiles = [], []
        for parts in residuals.values():
            z = np.abs(np.concatenate([values for values, _ in parts]))
            task = np.unique(np.concatenate([task for _, task in parts]), return_inverse=True)[1]
            weight = 1 / np.bincount(task)[task]
            weight /= weight.sum()
            scale.append(np.sqrt(weight @ z**2))
            quantiles.append([_quantiles(column, weight, task) for column in z.T])
        return cls(np.array(list(residuals), dtype=float), np.array(scale), np.array(quantiles))

    def std_factor(self, n_rows: IntArray) -> FloatArray:
        """Return by what the model's standard deviation is multiplied: (n, n_targets)."""
        return self._between(n_rows, self.scale)

    def half_width(self, n_rows: IntArray, level: float) -> FloatArray:
        """Return the half width of intervals, in units of the model's standard deviation: (n, n_targets)."""
        at_level = np.array([[np.interp(level, LEVELS, q) for q in point] for point in self.quantiles])
        return self._between(n_rows, at_level)

    def _between(self, n_rows: IntArray, values: FloatArray) -> FloatArray:
        at, known = np.log1p(n_rows), np.log1p(self.n_rows)
        return np.stack([np.interp(at, known, column) for column in values.T], axis=-1)


def _quantiles(values: FloatArray, weight: FloatArray, task: IntArray) -> FloatArray:
    """Return quantiles at levels raised for the number n of independent residuals, with Student's tail beyond them.

    A residual beyond n others is as likely in each of the n + 1 gaps: the level t becomes ``t + (t - 1/2) / n`` of
    residuals that count half below themselves, and they reach no further than ``t = n / (n + 1)``.
    """
    order = np.argsort(values)
    below = np.append(0.0, np.cumsum(weight[order]) - weight[order] / 2)
    sizes = np.append(0.0, values[order])
    n = _n_independent(values, np.interp(_SHARES, below, sizes), task)
    within = np.minimum(LEVELS, n / (n + 1))
    tail = stdtrit(n, (1 + LEVELS[1:]) / 2) / stdtrit(n, (1 + within[1:]) / 2)  # 1 within
    return np.asarray(np.interp(within + (within - 0.5) / n, below, sizes) * np.append(1.0, tail))


def _n_independent(values: FloatArray, quantiles: FloatArray, task: IntArray) -> float:
    """Return as many independent residuals as tell as much: a task's are alike.

    The variance over tasks of the share of their residuals below a quantile, over that of single residuals; one task
    more whose residuals are all alike is taken to be among them, as few tasks cannot tell that it is not.
    """
    n_tasks, n_levels = int(task.max()) + 1, len(quantiles)
    place = np.searchsorted(quantiles, values)
    counts = np.bincount(task * (n_levels + 1) + place, minlength=n_tasks * (n_levels + 1))
    below = counts.reshape(n_tasks, -1).cumsum(axis=1)
    share = below[:, :-1] / below[:, -1:]
    mean = share.mean(axis=0)
    single = float(np.sum(mean * (1 - mean)))
    return n_tasks**2 * single / (float(np.sum((share - mean) ** 2)) + single) if single > 0 else float(n_tasks)

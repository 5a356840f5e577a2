"""Prediction intervals that hold what they promise, whatever the noise: calibrated on held-out tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from innerloop._checks import FloatArray, IntArray

# Levels at which quantiles are kept; between them they are interpolated.
LEVELS = np.concatenate((np.arange(100) / 100, [0.9925, 0.995, 0.9975, 0.999, 1.0]))


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
        Their absolute values' quantiles at `LEVELS`.
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
            weight = np.concatenate([1 / np.bincount(task)[task] for _, task in parts])
            weight /= weight.sum()
            scale.append(np.sqrt(weight @ z**2))
            quantiles.append([_quantiles(column, weight) for column in z.T])
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


def _quantiles(values: FloatArray, weight: FloatArray) -> FloatArray:
    order = np.argsort(values)
    below = np.cumsum(weight[order])
    return np.asarray(values[order][np.minimum(np.searchsorted(below, LEVELS * below[-1]), len(order) - 1)])

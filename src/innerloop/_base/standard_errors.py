"""Standard errors of means over tasks, runs or seeds, and of ratios of two means over the same tasks.

A paired difference is the mean of differences: its error is that of ``first - second``, task by task.
"""

from __future__ import annotations

import numpy as np

from innerloop._base.checks import FloatArray


def standard_errors(values: FloatArray) -> FloatArray:
    """Return the standard errors of means over the first axis; NaN where it has one entry."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return np.asarray(values.std(axis=0, ddof=1) / np.sqrt(len(values)))


def mean_and_error(values: FloatArray) -> tuple[float, float]:
    """Return the mean over tasks and its standard error (infinite for one task)."""
    return float(values.mean()), float(standard_errors(values)) if len(values) > 1 else np.inf


def ratio_errors(mse: FloatArray, first: FloatArray) -> tuple[float, float]:
    """Return the standard errors of mean(first) / mean(mse) and of its inverse, by linearisation; see `Method`."""
    mean, mean_first = float(mse.mean()), float(first.mean())
    if mean <= 0 or mean_first <= 0:
        return np.nan, np.nan
    return (
        mean_and_error(first - mse * mean_first / mean)[1] / mean,
        mean_and_error(mse - first * mean / mean_first)[1] / mean_first,
    )

"""Standard errors of means over tasks, of paired differences and of ratios."""

from __future__ import annotations

import numpy as np

from innerloop._base.checks import FloatArray


def standard_errors(per_task: FloatArray) -> FloatArray:
    """Return the standard errors of means over tasks, the first axis."""
    return np.asarray(per_task.std(axis=0, ddof=1) / np.sqrt(len(per_task)))


def mean_and_error(values: FloatArray) -> tuple[float, float]:
    """Return the mean over tasks and its standard error (infinite for one task)."""
    return float(values.mean()), float(standard_errors(values)) if len(values) > 1 else np.inf


def ratio_errors(mse: FloatArray, first: FloatArray) -> tuple[float, float]:
    """Return the standard errors of mean(first) / mean(mse) and of its inverse, by linearisation; see `Method`."""
    own, other = float(mse.mean()), float(first.mean())
    if own <= 0 or other <= 0:
        return np.nan, np.nan
    gain, loss = (
        mean_and_error(first - mse * other / own)[1] / own,
        mean_and_error(mse - first * own / other)[1] / other,
    )
    return gain, loss

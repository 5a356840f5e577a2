"""Inner rules: how meta-parameters become the coefficients of one task."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, final

import numpy as np

from innerloop._checks import FloatArray, IntArray, as_count, as_rate
from innerloop.episodes import ragged_ranges
from innerloop.tasks import TaskSet

# Rows handled at once; bounds the memory of one pass whatever the number of tasks.
_ROWS_AT_ONCE = 2**17


class Adaptation(Protocol):
    """An inner rule: an affine map from meta-parameters to a task's coefficients, given the task's rows."""

    def adapt(self, coef: FloatArray, tasks: TaskSet) -> FloatArray:
        """Return the coefficients of every task: (n_tasks, n_features[, n_targets])."""
        ...


@final
@dataclass(frozen=True)
class NoAdaptation:
    """Every task keeps the meta-parameters."""

    def adapt(self, coef: FloatArray, tasks: TaskSet) -> FloatArray:
        """Return the meta-parameters for every task."""
        return np.broadcast_to(coef, (len(tasks), *coef.shape)).copy()


@final
@dataclass(frozen=True)
class GradientSteps:
    r"""Gradient steps on half the mean squared error of the task's rows.

    .. math:: \theta \leftarrow \theta - \frac{lr}{n} X'(X \theta - y), \quad n\_steps \text{ times}

    Parameters
    ----------
    lr
        Learning rate, any finite number.
    n_steps
        How many steps, at least 1.
    """

    lr: float
    n_steps: int = 1

    def __post_init__(self) -> None:
        as_rate(self.lr, "lr")
        as_count(self.n_steps, "n_steps")

    def adapt(self, coef: FloatArray, tasks: TaskSet) -> FloatArray:
        """Return the adapted coefficients of every task.

        Parameters
        ----------
        coef : (n_features,) or (n_features, n_targets)
            Meta-parameters.
        tasks
            All rows of each are used.

        Returns
        -------
        (n_tasks, n_features) or (n_tasks, n_features, n_targets)
        """
        theta = np.repeat(coef.reshape(1, tasks.n_features, -1), len(tasks), axis=0)
        ends = np.searchsorted(tasks.starts, np.arange(0, tasks.n_rows, _ROWS_AT_ONCE))
        bounds = np.unique(np.append(ends, len(tasks)))
        for first, end in pairwise(bounds):
            for _ in range(self.n_steps):
                theta[first:end] -= self.lr * _gradients(theta, tasks, np.arange(first, end))
        return theta.reshape(len(tasks), *coef.shape)


def _gradients(theta: FloatArray, tasks: TaskSet, chosen: IntArray) -> FloatArray:
    """Return the gradients of half the mean squared error of the chosen tasks: (n_chosen, p, k)."""
    sizes = tasks.sizes[chosen]
    rows = ragged_ranges(tasks.starts[chosen], sizes)
    X, y = tasks.X[rows], tasks.y[rows].reshape(len(rows), -1)
    task = np.repeat(chosen, sizes)
    first = np.cumsum(sizes) - sizes
    gradients = np.empty((len(chosen), *theta.shape[1:]))
    for k in range(theta.shape[2]):
        residual = np.einsum("ij,ij->i", X, theta[task, :, k]) - y[:, k]
        gradients[:, :, k] = np.add.reduceat(X * residual[:, None], first, axis=0)
    return gradients / sizes[:, None, None]

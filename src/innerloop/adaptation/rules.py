"""Rules of adaptation: how the meta-parameters and a task's rows give the task's coefficients.

The rules here are affine, ``theta = omega + W (y - X omega)``, with meta-parameters omega and a gain W that depends on
the task's features alone. So the covariance of their error is known: with ``A = I - W X``, and coefficients that vary
around omega with covariance Lambda, it is ``A Lambda A' + W W'``, both relative to the noise variance.
`innerloop.adaptation.scale_mixture` has a rule that is not linear in y.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, Protocol, Self, final

import numpy as np

from innerloop._base.checks import FloatArray, IntArray, as_count, as_rate, check_finite
from innerloop._base.ragged import ragged_ranges
from innerloop.data.row_blocks import IN_CACHE, RowBlock, row_blocks
from innerloop.data.tasks import TaskSet

# Rows handled at once; bounds the memory of one pass whatever the number of tasks.
_ROWS_AT_ONCE = 2**17


class Posterior(Protocol):
    """Coefficients of tasks that adapted, and the error that they may have."""

    @property
    def coef(self) -> FloatArray:
        """Coefficients: (n_tasks, n_features)."""
        ...

    @property
    def noise(self) -> FloatArray:
        """Noise variance of each task, relative to that of all: (n_tasks,)."""
        ...

    def covariance(self) -> FloatArray:
        """Return the covariance of the error, relative to the noise variance: (n_tasks, n_features, n_features)."""
        ...

    def variance(self, rows: FloatArray, chosen: IntArray) -> FloatArray:
        """Return the variance of predictions, relative to the noise variance, from the error of coefficients.

        Parameters
        ----------
        rows : (n_chosen, n_rows, n_features)
        chosen : (n_chosen,)
            The tasks that they belong to.

        Returns
        -------
        (n_chosen, n_rows)
            Rounding may make it negative.
        """
        ...


class Adaptation(Protocol):
    """A rule of adaptation, all its parameters known: its fields are numbers and arrays."""

    def adapt(self, coef: FloatArray, tasks: TaskSet) -> FloatArray:
        """Return the coefficients of every task: (n_tasks, n_features[, n_targets])."""
        ...

    def posterior(self, coef: FloatArray, rows: RowBlock, task_cov: FloatArray, target: int = 0) -> Posterior:
        """Return the coefficients of tasks that adapted on these rows, with their noise and what is unknown of them.

        Parameters
        ----------
        coef : (n_features, n_targets)
            Meta-parameters.
        rows
            Rows of the tasks.
        task_cov : (n_features, n_features)
            Covariance of tasks' coefficients around the meta-parameters, relative to the noise variance.
        target
            Which target; rules may differ between them.
        """
        ...

    def with_task_cov(self, task_cov: FloatArray) -> Self:
        """Return the rule where tasks' coefficients have another covariance (n_targets, n_features, n_features)."""
        ...


class LinearRule(ABC):
    """A rule of the form ``theta = omega + W (y - X omega)``."""

    @abstractmethod
    def gain(self, X: FloatArray, n_rows: IntArray, target: int = 0) -> FloatArray:
        """Return W of tasks with rows X, which may be reduced as in a `RowBlock`.

        Parameters
        ----------
        X : (n_tasks, n_reduced, n_features)
        n_rows : (n_tasks,)
            Number of rows of each task before it was reduced.
        target

        Returns
        -------
        (n_tasks, n_features, n_reduced)
        """

    def with_task_cov(self, task_cov: FloatArray) -> Self:  # noqa: ARG002
        """Return the rule itself: unless it says otherwise, a rule does not use the covariance of tasks."""
        return self

    @final
    def posterior(self, coef: FloatArray, rows: RowBlock, task_cov: FloatArray, target: int = 0) -> Posterior:
        """Return coefficients with the error of a linear rule; see `Adaptation.posterior`."""
        W, start = self.gain(rows.X, rows.n_rows, target), coef[:, target]
        theta = start + np.einsum("tpr,tr->tp", W, rows.y[..., target] - rows.X @ start)
        return LinearPosterior(theta, np.ones(len(W)), W, rows.X, task_cov)


@final
@dataclass(frozen=True, eq=False)
class LinearPosterior:
    """Coefficients by a linear rule; the covariance of their error is ``A Lambda A' + W W'`` with ``A = I - W X``.

    Parameters
    ----------
    coef, noise
        See `Posterior`.
    gain : (n_tasks, n_features, n_reduced)
        W.
    X : (n_tasks, n_reduced, n_features)
        Rows that the tasks adapted on.
    task_cov : (n_features, n_features)
        Lambda.
    """

    coef: FloatArray
    noise: FloatArray
    gain: FloatArray
    X: FloatArray
    task_cov: FloatArray

    def covariance(self) -> FloatArray:
        """Return the covariance of the error, relative to the noise variance: (n_tasks, n_features, n_features)."""
        A = np.eye(len(self.task_cov)) - self.gain @ self.X
        return np.asarray(A @ self.task_cov @ A.transpose(0, 2, 1) + self.gain @ self.gain.transpose(0, 2, 1))

    def variance(self, rows: FloatArray, chosen: IntArray) -> FloatArray:
        """Return ``x'(A Lambda A' + W W')x``, by W'x and A'x = x - X'W'x rather than by a matrix for every task."""
        on_rows = rows @ self.gain[chosen]
        on_coef = rows - on_rows @ self.X[chosen]
        spread = np.einsum("trj,trj->tr", on_coef @ self.task_cov, on_coef)
        return np.asarray(spread + np.einsum("trj,trj->tr", on_rows, on_rows))


@final
@dataclass(frozen=True)
class NoAdaptation(LinearRule):
    """Every task keeps the meta-parameters."""

    def adapt(self, coef: FloatArray, tasks: TaskSet) -> FloatArray:
        """Return the meta-parameters for every task."""
        return np.broadcast_to(coef, (len(tasks), *coef.shape)).copy()

    def gain(self, X: FloatArray, n_rows: IntArray, target: int = 0) -> FloatArray:  # noqa: ARG002
        """Return zero."""
        return np.zeros((len(X), X.shape[2], X.shape[1]))


@final
@dataclass(frozen=True, eq=False)
class GradientSteps(LinearRule):
    r"""Gradient steps on half the mean squared error of the task's rows.

    .. math:: \theta \leftarrow \theta - \frac{lr}{n} \odot X'(X \theta - y), \quad n\_steps \text{ times}

    Parameters
    ----------
    lr : float or (n_features,)
        Learning rate, any finite number, or one for each feature.
    n_steps
        How many steps, at least 1.
    """

    lr: float | FloatArray
    n_steps: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.lr, np.ndarray) and self.lr.ndim == 1:
            check_finite(self.lr, "lr")
        else:
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
        rate = np.asarray(self.lr)[..., None]
        ends = np.searchsorted(tasks.starts, np.arange(0, tasks.n_rows, _ROWS_AT_ONCE))
        bounds = np.unique(np.append(ends, len(tasks)))
        for first, end in pairwise(bounds):
            for _ in range(self.n_steps):
                theta[first:end] -= rate * _gradients(theta, tasks, np.arange(first, end))
        return theta.reshape(len(tasks), *coef.shape)

    def gain(self, X: FloatArray, n_rows: IntArray, target: int = 0) -> FloatArray:  # noqa: ARG002
        """Return W, which a step takes to ``W + lr / n X'(I - X W)``."""
        step = np.asarray(self.lr)[..., None] * X.transpose(0, 2, 1) / np.maximum(n_rows, 1)[:, None, None]
        W = step
        for _ in range(self.n_steps - 1):
            W = W + step - step @ (X @ W)
        return W


@final
@dataclass(frozen=True, eq=False)
class Ridge(LinearRule):
    r"""The ridge with a metric: the best linear prediction where tasks differ with covariance Lambda.

    .. math:: \theta = \arg\min |y - X \theta|^2 + (\theta - \omega)' \Lambda^{-1} (\theta - \omega)
              = \omega + \Lambda X' (I + X \Lambda X')^{-1} (y - X \omega)

    Parameters
    ----------
    task_cov : (n_targets, n_features, n_features)
        Lambda, relative to the noise variance.
    """

    task_cov: FloatArray

    def adapt(self, coef: FloatArray, tasks: TaskSet) -> FloatArray:
        """Return the adapted coefficients of every task; see `GradientSteps.adapt`."""
        start = coef.reshape(tasks.n_features, -1)
        theta = np.empty((len(tasks), *start.shape))
        for block in row_blocks(tasks, IN_CACHE):
            residual = block.y - block.X @ start
            for k in range(start.shape[1]):
                W = self.gain(block.X, block.n_rows, k)
                theta[block.members, :, k] = start[:, k] + np.einsum("tpr,tr->tp", W, residual[..., k])
        return theta.reshape(len(tasks), *coef.shape)

    def with_task_cov(self, task_cov: FloatArray) -> Ridge:
        """Return the ridge with another covariance Lambda."""
        return replace(self, task_cov=task_cov)

    def gain(self, X: FloatArray, n_rows: IntArray, target: int = 0) -> FloatArray:  # noqa: ARG002
        """Return ``W = Lambda X' (I + X Lambda X')^-1``."""
        by_coef = X @ self.task_cov[target]
        V = by_coef @ X.transpose(0, 2, 1)
        V[:, np.arange(V.shape[1]), np.arange(V.shape[1])] += 1.0
        return np.linalg.solve(V, by_coef).transpose(0, 2, 1)


class Eigenbasis(NamedTuple):
    """Tasks in the eigenbasis U of ``X Lambda X' = U D U'``.

    Parameters
    ----------
    d : (n_tasks, n_reduced)
        The diagonal of D.
    z : (n_tasks, n_reduced)
        ``U'(y - X omega)``.
    back : (n_tasks, n_features, n_reduced)
        ``Lambda X' U``, the map from the eigenbasis to coefficients.
    """

    d: FloatArray
    z: FloatArray
    back: FloatArray

    @classmethod
    def of(cls, task_cov: FloatArray, X: FloatArray, residual: FloatArray) -> Eigenbasis:
        """Decompose tasks with rows X (n_tasks, n_reduced, n_features), given ``y - X omega``."""
        by_coef = X @ task_cov
        d, U = np.linalg.eigh(by_coef @ X.transpose(0, 2, 1))
        return cls(np.maximum(d, 0.0), np.einsum("trj,tr->tj", U, residual), by_coef.transpose(0, 2, 1) @ U)


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
    return gradients / tasks.original_sizes[chosen, None, None]

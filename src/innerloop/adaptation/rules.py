"""Rules of adaptation: how the meta-parameters and a task's rows give the task's coefficients.

The rules here are affine, ``theta = omega + W (y - X omega)``, with meta-parameters omega and a gain W that depends on
the task's features alone. So the covariance of their error is known: with ``A = I - W X``, and coefficients that vary
around omega with covariance Lambda, it is ``A Lambda A' + W W'``, both relative to the noise variance.
`innerloop.adaptation.scale_mixture` has a rule that is not linear in y.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple, Protocol, Self, final

import numpy as np

from innerloop._base.checks import FloatArray, IntArray, as_count, as_rate, check_finite
from innerloop._base.ragged import ragged_ranges
from innerloop.data.row_blocks import RowBlock, row_blocks
from innerloop.data.tasks import TaskSet

# Rows handled at once; bounds the memory of one pass whatever the number of tasks.
_ROWS_AT_ONCE = 2**17


class Adaptation(Protocol):
    """A rule of adaptation, all its parameters known: its fields are numbers and arrays."""

    def adapt(self, coef: FloatArray, tasks: TaskSet) -> FloatArray:
        """Return the coefficients of every task: (n_tasks, n_features[, n_targets])."""
        ...

    def uncertainty(
        self, coef: FloatArray, rows: RowBlock, task_cov: FloatArray, target: int = 0
    ) -> tuple[FloatArray, FloatArray]:
        """Return the noise of tasks that adapted on these rows, and the covariance of the error of their coefficients.

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

        Returns
        -------
        noise : (n_members,)
            Variances, as the covariance relative to the noise variance of all tasks.
        covariance : (n_members, n_features, n_features)
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
    def uncertainty(
        self,
        coef: FloatArray,  # noqa: ARG002
        rows: RowBlock,
        task_cov: FloatArray,
        target: int = 0,
    ) -> tuple[FloatArray, FloatArray]:
        """Return ones and ``A Lambda A' + W W'``; see `Adaptation.uncertainty`."""
        W = self.gain(rows.X, rows.n_rows, target)
        A = np.eye(len(task_cov)) - W @ rows.X
        return np.ones(len(W)), np.asarray(A @ task_cov @ A.transpose(0, 2, 1) + W @ W.transpose(0, 2, 1))


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
    r"""Ridge with a metric: the best linear prediction where coefficients of tasks have covariance Lambda.

    .. math:: \theta = \arg\min |y - X \theta|^2 + (\theta - \omega)' (c \Lambda)^{-1} (\theta - \omega)
              = \omega + c \Lambda X' (I + c X \Lambda X')^{-1} (y - X \omega)

    The penalty 1 / c may depend on the number of rows; it is interpolated geometrically in ``log(1 + n)``.

    Parameters
    ----------
    task_cov : (n_targets, n_features, n_features)
        Lambda, relative to the noise variance.
    n_rows, inverse_penalty : (n_points,)
        Numbers of rows, increasing, and c at each.
    """

    task_cov: FloatArray
    n_rows: FloatArray = field(default_factory=lambda: np.ones(1))
    inverse_penalty: FloatArray = field(default_factory=lambda: np.ones(1))

    def adapt(self, coef: FloatArray, tasks: TaskSet) -> FloatArray:
        """Return the adapted coefficients of every task; see `GradientSteps.adapt`."""
        start = coef.reshape(tasks.n_features, -1)
        theta = np.empty((len(tasks), *start.shape))
        for block in row_blocks(tasks):
            residual = block.y - block.X @ start
            for k in range(start.shape[1]):
                W = self.gain(block.X, block.n_rows, k)
                theta[block.members, :, k] = start[:, k] + np.einsum("tpr,tr->tp", W, residual[..., k])
        return theta.reshape(len(tasks), *coef.shape)

    def with_task_cov(self, task_cov: FloatArray) -> Ridge:
        """Return the ridge with another metric."""
        return replace(self, task_cov=task_cov)

    def gain(self, X: FloatArray, n_rows: IntArray, target: int = 0) -> FloatArray:
        """Return ``W = c Lambda X' (I + c X Lambda X')^-1``."""
        logs = np.interp(np.log1p(n_rows), np.log1p(self.n_rows), np.log(self.inverse_penalty))
        by_coef = np.exp(logs)[:, None, None] * (X @ self.task_cov[target])
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


def ridge_path(coef: FloatArray, task_cov: FloatArray, tasks: TaskSet, inverse_penalties: FloatArray) -> FloatArray:
    r"""Return the coefficients by `Ridge` at many penalties 1 / c, by one decomposition for all.

    .. math:: \theta = \omega + \Lambda X' U (1 / c + D)^{-1} z

    with the symbols of `Eigenbasis`.

    Parameters
    ----------
    coef : (n_features, n_targets)
        Meta-parameters.
    task_cov : (n_targets, n_features, n_features)
    tasks
    inverse_penalties : (n_penalties,)
        Values of c.

    Returns
    -------
    (n_penalties, n_tasks, n_features, n_targets)
    """
    theta = np.empty((len(inverse_penalties), len(tasks), *coef.shape))
    for block in row_blocks(tasks):
        residual = block.y - block.X @ coef
        for k in range(coef.shape[1]):
            d, z, back = Eigenbasis.of(task_cov[k], block.X, residual[..., k])
            shrunk = z / (1 / inverse_penalties[:, None, None] + d)
            theta[..., k][:, block.members] = coef[:, k] + np.einsum("tpj,stj->stp", back, shrunk)
    return theta


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

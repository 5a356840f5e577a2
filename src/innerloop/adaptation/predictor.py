"""Predicting tasks that had no part in training, after they adapted on a few of their rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.ragged import ragged_ranges, row_starts
from innerloop.adaptation.random_effects import RandomEffects
from innerloop.adaptation.rules import Adaptation, NoAdaptation, ridge_path
from innerloop.data.row_blocks import row_blocks
from innerloop.data.tasks import TaskSet

# Few tasks are split several times, so that the draw of their rows does not decide.
_EPISODES = 300
_MOST_SPLITS = 6
# Of a task that has many rows, so many are scored, fewer where tasks are many.
_SCORED_ROWS = 20, 200
_ROWS_AT_ONCE = 2**16
_MOST_NUMBERS = 2**22


@final
@dataclass(frozen=True, eq=False)
class Predictor:
    """A way to predict tasks: coefficients of unseen ones, and a rule by which others adapt from `coef`.

    Both coefficients are (n_features, n_targets), in scaled units. They differ where tasks' features differ
    between tasks: rows of a task tell its level, and what remains is how targets depend on features within a task.
    """

    coef: FloatArray
    unseen: FloatArray
    rule: Adaptation

    def adapts(self) -> bool:
        """Return whether tasks adapt at all."""
        return not isinstance(self.rule, NoAdaptation)

    def task_coef(self, support: TaskSet | None, n_tasks: int) -> FloatArray:
        """Return the coefficients of tasks with these rows: (n_tasks, n_features, n_targets)."""
        if support is None:
            return np.broadcast_to(self.unseen, (n_tasks, *self.unseen.shape))
        return self.rule.adapt(self.coef, support)


@final
class Trial(NamedTuple):
    """Some tasks' adaptation rows (None: none) and the other rows, which are predicted."""

    n_support: int
    tasks: IntArray
    support: TaskSet | None
    X: FloatArray
    y: FloatArray
    task_of_row: IntArray

    def select(self, chosen: NDArray[np.bool_]) -> Trial:
        """Return the trial of the tasks where `chosen` (one bool per task of all) is true."""
        keep = chosen[self.tasks]
        rows = keep[self.task_of_row]
        support = None if self.support is None or not keep.any() else self.support.select(keep)
        place = np.cumsum(keep) - 1
        task_of_row = place[self.task_of_row[rows]]
        return Trial(self.n_support, self.tasks[keep], support, self.X[rows], self.y[rows], task_of_row)

    def residuals(self, predictor: Predictor) -> FloatArray:
        """Return target less prediction: (n_rows, n_targets)."""
        return self._residuals(predictor.task_coef(self.support, len(self.tasks)))

    def _residuals(self, theta: FloatArray) -> FloatArray:
        left = self.y.copy()
        for i in range(0, len(left), _ROWS_AT_ONCE):
            part = slice(i, i + _ROWS_AT_ONCE)
            left[part] -= np.einsum("ij,ijk->ik", self.X[part], theta[self.task_of_row[part]])
        return left

    def mse(self, predictor: Predictor) -> FloatArray:
        """Return the mean squared error of each task, over its rows and targets: (n_tasks,)."""
        return self._mse(self.residuals(predictor))

    def mse_by_strength(self, effects: RandomEffects, strengths: FloatArray) -> FloatArray:
        """Return the same of ridges of all these strengths: (n_strengths, n_tasks)."""
        if self.support is None:  # there are no tasks
            return np.empty((len(strengths), 0))
        path = ridge_path(effects.mean, effects.new_task_cov, self.support, strengths)
        return np.array([self._mse(self._residuals(theta)) for theta in path])

    def _mse(self, residuals: FloatArray) -> FloatArray:
        squares = np.square(residuals).mean(axis=1)
        n_rows = np.bincount(self.task_of_row, minlength=len(self.tasks))
        return np.asarray(np.bincount(self.task_of_row, squares, len(self.tasks)) / n_rows)

    def variance(self, predictor: Predictor, task_cov: FloatArray) -> FloatArray:
        """Return the variance of the residuals relative to the noise: (n_rows, n_targets)."""
        if self.support is None:
            return unseen_variance(task_cov, self.X)
        support, coef = self.support, predictor.coef
        return relative_variance(predictor.rule, coef, task_cov, support, support.sizes, self.X, self.task_of_row)


def trials(tasks: TaskSet, numbers_of_rows: Iterable[int], seed: int) -> dict[int, list[Trial]]:
    """Return trials for each number of adaptation rows, of all tasks that have more rows than that."""
    found: dict[int, list[Trial]] = {n: [] for n in numbers_of_rows if (tasks.sizes > n).any()}
    most_scored = int(np.clip(_MOST_NUMBERS // 2 // (len(tasks) * tasks.n_features), *_SCORED_ROWS))
    for split in range(min(-(-_EPISODES // len(tasks)), _MOST_SPLITS)):
        order = tasks.shuffled(seed + split)
        for n, own in found.items():
            own.append(_trial(tasks, order, n, most_scored))
    return found


def _trial(tasks: TaskSet, order: IntArray, n_support: int, most_scored: int) -> Trial:
    chosen = np.flatnonzero(tasks.sizes > n_support)
    first = tasks.starts[chosen]
    y = tasks.y.reshape(tasks.n_rows, -1)
    support = None
    if n_support:
        sizes = np.full(len(chosen), n_support)
        rows = order[ragged_ranges(first, sizes)]
        support = TaskSet(tasks.X[rows], y[rows], row_starts(sizes), tasks.ids[chosen])
    n_scored = np.minimum(tasks.sizes[chosen] - n_support, most_scored)
    rows = order[ragged_ranges(first + n_support, n_scored)]
    return Trial(n_support, chosen, support, tasks.X[rows], y[rows], np.repeat(np.arange(len(chosen)), n_scored))


def relative_variance(
    rule: Adaptation,
    coef: FloatArray,
    task_cov: FloatArray,
    support: TaskSet,
    n_rows: IntArray,
    X: FloatArray,
    task_of_row: IntArray,
) -> FloatArray:
    """Return the variance of rows around their predictions, relative to the noise: ``alpha + x' C x``.

    Parameters
    ----------
    rule, coef
        By which tasks adapted, and from what.
    task_cov : (n_targets, n_features, n_features)
        Covariance of tasks' coefficients, relative to the noise.
    support, n_rows
        The tasks' rows, maybe turned as in a `RowBlock`, and how many there were of each.
    X, task_of_row
        Rows to predict, and the task of each.

    Returns
    -------
    (n_rows, n_targets)
        alpha is the task's noise, and C the covariance of its coefficients' error: `Adaptation.uncertainty`.
    """
    variance = np.empty((len(X), len(task_cov)))
    at_once = max(1, _MOST_NUMBERS // X.shape[1] ** 2)
    used = np.unique(task_of_row)
    place = np.full(len(support), -1)
    for block in row_blocks(support.select(used)):
        members = used[block.members]
        place[members] = np.arange(len(members))
        rows = np.flatnonzero(place[task_of_row] >= 0)
        adapted_on = replace(block, n_rows=n_rows[members])
        for k, own_cov in enumerate(task_cov):
            noise, covariance = rule.uncertainty(coef, adapted_on, own_cov, k)
            for i in range(0, len(rows), at_once):
                part = rows[i : i + at_once]
                task = place[task_of_row[part]]
                own = ((X[part, None] @ covariance[task]) @ X[part, :, None])[:, 0, 0]
                variance[part, k] = noise[task] + np.maximum(own, 0.0)  # rounding may leave less than nothing
        place[members] = -1
    return variance


def unseen_variance(task_cov: FloatArray, X: FloatArray) -> FloatArray:
    """Return the same of tasks without rows: ``1 + x' Lambda x``, (n_rows, n_targets)."""
    return np.stack([1.0 + np.einsum("ij,ij->i", X @ own_cov, X) for own_cov in task_cov], axis=1)

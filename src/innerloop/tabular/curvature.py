"""Which features a target may be curved in, and which vary within tasks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop.adaptation.random_effects import RandomEffects
from innerloop.adaptation.restricted_likelihood import RestrictedLikelihood
from innerloop.data.curves import Curves
from innerloop.data.row_blocks import row_blocks
from innerloop.data.tasks import TaskSet

# Statistics below this, in units of what chance explains, are no evidence of a curve.
_MOST_BY_CHANCE = 3
# Curves that are tried have together at most so many columns.
_MOST_COLUMNS = 32


def varies_within(tasks: TaskSet) -> NDArray[np.bool_]:
    """Return which columns differ between rows of a same task: (n_columns,)."""
    high, low = (extreme.reduceat(tasks.X, tasks.starts[:-1], axis=0) for extreme in (np.maximum, np.minimum))
    size = np.maximum(np.abs(high), np.abs(low))
    return np.asarray((high - low > 4 * np.finfo(float).eps * size).any(axis=0))


def evident(curves: Curves, tasks: TaskSet, effects: RandomEffects, intercept: bool) -> Curves:
    """Return the curves of which tasks show more than chance would; those most evident first, where they are many.

    By statistics under the straight model: Wald's of the population's curve, above 3 times the number of its columns,
    or Rao's score of the variance between tasks of one of its columns, above 3 standard errors.

    Parameters
    ----------
    curves
    tasks
        Without the columns of curves.
    effects
        Of the straight model.
    intercept
        Whether the last column of the tasks is the intercept.
    """
    if len(curves) == 0:
        return curves
    p, end = tasks.n_features + curves.n_columns, tasks.n_features - intercept
    of_curves = np.arange(end, end + curves.n_columns)
    straight = np.delete(np.arange(p), of_curves)
    wide = effects.in_columns(straight, p)
    prior = np.zeros(p, dtype=np.intp)
    prior[p - intercept :] = -1
    blocks = list(row_blocks(curves.tasks(tasks, intercept).whitened()))
    evidence = np.zeros(len(curves))
    for target in range(len(effects.noise)):
        problem = RestrictedLikelihood(blocks, target, tasks.n_rows, prior)
        solution, score = problem.score(wide.task_cov[target], wide.precision[target])
        for i in range(len(curves)):
            columns = of_curves[curves.curve_of_column == i]
            evidence[i] = max(evidence[i], _evidence(solution.mean, solution.noise * solution.mean_cov, score, columns))
    order = np.argsort(-evidence, kind="stable")
    order = order[evidence[order] > 1]
    return curves.select(np.sort(order[np.cumsum(curves.width[order]) <= _MOST_COLUMNS]))


def _evidence(mean: FloatArray, mean_cov: FloatArray, score: FloatArray, columns: IntArray) -> float:
    """Return the larger of both statistics, over what it must exceed; see `evident`."""
    wald = mean[columns] @ np.linalg.pinv(mean_cov[np.ix_(columns, columns)], hermitian=True) @ mean[columns]
    return max(float(wald) / len(columns), float(score[columns].max())) / _MOST_BY_CHANCE

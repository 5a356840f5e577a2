"""Which features a target may be curved in, and which vary within tasks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from innerloop._base.checks import FloatArray
from innerloop.adaptation.random_effects import RandomEffects
from innerloop.adaptation.restricted_likelihood import RestrictedLikelihood
from innerloop.data.curves import Curves
from innerloop.data.row_blocks import row_blocks
from innerloop.data.tasks import TaskSet

# Share of straight tables of which a curve is tried.
_LEVEL = 0.05
# Curves that are tried have together at most so many columns.
_MOST_COLUMNS = 32


def varies_within(tasks: TaskSet) -> NDArray[np.bool_]:
    """Return which columns differ between rows of a same task: (n_columns,)."""
    high, low = (extreme.reduceat(tasks.X, tasks.starts[:-1], axis=0) for extreme in (np.maximum, np.minimum))
    size = np.maximum(np.abs(high), np.abs(low))
    return np.asarray((high - low > 4 * np.finfo(float).eps * size).any(axis=0))


def evident(curves: Curves, tasks: TaskSet, effects: RandomEffects, intercept: bool) -> Curves:
    """Return the curves of which tasks show more than chance would, or the most evident of them where they are many.

    A curve is tested under the straight model by Wald's statistic of the population's curve, and by Rao's score of the
    variance between tasks of each of its columns, at 5 % for all tests together (Bonferroni).

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
    chance, strength = np.ones(len(curves)), np.zeros(len(curves))
    for target in range(len(effects.noise)):
        problem = RestrictedLikelihood(blocks, target, tasks.n_rows, prior)
        penalty = np.nan_to_num(wide.precision[target], posinf=0.0)  # curves may have any mean here
        solution, of_variances = problem.score(wide.task_cov[target], penalty)
        for i in range(len(curves)):
            columns = of_curves[curves.curve_of_column == i]
            wald = _wald(solution.mean[columns], solution.noise * solution.mean_cov[np.ix_(columns, columns)])
            of_variance = len(columns) * of_variances[columns].min()
            chance[i] = min(chance[i], 2 * min(chdtrc(len(columns), wald), of_variance))
            strength[i] = max(strength[i], wald / len(columns))
    order = np.lexsort((-strength, chance))  # chances may all be below the smallest number
    order = order[chance[order] < _LEVEL / (len(curves) * len(effects.noise))]
    return curves.select(np.sort(order[np.cumsum(curves.width[order]) <= _MOST_COLUMNS]))


def _wald(mean: FloatArray, mean_cov: FloatArray) -> float:
    return float(mean @ np.linalg.pinv(mean_cov, hermitian=True) @ mean)

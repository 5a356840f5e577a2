"""Stacking: the convex combination of predictors with the lowest error on held-out tasks."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from innerloop._base.checks import FloatArray

# Weight of the prior, in tasks: equal weights of all predictors.
_PRIOR_TASKS = 3
# Weight of the condition that weights sum to 1, as a row of the least-squares problem.
_SUM = 1e4
# Smaller weights only cost time.
_LEAST_WEIGHT = 0.01
_TINY = np.finfo(float).tiny


def stack(products: FloatArray) -> FloatArray:
    r"""Return weights w of predictors, none negative, that sum to 1.

    .. math:: \min_w \frac1m \sum_i \frac{w' M_i w}{s_i} + \frac{m_0}{m} c \, |w - 1/K|^2, \quad
              s_i = \min_k M_{ikk} + \frac1m \sum_j \min_k M_{jkk}

    The squared error of a task has the standard deviation of its size, so that its s_i is the noise that no predictor
    avoids; c is the lowest mean of ``M_ikk / s_i``, and m_0 = 3 tasks.

    Parameters
    ----------
    products : (n_tasks, K, K)
        M_i: means over a task's rows of the products of the predictors' residuals.

    Notes
    -----
    docs/theory.md, section "Stacking".
    """
    n_tasks, n = products.shape[:2]
    if n == 1:
        return np.ones(1)
    # Only ratios of errors matter, whatever the units of the target.
    products = products / max(float(products.diagonal(axis1=1, axis2=2).max()), _TINY)
    least = products.diagonal(axis1=1, axis2=2).min(axis=1)
    scale = np.maximum(least + least.mean(), 1e-30)
    A = (products / scale[:, None, None]).mean(axis=0)
    A /= max(float(A.diagonal().min()), 1e-15 * float(A.diagonal().max()), _TINY)
    penalty = _PRIOR_TASKS / n_tasks
    values, vectors = np.linalg.eigh((A + A.T) / 2 + penalty * np.eye(n))
    root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    target = np.linalg.lstsq(root.T, np.full(n, penalty / n), rcond=None)[0]
    rows = np.concatenate((root, np.full((1, n), _SUM * root.max())))
    weight = nnls(rows, np.append(target, _SUM * root.max()))[0]
    weight[weight < _LEAST_WEIGHT * weight.sum()] = 0.0
    return np.asarray(weight / weight.sum())

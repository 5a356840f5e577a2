"""The slope of the loss at inner_lr = 0 for any covariance, and where it turns (docs/theory.md, 17)."""

from __future__ import annotations

import numpy as np

from innerloop._base.checks import FloatArray, as_rate
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.theory.adapting import AdaptedLoss
from innerloop.theory.anchors import mean_projection


def exact_slope_parts(dist: MixedLinearRegression, design: Design, weights: FloatArray) -> tuple[float, float]:
    """Return what unit label noise adds to the slope at 0 for N > p + 1, and what the tasks take from it (17.2).

    Parameters
    ----------
    dist, design
        The tasks, and the sizes.
    weights : (n_features,)
        Omega, the weights of squared errors of the meta-parameters in the test loss.
    """
    p, n_rows, s, tau2 = dist.n_features, design.n_query_rows, dist.eigenvalues, dist.task_variances
    shares = (group.n_tasks * mean_projection(group.n_query, n_rows, p)[1] for group in design.groups)
    beta = sum(shares) * n_rows / (n_rows - p - 1)
    spread = (s**2 @ tau2) * (weights / s).sum() - (s @ tau2) * weights.sum()
    return float(weights.sum() / (n_rows - p - 1)), float(beta * spread)


def turning_noise(dist: MixedLinearRegression, design: Design, adapt_lr: float = 0.0) -> float:
    """Return the standard deviation of the label noise below which the best inner rate near zero is positive.

    Zero where it is negative at any noise: what differs between tasks then lies in directions whose features vary no
    more than average.

    Parameters
    ----------
    dist, design
        As in `expected_loss`; Gaussian rows, protocol "split", no penalty, and N > p + 1. The noise of `dist` is not
        used.
    adapt_lr
        The rate of new tasks.

    Returns
    -------
    float
        Exact at finite size.

    Raises
    ------
    ValueError
        If the slope is not known exactly (equation 17.2).

    Examples
    --------
    >>> import innerloop as il
    >>> import numpy as np
    >>> from innerloop.theory import turning_noise
    >>> dist = il.MixedLinearRegression(5, covariance=np.array([5.0, 2.0, 1.0, 0.5, 0.2]))
    >>> design = il.Design(n_tasks=10, n_support=5, n_query=5)
    >>> turning_noise(dist, design) > 0  # with less noise than this, the best rate is positive
    True
    """
    p, n_rows = dist.n_features, design.n_query_rows
    if not dist.is_gaussian or design.protocol != "split" or design.l2 > 0 or n_rows <= p + 1:
        raise ValueError(
            "`design` must have the protocol 'split', no penalty and more than n_features + 1 query rows, and `dist` "
            "Gaussian rows: the slope at zero is not known exactly otherwise."
        )
    rate = np.array(as_rate(adapt_lr, "adapt_lr"))
    weights = np.broadcast_to(AdaptedLoss.build(dist, design).weights_at(rate), p)
    from_noise, from_tasks = exact_slope_parts(dist, design, weights)
    return float(np.sqrt(max(from_tasks, 0.0) / from_noise))

"""The slope of the loss at inner_lr = 0, and the label noise at which it turns (docs/theory.md, 17)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from innerloop._base.checks import FloatArray, as_rate
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.theory.adapting import AdaptedLoss
from innerloop.theory.anchors import mean_projection
from innerloop.theory.expected import TrainingError

# Half the step of a difference, in natural rates.
_STEP = 1e-3
_TOLERANCE = 1e-6  # of the variance at which a slope turns


def natural_rate(dist: MixedLinearRegression, design: Design) -> float:
    """Return tr E M / tr E M^2 for M = S / n_t, which brings I - aM nearest to zero."""
    s, n = dist.eigenvalues, min(group.n_support for group in design.groups)
    return float(s.sum() / ((1 + 1 / n) * (s**2).sum() + s.sum() ** 2 / n))


def exact_slope_parts(dist: MixedLinearRegression, design: Design, weights: FloatArray) -> tuple[float, float] | None:
    """Return what unit label noise adds to the slope of the loss at 0, and what the tasks take from it (17.1, 17.2).

    Parameters
    ----------
    dist, design
        The tasks, and the sizes.
    weights : (n_directions,)
        Omega, the weights of squared errors of the meta-parameters in the test loss.

    Returns
    -------
    tuple of float, or None
        None where the slope is not known exactly.
    """
    p, n_rows, s, tau2 = dist.n_features, design.n_query_rows, dist.eigenvalues, dist.task_variances
    if not dist.is_gaussian or design.protocol != "split" or design.l2 > 0 or abs(p - n_rows) <= 1:
        return None
    if n_rows < p and not dist.is_isotropic:
        return None
    steps, every = design.rule.first_order, np.broadcast_to(weights, p)
    from_noise = float(steps * every.mean() * min(n_rows, p) / (abs(p - n_rows) - 1))
    if dist.is_isotropic:
        return from_noise, 0.0
    shares = (group.n_tasks * mean_projection(group.n_query, n_rows, p)[1] for group in design.groups)
    beta = sum(shares) * n_rows / (n_rows - p - 1)
    spread = (s**2 @ tau2) * (every / s).sum() - (s @ tau2) * every.sum()
    return from_noise, float(steps * beta * spread)


def slope_by_differences(loss: Callable[[float], float], dist: MixedLinearRegression, design: Design) -> float:
    """Return d loss / d inner_lr at zero by a difference, from the right alone where a rule has no negative rates."""
    step = _STEP * natural_rate(dist, design)
    low = max(-step, design.rule.lowest_rate)
    return (loss(step) - loss(low)) / (step - low)


def turning_noise(
    dist: MixedLinearRegression, design: Design, adapt_lr: float = 0.0, init: ArrayLike | None = None
) -> float:
    """Return the standard deviation of the label noise below which the best inner rate near zero is positive.

    Zero where it is negative at any noise: what differs between tasks then lies in directions whose features vary no
    more than average.

    Parameters
    ----------
    dist, design
        As in `expected_loss`, for the protocol "split". The noise of `dist` is not used.
    adapt_lr
        The rate of new tasks.
    init : (n_features,)
        Where meta-training starts; None is zero. It matters with a penalty, or fewer query rows than features.

    Returns
    -------
    float
        Exact at finite size for Gaussian rows without a penalty if N > p + 1 (equation 17.2); otherwise the root of the
        slope of `expected_loss` (17.4), as accurate as that.

    Raises
    ------
    ValueError
        If there is no such noise: every row is scored, no expected loss exists, or noise does not raise the slope.

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
    if design.protocol != "split":
        raise ValueError(
            f"`design` must have the protocol 'split', got {design.protocol!r}: where every row is scored, label noise "
            "does not turn the sign near zero."
        )
    rate = np.array(as_rate(adapt_lr, "adapt_lr"))
    exact = exact_slope_parts(dist, design, AdaptedLoss.build(dist, design).weights_at(rate))
    if exact is not None:
        from_noise, from_tasks = exact
        return float(np.sqrt(max(from_tasks, 0.0) / from_noise))

    def slope(variance: float) -> float:
        noisy = replace(dist, noise_std=float(np.sqrt(variance)))
        error, loss = TrainingError(noisy, design, init), AdaptedLoss.build(noisy, design)
        return slope_by_differences(lambda a: float(loss(rate, error(np.array(a)))), noisy, design)

    return float(np.sqrt(_turning_variance(slope, float(dist.eigenvalues @ dist.task_variances))))


def _turning_variance(slope: Callable[[float], float], unit: float) -> float:
    """Return the noise variance at which a slope that is nearly affine in it turns from negative to positive.

    Parameters
    ----------
    slope
        A function of the noise variance.
    unit
        A variance to begin with.
    """
    without = slope(0.0)
    with_noise = slope(unit)
    if not with_noise > without:
        raise ValueError("`design` must have a slope at zero that label noise raises; here it does not.")
    if without >= 0:
        return 0.0
    upper = -2 * without * unit / (with_noise - without)
    while slope(upper) <= 0:
        upper *= 2
    return float(brentq(slope, 0.0, upper, rtol=_TOLERANCE, xtol=_TOLERANCE * upper))

"""The best pair of rates, and the losses with tied rates and without an inner loop (docs/theory.md, 17)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.theory.adapting import AdaptedLoss
from innerloop.theory.expected import Method, choose_method, training_error
from innerloop.theory.leading import leading_optimum

# Candidate rates are spread from _FINEST to _WIDEST natural rates on either side of zero.
_FINEST, _WIDEST = 1e-3, 30.0
_FAR = 1e5
_SLOPE_STEP = 1e-3


@final
@dataclass(frozen=True)
class RateOptimum:
    """The best rates of a design, and the losses beside them: HALF mean squared errors.

    Parameters
    ----------
    inner_lr, adapt_lr
        The best pair. An infinite `inner_lr` means that the loss falls towards its limit there.
    loss
        The expected test loss at the pair.
    lr_tied, loss_tied
        The best single rate for both, usual MAML, and its loss.
    adapt_lr_no_inner, loss_no_inner
        The best adaptation rate after training without an inner loop, and its loss.
    slope_at_zero
        d loss / d inner_lr at inner_lr = 0 and that adaptation rate: where it is positive, a slightly negative rate
        is better than none.
    loss_minus_infinity, loss_plus_infinity
        Limits of the loss for inner_lr to minus and plus infinity, each at its best adaptation rate.
    method, trust
        How the losses are computed, and how far they can be trusted.
    """

    inner_lr: float
    adapt_lr: float
    loss: float
    lr_tied: float
    loss_tied: float
    adapt_lr_no_inner: float
    loss_no_inner: float
    slope_at_zero: float
    loss_minus_infinity: float
    loss_plus_infinity: float
    method: str
    trust: str

    @property
    def sign(self) -> int:
        """Sign of the best inner rate: -1, 0 or 1."""
        return int(np.sign(self.inner_lr))


def optimal_rates(
    dist: MixedLinearRegression, design: Design, init: ArrayLike | None = None, method: Method = "auto"
) -> RateOptimum:
    """Return the pair of rates with the lowest expected test loss.

    With isotropic features and tasks the two rates decouple: the inner rate minimises the error of the
    meta-parameters, whatever the adaptation. Otherwise they are minimised together.

    Parameters
    ----------
    dist, design, init, method
        As in `expected_loss`.

    Returns
    -------
    RateOptimum

    Raises
    ------
    ValueError
        If the method does not cover the design, or no expected loss exists (N within 1 of p without a penalty).
    """
    choice = choose_method(dist, design, method)
    loss = AdaptedLoss.build(dist, design)

    def error(rate: float) -> FloatArray:
        return training_error(dist, design, np.array(rate), init, method)

    def adapted(rate: float) -> float:
        return _at_best(loss, error(rate))

    at_zero = error(0.0)
    if not np.isfinite(at_zero).all():
        raise ValueError(f"`design` has no best rates to find: {choice.trust}")
    natural = _natural_rate(dist, design)
    grid = _grid(natural, design, _n_candidates(dist))
    if choice.name == "leading-order" and design.n_query_rows < dist.n_features and dist.fourth_moment == 3:
        inner = leading_optimum(dist.n_features, design.groups[0].n_support)
    else:
        inner = _minimise(adapted, grid)
    tied = _minimise(lambda rate: float(loss(np.array(rate), error(rate))), grid)
    limits = [adapted(side * _FAR * natural) if grid[0] < 0 or side > 0 else np.nan for side in (-1.0, 1.0)]
    best = adapted(inner)
    for side, limit in zip((-np.inf, np.inf), limits, strict=True):
        if limit < best - 1e-12 * abs(best):
            inner, best = side, limit
    far = np.sign(inner) * _FAR * natural if np.isinf(inner) else inner
    rate_at_zero = loss.best_rate(at_zero)
    return RateOptimum(
        inner_lr=inner,
        adapt_lr=loss.best_rate(error(far)),
        loss=best,
        lr_tied=tied,
        loss_tied=float(loss(np.array(tied), error(tied))),
        adapt_lr_no_inner=rate_at_zero,
        loss_no_inner=float(loss(np.array(rate_at_zero), at_zero)),
        slope_at_zero=_slope(dist, design, loss, error, rate_at_zero, natural),
        loss_minus_infinity=limits[0],
        loss_plus_infinity=limits[1],
        method=choice.name,
        trust=choice.trust,
    )


def _at_best(loss: AdaptedLoss, error: FloatArray) -> float:
    """Return the loss at the best adaptation rate; infinite where the error is not finite."""
    if not np.isfinite(error).all():
        return float("inf")
    return float(loss(np.array(loss.best_rate(error)), error))


def _natural_rate(dist: MixedLinearRegression, design: Design) -> float:
    """Return tr E M / tr E M^2 for M = S / n_t, the rate that brings I - aM nearest to zero, over the steps."""
    s, n = dist.eigenvalues, min(group.n_support for group in design.groups)
    squares = (1 + 1 / n) * (s**2).sum() + s.sum() ** 2 / n
    return float(s.sum() / squares)


def _n_candidates(dist: MixedLinearRegression) -> int:
    """Return how many candidates to try on either side: a point costs milliseconds more with correlated features."""
    return 24 if dist.is_isotropic else 9


def _grid(natural: float, design: Design, n: int) -> FloatArray:
    sizes = natural * np.geomspace(_FINEST, _WIDEST, n)
    below = sizes[:0] if design.rule.lowest_rate == 0 else -sizes[::-1]
    return np.concatenate([below, [0.0], sizes])


def _minimise(loss: Callable[[float], float], grid: FloatArray) -> float:
    """Return the lowest of a grid, refined between its neighbours."""
    values = np.array([loss(float(rate)) for rate in grid])
    values[np.isnan(values)] = np.inf
    low = int(values.argmin())
    bounds = grid[max(low - 1, 0)], grid[min(low + 1, len(grid) - 1)]
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7 * (bounds[1] - bounds[0])})
    return float(found.x) if found.fun <= values[low] else float(grid[low])


def _slope(
    dist: MixedLinearRegression,
    design: Design,
    loss: AdaptedLoss,
    error: Callable[[float], FloatArray],
    adapt_lr: float,
    natural: float,
) -> float:
    """Return d loss / d inner_lr at zero: exactly where equation 17.1 holds, by differences otherwise."""
    p, n_rows, rate = dist.n_features, design.n_query_rows, np.array(adapt_lr)
    exact = dist.is_isotropic and dist.fourth_moment == 3 and design.l2 == 0 and design.rule.degree is not None
    if exact and abs(p - n_rows) > 1:
        size = 2 * design.n_steps * dist.noise_std**2 * min(n_rows, p) / (abs(p - n_rows) - 1)
        return float(loss(rate, np.array([size])) - loss(rate, np.zeros(1)))
    step = _SLOPE_STEP * natural
    if design.rule.lowest_rate == 0:
        return float((loss(rate, error(step)) - loss(rate, error(0.0))) / step)
    return float((loss(rate, error(step)) - loss(rate, error(-step))) / (2 * step))

"""Expected losses as arrays: against each rate, over both, and the best inner rate over N/p."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
from numpy.typing import ArrayLike

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.theory.adapting import AdaptedLoss
from innerloop.theory.bounds import ReferenceLosses, reference_losses
from innerloop.theory.expected import TrainingError
from innerloop.theory.optimum import RateOptimum, optimal_rates

_N_RATES = 121
# Curves reach to one of these times a power of ten.
_ROUND = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_LOWEST_RATIO, _HIGHEST_RATIO = 0.05, 20.0
_N_RATIOS, _N_RATIOS_CORRELATED = 25, 9


@final
@dataclass(frozen=True, eq=False)
class LossCurve:
    """Expected test loss against one rate, the other fixed.

    Parameters
    ----------
    varied
        The rate that varies.
    rates, loss : (n_rates,)
        Its values, and HALF the mean squared error there.
    fixed
        The other rate.
    best
        Both rates at their best, and the losses to compare with.
    references
        What other estimators reach; None where it is not derived.
    """

    varied: Literal["inner_lr", "adapt_lr"]
    rates: FloatArray
    loss: FloatArray
    fixed: float
    best: RateOptimum
    references: ReferenceLosses | None = None


@final
@dataclass(frozen=True, eq=False)
class LossMap:
    """Expected test loss over both rates.

    Parameters
    ----------
    inner_lr, adapt_lr : (n_inner,), (n_adapt,)
        Rates.
    loss : (n_inner, n_adapt)
        HALF the mean squared error.
    best
        Both rates at their best.
    """

    inner_lr: FloatArray
    adapt_lr: FloatArray
    loss: FloatArray
    best: RateOptimum


@final
@dataclass(frozen=True, eq=False)
class LossCurves:
    """Expected test loss against each rate, and over both.

    Parameters
    ----------
    inner, adapt
        Against `inner_lr` and against `adapt_lr`, through the same pair of rates.
    both
        Over both.
    loss
        At the pair.
    """

    inner: LossCurve
    adapt: LossCurve
    both: LossMap
    loss: float


@final
@dataclass(frozen=True, eq=False)
class BestRateCurve:
    """The best inner rate of designs with other numbers of tasks.

    Parameters
    ----------
    ratio, inner_lr : (n_designs,)
        Query rows per feature, N/p, and the best inner rate.
    this_ratio
        N/p of the design that was given.
    """

    ratio: FloatArray
    inner_lr: FloatArray
    this_ratio: float


def loss_curves(
    dist: MixedLinearRegression,
    design: Design,
    init: ArrayLike | None = None,
    best: RateOptimum | None = None,
    at: tuple[float | None, float | None] = (None, None),
    n_rates: int = _N_RATES,
) -> LossCurves:
    """Return the loss against the inner rate, against the adaptation rate, and over both.

    Parameters
    ----------
    dist, design, init
        As in `expected_loss`.
    best
        What `optimal_rates` gives for them, if it is known already.
    at
        The inner and the adaptation rate that the curves go through; None for a rate is the best.
    n_rates
        Inner rates, and adaptation rates of the curve; the map has half as many of these.

    Returns
    -------
    LossCurves
    """
    best = best or optimal_rates(dist, design, init)
    inner_lr, adapt_lr = (
        wanted if given is None else given for given, wanted in zip(at, (best.inner_lr, best.adapt_lr), strict=True)
    )
    for rule, rate, name in ((design.rule, inner_lr, "inner_lr"), (design.adapt_rule, adapt_lr, "adapt_lr")):
        rule.check_rates(np.array(rate), name)
    inner = _inner_rates(max(abs(_finite(best.inner_lr)), abs(_finite(inner_lr)) / 2), design, n_rates)
    reach = max(abs(best.adapt_lr), abs(adapt_lr) / 1.5)
    adapt, wide = _adapt_rates(reach, design, n_rates), _adapt_rates(reach, design, (n_rates + 1) // 2)
    # What meta-training costs is computed once; all three are scored on it.
    adapted, errors = AdaptedLoss.build(dist, design), TrainingError(dist, design, init)
    error = errors(inner)
    fixed = errors(np.array(_finite(inner_lr)))
    return LossCurves(
        LossCurve(
            "inner_lr", inner, adapted(np.array(adapt_lr), error), adapt_lr, best, _references(dist, design, init, best)
        ),
        LossCurve("adapt_lr", adapt, adapted(adapt, fixed), inner_lr, best),
        LossMap(inner, wide, adapted(wide, error[:, None]), best),
        float(adapted(np.array(adapt_lr), fixed)),
    )


def best_rate_curve(dist: MixedLinearRegression, design: Design, init: ArrayLike | None = None) -> BestRateCurve:
    """Return the best inner rate over N/p, with other numbers of tasks of the first task's sizes.

    Parameters
    ----------
    dist, design, init
        As in `expected_loss`.

    Returns
    -------
    BestRateCurve
        Without designs for which no expected loss exists (N within 1 of p, no penalty).
    """
    p, points = dist.n_features, set()
    n_ratios = _N_RATIOS if dist.is_isotropic else _N_RATIOS_CORRELATED
    for ratio in np.geomspace(_LOWEST_RATIO, _HIGHEST_RATIO, n_ratios):
        changed = _with_ratio(dist, design, float(ratio))
        if abs(changed.n_query_rows - p) > 1 or design.l2 > 0:
            points.add((changed.n_query_rows / p, optimal_rates(dist, changed, init).inner_lr))
    ratios, rates = np.array(sorted(points)).T
    return BestRateCurve(ratios, rates, design.n_query_rows / p)


def _references(
    dist: MixedLinearRegression, design: Design, init: ArrayLike | None, best: RateOptimum
) -> ReferenceLosses | None:
    try:
        return reference_losses(dist, design, init, best)
    except ValueError:
        return None


def _with_ratio(dist: MixedLinearRegression, design: Design, ratio: float) -> Design:
    """Return a design of about so many query rows per feature, with another number of tasks."""
    group = design.groups[0]
    n_tasks = max(2, round(ratio * dist.n_features / design.n_scored(group)))
    return replace(design, n_tasks=n_tasks, n_support=group.n_support, n_query=group.n_query)


def _inner_rates(largest: float, design: Design, n_rates: int) -> FloatArray:
    reach = _round_up(max(2 * largest, 0.5))
    return np.linspace(max(-reach, design.rule.lowest_rate), reach, n_rates)


def _adapt_rates(largest: float, design: Design, n_rates: int) -> FloatArray:
    reach = _round_up(max(2 * largest, 0.1))
    return np.linspace(max(-0.5 * reach, design.adapt_rule.lowest_rate), 1.5 * reach, n_rates)


def _round_up(reach: float) -> float:
    """Return a round number that is not smaller: curves of like designs then share their rates."""
    power = 10 ** np.floor(np.log10(reach))
    return float(next(part for part in _ROUND if part * power >= reach * (1 - 1e-9)) * power)


def _finite(rate: float) -> float:
    return rate if np.isfinite(rate) else float(np.sign(rate) * 1e3)

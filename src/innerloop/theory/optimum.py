"""The best pair of rates, and the losses with tied rates, without an inner loop and untrained (docs/theory.md, 17)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, final

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize, minimize_scalar

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.theory.adapting import AdaptedLoss
from innerloop.theory.expected import Method, TrainingError, choose_method
from innerloop.theory.leading import leading_optimum
from innerloop.theory.sign import exact_slope_parts, natural_rate, slope_by_differences

# Candidate rates on either side of zero, in natural rates: spread by their logarithm, and evenly where overshooting
# steps have their minima. Rules that are no polynomials may have them at any rate, as they come to rest far from zero.
_FINEST, _WIDEST = 1e-3, 30.0
_EVEN = (0.1, 3.0)
_FAR, _N_BEYOND = 1e5, 20
_ROUNDING = 1e-9  # of losses
# Local minima of the grid that are refined, and to which part of the distance of the grid's rates around them.
_N_REFINED, _PRECISION = 3, 1e-5
# Candidate penalties in units of the mean feature variance, by their common logarithm.
_PENALTIES, _N_PENALTIES = (-4.0, 3.0), 8


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
    adapt_lr_untrained, loss_untrained
        The same without meta-training: new tasks adapt from `init`.
    slope_at_zero
        d loss / d inner_lr at inner_lr = 0 and `adapt_lr_no_inner`: where it is positive, a slightly negative rate is
        better than none. Where positive rates have an infinite loss it is the slope from the left.
    loss_minus_infinity, loss_plus_infinity
        Limits of the loss for inner_lr to minus and plus infinity, each at its best adaptation rate; NaN where a limit
        cannot be computed.
    l2
        The penalty: that of the design, or the best with ``l2="best"``; `loss_no_inner` and `loss_tied` then have the
        best penalty of their own. Infinite where not to train at all is best.
    overshoots
        Whether steps at the best rate overshoot in the steepest directions of a support (inner_lr s > 2).
    method, trust
        How the losses are computed, and how far they can be trusted.

    Examples
    --------
    >>> import innerloop as il
    >>> design = il.Design(n_tasks=3, n_support=30, n_query=2, n_adapt=20)
    >>> best = il.optimal_rates(il.MixedLinearRegression(60, task_std=0.5), design)
    >>> print(f"{best.inner_lr:.2f} {best.adapt_lr:.3f}: {1 - best.loss / best.loss_no_inner:.1%} below no inner loop")
    -1.06 0.077: 3.6% below no inner loop
    """

    inner_lr: float
    adapt_lr: float
    loss: float
    lr_tied: float
    loss_tied: float
    adapt_lr_no_inner: float
    loss_no_inner: float
    adapt_lr_untrained: float
    loss_untrained: float
    slope_at_zero: float
    loss_minus_infinity: float
    loss_plus_infinity: float
    l2: float
    overshoots: bool
    method: str
    trust: str

    @property
    def sign(self) -> int:
        """Sign of the best inner rate: -1, 0 or 1."""
        return int(np.sign(self.inner_lr))


def optimal_rates(
    dist: MixedLinearRegression,
    design: Design,
    init: ArrayLike | None = None,
    method: Method = "auto",
    l2: Literal["best"] | None = None,
) -> RateOptimum:
    """Return the pair of rates with the lowest expected test loss.

    With isotropic features and tasks the two rates decouple: the inner rate minimises the error of the
    meta-parameters, whatever the adaptation. Otherwise they are minimised together.

    Parameters
    ----------
    dist, design, init, method
        As in `expected_loss`.
    l2
        "best" minimises over the penalty too; None keeps that of the design.

    Returns
    -------
    RateOptimum

    Raises
    ------
    ValueError
        If the method does not cover the design, or no expected loss exists (N within 1 of p without a penalty).

    Examples
    --------
    >>> import innerloop as il
    >>> dist, design = il.MixedLinearRegression(60, task_std=0.5), il.Design(3, n_support=30, n_query=2, n_adapt=20)
    >>> best = il.optimal_rates(dist, design)
    >>> round(best.inner_lr, 2), round(best.adapt_lr, 3), best.sign
    (-1.06, 0.077, -1)
    """
    if l2 not in (None, "best"):
        raise ValueError(f"`l2` must be 'best' or None, which keeps the design's {design.l2:g}, got {l2!r}.")
    search = _Search(dist, design, init, method)
    penalties = search.penalties() if l2 == "best" else np.array([design.l2])
    at_zero = search.error(0.0, penalties[0])
    if not np.isfinite(at_zero).all():
        raise ValueError(f"`design` has no best rates to find: {search.choice.trust}")
    inner, penalty = search.minimise(search.free, penalties)
    tied, tied_penalty = search.minimise(search.tied, penalties)
    none_penalty = search.minimise(lambda _, own: search.free(0.0, own), penalties, fixed=0.0)[1]
    far = _FAR * search.natural
    limits = [
        search.best(side * far, penalty)[1] if side * far >= design.rule.lowest_rate else np.nan for side in (-1.0, 1.0)
    ]
    adapt_lr, loss = search.best(inner, penalty)
    no_inner = search.best(0.0, none_penalty)
    if loss == no_inner[1]:  # rates have no effect
        inner, adapt_lr = 0.0, no_inner[0]
    ends = zip([*limits, np.inf], (-1.0, 1.0, 0.0), strict=True)
    limit, side = min(end for end in ends if not np.isnan(end[0]))
    if limit < loss:  # the best rate lies beyond the candidates
        further = search.beyond(side, penalty)
        inner, (adapt_lr, loss) = min(((r, search.best(r, penalty)) for r in (inner, further)), key=lambda at: at[1][1])
    # Without noise, say, only an infinite rate takes its say from a penalty: no rate is better than the limit, which is
    # better than none.
    if limit < (1 - _ROUNDING) * no_inner[1] and not loss < (1 - _ROUNDING) * limit:
        inner, (adapt_lr, loss) = side * np.inf, search.best(side * far, penalty)
    untrained = search.untrained
    if l2 == "best" and untrained[1] <= loss:
        inner, (adapt_lr, loss), penalty = 0.0, untrained, np.inf
    return RateOptimum(
        inner_lr=inner,
        adapt_lr=adapt_lr,
        loss=loss,
        lr_tied=tied,
        loss_tied=search.tied(tied, tied_penalty),
        adapt_lr_no_inner=no_inner[0],
        loss_no_inner=no_inner[1],
        adapt_lr_untrained=untrained[0],
        loss_untrained=untrained[1],
        slope_at_zero=search.slope(no_inner[0], none_penalty),
        loss_minus_infinity=limits[0],
        loss_plus_infinity=limits[1],
        l2=float(penalty),
        overshoots=design.rule.can_vanish and inner * search.steepest > 2,
        method=search.choice.name,
        trust=search.choice.trust,
    )


class _Search:
    """Losses of one design as functions of the inner rate and the penalty."""

    def __init__(self, dist: MixedLinearRegression, design: Design, init: ArrayLike | None, method: Method) -> None:
        self.choice = choose_method(dist, design, method)
        self._dist, self._design, self._init, self._method = dist, design, init, method
        self._loss = AdaptedLoss.build(dist, design)
        self._errors = lru_cache(maxsize=64)(self._training_error)
        self.natural = natural_rate(dist, design)

    def _training_error(self, l2: float) -> TrainingError:
        return TrainingError(self._dist, replace(self._design, l2=l2), self._init, self._method)

    @property
    def steepest(self) -> float:
        """Return the largest eigenvalue of M to be expected."""
        n = min(fold.support.size for group in self._design.groups for fold in self._design.episodes(group))
        return float(self._dist.eigenvalues.max() * (1 + np.sqrt(self._dist.n_features / n)) ** 2)

    def penalties(self) -> FloatArray:
        """Return candidate penalties."""
        return float(self._dist.eigenvalues.mean()) * np.logspace(*_PENALTIES, _N_PENALTIES)

    def error(self, rate: float, l2: float) -> FloatArray:
        return self._errors(float(l2))(np.array(rate))

    def best(self, rate: float, l2: float) -> tuple[float, float]:
        """Return the best adaptation rate and its loss; NaN where there is none."""
        return self._adapted(self.error(rate, l2))

    def free(self, rate: float, l2: float) -> float:
        """Return what the best inner rate minimises: the error alone where one direction stands for all."""
        error = self.error(rate, l2)
        return float(error[0]) if self._dist.is_isotropic else self._adapted(error)[1]

    def tied(self, rate: float, l2: float) -> float:
        """Return the loss with one rate for both."""
        return float(self._loss(np.array(rate), self.error(rate, l2)))

    @property
    def untrained(self) -> tuple[float, float]:
        """Return the best adaptation rate from the start of meta-training, and its loss."""
        return self._adapted(self._errors(float(self._design.l2)).at_start())

    def _adapted(self, error: FloatArray) -> tuple[float, float]:
        rate = self._loss.best_rate(error)
        if np.isnan(rate):
            return np.nan, float("inf") if np.isinf(error).any() else np.nan
        return rate, float(self._loss(np.array(rate), error))

    def rates(self, n: int) -> FloatArray:
        """Return candidate inner rates: n spread by their logarithm and n evenly on either side."""
        widest = _FAR if self._design.rule.degree is None else _WIDEST
        sizes = np.union1d(np.geomspace(_FINEST, widest, n), np.linspace(*_EVEN, n)) * self.natural
        every = np.concatenate([-sizes[::-1], [0.0], sizes])
        return every[every >= self._design.rule.lowest_rate]

    def beyond(self, side: float, l2: float) -> float:
        """Return the best inner rate of one side beyond the candidates."""
        rates = np.sort(side * self.natural * np.geomspace(_WIDEST, _FAR, _N_BEYOND))
        values = np.full(len(rates), np.inf)
        for j in np.argsort(np.abs(rates)):
            values[j] = _finite(self.free(float(rates[j]), l2))
        return _refine(self.free, rates, values, l2)

    def minimise(
        self, criterion: Callable[[float, float], float], penalties: FloatArray, fixed: float | None = None
    ) -> tuple[float, float]:
        """Return the best inner rate and penalty: the lowest of a grid, refined."""
        few = self.choice.name == "leading-order" and self._design.n_query_rows < self._dist.n_features
        if few and self._dist.is_gaussian and criterion == self.free:
            return leading_optimum(self._dist.n_features, self._design.groups[0].n_support), float(penalties[0])
        n = 24 if self._dist.is_isotropic and len(penalties) == 1 else 8
        rates = self.rates(n) if fixed is None else np.array([fixed])
        values = np.full((len(penalties), len(rates)), np.inf)
        for i, l2 in enumerate(penalties):
            for j in np.argsort(np.abs(rates)):  # outwards: roots are continued from smaller rates
                value = criterion(float(rates[j]), float(l2))
                values[i, j] = np.inf if np.isnan(value) else value
        i, j = divmod(int(values.argmin()), len(rates))
        l2 = float(penalties[i])
        if len(penalties) == 1:
            return (_refine(criterion, rates, values[0], l2) if fixed is None else fixed), l2
        return _refine_both(criterion, float(rates[j]), l2, self.natural, fixed is None)

    def slope(self, adapt_lr: float, l2: float) -> float:
        """Return d loss / d inner_lr at zero: exactly where equation 17.1 or 17.2 holds, by differences otherwise."""
        rate, weights = np.array(adapt_lr), self._loss.weights_at(np.array(adapt_lr))
        exact = exact_slope_parts(self._dist, self._design, weights) if l2 == 0 else None
        if exact is not None:
            return self._dist.noise_std**2 * exact[0] - exact[1]
        return slope_by_differences(lambda a: float(self._loss(rate, self.error(a, l2))), self._dist, self._design)


def _refine(criterion: Callable[[float, float], float], rates: FloatArray, values: FloatArray, l2: float) -> float:
    """Return the lowest rate after a search around the lowest local minima of a grid."""
    padded = np.concatenate([[np.inf], values, [np.inf]])
    local = np.flatnonzero((values <= padded[:-2]) & (values <= padded[2:]) & np.isfinite(values))
    best, lowest = float(rates[values.argmin()]), float(values.min())
    for i in local[np.argsort(values[local])][:_N_REFINED]:
        low, high = rates[max(i - 1, 0)], rates[min(i + 1, len(rates) - 1)]
        minimum = minimize_scalar(
            lambda rate: _finite(criterion(float(rate), l2)),
            bounds=(low, high),
            method="bounded",
            # The loss is flat at its minimum: its error is of the order of the square.
            options={"xatol": _PRECISION * (high - low)},
        )
        if minimum.fun < lowest:
            best, lowest = float(minimum.x), float(minimum.fun)
    return best


def _refine_both(
    criterion: Callable[[float, float], float], rate: float, l2: float, natural: float, free: bool
) -> tuple[float, float]:
    """Return the best rate and penalty near a pair; the rate stays unless it is free."""
    largest = np.log(l2) + 2 * np.log(10)

    def at(x: FloatArray) -> float:
        if x[0] > largest:
            return float("inf")
        return _finite(criterion(natural * float(np.sinh(x[1])) if free else rate, float(np.exp(x[0]))))

    start = [np.log(l2), float(np.arcsinh(rate / natural))]
    simplex = np.array([start, [start[0] + 0.5, start[1]], [start[0], start[1] + 0.3]])
    if not free:
        simplex = simplex[:2, :1]
    minimum = minimize(
        at,
        simplex[0],
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-9, "maxfev": 100},
    )
    return natural * float(np.sinh(minimum.x[1])) if free else rate, float(np.exp(minimum.x[0]))


def _finite(value: float) -> float:
    return float("inf") if np.isnan(value) else value

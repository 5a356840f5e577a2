"""The expected test loss, and which method gives it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from numpy.typing import ArrayLike

from innerloop._base.checks import FloatArray, as_floats, check_finite
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.distributions.mixed_linear import GAUSSIAN_FOURTH_MOMENT
from innerloop.theory.adapting import AdaptedLoss
from innerloop.theory.covariance import GeneralError
from innerloop.theory.deterministic import Sizes, mean_is_infinite, parts_of
from innerloop.theory.leading import leading_error
from innerloop.theory.protocols import ScoredError
from innerloop.theory.row_law import RowLaw, is_derived

Method = Literal["auto", "leading-order", "deterministic-equivalent"]
# Rounding of A^2 beyond so many steps is felt.
_MOST_STEPS = 100
# Errors of the loss, relative to it: what most designs have, what deserves a warning, and what all have at most.
_USUAL_ERROR, _WARNED_ERROR, _LARGEST_ERROR = 0.01, 0.05, 0.6

METHODS = ("auto", "leading-order", "deterministic-equivalent")


@final
@dataclass(frozen=True)
class MethodChoice:
    """How an expected loss is computed.

    Parameters
    ----------
    name
        "leading-order" or "deterministic-equivalent".
    trust
        How far it can be trusted, in a sentence.
    accuracy
        The relative error of the loss that 97 % of like designs stayed within in simulations; NaN where no loss exists.

    Examples
    --------
    >>> import innerloop as il
    >>> choice = il.choose_method(il.MixedLinearRegression(60), il.Design(n_tasks=3, n_support=30, n_query=2))
    >>> choice.accuracy < 0.05
    True
    """

    name: str
    trust: str
    accuracy: float = np.nan


def expected_loss(
    dist: MixedLinearRegression,
    design: Design,
    inner_lr: ArrayLike,
    adapt_lr: ArrayLike,
    init: ArrayLike | None = None,
    method: Method = "auto",
) -> FloatArray | float:
    """Return the expected test loss: HALF the mean squared error on new tasks, label noise included.

    Parameters
    ----------
    dist, design
        The tasks, and the sizes.
    inner_lr, adapt_lr
        Rates, of shapes that broadcast; any finite numbers.
    init : (n_features,)
        Where meta-training starts; None is zero.
    method
        "deterministic-equivalent" holds at any ratio of query rows to features, "leading-order" is the paper's limit
        of very few or very many. "auto" takes the first. `choose_method` says how far to trust it.

    Returns
    -------
    float or array
        Of the shape that the rates broadcast to. Infinite for one task with more query rows than features and a
        positive inner rate; NaN within one query row of `n_features` without a penalty, where no mean exists.

    Raises
    ------
    ValueError
        If a rate is not finite, sizes contradict each other, or the method does not cover the design.

    Warns
    -----
    UserWarning
        Where the loss may be more than 5 % off: `choose_method` says how far to trust it.

    Notes
    -----
    Equations 7.1, 9.4, 10.1, 12.2, 13.2, 14.3, 16.1 and 28.1 to 28.3 of docs/theory.md.

    Examples
    --------
    >>> import innerloop as il
    >>> dist, design = il.MixedLinearRegression(60, task_std=0.5), il.Design(3, n_support=30, n_query=2, n_adapt=20)
    >>> round(il.expected_loss(dist, design, inner_lr=-1.0, adapt_lr=0.08), 3)
    0.654
    >>> il.expected_loss(dist, design, inner_lr=[-1.0, 0.0, 1.0], adapt_lr=0.08).round(3)
    array([0.654, 0.678, 0.705])
    """
    choice = choose_method(dist, design, method)
    if choice.accuracy > _WARNED_ERROR and np.any(inner_lr):
        warnings.warn(f"The expected loss may be {100 * choice.accuracy:.0f} % off. {choice.trust}", stacklevel=2)
    return unwarned_loss(dist, design, inner_lr, adapt_lr, init, method)


def unwarned_loss(
    dist: MixedLinearRegression,
    design: Design,
    inner_lr: ArrayLike,
    adapt_lr: ArrayLike,
    init: ArrayLike | None = None,
    method: Method = "auto",
) -> FloatArray | float:
    """Return the `expected_loss` without its warning, for callers that say themselves how far to trust it."""
    rates = [as_floats(rate, name) for rate, name in ((inner_lr, "inner_lr"), (adapt_lr, "adapt_lr"))]
    for rate, name in zip(rates, ("inner_lr", "adapt_lr"), strict=True):
        _check_rates(rate, name, design)
    try:
        inner, adapt = np.broadcast_arrays(*rates)
    except ValueError:
        shapes = " and ".join(str(rate.shape) for rate in rates)
        raise ValueError(f"`inner_lr` and `adapt_lr` must have shapes that broadcast, got {shapes}.") from None
    error = TrainingError(dist, design, init, method)(inner)
    loss = AdaptedLoss.build(dist, design)(adapt, error)
    return float(loss) if loss.ndim == 0 else loss


@final
class TrainingError:
    """E(omega* - w0)_j^2 as a function of the inner rate: with isotropic features and tasks the sum over j, alone.

    Parameters
    ----------
    dist, design, init, method
        As in `expected_loss`.
    """

    def __init__(
        self,
        dist: MixedLinearRegression,
        design: Design,
        init: ArrayLike | None = None,
        method: Method = "auto",
    ) -> None:
        self._dist, self._design = dist, design
        self._leading = choose_method(dist, design, method).name == "leading-order"
        self._offset2 = _offset(dist, init) ** 2
        self._general: GeneralError | ScoredError | None = None
        if design.protocol != "split":
            self._general = ScoredError(dist, design, self._offset2)
        elif not (dist.is_isotropic or self._leading):
            self._general = GeneralError(dist, design, self._offset2)
        self._rows = None
        if not (dist.is_gaussian or self._leading) and is_derived(design):
            known = None if self._general is None or dist.is_isotropic else self._general.large_p_error
            self._rows = RowLaw(dist, design, self._offset2, known)
        self._sizes = Sizes.of(design)
        self._scales = dist.noise_std**2, float(dist.task_variances.sum()), float(self._offset2.sum())

    def at_start(self) -> FloatArray:
        """Return the error of the start of meta-training, untrained: (directions,)."""
        return self._offset2.sum(keepdims=True) if self._dist.is_isotropic else self._offset2

    def __call__(self, inner_lr: FloatArray) -> FloatArray:
        """Return the error at rates (...,): (..., directions)."""
        if self._leading:
            return leading_error(self._dist, self._design, inner_lr, float(self._offset2.sum()))[..., None]
        if np.ndim(inner_lr) == 0 and self._general is None and self._rows is None:  # searches ask one by one
            return np.array([self._isotropic_error(float(inner_lr))])
        rates, place = np.unique(inner_lr, return_inverse=True)
        if self._general is None:
            errors = np.array([[self._isotropic_error(float(rate))] for rate in rates])
        else:
            errors = self._general(rates)
        if self._rows is not None:
            errors = errors * self._rows.ratio(rates)
        return errors[place.reshape(np.shape(inner_lr))]

    def _isotropic_error(self, rate: float) -> float:
        parts = parts_of(self._sizes, self._dist.n_features, rate)
        return sum(part * scale for part, scale in zip(parts, self._scales, strict=True) if scale)


def choose_method(dist: MixedLinearRegression, design: Design, method: Method = "auto") -> MethodChoice:
    """Return which method `expected_loss` uses, and how far it is trusted.

    Raises
    ------
    ValueError
        If the method does not cover the distribution and the design; `estimate_loss` covers all.

    Examples
    --------
    >>> import innerloop as il
    >>> il.choose_method(il.MixedLinearRegression(60), il.Design(n_tasks=3, n_support=30, n_query=2)).name
    'deterministic-equivalent'
    """
    if not isinstance(dist, MixedLinearRegression):
        raise TypeError(
            f"`dist` must be MixedLinearRegression, got {type(dist).__name__}; estimate_loss covers others."
        )
    for name, rule in (("n_steps", design.rule), ("n_adapt_steps", design.adapt_rule)):
        if (rule.degree or 0) > _MOST_STEPS:
            raise ValueError(
                f"`{name}` must be at most {_MOST_STEPS} in theory, got {rule.degree}; `n_steps` = math.inf, gradient "
                "flow, is the limit of many small steps."
            )
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}.")
    if method == "leading-order":
        _check_leading(dist, design)
        over = design.n_query_rows < dist.n_features
        limit = "fewer query rows than features by far" if over else "far more query rows than features, and many tasks"
        return MethodChoice(
            method,
            f"Leading order for {limit}: within 5 % only for N/p below 0.05, or above 20 with many tasks (here N/p = "
            f"{design.n_query_rows / dist.n_features:.3g}, {design.n_tasks} tasks).",
            0.05,
        )
    accuracy = _accuracy(dist, design)
    return MethodChoice("deterministic-equivalent", _trust(dist, design, accuracy), accuracy)


def _accuracy(dist: MixedLinearRegression, design: Design) -> float:
    """Return the relative error of the loss that simulations stayed within (docs/theory.md, 15)."""
    p, n_rows, s = dist.n_features, design.n_query_rows, dist.eigenvalues
    gap = abs(p - n_rows)
    if design.l2 == 0 and gap <= 1:
        return float("nan")
    group = min(design.groups, key=lambda group: group.n_support**2 * group.n_query)
    errors = [0.01, _error_of_rows(dist, design)]
    if design.protocol == "split":
        errors.append(0.4 * (design.rule.degree or 1) / (group.n_support**2 * group.n_query))
    elif n_rows > p or design.l2 > 0:
        errors.append((0.12 if design.protocol == "train" else 0.8) / design.n_scored(group))
    if not dist.is_isotropic:
        errors.append(0.4 * float((s**2).sum() / s.sum() ** 2))
    if design.l2 > 0 and gap < p / 4:
        errors.append(0.03 * (0.01 * float(s.mean()) / design.l2) ** 0.9)
    if design.l2 == 0 and gap <= max(4, 0.07 * p):
        errors.append(0.05)
    return min(max(errors), _LARGEST_ERROR)


def _error_of_rows(dist: MixedLinearRegression, design: Design) -> float:
    """Return the relative error of the loss that rows which are not Gaussian add."""
    if dist.is_gaussian:
        return 0.0
    derived, p = is_derived(design), dist.n_features
    if dist.row_dof < np.inf:
        return 0.015 if derived else 2 / (dist.row_dof - 4)
    if dist.intercept:
        share = float(dist.eigenvalues[-1] / dist.eigenvalues[:-1].mean())
        return 0.015 if derived else 0.03 * share
    return (0.25 / p if derived else 0.02) * abs(dist.fourth_moment - GAUSSIAN_FOURTH_MOMENT)


def _trust(dist: MixedLinearRegression, design: Design, accuracy: float) -> str:
    n_rows, p = design.n_query_rows, dist.n_features
    gap = abs(p - n_rows)
    infinite = mean_is_infinite(design, p, 1.0)
    measured = f"within about {100 * accuracy:.2g} % of the loss in simulations of 40 to 100 features"
    if not 40 <= p <= 100:
        measured += f", and not measured at {p}"
    cases = (
        (
            design.l2 == 0 and gap <= 1,
            f"{n_rows} query rows and {p} features, without a penalty: the expected loss does not exist (NaN).",
        ),
        (
            infinite,
            "One task has more query rows than features, and all of them but one at most: infinite for positive "
            "inner rates, exact at zero.",
        ),
        (
            not dist.is_gaussian and not is_derived(design),
            f"Features are not Gaussian: the test side is exact, meta-training that of Gaussian rows, {measured}.",
        ),
        (
            not dist.is_gaussian,
            f"{'An intercept' if dist.intercept else 'Rows are not Gaussian'}: exact on new tasks, the leading order's "
            f"ratio to Gaussian rows in meta-training; {measured}.",
        ),
        (
            design.l2 == 0 and gap <= max(4, 0.07 * p),
            f"{n_rows} query rows and {p} features: near the peak at N = p, expect errors of some percent.",
        ),
        (design.protocol != "split", f"Every row scored: exact without an inner loop; with one, {measured}."),
        (not dist.is_isotropic, f"Correlated features: {measured}."),
        (design.l2 > 0, f"Ridge outer loop: {measured}."),
        (
            n_rows < p and accuracy <= _USUAL_ERROR,
            "Exact in the number of tasks and in the task spread; label noise to second order in 1/p.",
        ),
    )
    otherwise = f"Exact without an inner loop; with one, {measured}."
    return next((sentence for applies, sentence in cases if applies), otherwise)


def _check_leading(dist: MixedLinearRegression, design: Design) -> None:
    """Refuse what the paper's formulas do not cover."""
    reasons = {
        "isotropic features and tasks": dist.is_isotropic,
        "tasks of one size": len(design.groups) == 1,
        "the protocol 'split'": design.protocol == "split",
        "one gradient step": design.rule.degree == 1,
        "no penalty": design.l2 == 0,
        "another number of query rows than features": design.n_query_rows != dist.n_features,
        "rows of one law": dist.row_dof == np.inf,
        "Gaussian features where query rows outnumber them": dist.is_gaussian or design.n_query_rows < dist.n_features,
    }
    missing = [reason for reason, holds in reasons.items() if not holds]
    if missing:
        raise ValueError(
            f"`method` 'leading-order' needs {', '.join(missing)}; use 'deterministic-equivalent' or estimate_loss."
        )


def _check_rates(rates: FloatArray, name: str, design: Design) -> None:
    if not np.isfinite(rates).all():
        first = rates[~np.isfinite(rates)].flat[0]
        raise ValueError(f"`{name}` must be finite (zero and negative are fine), got {first}.")
    design.rule.check_rates(rates, name)


def _offset(dist: MixedLinearRegression, init: ArrayLike | None) -> FloatArray:
    """Return omega_0 - w0."""
    if init is None:
        return -dist.centre
    start = as_floats(init, "init")
    check_finite(start, "init")
    if start.shape != (dist.n_features,):
        raise ValueError(f"`init` must have shape ({dist.n_features},), one per feature, got {start.shape}.")
    return start - dist.centre

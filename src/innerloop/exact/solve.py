"""Exact meta-training: the minimiser of a meta-training objective, at one inner rate or many."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from innerloop._base.checks import (
    FloatArray,
    as_floats,
    as_nonnegative,
    as_rate,
    check_finite,
    check_nonnegative_number,
)
from innerloop._base.threads import one_thread
from innerloop.exact._factor import triangle
from innerloop.exact.objective import MetaObjective

SolutionT_co = TypeVar("SolutionT_co", covariant=True)


class IllConditionedWarning(UserWarning):
    """The meta-training problem determines its solution poorly or not uniquely.

    Examples
    --------
    >>> import innerloop as il
    >>> import warnings
    >>> tasks = il.MixedLinearRegression(2).sample_tasks(n_tasks=5, n_rows=6)
    >>> twice = il.TaskSet.from_arrays(tasks.X[:, [0, 0]], tasks.y, tasks.task_of_row)  # one feature, two times
    >>> objective = il.MetaObjective.from_tasks(twice, n_support=3)
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     solution = il.solve(objective, inner_lr=0.1)
    ...
    >>> [warning.category.__name__ for warning in caught], solution.status
    (['IllConditionedWarning'], 'deficient')
    """


class Path(Protocol[SolutionT_co]):
    """Minimisers at many inner rates."""

    def __getitem__(self, index: int, /) -> SolutionT_co:
        """Return the minimiser at one rate."""
        ...

    def poorly_determined(self) -> str | None:
        """Return a sentence on the first rate whose minimiser is arbitrary or has few correct digits, or None."""
        ...


PathT = TypeVar("PathT", bound=Path[Any])
PathT_co = TypeVar("PathT_co", bound=Path[Any], covariant=True)


@runtime_checkable
class Objective(Protocol[PathT_co]):
    """A meta-training loss that `solve` and `solve_path` can minimise: `MetaObjective` or `KernelObjective`."""

    def minimise(self, inner_lrs: FloatArray, l2: FloatArray, init: ArrayLike | None = None) -> PathT_co:
        """Return the minimisers at rates and penalties, two finite arrays of one shape with at least one axis."""
        ...


def solve(
    objective: Objective[Path[SolutionT_co]], inner_lr: float, init: ArrayLike | None = None, l2: float = 0.0
) -> SolutionT_co:
    r"""Return the exact minimiser of the meta-training loss at one inner rate.

    .. math:: \min_\omega \frac{1}{2N} |g(a) - B(a) \omega|^2 + \frac{l2}{2} |\omega - \omega_0|^2

    and, where the minimiser is not unique, the one nearest to :math:`\omega_0`. For a `KernelObjective`, B holds the
    features of its kernel and :math:`\omega - \omega_0` is the distance from its `start`.

    Parameters
    ----------
    objective
        A `MetaObjective` or a `KernelObjective`.
    inner_lr
        The inner learning rate a. Any finite number.
    init : (n_features,) or (n_features, n_targets)
        The start omega_0 of meta-training; None is zero. A `KernelObjective` has its own `start` instead.
    l2
        Penalty on the distance from `init`, in units of the half mean squared error.

    Returns
    -------
    MetaSolution or KernelPath
        With ``coef``, ``loss``, ``rank``, ``condition`` and ``status``. The `KernelPath` has no axis of rates.

    Raises
    ------
    TypeError
        If `objective` is neither of the two.
    ValueError
        If a number is not finite, `l2` is negative or `init` has another shape.

    Warns
    -----
    IllConditionedWarning
        If columns of B(a) depend on each other, exactly or nearly.

    Notes
    -----
    docs/theory.md, sections "Solving" and "Kernels"; Bernacchia (2021), equation of the outer solution,
    omega* = omega_0 + B^+ (g - B omega_0).

    Examples
    --------
    >>> import innerloop as il
    >>> dist = il.MixedLinearRegression(2, noise_std=0.1, mean=[1.0, -2.0])
    >>> tasks = dist.sample_tasks(n_tasks=200, n_rows=20, seed=0)
    >>> solution = il.solve(il.MetaObjective.from_tasks(tasks, n_support=5), inner_lr=-0.1)
    >>> solution.coef.round(1)
    array([ 1.1, -2.1])
    """
    check_nonnegative_number(l2, "l2")
    path = solve_unwarned(objective, [as_rate(inner_lr, "inner_lr")], init, l2)
    _warn(path)
    return path[0]


def solve_path(
    objective: Objective[PathT], inner_lrs: ArrayLike, init: ArrayLike | None = None, l2: ArrayLike = 0.0
) -> PathT:
    """Return the exact minimisers of the meta-training loss at many inner rates.

    Parameters
    ----------
    objective, init
        As in `solve`.
    inner_lrs
        Rates of any sign, in an array of any shape.
    l2
        One penalty, or an array that broadcasts with `inner_lrs`.

    Returns
    -------
    MetaPath or KernelPath

    Raises
    ------
    TypeError, ValueError
        As in `solve`.

    Warns
    -----
    IllConditionedWarning
        As in `solve`; once for all rates.

    Notes
    -----
    With more than 400 features and query rows, rates share matrix products, and each costs a Cholesky factorisation in
    place of an orthogonal one; solutions are those of `solve` up to rounding. Rates at which that would cost digits, or
    the rank be in doubt, are solved as by `solve`. docs/theory.md, section "Solving".

    Examples
    --------
    >>> import innerloop as il
    >>> import numpy as np
    >>> tasks = il.MixedLinearRegression(5).sample_tasks(n_tasks=20, n_rows=8, seed=0)
    >>> objective = il.MetaObjective.from_tasks(tasks, n_support=4)
    >>> il.solve_path(objective, np.linspace(-1, 1, 41)).coef.shape
    (41, 5)
    """
    path = solve_unwarned(objective, inner_lrs, init, l2)
    _warn(path)
    return path


def solve_unwarned(
    objective: Objective[PathT], inner_lrs: ArrayLike, init: ArrayLike | None = None, l2: ArrayLike = 0.0
) -> PathT:
    """Return what `solve_path` returns, whose `condition` and `status` say what a warning would say.

    For callers to whom collinear columns are usual and harmless. Silencing warnings instead would change a filter of
    the whole process, which other threads share.
    """
    if not isinstance(objective, Objective):
        raise TypeError(
            f"`objective` must be a MetaObjective or a KernelObjective, got {type(objective).__name__}; make one with "
            "MetaObjective.from_episodes(episodes)."
        )
    rates, penalties = _broadcast(inner_lrs, l2)
    return objective.minimise(rates, penalties, init)


def ridge_candidates(objective: MetaObjective, inner_lrs: FloatArray, l2s: FloatArray) -> FloatArray:
    """Return the minimisers for every pair of a rate and a penalty, as candidates to compare on held-out tasks.

    One singular value decomposition per rate serves all penalties; unlike `solve_path` this neither refines solutions
    nor scales columns.

    Returns
    -------
    (n_rates, n_penalties, n_features, n_targets)
    """
    coef = np.empty((len(inner_lrs), len(l2s), objective.n_features, objective.n_targets))
    with one_thread(objective.n_features):
        reduced = replace(objective, factor=triangle(objective.factor))
        for i, rate in enumerate(inner_lrs.tolist()):
            B, g, scale = reduced.at(rate)
            P, s, Wt = np.linalg.svd(B, full_matrices=False)
            kept = s > s.max(initial=0.0) * max(B.shape) * 8 * np.finfo(float).eps
            ridge = np.sqrt(objective.weight * l2s)[:, None] / scale
            shrunk = np.where(kept, s, 0.0) / (np.where(kept, s, 1.0) ** 2 + ridge**2)
            coef[i] = Wt.T @ (shrunk[..., None] * (P.T @ g))
    return coef


def _broadcast(inner_lrs: ArrayLike, l2: ArrayLike) -> tuple[FloatArray, FloatArray]:
    rates = np.atleast_1d(as_floats(inner_lrs, "inner_lrs"))
    check_finite(rates, "inner_lrs")
    if rates.size == 0:
        raise ValueError("`inner_lrs` must hold at least one rate, got none.")
    penalties = as_nonnegative(l2, "l2")
    try:
        rates, penalties = np.broadcast_arrays(rates, penalties)
    except ValueError:
        raise ValueError(
            f"`l2` must broadcast with `inner_lrs`, got shapes {penalties.shape} and {rates.shape}."
        ) from None
    return rates, penalties


def _warn(path: Path[Any]) -> None:
    if sentence := path.poorly_determined():
        warnings.warn(sentence, IllConditionedWarning, stacklevel=3)

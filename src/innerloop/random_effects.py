r"""How tasks differ: a random-effects model of their coefficients, estimated from many tasks.

.. math:: y_i = X_i (\omega + b_i) + e_i, \quad b_i \sim N(0, s^2 \Lambda), \quad e_i \sim N(0, s^2 I)

with :math:`\omega \sim N(0, (s^2 / \pi) I)`, flat for the intercept. All variances are relative to that of the
noise, :math:`s^2`. The restricted likelihood of `innerloop._restricted` is minimised over :math:`\Lambda` and
:math:`\pi` with its exact gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from innerloop._checks import FloatArray
from innerloop._random import stream
from innerloop._restricted import RestrictedLikelihood, Solution
from innerloop._task_rows import row_blocks
from innerloop._threads import one_thread
from innerloop.tasks import TaskSet

Structure = Literal["diagonal", "full"]

# Variances are estimated from as many tasks as hold so many numbers, within these bounds: more do not sharpen them.
_MOST_NUMBERS, _LEAST_TASKS, _MOST_TASKS = 2**22, 30, 1_000
# Bounds of the logarithms of variance ratios: beyond them a variance is as good as zero, or as infinite.
_LOG_VARIANCES, _LOG_PRECISIONS = (-16.0, 16.0), (-12.0, 16.0)
# Standard deviation of the prior of the logarithms of slopes' variances around their common level.
_LOG_SPREAD = 1.5
# The prior is this power of the noise's share of a row's variance, beside tasks' slopes and beside the population's:
# what rows cannot tell from noise is noise.
_NOISE_POWER = 0.25
_LEAST_DIAGONAL = 1e-3
# Where a start is given: the least variance ratio to start from, the least curvature that sets a unit, and the change
# of the deviance that ends the search. A unit is a standard error; so a change moves it by a hundredth of one.
_LEAST_START, _LEAST_CURVATURE, _DEVIANCE_TOLERANCE = np.exp(-6.0), 1e-3, 1e-4
_MOST_STEPS = 200


@final
@dataclass(frozen=True, eq=False)
class RandomEffects:
    """The estimated model, target by target.

    Parameters
    ----------
    mean : (n_features, n_targets)
        The population's coefficients omega.
    mean_cov : (n_targets, n_features, n_features)
        Their posterior covariance, relative to the noise variance.
    task_cov : (n_targets, n_features, n_features)
        Covariance Lambda of the tasks' coefficients around omega, relative to the noise variance.
    noise : (n_targets,)
        Noise variance.
    precision : (n_targets,)
        Prior precision pi of omega, relative to that of the noise: a ridge penalty on the sum of squares.
    deviance
        Minus twice the logarithm of the restricted likelihood, less a constant; of all targets together.
    """

    mean: FloatArray
    mean_cov: FloatArray = field(repr=False)
    task_cov: FloatArray = field(repr=False)
    noise: FloatArray
    precision: FloatArray
    deviance: float

    @property
    def new_task_cov(self) -> FloatArray:
        """Covariance of a new task's coefficients around `mean`, relative to the noise variance."""
        return self.task_cov + self.mean_cov


def estimate_effects(
    tasks: TaskSet,
    structure: Structure = "diagonal",
    *,
    intercept: bool = True,
    l2: float | None = None,
    seed: int = 0,
    start: RandomEffects | None = None,
) -> RandomEffects:
    """Estimate the random-effects model by restricted maximum likelihood.

    Parameters
    ----------
    tasks
        Their last feature is 1 where `intercept` is true. One task alone tells nothing of how tasks differ: the
        tasks' covariance is then zero.
    structure
        Of the tasks' covariance. "diagonal": a variance for each coefficient, those of the slopes drawn towards
        each other by a log-normal prior. "full": correlations too, drawn towards the diagonal estimate by an
        inverse-Wishart prior that weighs as much as n_features tasks.
    intercept
        Whether the last coefficient is an intercept, whose prior is flat.
    l2
        Penalty on the population's coefficients, in units of the half mean squared error; None: estimated.
    seed
        Draws the tasks that variances are estimated from, where there are very many.
    start
        A diagonal estimate to start from: for a diagonal one that of tasks much like these, for a full one that of
        these tasks.

    Notes
    -----
    docs/theory.md, section "Random effects".
    """
    some = enough(tasks, seed)
    blocks = list(row_blocks(some))
    found = []
    for target in range(tasks.y[:1].size):
        given = None if l2 is None else l2 * some.n_rows
        known = None if start is None else (start.task_cov[target].diagonal(), float(start.precision[target]))
        with one_thread():
            problem = RestrictedLikelihood(blocks, target, some.n_rows, _penalised(tasks, intercept))
            task_cov, precision = _minimise(problem, structure, given, len(some), known)
            found.append((task_cov, precision, problem.solve(problem.sums(task_cov), precision)))
    effects = _effects(found)
    return effects if some is tasks else update_mean(effects, tasks, tasks.n_rows, intercept=intercept, l2=l2)


def update_mean(
    effects: RandomEffects, tasks: TaskSet, n_rows: int, *, intercept: bool = True, l2: float | None = None
) -> RandomEffects:
    """Return the effects with the mean and the noise that these tasks tell, given the tasks' covariance.

    Their rows may be turned (see `RowBlock`); `n_rows` is how many there were.
    """
    found = []
    for target, (task_cov, precision) in enumerate(zip(effects.task_cov, effects.precision.tolist(), strict=True)):
        pi = precision if l2 is None else l2 * n_rows
        problem = RestrictedLikelihood(row_blocks(tasks), target, n_rows, _penalised(tasks, intercept))
        with one_thread():
            found.append((task_cov, pi, problem.solve(problem.sums(task_cov), pi)))
    return _effects(found)


def _effects(found: list[tuple[FloatArray, float, Solution]]) -> RandomEffects:
    """Put targets together."""
    return RandomEffects(
        np.stack([solution.mean for *_, solution in found], axis=1),
        np.array([solution.mean_cov for *_, solution in found]),
        np.array([task_cov for task_cov, *_ in found]),
        np.array([solution.noise for *_, solution in found]),
        np.array([precision for _, precision, _ in found]),
        sum(solution.loss for *_, solution in found),
    )


def _penalised(tasks: TaskSet, intercept: bool) -> NDArray[np.bool_]:
    return np.arange(tasks.n_features) < tasks.n_features - intercept


def enough(tasks: TaskSet, seed: int, among: NDArray[np.bool_] | None = None) -> TaskSet:
    """Return tasks enough to estimate variances from: all (`among` those), or a random part of very many."""
    turned = np.minimum(tasks.sizes, tasks.n_features + tasks.y[:1].size)
    chosen = np.arange(len(tasks)) if among is None else np.flatnonzero(among)
    order = chosen[stream(seed, 3).permutation(len(chosen))]
    n = int(np.searchsorted(np.cumsum(turned[order] * tasks.n_features), _MOST_NUMBERS))
    n = min(max(n, _LEAST_TASKS), _MOST_TASKS)
    return tasks if among is None and n >= len(tasks) else tasks.select(order[:n])


class _Roots(Protocol):
    """Covariances Lambda = L L' by parameters t, with a prior of them."""

    def root(self, t: FloatArray) -> FloatArray:
        """Return L."""
        ...

    def pull(self, t: FloatArray, by_root: FloatArray) -> FloatArray:
        """Return the derivative by t of what has the derivative `by_root` by L."""
        ...

    def prior(self, t: FloatArray) -> tuple[float, FloatArray]:
        """Return what the prior adds to the loss, and its derivative by t."""
        ...


@final
class _Diagonal(NamedTuple):
    """Variances exp(t); those of the first `n_slopes` have a log-normal prior around their common level.

    Their sum has the prior ``1 / (1 + sum)``, the noise's share, to the power `_NOISE_POWER`.
    """

    n_slopes: int

    def root(self, t: FloatArray) -> FloatArray:
        return np.diag(np.exp(t / 2))

    def pull(self, t: FloatArray, by_root: FloatArray) -> FloatArray:
        return np.asarray(by_root.diagonal() * np.exp(t / 2) / 2)

    def prior(self, t: FloatArray) -> tuple[float, FloatArray]:
        slopes, by_t = t[: self.n_slopes], np.zeros_like(t)
        if len(slopes) == 0:
            return 0.0, by_t
        away = slopes - slopes.mean()
        with_noise = float(np.logaddexp.reduce(np.append(slopes, 0.0)))
        by_t[: self.n_slopes] = 2 * away / _LOG_SPREAD**2 + 2 * _NOISE_POWER * np.exp(slopes - with_noise)
        return float(np.sum(away**2)) / _LOG_SPREAD**2 + 2 * _NOISE_POWER * with_noise, by_t


@final
class _Full(NamedTuple):
    """L = diag(scale) C with lower triangular C, and an inverse-Wishart prior whose mode is C = I."""

    scale: FloatArray

    def root(self, t: FloatArray) -> FloatArray:
        return self.scale[:, None] * self._triangle(t)

    def pull(self, t: FloatArray, by_root: FloatArray) -> FloatArray:  # noqa: ARG002
        return (self.scale[:, None] * by_root)[np.tril_indices(len(self.scale))]

    def prior(self, t: FloatArray) -> tuple[float, FloatArray]:
        C, weight = self._triangle(t), len(self.scale)
        inverse = np.linalg.inv(C)
        by_C = 2 * weight * (np.diag(1 / C.diagonal()) - inverse.T @ inverse @ inverse.T)
        loss = weight * (2 * float(np.log(C.diagonal()).sum()) + float(np.sum(inverse**2)))
        return loss, by_C[np.tril_indices(weight)]

    def _triangle(self, t: FloatArray) -> FloatArray:
        C = np.zeros((len(self.scale), len(self.scale)))
        C[np.tril_indices(len(self.scale))] = t
        return C


def _minimise(
    problem: RestrictedLikelihood,
    structure: Structure,
    given: float | None,
    n_tasks: int,
    known: tuple[FloatArray, float] | None = None,
) -> tuple[FloatArray, float]:
    """Return the tasks' covariance and the precision of lowest loss; a precision that is given stays.

    `known` are variances and a precision to start from; see `estimate_effects`.
    """
    p = len(problem.penalised)
    diagonal = _Diagonal(int(problem.penalised.sum()))
    if n_tasks == 1:
        return np.zeros((p, p)), _lowest(problem, diagonal, np.empty(0), [], given)[1]
    variances, precision = (np.full(p, np.exp(-2.0)), 1.0) if known is None else known
    t = np.log(variances)
    if structure == "diagonal" or known is None:
        # From far below a variance would not find its way up: the loss is flat there.
        start = np.log(np.maximum(variances, _LEAST_START))
        t, precision = _lowest(problem, diagonal, start, [_LOG_VARIANCES] * p, given, precision, near=known is not None)
    if structure == "diagonal":
        return diagonal.root(t) ** 2, precision
    full = _Full(np.exp(t / 2))
    first = np.eye(p)[np.tril_indices(p)]
    bounds = [(_LEAST_DIAGONAL, None) if on else (None, None) for on in first]
    t, precision = _lowest(problem, full, first, bounds, given, precision)
    root = full.root(t)
    return root @ root.T, precision


def _lowest(
    problem: RestrictedLikelihood,
    roots: _Roots,
    start: FloatArray,
    bounds: list[Any],
    given: float | None,
    precision: float = 1.0,
    near: bool = False,
) -> tuple[FloatArray, float]:
    """Return the parameters and the precision of lowest loss; `near`: the start is near it, see `_descend`."""
    n = len(start)
    if given is None:
        start, bounds = np.append(start, np.log(precision)), [*bounds, _LOG_PRECISIONS]
    if len(start) == 0:
        return start, float(given or 0.0)

    def loss(t: FloatArray) -> tuple[float, FloatArray]:
        precision = float(np.exp(t[n])) if given is None else given
        root = roots.root(t[:n]) if n else np.zeros((len(problem.penalised),) * 2)
        value, by_cov, by_precision = problem.loss(root @ root.T, precision)
        prior, by_t = roots.prior(t[:n])
        by_t = by_t + roots.pull(t[:n], 2 * by_cov @ root) if n else by_t
        if given is not None:
            return value + prior, by_t
        slopes, power = int(problem.penalised.sum()) / precision, 2 * _NOISE_POWER
        return value + prior + power * np.log1p(slopes), np.append(by_t, by_precision - power * slopes / (1 + slopes))

    curvature = None
    if near:
        curvature = np.append(problem.curvature(np.exp(start[:n])), max(problem.penalised.sum() / 2, 1.0))
    t = _descend(loss, start, bounds, None if curvature is None else curvature[: len(start)])
    return t[:n], float(np.exp(t[n])) if given is None else given


def _descend(
    loss: Callable[[FloatArray], tuple[float, FloatArray]],
    start: FloatArray,
    bounds: list[Any],
    curvature: FloatArray | None,
) -> FloatArray:
    """Return where a loss, which comes with its gradient, is lowest.

    With the curvature of a deviance at a start that is near, parameters are measured in units of about their standard
    errors, and found to a hundredth of these.
    """
    options: dict[str, float] = {"maxiter": _MOST_STEPS}
    if curvature is None:
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return np.asarray(found.x)
    unit, first = 1 / np.sqrt(np.maximum(curvature, _LEAST_CURVATURE)), list[float]()

    def in_units(u: FloatArray) -> tuple[float, FloatArray]:
        value, by_t = loss(u * unit)
        if not first:
            first.append(value)  # so that the tolerance is not relative to the size of the loss
        return value - first[0], by_t * unit

    scaled = [
        (None if low is None else low / size, None if high is None else high / size)
        for (low, high), size in zip(bounds, unit, strict=True)
    ]
    options["ftol"] = _DEVIANCE_TOLERANCE
    found = minimize(in_units, start / unit, jac=True, method="L-BFGS-B", bounds=scaled, options=options)
    return np.asarray(found.x * unit)

r"""Random-effects model of tasks' coefficients, estimated by restricted maximum likelihood.

.. math:: y_i = X_i (\omega + b_i) + e_i, \quad b_i \sim N(0, s^2 \Lambda), \quad e_i \sim N(0, s^2 I)

with :math:`\omega \sim N(0, (s^2 / \pi) I)`, flat for the intercept. All variances are relative to that of the
noise, :math:`s^2`. The restricted likelihood (`restricted_likelihood`) is minimised over :math:`\Lambda` and
:math:`\pi` with its exact gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import minimize

from innerloop._base.checks import FloatArray
from innerloop._base.seeds import Stream, stream
from innerloop._base.threads import one_thread
from innerloop.adaptation.restricted_likelihood import RestrictedLikelihood, Solution
from innerloop.data.row_blocks import row_blocks
from innerloop.data.tasks import TaskSet

Structure = Literal["diagonal", "full"]

# Size of the sample of tasks that variances are estimated from: numbers in it, and bounds of the number of tasks. The
# estimates of larger samples are hardly sharper.
_MOST_NUMBERS, _LEAST_TASKS, _MOST_TASKS = 2**22, 30, 1_000
# Bounds of the logarithms of variance ratios, for features of unit mean square: beyond them a variance acts as zero, or
# as infinity.
_LOG_VARIANCES, _LOG_PRECISIONS = (-16.0, 20.0), (-20.0, 16.0)
# Standard deviation of the prior of the log variances of slopes around their mean.
_LOG_SPREAD = 1.5
# The prior is this power of the noise's share of a row's variance (the rest is due to slopes of tasks and of the
# population): variance that rows cannot distinguish from noise is attributed to noise.
_NOISE_POWER = 0.25
# Levels of the logarithms of variances at which the search may start.
_LEVELS = (-2.0, -6.0, 2.0, 6.0, 10.0)
# Largest entry of the factor of a full covariance relative to the diagonal one; pivots are at least its inverse.
_LARGEST_FACTOR = 1e3
_TINY = np.finfo(float).tiny
# The least variance ratio that a search starts from, and the least curvature by which parameters are scaled.
_LEAST_START, _LEAST_CURVATURE = np.exp(-6.0), 1e-3
# Change of the loss, relative to the descent so far, that ends a search. The second is for starts close to the minimum,
# with parameters in units of about a standard error, which it gives to a hundredth of that unit.
_TOLERANCE, _NEAR_TOLERANCE = 2e-9, 1e-4
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
        Minus twice the log restricted likelihood, up to a constant, summed over targets.
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
    shrink_slopes: bool = True,
) -> RandomEffects:
    """Estimate the random-effects model by restricted maximum likelihood.

    Parameters
    ----------
    tasks
        Their last feature is 1 where `intercept` is true. From one task no covariance of tasks can be estimated: it
        is zero then.
    structure
        Of the tasks' covariance. "diagonal": a variance for each coefficient, with a log-normal prior that shrinks
        the variances of slopes towards each other. "full": correlations too, shrunk towards the diagonal estimate by
        an inverse-Wishart prior with the weight of n_features tasks.
    intercept
        Whether the last coefficient is an intercept, whose prior is flat.
    l2
        Penalty on the population's coefficients, in units of the half mean squared error; None: estimated.
    seed
        Of the sample of tasks that variances are estimated from, where there are very many tasks.
    start
        A diagonal estimate to start from: for "diagonal" that of similar tasks, for "full" that of these tasks.
    shrink_slopes
        Whether the variances of slopes have their prior, which predicts better, or each is estimated by itself, which
        leaves zero variances at zero.

    Notes
    -----
    docs/theory.md, section "Random effects".
    """
    sample = variance_sample(tasks, seed)
    blocks = list(row_blocks(sample))
    squares = np.mean(np.square(sample.X), axis=0)
    unit = np.sqrt(np.where(squares > 0, squares, 1.0))
    penalised = _penalised(tasks, intercept)
    roots = _Diagonal(int(penalised.sum()), unit, _LOG_SPREAD if shrink_slopes else np.inf)
    solutions = []
    for target in range(tasks.y[:1].size):
        given = None if l2 is None else l2 * sample.n_rows
        known = None if start is None else (start.task_cov[target].diagonal(), float(start.precision[target]))
        with one_thread():
            problem = RestrictedLikelihood(blocks, target, sample.n_rows, penalised)
            search = _Search(problem, roots, unit, given)
            task_cov, precision = _minimise(search, structure, len(sample), known)
            solutions.append((task_cov, precision, problem.solve(problem.sums(task_cov), precision)))
    effects = _effects(solutions)
    return effects if sample is tasks else update_mean(effects, tasks, intercept=intercept, l2=l2)


def update_mean(
    effects: RandomEffects, tasks: TaskSet, *, intercept: bool = True, l2: float | None = None
) -> RandomEffects:
    """Return the effects with the mean and the noise estimated from these tasks, given the tasks' covariance.

    The tasks may be reduced; see `innerloop.data.row_blocks.reduced`.
    """
    solutions, n_rows = [], int(tasks.original_sizes.sum())
    for target, (task_cov, precision) in enumerate(zip(effects.task_cov, effects.precision.tolist(), strict=True)):
        pi = precision if l2 is None else l2 * n_rows
        problem = RestrictedLikelihood(row_blocks(tasks), target, n_rows, _penalised(tasks, intercept))
        with one_thread():
            solutions.append((task_cov, pi, problem.solve(problem.sums(task_cov), pi)))
    return _effects(solutions)


def _effects(solutions: list[tuple[FloatArray, float, Solution]]) -> RandomEffects:
    """Return the effects of all targets, given covariance, precision and solution of each."""
    return RandomEffects(
        np.stack([solution.mean for *_, solution in solutions], axis=1),
        np.array([solution.mean_cov for *_, solution in solutions]),
        np.array([task_cov for task_cov, *_ in solutions]),
        np.array([solution.noise for *_, solution in solutions]),
        np.array([precision for _, precision, _ in solutions]),
        sum(solution.loss for *_, solution in solutions),
    )


def _penalised(tasks: TaskSet, intercept: bool) -> NDArray[np.bool_]:
    return np.arange(tasks.n_features) < tasks.n_features - intercept


def variance_sample(tasks: TaskSet, seed: int, among: NDArray[np.bool_] | None = None) -> TaskSet:
    """Return the tasks that variances are estimated from: all, or all `among`, or a random sample of very many."""
    sizes = np.minimum(tasks.sizes, tasks.n_features + tasks.y[:1].size)
    chosen = np.arange(len(tasks)) if among is None else np.flatnonzero(among)
    order = chosen[stream(seed, Stream.VARIANCE_SAMPLE).permutation(len(chosen))]
    n = int(np.searchsorted(np.cumsum(sizes[order] * tasks.n_features), _MOST_NUMBERS))
    n = min(max(n, _LEAST_TASKS), _MOST_TASKS)
    return tasks if among is None and n >= len(tasks) else tasks.select(np.sort(order[:n]))


class _Roots(Protocol):
    """Parametrisation of covariances Lambda = L L' by a vector t, with a prior of t."""

    def root(self, t: FloatArray) -> FloatArray:
        """Return L."""
        ...

    def chain(self, t: FloatArray, by_root: FloatArray) -> FloatArray:
        """Return the gradient by t of a function with the gradient `by_root` by L."""
        ...

    def prior(self, t: FloatArray) -> tuple[float, FloatArray]:
        """Return the prior's term of the loss, and its gradient by t."""
        ...


@final
class _Diagonal(NamedTuple):
    """Variances exp(t), for features divided by `unit`, their root mean squares.

    Variances of the first `n_slopes` have a log-normal prior around their mean, with standard deviation `spread`, and
    their sum has the prior ``1 / (1 + sum)``, the noise's share, to the power `_NOISE_POWER`.
    """

    n_slopes: int
    unit: FloatArray
    spread: float

    def root(self, t: FloatArray) -> FloatArray:
        return np.diag(np.exp(t / 2) / self.unit)

    def chain(self, t: FloatArray, by_root: FloatArray) -> FloatArray:
        return np.asarray(by_root.diagonal() * np.exp(t / 2) / (2 * self.unit))

    def prior(self, t: FloatArray) -> tuple[float, FloatArray]:
        slopes, by_t = t[: self.n_slopes], np.zeros_like(t)
        if len(slopes) == 0:
            return 0.0, by_t
        deviation = slopes - slopes.mean()
        with_noise = float(np.logaddexp.reduce(np.append(slopes, 0.0)))
        by_t[: self.n_slopes] = 2 * deviation / self.spread**2 + 2 * _NOISE_POWER * np.exp(slopes - with_noise)
        return float(np.sum(deviation**2)) / self.spread**2 + 2 * _NOISE_POWER * with_noise, by_t


@final
class _Full(NamedTuple):
    """L = diag(scale) C with lower triangular C, and an inverse-Wishart prior whose mode is C = I."""

    scale: FloatArray

    def root(self, t: FloatArray) -> FloatArray:
        return self.scale[:, None] * self._triangle(t)

    def chain(self, t: FloatArray, by_root: FloatArray) -> FloatArray:  # noqa: ARG002
        return (self.scale[:, None] * by_root)[np.tril_indices(len(self.scale))]

    def prior(self, t: FloatArray) -> tuple[float, FloatArray]:
        C, weight = self._triangle(t), len(self.scale)
        inverse = solve_triangular(C, np.eye(weight), lower=True)  # pivots may differ by many orders of magnitude
        by_C = 2 * weight * (np.diag(1 / C.diagonal()) - inverse.T @ inverse @ inverse.T)
        loss = weight * (2 * float(np.log(C.diagonal()).sum()) + float(np.sum(inverse**2)))
        return loss, by_C[np.tril_indices(weight)]

    def curvature(self, by_log_variance: FloatArray) -> FloatArray:
        """Return approximate second derivatives of the loss at C = I, given those by the log variances there."""
        weight, root = len(self.scale), np.sqrt(np.maximum(by_log_variance, 0.0))
        either = np.outer(root, root) + weight
        return np.asarray((2 * (1 + np.eye(weight)) * either)[np.tril_indices(weight)])

    def _triangle(self, t: FloatArray) -> FloatArray:
        C = np.zeros((len(self.scale), len(self.scale)))
        C[np.tril_indices(len(self.scale))] = t
        return C


def _minimise(
    diagonal: _Search, structure: Structure, n_tasks: int, known: tuple[FloatArray, float] | None
) -> tuple[FloatArray, float]:
    """Return the tasks' covariance and the precision of lowest loss; `known` are a start's variances and precision."""
    problem, unit, usual = diagonal.problem, diagonal.unit, diagonal.usual
    p, q = len(problem.penalised), int(problem.penalised.sum())
    if n_tasks == 1:
        return np.zeros((p, p)), diagonal.run(np.empty(0), [], usual).precision
    bounds: list[Any] = [_LOG_VARIANCES] * p
    if known is None:
        # The loss may have several minima: where noise is small, one in which differences between tasks account for all
        # variance. Fewer rows than coefficients can be fitted without noise, so that the lowest minimum means nothing.
        levels = _LEVELS if problem.n > p else _LEVELS[:1]
        starts = [(np.full(p, level), usual * float(np.exp(-max(level, 0.0)))) for level in levels]
        best = min(starts, key=lambda start: diagonal.loss(diagonal.point(*start))[0])
        runs = [diagonal.run(t, bounds, precision) for t, precision in (starts[0], best)[: 1 + (best is not starts[0])]]
        minimum = min(runs, key=lambda run: run.loss)
    elif structure == "diagonal":
        # A variance that starts far too low would stay there, as the loss is flat.
        start = np.log(np.maximum(known[0] * unit**2, _LEAST_START))
        curvature = np.append(problem.curvature(np.exp(start) / unit**2), max(q / 2, 1.0))
        minimum = diagonal.run(start, bounds, known[1], curvature, _NEAR_TOLERANCE)
    else:
        minimum = _Minimum(0.0, np.log(np.maximum(known[0] * unit**2, _TINY)), known[1])
    root = diagonal.roots.root(minimum.t)
    if structure == "full":
        roots = _Full(root.diagonal())
        full = diagonal._replace(roots=roots)
        first = np.eye(p)[np.tril_indices(p)]
        # The first step of a search is as long as the gradient, which suits parameters in units of a standard error.
        curvature = np.append(roots.curvature(problem.curvature(root.diagonal() ** 2)), max(q / 2, 1.0))
        bounds = [(1 / _LARGEST_FACTOR, _LARGEST_FACTOR) if on else (-_LARGEST_FACTOR, _LARGEST_FACTOR) for on in first]
        minimum = full.run(first, bounds, minimum.precision, curvature)
        root = full.roots.root(minimum.t)
    return root @ root.T, minimum.precision


class _Minimum(NamedTuple):
    """The lowest loss, and the parameters and the precision there."""

    loss: float
    t: FloatArray
    precision: float


@final
class _Search(NamedTuple):
    """The loss, priors included, as a function of parameters and, if none is given, of the precision's logarithm.

    `unit` are the features' root mean squares.
    """

    problem: RestrictedLikelihood
    roots: _Roots
    unit: FloatArray
    given: float | None

    @property
    def usual(self) -> float:
        """The mean square of the penalised features, the unit of the precision."""
        penalised = self.problem.penalised
        return float(np.mean(self.unit[penalised] ** 2)) if penalised.any() else 1.0

    def point(self, t: FloatArray, precision: float) -> FloatArray:
        """Return the argument of the loss: t, and the log precision unless it is given."""
        return np.append(t, np.log(precision)) if self.given is None else t

    def loss(self, point: FloatArray) -> tuple[float, FloatArray]:
        """Return the loss and its gradient."""
        t, precision = self._parts(point)
        p, q = len(self.problem.penalised), int(self.problem.penalised.sum())
        root = self.roots.root(t) if len(t) else np.zeros((p, p))
        value, by_cov, by_precision = self.problem.loss(root @ root.T, precision)
        prior, by_t = self.roots.prior(t)
        by_t = by_t + self.roots.chain(t, 2 * by_cov @ root) if len(t) else by_t
        if self.given is not None:
            return value + prior, by_t
        slopes, power = q * self.usual / precision, 2 * _NOISE_POWER
        return value + prior + power * np.log1p(slopes), np.append(by_t, by_precision - power * slopes / (1 + slopes))

    def run(
        self,
        t: FloatArray,
        bounds: list[Any],
        precision: float,
        curvature: FloatArray | None = None,
        tolerance: float = _TOLERANCE,
    ) -> _Minimum:
        """Descend from a start; see `_descend`."""
        start = self.point(t, precision)
        if len(start) == 0:
            return _Minimum(0.0, start, self.given or 0.0)
        low, high = np.log(self.usual) + np.array(_LOG_PRECISIONS)
        limits = [*bounds, (low, high)][: len(start)]
        curvature = np.ones(len(start)) if curvature is None else curvature[: len(start)]
        value, point = _descend(self.loss, start, limits, curvature, tolerance)
        return _Minimum(value, *self._parts(point))

    def _parts(self, point: FloatArray) -> tuple[FloatArray, float]:
        return (point[:-1], float(np.exp(point[-1]))) if self.given is None else (point, self.given)


def _descend(
    loss: Callable[[FloatArray], tuple[float, FloatArray]],
    start: FloatArray,
    bounds: list[Any],
    curvature: FloatArray,
    tolerance: float,
) -> tuple[float, FloatArray]:
    """Minimise a loss that comes with its gradient; return the lowest value and its place.

    Parameters are scaled to units of about their standard errors, given the curvature of a deviance.
    """
    unit, first = 1 / np.sqrt(np.maximum(curvature, _LEAST_CURVATURE)), list[float]()

    def in_units(u: FloatArray) -> tuple[float, FloatArray]:
        value, by_point = loss(u * unit)
        if not first:
            first.append(value)  # so that the tolerance is relative to the descent, not to the size of the loss
        return value - first[0], by_point * unit

    scaled = [(low / size, high / size) for (low, high), size in zip(bounds, unit, strict=True)]
    options = {"maxiter": _MOST_STEPS, "ftol": tolerance}
    minimum = minimize(in_units, start / unit, jac=True, method="L-BFGS-B", bounds=scaled, options=options)
    return float(minimum.fun) + first[0], np.asarray(minimum.x * unit)

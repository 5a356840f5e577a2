r"""Random-effects model of tasks' coefficients, estimated by restricted maximum likelihood.

.. math:: y_i = X_i (\omega + b_i) + e_i, \quad b_i \sim N(0, s^2 \Lambda), \quad e_i \sim N(0, s^2 I), \quad
          \omega \sim N(0, s^2 P^{-1})

P holds one precision for slopes, one for the columns of curves, and 0, a flat prior, for the intercept. All variances
are relative to that of the noise, :math:`s^2`. The restricted likelihood (`restricted_likelihood`) is minimised over
:math:`\Lambda` and the precisions with its exact gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.seeds import Stream, stream
from innerloop._base.threads import one_thread
from innerloop.adaptation.covariance_roots import NOISE_POWER, DiagonalRoots, FullRoots, Roots
from innerloop.adaptation.restricted_likelihood import RestrictedLikelihood, Solution, Sums
from innerloop.data.row_blocks import MOST_NUMBERS, row_blocks
from innerloop.data.tasks import TaskSet

# Which coefficients vary between tasks: the intercept alone, or all, without or with correlations.
Structure = Literal["intercept", "diagonal", "full"]

# Size of the sample of tasks that variances are estimated from: numbers in it, and bounds of the number of tasks. The
# estimates of larger samples are hardly sharper.
_MOST_NUMBERS, _LEAST_TASKS, _MOST_TASKS = 2**22, 30, 1_000
# Bounds of the logarithms of precisions, for features of unit mean square: beyond them one acts as zero or infinity.
_LOG_PRECISIONS = (-60.0, 16.0)
# Standard deviation of the prior of the log variances of slopes around their mean.
_LOG_SPREAD = 1.5
# Of the prior of the slopes' precision: with q slopes t standard errors large, they are shrunk by (q - 2) / sum of t^2,
# as James and Stein do it, and one or two are not shrunk.
_UNSHRUNK = 2
# Levels of the logarithms of variances at which the search may start.
_LEVELS = (-2.0, -6.0, 2.0, 6.0, 10.0)
_TINY = np.finfo(float).tiny
# The least variance ratio that a search starts from, and the curvature that is added, as a loss may be flat.
_LEAST_START, _LEAST_CURVATURE = float(np.exp(-6.0)), 1e-3
# Descent of the loss that a search thinks not worth a step: for a search from afar, and for one of a fold, whose
# parameters it gives to a fortieth of their standard errors.
_TOLERANCE, _NEAR_TOLERANCE = 1e-6, 1e-3
_MOST_STEPS = 200
# Longest step of a logarithm, or of an entry of a factor; halves of a step that are tried; and the descent that is
# asked for, relative to the slope.
_LONGEST_STEP, _MOST_HALVES, _LEAST_DESCENT = 4.0, 30, 1e-4


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
    precision : (n_targets, n_features)
        Prior precisions P of omega, relative to that of the noise; 0 where the prior is flat, infinite where the
        coefficient is zero.
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

    def with_curves(self, n_curves: int, intercept: bool) -> RandomEffects:
        """Return the same model with columns of curves, which have no effect, before the intercept."""
        p = len(self.mean) + n_curves
        end = p - intercept
        curves = np.arange(end - n_curves, end)
        wide = self.in_columns(np.delete(np.arange(p), curves), p)
        precision = wide.precision.copy()
        precision[:, curves] = self.precision.max(axis=1, keepdims=True)
        return replace(wide, precision=precision)

    def in_columns(self, columns: IntArray, n_features: int) -> RandomEffects:
        """Return the same model with these columns among more, of which the others have no effect."""
        if len(columns) == n_features:
            return self
        n_targets = len(self.noise)
        mean, precision = np.zeros((n_features, n_targets)), np.full((n_targets, n_features), np.inf)
        mean_cov, task_cov = (np.zeros((n_targets, n_features, n_features)) for _ in range(2))
        mean[columns], precision[:, columns] = self.mean, self.precision
        square = np.ix_(np.arange(n_targets), columns, columns)
        mean_cov[square], task_cov[square] = self.mean_cov, self.task_cov
        return RandomEffects(mean, mean_cov, task_cov, self.noise, precision, self.deviance)


def estimate_effects(
    tasks: TaskSet,
    structure: Structure = "diagonal",
    *,
    intercept: bool = True,
    n_curves: int = 0,
    varying: NDArray[np.bool_] | None = None,
    l2: float | None = None,
    seed: int = 0,
    start: RandomEffects | None = None,
    similar: tuple[RandomEffects, RandomEffects] | None = None,
    shrink_slopes: bool = True,
    most_tasks: int = _MOST_TASKS,
) -> RandomEffects:
    """Estimate the random-effects model by restricted maximum likelihood.

    Parameters
    ----------
    tasks
        They may be reduced; see `innerloop.data.row_blocks.reduced`. From one task no covariance of tasks can be
        estimated: it is zero then.
    structure
        Of the tasks' covariance. "intercept": the intercept alone varies. "diagonal": a variance for each coefficient,
        with a log-normal prior that shrinks the variances of slopes towards each other, and those of curves. "full":
        correlations too, shrunk towards the diagonal estimate by an inverse-Wishart prior with the weight of
        n_features tasks.
    intercept
        Whether the last feature is 1 everywhere, the intercept.
    n_curves
        Number of features before the intercept that are columns of curves; their precision is one of its own.
    varying : (n_features,)
        Whether each coefficient may vary between tasks; None: all may.
    l2
        Penalty on the population's coefficients, in units of the half mean squared error; None: estimated.
    seed
        Of the sample of tasks that variances are estimated from, where there are very many tasks.
    start
        An estimate to start from: of similar tasks in the same structure; for "full" the diagonal one of these tasks.
    similar
        For "full": the diagonal and the full estimate of similar tasks, from which correlations start.
    shrink_slopes
        Whether the variances of slopes have their prior, which predicts better, or each is estimated by itself, which
        leaves zero variances at zero.
    most_tasks
        Size of the sample of tasks that variances are estimated from.

    Notes
    -----
    With more features than rows all slopes have the same variance, and everything is computed in the space that rows
    span. docs/theory.md, section "Random effects".
    """
    sample, p = variance_sample(tasks, seed, most_tasks=most_tasks), tasks.n_features
    n_rows, prior = int(sample.original_sizes.sum()), _priors(p, n_curves, intercept)
    varies = np.ones(p, dtype=bool) if varying is None else varying.copy()
    if structure == "intercept":
        varies &= prior < 0
    if len(sample) == 1:
        varies[:] = False
    spread = _LOG_SPREAD if shrink_slopes else np.inf
    directions = _row_space(sample, prior)
    solutions = []
    for target in range(tasks.y[:1].size):
        given = None if l2 is None else l2 * n_rows
        with one_thread():
            if directions is None:
                columns = np.flatnonzero(varies)
                problem = RestrictedLikelihood(row_blocks(sample), target, n_rows, prior, columns)
                roots = DiagonalRoots.separate(columns, _mean_squares(sample), prior, spread)
                known = None if start is None else _Known.of(start, similar, target, prior)
                task_cov, penalty = _minimise(_Search(problem, roots, _unit(sample, prior), given), structure, known)
                solutions.append((task_cov, penalty, problem.solve(problem.sums(task_cov), penalty)))
            else:
                solutions.append(_solve_in_row_space(sample, target, prior, directions, varies, given))
    effects = _effects(solutions)
    return effects if sample is tasks else update_mean(effects, tasks, intercept=intercept, l2=l2)


def update_mean(
    effects: RandomEffects, tasks: TaskSet, *, intercept: bool = True, l2: float | None = None
) -> RandomEffects:
    """Return the effects with the mean and the noise estimated from these tasks, given the tasks' covariance.

    The tasks may be reduced; see `innerloop.data.row_blocks.reduced`.
    """
    n_rows = int(tasks.original_sizes.sum())
    return solve_mean(effects, sums_at(effects.task_cov[None], tasks)[0], n_rows, intercept=intercept, l2=l2)


def sums_at(task_cov: FloatArray, tasks: TaskSet, most_numbers: int = MOST_NUMBERS) -> list[list[Sums]]:
    """Return the sums over tasks from which the mean and the noise of each model and target follow.

    Parameters
    ----------
    task_cov : (n_models, n_targets, n_features, n_features)
        Of tasks' coefficients, at which sums are made.
    tasks
        Their sums add to those of other tasks.
    most_numbers
        Of a block of tasks that are summed at once.
    """
    n_models, n_targets, p, _ = task_cov.shape
    sums = [[Sums.none(p)] * n_targets for _ in range(n_models)]
    with one_thread():
        for block in row_blocks(tasks, most_numbers):
            sums = [
                [of_target.with_block(block, t, task_cov[m, t]) for t, of_target in enumerate(of_model)]
                for m, of_model in enumerate(sums)
            ]
    return sums


def solve_mean(
    effects: RandomEffects, sums: Sequence[Sums], n_rows: int, *, intercept: bool = True, l2: float | None = None
) -> RandomEffects:
    """Return the effects with the mean and the noise that `sums_at` the tasks' covariance give, of all tasks.

    `n_rows` is the number of their rows, before these were reduced.
    """
    solutions, prior = [], _priors(len(effects.mean), 0, intercept)
    for target, (task_cov, precision) in enumerate(zip(effects.task_cov, effects.precision, strict=True)):
        penalty = precision if l2 is None else np.where(np.isinf(precision), np.inf, (prior >= 0) * l2 * n_rows)
        problem = RestrictedLikelihood((), target, n_rows, prior)
        with one_thread():
            solutions.append((task_cov, penalty, problem.solve(sums[target], penalty)))
    return _effects(solutions)


def _effects(solutions: list[tuple[FloatArray, FloatArray, Solution]]) -> RandomEffects:
    """Return the effects of all targets, given covariance, penalty and solution of each."""
    return RandomEffects(
        np.stack([solution.mean for *_, solution in solutions], axis=1),
        np.array([solution.mean_cov for *_, solution in solutions]),
        np.array([task_cov for task_cov, *_ in solutions]),
        np.array([solution.noise for *_, solution in solutions]),
        np.array([penalty for _, penalty, _ in solutions]),
        sum(solution.loss for *_, solution in solutions),
    )


def _priors(n_features: int, n_curves: int, intercept: bool) -> IntArray:
    """Return the number of the prior of each population coefficient: 0 for slopes, 1 for curves, -1 for a flat one."""
    prior = np.zeros(n_features, dtype=np.intp)
    end = n_features - intercept
    prior[end - n_curves : end], prior[end:] = 1, -1
    return prior


def _mean_squares(tasks: TaskSet) -> FloatArray:
    """Return the mean square of each feature over the rows, before these were reduced."""
    return np.asarray(np.square(tasks.X).sum(axis=0) / tasks.original_sizes.sum())


def _unit(tasks: TaskSet, prior: IntArray) -> FloatArray:
    """Return the mean square of the features of each prior, the unit of its precision."""
    used = prior >= 0
    mean = np.bincount(prior[used], _mean_squares(tasks)[used]) / np.maximum(np.bincount(prior[used]), 1)
    return np.where(mean > 0, mean, 1.0)


def _row_space(tasks: TaskSet, prior: IntArray) -> FloatArray | None:
    """Return a basis (n_slopes, n_rows) of what rows span; None unless slopes outnumber rows."""
    if (prior >= 0).sum() <= tasks.n_rows:
        return None
    return np.linalg.svd(tasks.X[:, prior >= 0], full_matrices=False)[2].T


def _solve_in_row_space(
    tasks: TaskSet, target: int, prior: IntArray, directions: FloatArray, varies: NDArray[np.bool_], given: float | None
) -> tuple[FloatArray, FloatArray, Solution]:
    """Return covariance, penalty and solution with one variance of all slopes, as rotations leave it."""
    slopes, p, n = prior >= 0, len(prior), directions.shape[1]
    B = np.zeros((p, n + int((~slopes).sum())))  # new columns in terms of all
    B[np.ix_(slopes, np.arange(n))] = directions
    B[~slopes, n:] = np.eye(int((~slopes).sum()))
    rotated = TaskSet(tasks.X @ B, tasks.y, tasks.starts, tasks.ids, reduced_from=tasks.original_sizes)
    priors = np.append(np.zeros(n, dtype=np.intp), prior[~slopes])
    columns = np.flatnonzero(np.append(np.full(n, varies[slopes].any()), varies[~slopes]))
    n_rows = int(tasks.original_sizes.sum())
    problem = RestrictedLikelihood(row_blocks(rotated), target, n_rows, priors, columns)
    roots = DiagonalRoots.shared(columns, _mean_squares(rotated), priors, np.inf)
    search = _Search(problem, roots, _unit(rotated, priors), given)
    cov, penalty = _minimise(search, "diagonal", None)
    solution = problem.solve(problem.sums(cov), penalty)
    beyond = np.diag(slopes.astype(float))
    beyond[np.ix_(slopes, slopes)] -= directions @ directions.T
    precision = penalty[0]
    mean_cov = B @ solution.mean_cov @ B.T + (beyond / precision if precision > 0 else 0.0)
    task_cov = B @ cov @ B.T + cov[0, 0] * beyond
    everywhere = np.where(slopes, precision, 0.0)
    return task_cov, everywhere, solution._replace(mean=B @ solution.mean, mean_cov=mean_cov)


def variance_sample(
    tasks: TaskSet, seed: int, among: NDArray[np.bool_] | None = None, most_tasks: int = _MOST_TASKS
) -> TaskSet:
    """Return the tasks that variances are estimated from: all, or all `among`, or a random sample of very many."""
    sizes = np.minimum(tasks.sizes, tasks.n_features + tasks.y[:1].size)
    chosen = np.arange(len(tasks)) if among is None else np.flatnonzero(among)
    order = chosen[stream(seed, Stream.VARIANCE_SAMPLE).permutation(len(chosen))]
    n = int(np.searchsorted(np.cumsum(sizes[order] * tasks.n_features), _MOST_NUMBERS))
    n = min(max(n, _LEAST_TASKS), most_tasks)
    return tasks if among is None and n >= len(tasks) else tasks.select(np.sort(order[:n]))


class _Known(NamedTuple):
    """What a search starts from: variances, the precision of each prior, and for a full covariance a similar one.

    The latter relative to the diagonal covariance of the same tasks.
    """

    variances: FloatArray
    precision: FloatArray
    similar: FloatArray | None

    @classmethod
    def of(
        cls, start: RandomEffects, similar: tuple[RandomEffects, RandomEffects] | None, target: int, prior: IntArray
    ) -> _Known:
        first = [int(np.argmax(prior == number)) for number in range(int(prior.max(initial=-1)) + 1)]
        cov = None
        if similar is not None:
            size = np.sqrt(np.maximum(similar[0].task_cov[target].diagonal(), _TINY))
            cov = similar[1].task_cov[target] / size / size[:, None]
        return cls(start.task_cov[target].diagonal(), start.precision[target][first], cov)


def _minimise(diagonal: _Search, structure: Structure, known: _Known | None) -> tuple[FloatArray, FloatArray]:
    """Return the tasks' covariance and the penalty of lowest loss."""
    problem, roots = diagonal.problem, diagonal.roots
    assert isinstance(roots, DiagonalRoots)
    columns, p = roots.columns, len(problem.prior)
    if known is None:
        # The loss may have several minima: where noise is small, one in which differences between tasks account for all
        # variance. Fewer rows than coefficients can be fitted without noise, so that the lowest minimum means nothing.
        levels = _LEVELS if problem.n > p else _LEVELS[:1]
        starts = [
            (np.full(len(roots.size), level), diagonal.unit * float(np.exp(-max(level, 0.0)))) for level in levels
        ]
        best = min(starts, key=lambda start: diagonal.evaluate(diagonal.point(*start)).value)
        runs = [diagonal.run(*start) for start in (starts[0], best)[: 1 + (best is not starts[0])]]
        minimum = min(runs, key=lambda run: run.loss)
    elif structure != "full":
        # A variance that starts far too low would stay there, as the loss is flat.
        minimum = diagonal.run(roots.from_variances(known.variances, _LEAST_START), known.precision, _NEAR_TOLERANCE)
    else:
        minimum = _Minimum(0.0, roots.from_variances(known.variances, _TINY), known.precision)
    root = roots.root(minimum.t)
    if structure == "full" and len(columns) > 1:
        full = FullRoots(p, columns, np.sqrt(np.square(root).sum(axis=1)[columns]))
        similar = None if known is None else known.similar
        tolerance = _TOLERANCE if similar is None else _NEAR_TOLERANCE
        minimum = diagonal._replace(roots=full).run(full.start(similar), minimum.precision, tolerance)
        root = full.root(minimum.t)
    return root @ root.T, problem.penalty(minimum.precision)


class _Minimum(NamedTuple):
    """The lowest loss, and the parameters and the precisions there."""

    loss: float
    t: FloatArray
    precision: FloatArray


@final
class _Search(NamedTuple):
    """The loss, priors included, as a function of parameters and, if none is given, of the precisions' logarithms.

    `unit` are the mean squares of the features of each prior.
    """

    problem: RestrictedLikelihood
    roots: Roots
    unit: FloatArray
    given: float | None

    def point(self, t: FloatArray, precision: FloatArray) -> FloatArray:
        """Return the argument of the loss: t, and the log precisions unless one is given."""
        return np.append(t, np.log(np.maximum(precision, _TINY))) if self.given is None else t

    def evaluate(self, point: FloatArray) -> _Place:
        """Return the loss with its derivatives."""
        t, precision = self._parts(point)
        root = self.roots.root(t)
        at = self.problem.evaluate(root @ root.T, precision)
        prior, by_t = self.roots.prior(t)
        by_cov = self.roots.chain(t, 2 * at.by_cov @ root)
        value, gradient, bend = at.loss + prior, by_t + by_cov, self.roots.bend(by_cov)
        if self.given is None:
            counts, power = self.problem.counts(), 2 * NOISE_POWER
            slopes = counts * self.unit / precision
            unshrunk = np.where(np.arange(len(counts)) == 0, np.minimum(counts, _UNSHRUNK), 0)
            if self.problem.n <= len(self.problem.prior):  # coefficients without a penalty would fit all rows
                unshrunk[:] = 0
            value += float(np.sum(power * np.log1p(slopes) + unshrunk * np.log(precision / self.unit)))
            share = slopes / (1 + slopes)
            gradient = np.append(gradient, at.by_precision - power * share + unshrunk)
            bend = np.append(bend, np.maximum(-at.by_precision, 0.0) + power * share * (1 - share))

        def curvature() -> FloatArray:
            n = len(t)
            information = self.problem.information(at, self.roots.directions(t), n)[: len(point), : len(point)]
            information[:n, :n] += self.roots.prior_curvature(t)
            information[np.diag_indices(len(point))] += bend
            return information

        return _Place(point, value, gradient, curvature)

    def run(self, t: FloatArray, precision: FloatArray, tolerance: float = _TOLERANCE) -> _Minimum:
        """Descend from a start; see `_descend`."""
        start = self.point(t, precision)
        if len(start) == 0:
            return _Minimum(0.0, *self._parts(start))
        bounds = [*self.roots.bounds(), *(tuple(np.log(unit) + np.array(_LOG_PRECISIONS)) for unit in self.unit)]
        place = _descend(
            self.evaluate, start, np.array(bounds[: len(start)]), tolerance, isinstance(self.roots, DiagonalRoots)
        )
        return _Minimum(place.value, *self._parts(place.point))

    def _parts(self, point: FloatArray) -> tuple[FloatArray, FloatArray]:
        n = self.problem.n_priors
        if self.given is not None:
            return point, np.full(n, self.given)
        return point[: len(point) - n], np.exp(point[len(point) - n :])


class _Place(NamedTuple):
    """A point of a search: the loss there, its gradient, and its curvature, computed when asked for."""

    point: FloatArray
    value: float
    gradient: FloatArray
    curvature: Callable[[], FloatArray]


def _descend(
    evaluate: Callable[[FloatArray], _Place], start: FloatArray, bounds: FloatArray, tolerance: float, is_cheap: bool
) -> _Place:
    """Descend by Newton's method with the average information, within bounds (n, 2), and return the lowest place.

    The information is computed at every place or, unless it is cheap, at the start, and updated by gradients (BFGS). A
    descent ends where a step would lower the loss by less than `tolerance`, twice the square of the distance to the
    minimum in standard errors.
    """
    low, high = bounds.T
    at = evaluate(np.clip(start, low, high))
    curvature = at.curvature()
    for _ in range(_MOST_STEPS):
        free = ~((at.point <= low) & (at.gradient > 0) | (at.point >= high) & (at.gradient < 0))
        step = np.zeros_like(start)
        step[free] = -np.linalg.solve(
            curvature[np.ix_(free, free)] + _LEAST_CURVATURE * np.eye(int(free.sum())), at.gradient[free]
        )
        if -float(at.gradient @ step) < tolerance:
            break
        step *= min(1.0, _LONGEST_STEP / float(np.abs(step).max()))
        for _ in range(_MOST_HALVES):
            new = evaluate(np.clip(at.point + step, low, high))
            if new.value <= at.value + _LEAST_DESCENT * float(at.gradient @ (new.point - at.point)):
                break
            step /= 2
        else:
            break
        curvature = (
            new.curvature() if is_cheap else _updated(curvature, new.point - at.point, new.gradient - at.gradient)
        )
        at = new
    return at


def _updated(curvature: FloatArray, step: FloatArray, change: FloatArray) -> FloatArray:
    """Return second derivatives updated by a step and the change of the gradient: BFGS, as damped by Powell."""
    of_step = curvature @ step
    square, slope = float(step @ of_step), float(step @ change)
    share = 1.0 if slope >= 0.2 * square else 0.8 * square / (square - slope)
    change = share * change + (1 - share) * of_step
    return curvature + np.outer(change, change) / float(step @ change) - np.outer(of_step, of_step) / square

"""Mixed linear regression, the model of the theory, fitted to a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import block_diag

from innerloop._base.checks import FloatArray, as_count
from innerloop._base.progress import no_tick
from innerloop._base.seeds import Stream, stream
from innerloop._base.threads import on_threads, one_thread
from innerloop.adaptation.random_effects import RandomEffects, estimate_effects
from innerloop.data.scaling import Scaling
from innerloop.data.tasks import TaskSet, check_task_set
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.theory.expected import unwarned_loss

# Half the width of a 90 % interval, in standard deviations of a normal distribution.
_HALF_WIDTH = 1.645
# Most tasks of a resample; intervals are narrowed accordingly where there are more.
_MOST_RESAMPLED = 500
# Eigenvalues of the features' second moments below this fraction of the largest count as 0.
_LEAST_EIGENVALUE = 1e-10
# Most coefficients that are printed.
_MOST_PRINTED = 20


@final
@dataclass(frozen=True, eq=False)
class Interval:
    """An estimate and its 90 % bootstrap interval over tasks; numbers or arrays of one shape."""

    value: FloatArray
    low: FloatArray
    high: FloatArray

    @classmethod
    def of(cls, value: ArrayLike, resampled: ArrayLike, narrowed: float, positive: bool = True) -> Interval:
        """Return an estimate with its interval, from the spread of resampled estimates (n_resamples, ...)."""
        at = np.asarray(value, dtype=float)[()]
        half = _HALF_WIDTH * narrowed * np.std(np.asarray(resampled), axis=0, ddof=1)
        return cls(at, np.maximum(at - half, 0.0) if positive else at - half, at + half)

    def texts(self) -> list[str]:
        """Return each number with its interval, as text."""
        parts = zip(*(np.ravel(part) for part in (self.value, self.low, self.high)), strict=True)
        return [f"{value:.3g} ({low:.3g} to {high:.3g})" for value, low, high in parts]

    def __str__(self) -> str:
        return ", ".join(self.texts())


@final
@dataclass(frozen=True, eq=False)
class CalibratedModel:
    """Mixed linear regression with the parameters and the sizes of a table.

    Features are standardised and a column of ones is added, unless `calibrate` was told otherwise.

    Parameters
    ----------
    dist
        The distribution, in the eigenbasis of the features' second moments.
    noise_std
        Standard deviation of the label noise.
    task_std : (n_columns,)
        Standard deviation of each coefficient over tasks.
    mean : (n_columns,)
        The population's coefficients.
    spectrum : (n_directions,)
        Eigenvalues of the features' second moments, and 1 for the intercept.
    task_spread
        Standard deviation of targets due to differences between tasks.
    columns
        Names of the coefficients, the intercept last.
    n_tasks, n_rows
        Number of tasks, and of rows of the median task.
    """

    dist: MixedLinearRegression = field(repr=False)
    noise_std: Interval
    task_std: Interval = field(repr=False)
    mean: Interval = field(repr=False)
    spectrum: Interval = field(repr=False)
    task_spread: Interval
    columns: tuple[str, ...]
    n_tasks: int
    n_rows: int

    def __str__(self) -> str:
        rows = [("coefficient", "population", "standard deviation over tasks")]
        rows += zip(self.columns, self.mean.texts(), self.task_std.texts(), strict=True)
        shown = rows[: 1 + _MOST_PRINTED]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        lines = [
            f"{self.n_tasks} tasks, the median one of {self.n_rows} rows; estimates with 90 % intervals.",
            f"Standard deviation of the noise {self.noise_std}, due to differences between tasks {self.task_spread}.",
            *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown),
        ]
        if n_more := len(rows) - len(shown):
            lines.append(f"and {n_more} more")
        return "\n".join(lines)

    def design(self, n_support: int, n_steps: int = 1, n_query: int | None = None, l2: float = 0.0) -> Design:
        """Return the sizes of meta-training on such a table.

        Parameters
        ----------
        n_support
            Rows that a task adapts on, in training and new ones.
        n_steps
            Inner steps.
        n_query
            Query rows of each training task; None is all others of the median task.
        l2
            Penalty on the meta-parameters; see `Design`.

        Returns
        -------
        Design

        Raises
        ------
        ValueError
            If the median task has no rows left to query, or a size is below 1.
        """
        others = self.n_rows - as_count(n_support, "n_support")
        if n_query is None and others < 1:
            raise ValueError(
                f"`n_support` must be below the rows of the median task, {self.n_rows}, as the others are its query "
                f"rows, got {n_support}; give `n_query` too for tasks that are longer."
            )
        return Design(self.n_tasks, n_support, others if n_query is None else n_query, n_support, n_steps, l2=l2)

    def predicted_mse(self, design: Design, inner_lr: ArrayLike, adapt_lr: ArrayLike) -> FloatArray:
        """Return the mean squared error on new tasks that theory predicts.

        Parameters
        ----------
        design
            Sizes, of `design` or any.
        inner_lr, adapt_lr
            Rates, of shapes that broadcast, for standardised features.

        Returns
        -------
        array
            Of the shape that the rates broadcast to, in squared units of the target: twice the loss of
            `innerloop.expected_loss`; `innerloop.choose_method` says how far to trust it.

        Raises
        ------
        ValueError
            As in `innerloop.expected_loss`.
        """
        return np.asarray(2 * np.asarray(unwarned_loss(self.dist, design, inner_lr, adapt_lr)))


def calibrate(
    tasks: TaskSet,
    n_resamples: int = 30,
    seed: int = 0,
    standardize: bool = True,
    fit_intercept: bool = True,
    tick: Callable[[], None] = no_tick,
) -> CalibratedModel:
    """Fit mixed linear regression, the model of the theory, to a table.

    Each coefficient has a variance over tasks, estimated by restricted maximum likelihood; intervals are by the
    bootstrap over tasks.

    Parameters
    ----------
    tasks
        A `TaskSet` of at least two tasks, one target.
    n_resamples
        Resamples of the bootstrap, at least 2.
    seed
        Draws them.
    standardize, fit_intercept
        As in `MetaRegressor`.
    tick
        Called after every resample.

    Returns
    -------
    CalibratedModel

    Raises
    ------
    ValueError
        If there is one task only, or several targets.

    Notes
    -----
    docs/theory.md, sections "Random effects" and "General covariances".

    Examples
    --------
    >>> import innerloop as il
    >>> tasks = il.MixedLinearRegression(2, noise_std=0.5).sample_tasks(n_tasks=20, n_rows=8, seed=0)
    >>> calibrated = il.calibrate(tasks, n_resamples=5)
    >>> calibrated.n_tasks, calibrated.n_rows
    (20, 8)
    >>> best = il.optimal_rates(calibrated.dist, calibrated.design(n_support=5))
    """
    check_task_set(tasks)
    if len(tasks) < 2:
        raise ValueError("`tasks` must hold at least two tasks: from one, no differences can be estimated.")
    if tasks.y.ndim > 1:
        raise ValueError(f"`tasks` must have one target, got {tasks.y.shape[1]}; calibrate one at a time.")
    scaling = Scaling.fit(tasks, standardize, fit_intercept)
    scaled = scaling.tasks(tasks).whitened()
    n_drawn, n_resamples = min(len(tasks), _MOST_RESAMPLED), as_count(n_resamples, "n_resamples", 2)
    with one_thread(tasks.n_features):
        estimated = _Estimates.of(scaled, fit_intercept, seed)

        def resample(i: int) -> _Estimates:
            drawn = stream(seed, Stream.BOOTSTRAP, i).integers(len(tasks), size=n_drawn)
            return _Estimates.of(scaled.select(drawn), fit_intercept, seed, estimated.effects)

        resampled = []
        for estimates in on_threads(resample, range(n_resamples)):
            resampled.append(estimates)
            tick()
    narrowed = float(np.sqrt(n_drawn / len(tasks)))
    names = tasks.feature_names or tuple(f"x{j}" for j in range(tasks.n_features))
    kept = [name for name, keep in zip(names, scaling.kept, strict=True) if keep]
    intervals = {
        name: Interval.of(getattr(estimated, name), [getattr(r, name) for r in resampled], narrowed, name != "mean")
        for name in ("noise_std", "task_std", "mean", "spectrum", "task_spread")
    }
    columns = (*kept, *(["intercept"] if fit_intercept else []))
    return CalibratedModel(
        estimated.dist(), columns=columns, n_tasks=len(tasks), n_rows=int(np.median(tasks.sizes)), **intervals
    )


@final
@dataclass(frozen=True, eq=False)
class _Estimates:
    """Estimates from one set of tasks."""

    effects: RandomEffects
    spectrum: FloatArray
    basis: FloatArray
    intercept: bool

    @classmethod
    def of(cls, tasks: TaskSet, intercept: bool, seed: int, start: RandomEffects | None = None) -> _Estimates:
        # The intercept is a direction of its own, the last: features are centred.
        X = tasks.X[:, :-1] if intercept else tasks.X
        values, vectors = np.linalg.eigh(X.T @ X / tasks.n_rows)
        spectrum, basis = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        if intercept:
            spectrum, basis = np.append(spectrum, 1.0), block_diag(basis, np.ones((1, 1)))
        effects = estimate_effects(tasks, "diagonal", intercept=intercept, seed=seed, start=start, shrink_slopes=False)
        return cls(effects, spectrum, basis, intercept)

    @property
    def noise_std(self) -> float:
        return float(np.sqrt(self.effects.noise[0]))

    @property
    def _task_cov(self) -> FloatArray:
        return np.asarray(self.effects.noise[0] * self.effects.task_cov[0])

    @property
    def task_std(self) -> FloatArray:
        return np.sqrt(self._task_cov.diagonal())

    @property
    def mean(self) -> FloatArray:
        return self.effects.mean[:, 0]

    @property
    def _variances(self) -> FloatArray:
        """Variance of tasks' coefficients along each eigenvector."""
        return np.asarray(np.einsum("ij,ik,kj->j", self.basis, self._task_cov, self.basis))

    @property
    def task_spread(self) -> float:
        return float(np.sqrt(self.spectrum @ self._variances))

    def dist(self) -> MixedLinearRegression:
        kept = self.spectrum > _LEAST_EIGENVALUE * self.spectrum.max()
        return MixedLinearRegression(
            int(kept.sum()),
            self.noise_std,
            np.sqrt(self._variances[kept]),
            (self.basis.T @ self.mean)[kept],
            self.spectrum[kept],
            intercept=self.intercept and int(kept.sum()) > 1,
        )

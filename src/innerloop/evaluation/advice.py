"""What to do with a table: which rates, what they gain, and which further data would help most."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.ragged import ragged_ranges, row_starts
from innerloop._base.seeds import Stream, stream
from innerloop._base.threads import one_thread
from innerloop.adaptation.predictor import Trial
from innerloop.data.row_blocks import row_blocks
from innerloop.data.tasks import TaskSet, check_task_set
from innerloop.estimators import MetaRegressor
from innerloop.evaluation import POOLED, Evaluation, evaluate
from innerloop.tabular.training import MetaTraining

# New tasks are imitated by so many draws from the table's, fewer where covariances would hold more numbers than this.
_DRAWS = 200, 2_000
_MOST_NUMBERS = 2**22
# What the model cannot say of more training data.
_AT_LEAST = " (a lower bound: how tasks differ would be known better too)"


@final
@dataclass(frozen=True)
class Option:
    """Further data, and by how much of the error they would lower it.

    Parameters
    ----------
    what
        In words.
    gain
        Predicted fraction of the mean squared error on new tasks that would go, 0.1 for a tenth; negative where the
        error would grow.
    """

    what: str
    gain: float


@final
@dataclass(frozen=True)
class Advice:
    """Recommended rates and adaptation, what they gain, and what would help most.

    Errors are in squared units of the target; of several targets in units of each one's variance, and averaged.

    Parameters
    ----------
    adaptation
        "none", "gradient" or "ridge".
    inner_lr, adapt_lr
        Rates of the best gradient step, for features as they enter the model; NaN where none was tried.
    mse, mse_se
        Mean squared error on unseen tasks, with its standard error over tasks.
    gain, gain_se
        How far that is below the error of one pooled ridge, with its standard error paired by task; in units of `mse`.
    verdict
        In words.
    options
        Further data, the most helpful first.
    """

    adaptation: str
    inner_lr: float
    adapt_lr: float
    mse: float
    mse_se: float
    gain: float
    gain_se: float
    verdict: str
    options: tuple[Option, ...]

    def __str__(self) -> str:
        best = self.options[0]
        if best.gain < 0.005:
            return f"{self.verdict} More data of the same kind would hardly lower the error."
        return f"{self.verdict} What would help most, by {100 * best.gain:.0f} % lower error: {best.what}."


def advise(tasks: TaskSet, model: MetaRegressor | None = None) -> Advice:
    """Recommend rates for a table, with their gain, and say which further data would help most.

    Parameters
    ----------
    tasks
        A `TaskSet` of at least two tasks.
    model
        A `MetaRegressor` whose parameters are to be used; None is the default one. It is not fitted.

    Returns
    -------
    Advice
        Its string is a sentence or two.

    Raises
    ------
    TypeError
        If `tasks` is no `TaskSet`.
    ValueError
        If there is one task only, or a parameter of the model is out of its range.

    Notes
    -----
    docs/theory.md, section "Further data".
    """
    check_task_set(tasks)
    settings = (MetaRegressor() if model is None else model).settings()
    if len(tasks) < 2:
        raise ValueError("`tasks` must hold at least two tasks: one tells nothing of how tasks differ.")
    training = MetaTraining.prepare(tasks, settings)
    return advice_from(training, evaluate(training, tasks))


def advice_from(training: MetaTraining, evaluation: Evaluation) -> Advice:
    """Return the advice that tasks made ready and their evaluation give."""
    first, pooled = evaluation.methods[0], evaluation[POOLED]
    rates = training.rates_in_use()
    return Advice(
        training.adaptation,
        rates.inner_lr,
        rates.adapt_lr,
        first.mse,
        first.mse_se,
        pooled.excess,
        pooled.excess_se,
        evaluation.verdict,
        further_data(training),
    )


def further_data(training: MetaTraining) -> tuple[Option, ...]:
    """Return what further data would bring, by the fitted random-effects model, the most helpful first."""
    n = training.n_support
    now = predicted_error(training, n)
    changes = {
        f"twice as many training tasks{_AT_LEAST}": predicted_error(training, n, tasks=2),
        f"twice as many rows in every training task{_AT_LEAST}": predicted_error(training, n, rows=2),
        "as many training rows, from half the tasks": predicted_error(training, n, tasks=0.5, rows=2),
        "as many training rows, from twice the tasks": predicted_error(training, n, tasks=2, rows=0.5),
        f"{2 * n} rows of a new task to adapt on instead of {n}": predicted_error(training, 2 * n),
    }
    options = [Option(what, 1 - error / now) for what, error in changes.items()]
    return tuple(sorted(options, key=lambda option: -option.gain))


def predicted_error(training: MetaTraining, n_adapt: int, tasks: float = 1.0, rows: float = 1.0) -> float:
    r"""Return the mean squared error on new tasks that the fitted random-effects model predicts.

    .. math:: s^2\, E(\alpha + x' C x), \quad C = A (\Lambda + S^{-1}) A' + W W', \quad A = I - W X, \quad \alpha = 1

    for the gain W of the adaptation in use: rows of a task of the table stand in for those X that a new task adapts
    on, others of the same task for x. Where tasks differ in scale, alpha and C are those of `ScaledRidge`, given the
    targets too. The population's coefficients have the precision :math:`S = \sum_i f M_i (I + \Lambda f M_i)^{-1} + P`
    with :math:`M_i = X_i'X_i`, of a drawn part of the rows for f below 1; a ridge adapts with the covariance
    :math:`\Lambda + S^{-1}`.

    Parameters
    ----------
    training
        Tasks made ready.
    n_adapt
        Rows a new task adapts on. A task of the table that has too few repeats them, which tells less than as many
        different ones: the error is then too high.
    tasks, rows
        Times as many training tasks, and times as many rows f in each of them.

    Returns
    -------
    float
        Of several targets, in units of each one's variance, the mean.
    """
    effects, predictor = training.effects, training.predictor
    with one_thread(training.tasks.n_features):
        population = [_population_cov(training, k, tasks, rows) for k in range(len(effects.noise))]
        task_cov = effects.task_cov + np.array(population)
        if training.adaptation == "ridge":
            predictor = replace(predictor, rule=replace(training.spread, task_cov=task_cov).ridge())
        return float(np.mean(effects.noise * _imitated(training.tasks, n_adapt).variance(predictor, task_cov)))


def _population_cov(training: MetaTraining, target: int, tasks: float, rows: float) -> FloatArray:
    """Return S^-1 relative to the noise; 0 along directions that no task has."""
    task_cov, p = training.effects.task_cov[target], training.tasks.n_features
    S = np.zeros((p, p))
    for block in row_blocks(_part(training.tasks, rows)):
        times = rows * training.tasks.sizes[block.members] / block.n_rows
        M = times[:, None, None] * (block.X.transpose(0, 2, 1) @ block.X)
        S += np.linalg.solve(np.eye(p) + M @ task_cov, M).sum(axis=0)
    penalised = np.arange(p) < p - training.settings.fit_intercept
    S = tasks * (S + S.T) / 2 + np.diag(training.effects.precision[target] * penalised)
    return np.asarray(np.linalg.pinv(S, rcond=1e-12, hermitian=True))


def _part(tasks: TaskSet, fraction: float) -> TaskSet:
    """Return tasks with a drawn part of the rows of each; with all from a fraction of 1."""
    if fraction >= 1:
        return tasks
    n = np.ceil(fraction * tasks.sizes).astype(np.intp)
    order = np.lexsort((stream(0, Stream.ADVICE_ORDER).random(tasks.n_rows), tasks.task_of_row))
    chosen = order[ragged_ranges(tasks.starts[:-1], n)]
    return TaskSet(tasks.X[chosen], tasks.y[chosen], row_starts(n), tasks.ids)


def _imitated(tasks: TaskSet, n_adapt: int) -> Trial:
    """Return draws of a task's row, and of `n_adapt` others to adapt on, repeated where it has too few.

    Where each task is one row, those of all tasks are taken for one.
    """
    first, sizes = tasks.starts[:-1], tasks.sizes
    if sizes.max() == 1:
        first, sizes = tasks.starts[:1], np.array([tasks.n_rows])
    n_draws = int(np.clip(_MOST_NUMBERS // tasks.n_features**2, *_DRAWS))
    drawn = np.resize(stream(0, Stream.ADVICE_TASKS).permutation(np.flatnonzero(sizes > 1)), n_draws)
    scored, support = np.empty(n_draws, dtype=np.intp), np.empty((n_draws, n_adapt), dtype=np.intp)
    for i, task in enumerate(drawn):
        # Errors at different numbers of rows are of the same row.
        rng, size = stream(0, Stream.ADVICE_ROWS, i), sizes[task]
        row = rng.integers(size)
        others = rng.choice(size - 1, min(n_adapt, size - 1), replace=False)
        others += others >= row
        scored[i], support[i] = first[task] + row, first[task] + np.resize(others, n_adapt)
    y, each, rows = tasks.y.reshape(tasks.n_rows, -1), np.arange(n_draws), support.ravel()
    known = TaskSet(tasks.X[rows], y[rows], row_starts(np.full(n_draws, n_adapt)), each)
    return Trial(n_adapt, each, known, tasks.X[scored], y[scored], each)

"""Advice on a table: rates, their gain, and the further data that would lower the error most."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.ragged import ragged_ranges, row_starts
from innerloop._base.seeds import Stream, stream
from innerloop._base.threads import one_thread
from innerloop.adaptation.predictor import Mixture
from innerloop.data.episodes import Episodes
from innerloop.data.row_blocks import row_blocks
from innerloop.data.tasks import TaskSet
from innerloop.evaluation.methods import POOLED
from innerloop.evaluation.scores import Evaluation
from innerloop.tabular.training import TrainedTable

# Bounds of the number of draws from the table that simulate new tasks, and the most numbers in their covariances.
_DRAWS = 200, 2_000
_MOST_NUMBERS = 2**22
# Variances are taken as known.
_AT_LEAST = " (a lower bound: variances between tasks would be estimated better too)"


@final
@dataclass(frozen=True)
class Option:
    """Further data, and the predicted reduction of the error.

    Parameters
    ----------
    what
        The data, in words.
    gain
        Predicted reduction of the mean squared error on new tasks as a fraction, 0.1 for a tenth; negative where the
        error would grow.
    """

    what: str
    gain: float


@final
@dataclass(frozen=True)
class Advice:
    """Recommended adaptation and rates, their gain, and further data in order of their gain.

    Errors are in squared units of the target; those of several targets are averaged in units of each one's variance.

    Parameters
    ----------
    adaptation
        "none", "gradient" or "ridge".
    inner_lr, adapt_lr
        Rates of the best gradient step, for features as they enter the model: numbers, or arrays with one for each
        feature; NaN where no step was tried.
    mse, mse_se
        Mean squared error on unseen tasks, with its standard error over tasks.
    gain, gain_se
        Difference of the error of one pooled ridge to `mse`, with its standard error paired over tasks.
    verdict
        The recommendation, in words.
    options
        Further data, that of largest gain first.
    """

    adaptation: str
    inner_lr: float | FloatArray
    adapt_lr: float | FloatArray
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
        return f"{self.verdict} The largest gain from further data, {100 * best.gain:.0f} % lower error: {best.what}."


def advice_from(evaluation: Evaluation) -> Advice:
    """Return the advice that follows from an evaluation."""
    first, pooled, rates = evaluation.scores[0], evaluation[POOLED], evaluation.trained.rates
    return Advice(
        evaluation.trained.adaptation,
        rates.inner_lr,
        rates.adapt_lr,
        first.mse,
        first.mse_se,
        pooled.excess,
        pooled.excess_se,
        evaluation.verdict,
        further_data(evaluation.trained),
    )


def further_data(trained: TrainedTable) -> tuple[Option, ...]:
    """Return further data with their gain by the fitted random-effects model, that of largest gain first."""
    n = trained.training.n_support
    new = _simulated(trained.tasks, n)
    now = _predicted_error(trained, new)
    changes = {
        f"twice as many training tasks{_AT_LEAST}": _predicted_error(trained, new, tasks=2),
        f"twice as many rows in every training task{_AT_LEAST}": _predicted_error(trained, new, rows=2),
        "as many training rows, from half the tasks": _predicted_error(trained, new, tasks=0.5, rows=2),
        "as many training rows, from twice the tasks": _predicted_error(trained, new, tasks=2, rows=0.5),
        f"{2 * n} rows of a new task to adapt on instead of {n}": predicted_error(trained, 2 * n),
    }
    options = [Option(what, 1 - error / now) for what, error in changes.items()]
    return tuple(sorted(options, key=lambda option: -option.gain))


def predicted_error(trained: TrainedTable, n_adapt: int, tasks: float = 1.0, rows: float = 1.0) -> float:
    r"""Return the mean squared error on new tasks that the fitted random-effects model predicts.

    .. math:: s^2\, E(\alpha + x' C x), \quad C = A (\Lambda + S^{-1}) A' + W W', \quad A = I - W X, \quad \alpha = 1

    for the gain W of the adaptation of largest weight. Rows X to adapt on, and x to predict, are drawn from tasks of
    the table. Where tasks differ in scale, alpha and C are those of `ScaledRidge`, given the targets too. The
    population's coefficients have the precision :math:`S = \sum_i f M_i (I + \Lambda f M_i)^{-1} + P` with
    :math:`M_i = X_i'X_i`, of a random part of the rows for f below 1; a ridge adapts with the covariance
    :math:`\Lambda + S^{-1}`.

    Parameters
    ----------
    trained
    n_adapt
        Rows a new task adapts on. Tasks of the table that have fewer repeat theirs, which are less informative than
        different ones: the error is then too high.
    tasks, rows
        Multiples of the number of training tasks, and of the number of rows of each, f.

    Returns
    -------
    float
        Of several targets, in units of each one's variance, the mean.
    """
    return _predicted_error(trained, _simulated(trained.tasks, n_adapt), tasks, rows)


def _predicted_error(trained: TrainedTable, new: Episodes, tasks: float = 1.0, rows: float = 1.0) -> float:
    """Return the same for the query rows of some episodes."""
    effects, main = trained.effects, trained.choice.main
    with one_thread(trained.tasks.n_features):
        population = [_population_cov(trained, k, tasks, rows) for k in range(len(effects.noise))]
        task_cov = effects.task_cov + np.array(population)
        member = trained.predictor.members[list(trained.choice.candidates).index(main)]
        member = replace(member, rule=member.rule.with_task_cov(task_cov))
        mixture = Mixture.of_one(member, task_cov, effects.noise)
        return float(np.mean(mixture.episode_moments(new)[1]))


def _population_cov(trained: TrainedTable, target: int, tasks: float, rows: float) -> FloatArray:
    """Return S^-1, relative to the noise; 0 along directions in which no task has rows, and of zero coefficients."""
    task_cov, p = trained.effects.task_cov[target], trained.tasks.n_features
    S = np.zeros((p, p))
    for block in row_blocks(_part(trained.tasks, rows)):
        times = rows * trained.tasks.sizes[block.members] / block.n_rows
        M = times[:, None, None] * (block.X.transpose(0, 2, 1) @ block.X)
        S += np.linalg.solve(np.eye(p) + M @ task_cov, M).sum(axis=0)
    precision = trained.effects.precision[target]
    free = np.isfinite(precision)
    S = tasks * (S + S.T) / 2 * np.outer(free, free) + np.diag(np.where(free, precision, 0.0))
    return np.asarray(np.linalg.pinv(S, rcond=1e-12, hermitian=True))


def _part(tasks: TaskSet, fraction: float) -> TaskSet:
    """Return tasks with a random part of the rows of each; with all if the fraction is 1 or more."""
    if fraction >= 1:
        return tasks
    n = np.ceil(fraction * tasks.sizes).astype(np.intp)
    order = np.lexsort((stream(0, Stream.ADVICE_ORDER).random(tasks.n_rows), tasks.task_of_row))
    chosen = order[ragged_ranges(tasks.starts[:-1], n)]
    return TaskSet(tasks.X[chosen], tasks.y[chosen], row_starts(n), tasks.ids)


def _simulated(tasks: TaskSet, n_adapt: int) -> Episodes:
    """Return episodes of one query row and `n_adapt` other rows of a task, repeated where it has fewer.

    Where each task has one row, rows are drawn as if all were of one task.
    """
    first, sizes = tasks.starts[:-1], tasks.sizes
    if sizes.max() == 1:
        first, sizes = tasks.starts[:1], np.array([tasks.n_rows])
    n_draws = int(np.clip(_MOST_NUMBERS // tasks.n_features**2, *_DRAWS))
    drawn = np.resize(stream(0, Stream.ADVICE_TASKS).permutation(np.flatnonzero(sizes > 1)), n_draws)
    query, support = np.empty(n_draws, dtype=np.intp), np.empty((n_draws, n_adapt), dtype=np.intp)
    for i, task in enumerate(drawn):
        # The query row is the same whatever `n_adapt` is.
        rng, size = stream(0, Stream.ADVICE_ROWS, i), sizes[task]
        row = rng.integers(size)
        others = rng.choice(size - 1, min(n_adapt, size - 1), replace=False)
        others += others >= row
        query[i], support[i] = first[task] + row, first[task] + np.resize(others, n_adapt)
    one, each = np.ones(n_draws, dtype=np.intp), np.arange(n_draws)
    return Episodes.from_rows(tasks.X, tasks.y, (support.ravel(), n_adapt * one), (query, one), each)

"""What to do with a table: which rates, what they gain, and which further data would help most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np

from innerloop._checks import FloatArray
from innerloop._random import stream
from innerloop._task_rows import row_blocks
from innerloop.adaptation import Adaptation, error_covariance
from innerloop.estimators import MetaRegressor, MetaTraining
from innerloop.evaluation import POOLED, Evaluation, evaluate
from innerloop.tasks import TaskSet, check_task_set

# New tasks are imitated by so many tasks of the table.
_TASKS_TRIED = 200


@final
@dataclass(frozen=True)
class Option:
    """Further data, and by how much of the error they would lower it.

    Parameters
    ----------
    what
        In words.
    gain
        Predicted part of the mean squared error on new tasks that would go; negative where it would grow.
    """

    what: str
    gain: float


@final
@dataclass(frozen=True)
class Advice:
    """Recommended rates and adaptation, what they gain, and what would help most.

    Parameters
    ----------
    adaptation
        "none", "gradient" or "ridge".
    inner_lr, adapt_lr
        Rates of the best gradient step, for standardised features.
    mse, mse_se
        Mean squared error on unseen tasks, with its standard error over tasks.
    gain, gain_se
        How far that is below one pooled ridge, paired by task.
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
        return f"{self.verdict} What would help most: {best.what} ({100 * best.gain:.0f} % lower error)."


def advise(tasks: TaskSet, model: MetaRegressor | None = None, tick: Callable[[], None] = lambda: None) -> Advice:
    """Recommend rates for a table, with their gain, and say which further data would help most.

    Parameters
    ----------
    tasks
        A `TaskSet` of at least two tasks.
    model
        A `MetaRegressor` whose parameters are to be used; None is the default one. It is not fitted.
    tick
        Called on the way.

    Returns
    -------
    Advice
        Its string is a sentence or two.
    """
    check_task_set(tasks)
    settings = (MetaRegressor() if model is None else model).settings()
    if len(tasks) < 2:
        raise ValueError("`tasks` must hold at least two tasks: one tells nothing of how tasks differ.")
    training = MetaTraining.prepare(tasks, settings, tick)
    return advice_from(training, evaluate(training, tasks, tick))


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
        "twice as many training tasks": predicted_error(training, n, tasks=2),
        "twice as many rows in every training task": predicted_error(training, n, rows=2),
        "as many training rows, from half the tasks": predicted_error(training, n, tasks=0.5, rows=2),
        "as many training rows, from twice the tasks": predicted_error(training, n, tasks=2, rows=0.5),
        f"{2 * n} rows of a new task to adapt on instead of {n}": predicted_error(training, 2 * n),
    }
    options = [Option(what, 1 - error / now) for what, error in changes.items()]
    return tuple(sorted(options, key=lambda option: -option.gain))


def predicted_error(training: MetaTraining, n_adapt: int, tasks: float = 1.0, rows: float = 1.0) -> float:
    r"""Return the mean squared error on new tasks that the fitted random-effects model predicts.

    .. math:: s^2 (1 + E\, x' C x), \quad C = (I - W X) (\Lambda + S^{-1}) (I - W X)' + W W'

    for the gain W of the adaptation in use, with the rows of the table standing in for those of new tasks, and
    :math:`S = \sum_i f M_i (I + \Lambda f M_i)^{-1} + P` for :math:`M_i = X_i'X_i`, the precision of the population's
    coefficients.

    Parameters
    ----------
    training
        Tasks made ready.
    n_adapt
        Rows a new task adapts on.
    tasks, rows
        Times as many training tasks, and times as many rows f in each of them.
    """
    effects, rule = training.effects, training.predictor.rule
    errors = []
    for k, noise in enumerate(effects.noise):
        population = _population_cov(training, k, tasks, rows)
        errors.append(noise * (1 + _own_error(training.tasks, rule, effects.task_cov[k] + population, n_adapt, k)))
    return float(np.mean(errors))


def _population_cov(training: MetaTraining, target: int, tasks: float, rows: float) -> FloatArray:
    """Return S^-1 relative to the noise; 0 along directions that no task has."""
    spread, p = training.effects.task_cov[target], training.tasks.n_features
    S = np.zeros((p, p))
    for block in row_blocks(training.tasks):
        M = rows * block.X.transpose(0, 2, 1) @ block.X
        S += np.linalg.solve(np.eye(p) + M @ spread, M).sum(axis=0)
    penalised = np.arange(p) < p - training.settings.fit_intercept
    S = tasks * (S + S.T) / 2 + np.diag(training.effects.precision[target] * penalised)
    return np.asarray(np.linalg.pinv(S, rcond=1e-12, hermitian=True))


def _own_error(tasks: TaskSet, rule: Adaptation, spread: FloatArray, n_adapt: int, target: int) -> float:
    """Return E x'Cx over tasks of the table, with `n_adapt` of each one's rows, drawn with replacement."""
    total = []
    chosen = stream(0, 0).permutation(len(tasks))[:_TASKS_TRIED]
    for i in chosen:
        X = tasks.X[tasks.starts[i] : tasks.starts[i + 1]]
        support = X[stream(0, 1, int(i)).integers(len(X), size=n_adapt)]
        C = error_covariance(rule, support[None], np.array([n_adapt]), spread, target)[0]
        total.append(np.einsum("ij,jk,ik->i", X, C, X).mean())
    return float(np.mean(total))

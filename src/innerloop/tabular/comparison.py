"""Errors of adaptation on held-out tasks after several numbers of rows, fold by fold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.seeds import Stream, stream
from innerloop._base.standard_errors import mean_and_error
from innerloop.adaptation.predictor import Predictor
from innerloop.adaptation.random_effects import RandomEffects, Structure, estimate_effects, variance_sample
from innerloop.data.episodes import Episodes
from innerloop.data.tasks import TaskSet
from innerloop.exact.objective import MetaObjective
from innerloop.tabular.intervals import Calibration
from innerloop.tabular.rate_choice import Rates

# Numbers of adaptation rows at which methods are compared and intervals calibrated: a new task may bring any.
SUPPORT_SIZES = (0, 1, 2, 5, 10, 20)
_MOST_SCORED_TASKS = 2_000
# Few tasks are split several times, so that results depend less on the draw of their rows.
_EPISODES = 300
_MOST_SPLITS = 6
# Bounds of the number of rows of a task that are scored, the lower where tasks are many.
_SCORED_ROWS = 20, 200
_MOST_NUMBERS = 2**21
_TINY = np.finfo(float).tiny

# Mean squared errors of tasks, (n_tasks,), by the number of rows they adapted on; tasks that have no more are left out.
Errors = dict[int, FloatArray]
_T = TypeVar("_T")


@final
class Estimates:
    """Random effects of tasks for each structure of their covariance, estimated when first used.

    Parameters
    ----------
    tasks
        In scaled units.
    options
        Of `estimate_effects`.
    similar
        Estimates from similar tasks, to start from.
    """

    def __init__(self, tasks: TaskSet, options: dict[str, Any], similar: Estimates | None = None) -> None:
        self.tasks = tasks
        self._options, self._similar = options, similar
        self._found: dict[Structure, RandomEffects] = {}

    def __call__(self, structure: Structure) -> RandomEffects:
        """Return the estimate with this structure."""
        if structure not in self._found:
            near = self if structure == "full" else self._similar
            start = None if near is None else near("diagonal")
            self._found[structure] = estimate_effects(self.tasks, structure, **self._options, start=start)
        return self._found[structure]


@final
@dataclass(frozen=True, eq=False)
class TrainingPart:
    """Tasks to which a kind of adaptation is fitted: those outside one fold, or all.

    Parameters
    ----------
    objective
        Meta-training loss of gradient steps.
    episodes
        Training episodes, of which the objective is the loss.
    pooled : (n_features, n_targets)
        Coefficients of one ridge over all rows.
    sample
        Tasks that variances and scales are estimated from.
    effects
        Random effects, for each structure of the tasks' covariance.
    """

    objective: MetaObjective = field(repr=False)
    episodes: Episodes
    pooled: FloatArray = field(repr=False)
    sample: TaskSet
    effects: Callable[[Structure], RandomEffects] = field(repr=False)


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """Held-out tasks in folds, with the tasks outside each fold to fit to.

    Parameters
    ----------
    parts
        One a fold.
    held_out
        Training episodes of the tasks of each fold.
    overall
        Random effects of all tasks.
    trials
        By the number of adaptation rows, for every random split of rows: the episodes of each fold.
    deciding
        Numbers of adaptation rows over which kinds of adaptation are compared.
    gradient
        Rates of the best gradient step; NaN where no step is to be tried.
    n_steps
        Gradient steps.
    pooled_l2
        Penalty of one ridge over all rows.
    """

    parts: Sequence[TrainingPart] = field(repr=False)
    held_out: Sequence[Episodes] = field(repr=False)
    overall: Estimates = field(repr=False)
    trials: dict[int, list[list[Episodes]]] = field(repr=False)
    deciding: Sequence[int]
    gradient: Rates
    n_steps: int
    pooled_l2: float

    def errors(self, predictors: Sequence[Predictor], support_sizes: Iterable[int] | None = None) -> Errors:
        """Return the errors of held-out tasks by the predictor of their fold."""
        sizes = self.trials if support_sizes is None else support_sizes
        return {n: self.over_splits(n, predictors, Predictor.mse) for n in sizes}

    def over_splits(self, n: int, fitted: Sequence[_T], mse: Callable[[_T, Episodes], FloatArray]) -> FloatArray:
        """Return errors (..., n_tasks) after n rows, by what was fitted outside the task's fold; means over splits."""
        by_split = []
        for folds in self.trials[n]:
            tasks = np.concatenate([np.unique(episodes.task) for episodes in folds])
            parts = zip(fitted, folds, strict=True)
            errors = np.concatenate([mse(of_part, episodes) for of_part, episodes in parts], axis=-1)
            by_split.append(errors[..., np.argsort(tasks)])
        return np.asarray(np.mean(by_split, axis=0))

    def calibration(self, predictors: Sequence[Predictor], structure: Structure) -> Calibration:
        """Return quantiles of standardised residuals of held-out tasks, for prediction intervals."""
        residuals: dict[int, list[tuple[FloatArray, IntArray]]] = {n: [] for n in self.trials}
        for n, splits in self.trials.items():
            for folds in splits:
                for part, episodes, predictor in zip(self.parts, folds, predictors, strict=True):
                    effects = part.effects(structure)
                    std = np.sqrt(effects.noise * predictor.variance(episodes, effects.new_task_cov))
                    task = np.repeat(episodes.task, episodes.n_query)
                    residuals[n].append((predictor.residuals(episodes) / std, task))
        return Calibration.of(residuals)


def split_tasks(
    tasks: TaskSet, fold: IntArray, support_sizes: Sequence[int], seed: int
) -> dict[int, list[list[Episodes]]]:
    """Return the `trials` of a `Comparison`, for every number of rows that some task exceeds."""
    scored = np.sort(stream(seed, Stream.SCORED_TASKS).permutation(len(tasks))[:_MOST_SCORED_TASKS])
    tasks, fold, n_folds = tasks.select(scored), fold[scored], int(fold.max()) + 1
    trials: dict[int, list[list[Episodes]]] = {n: [] for n in support_sizes if (tasks.sizes > n).any()}
    most_query = int(np.clip(_MOST_NUMBERS // (len(tasks) * tasks.n_features), *_SCORED_ROWS))
    for split in range(min(-(-_EPISODES // len(tasks)), _MOST_SPLITS)):
        order = tasks.shuffled(seed + split)
        for n, splits in trials.items():
            episodes = tasks.hold_out(n, order, most_query)
            splits.append([episodes.select(fold == f) for f in range(n_folds)])
    return trials


def training_sample(tasks: TaskSet, fold: IntArray, f: int, seed: int) -> TaskSet:
    """Return the tasks outside a fold (all where there is one fold) from which variances are estimated."""
    return variance_sample(tasks, seed, fold != f if fold.any() else None)


def within_one_error(errors: FloatArray, best: FloatArray) -> bool:
    """Return whether the mean over tasks exceeds that of the best by at most a standard error, paired over tasks."""
    excess, error = mean_and_error(errors - best)
    return excess <= error


def mean_gain(errors: Errors, others: Errors, deciding: Sequence[int]) -> tuple[float, float]:
    """Return by which part the mean error is below that of the others, and the standard error of that."""
    gains = [np.array(mean_and_error(others[n] - errors[n])) / max(others[n].mean(), _TINY) for n in deciding]
    gain, error = _over_sizes(gains, errors, deciding)
    return float(gain), float(error)


def mean_log_ratio(errors: Errors, others: Errors, deciding: Sequence[int]) -> tuple[float, float]:
    """Return by how much the errors' logarithms are lower, task by task, and the standard error of that."""
    ratios = [np.log(np.maximum(others[n], _TINY) / np.maximum(errors[n], _TINY)) for n in deciding]
    gain, error = _over_sizes([mean_and_error(ratio) for ratio in ratios], errors, deciding)
    return float(gain), float(error)


def log_mean(errors: Errors, deciding: Sequence[int]) -> float:
    """Return the logarithm of the mean error: a geometric mean over numbers of rows."""
    return float(_over_sizes([np.log(max(errors[n].mean(), _TINY)) for n in deciding], errors, deciding))


def _over_sizes(values: Sequence[Any], errors: Errors, deciding: Sequence[int]) -> FloatArray:
    """Return the mean over numbers of rows, weighted by how many tasks have more rows.

    A number of rows that one task alone exceeds is left out, as one task has no standard error.
    """
    counts = np.array([len(errors[n]) for n in deciding])
    used = counts > 1 if (counts > 1).any() else counts > 0
    return np.asarray(np.average(np.array(values)[used], axis=0, weights=counts[used]))

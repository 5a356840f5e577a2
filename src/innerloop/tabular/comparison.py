"""Held-out tasks: the folds that candidates are fitted without, and their residuals after numbers of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.seeds import Stream, stream
from innerloop.adaptation.predictor import Predictor
from innerloop.adaptation.random_effects import RandomEffects, Structure, estimate_effects, update_mean, variance_sample
from innerloop.data.episodes import Episodes
from innerloop.data.tasks import TaskSet
from innerloop.exact.objective import MetaObjective

# Numbers of adaptation rows at which candidates are compared and intervals calibrated: a new task may bring any.
SUPPORT_SIZES = (0, 1, 2, 3, 5, 10, 20)
_MOST_SCORED_TASKS = 2_000
# Few tasks are split several times, so that results depend less on the draw of their rows.
_EPISODES = 300
_MOST_SPLITS = 6
# Bounds of the number of rows of a task that are scored, the lower where tasks are many.
_SCORED_ROWS = 20, 50
_MOST_NUMBERS = 2**21


class Model(NamedTuple):
    """A random-effects model: its covariance's structure, and whether it has the columns of curves."""

    structure: Structure
    is_curved: bool = False


@final
@dataclass(frozen=True, eq=False)
class Terms:
    """The columns of a design: which belong to curves, and whose coefficients may vary between tasks.

    Parameters
    ----------
    curved : (n_columns,)
        Whether a column belongs to a curve; these stand before the intercept.
    varying : (n_columns,)
    intercept
        Whether the last column is the intercept.
    """

    curved: NDArray[np.bool_]
    varying: NDArray[np.bool_]
    intercept: bool

    def columns(self, model: Model) -> IntArray:
        """Return the positions of the columns of a model."""
        return np.flatnonzero(~self.curved | model.is_curved)


@final
class Estimates:
    """Random-effects models of some tasks; each is estimated when first asked for.

    Parameters
    ----------
    tasks
        In scaled units.
    terms
    options
        Of `estimate_effects`.
    similar
        Estimates from similar tasks with the same columns, to start from.
    """

    def __init__(self, tasks: TaskSet, terms: Terms, options: dict[str, Any], similar: Estimates | None = None) -> None:
        self.tasks = tasks
        self._terms, self._options, self._similar = terms, options, similar
        self._found: dict[Model, RandomEffects] = {}

    def __call__(self, model: Model) -> RandomEffects:
        """Return the model's estimates, for all columns."""
        return self._of_columns(model).in_columns(self._terms.columns(model), self.tasks.n_features)

    def widened(self, tasks: TaskSet, terms: Terms) -> Estimates:
        """Return estimates that keep those found, given the same tasks with the columns of curves too."""
        wide = Estimates(tasks, terms, self._options)
        wide._found |= self._found
        return wide

    def of_more(self, tasks: TaskSet, most_tasks: int) -> Estimates:
        """Return estimates from more tasks with the same columns, which start from these.

        Variances are then estimated from at most `most_tasks` of them.
        """
        return Estimates(tasks, self._terms, self._options | {"most_tasks": most_tasks}, self)

    def _of_columns(self, model: Model) -> RandomEffects:
        if model not in self._found:
            columns = self._terms.columns(model)
            n_curves = int(self._terms.curved[columns].sum())
            diagonal, others = model._replace(structure="diagonal"), self._similar
            start, similar = None, None
            if model.structure == "full":
                start = self._of_columns(diagonal)
                similar = None if others is None else (others._of_columns(diagonal), others._of_columns(model))
            elif others is not None:
                start = others._of_columns(model)
            elif model.is_curved:
                start = self._of_columns(model._replace(is_curved=False)).with_curves(n_curves, self._terms.intercept)
            self._found[model] = estimate_effects(
                replace(self.tasks, X=self.tasks.X[:, columns], feature_names=None),
                model.structure,
                **self._options,
                n_curves=n_curves,
                varying=self._terms.varying[columns],
                start=start,
                similar=similar,
            )
        return self._found[model]


@final
class TrainingPart:
    """Tasks to which candidates are fitted: those outside one fold, or all.

    Parameters
    ----------
    estimates
        Random-effects models.
    update
        Estimates mean and noise of a model from all tasks, where the estimates are from a part of them; None: the
        estimates are from all.
    gradient
        Training episodes of gradient steps and the loss of these; None where no candidate takes such steps.
    """

    def __init__(
        self,
        estimates: Estimates,
        options: dict[str, Any],
        update: Callable[[RandomEffects], RandomEffects] | None = None,
        gradient: tuple[Episodes, MetaObjective] | None = None,
    ) -> None:
        self.sample, self.gradient = estimates.tasks, gradient
        self._estimates, self._update = estimates, update
        self._options = {name: options[name] for name in ("intercept", "l2")}
        self._updated: dict[Model, RandomEffects] = {}

    def effects(self, model: Model) -> RandomEffects:
        """Return the estimates of a random-effects model."""
        if self._update is None:
            return self._estimates(model)
        if model not in self._updated:
            self._updated[model] = self._update(self._estimates(model))
        return self._updated[model]

    def pooled_effects(self) -> RandomEffects:
        """Return the model of one ridge over all rows, without covariance of tasks.

        It has the prior of the random-intercept model, with all variance of rows counted as noise.
        """
        effects = self.effects(Model("intercept"))
        noise = 1.0 + effects.task_cov[:, -1, -1]
        same = replace(effects, task_cov=np.zeros_like(effects.task_cov), precision=effects.precision * noise[:, None])
        return update_mean(same, self.sample, **self._options) if self._update is None else self._update(same)


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """Held-out tasks in folds, with the tasks outside each fold to fit to.

    Parameters
    ----------
    parts
        One a fold.
    trials
        By the number of adaptation rows, for every split of rows: the episodes of each fold.
    """

    parts: Sequence[TrainingPart] = field(repr=False)
    trials: dict[int, list[list[Episodes]]] = field(repr=False)

    def residuals(self, fitted: Sequence[Sequence[Predictor]]) -> dict[int, list[Residuals]]:
        """Return the residuals of held-out tasks by several predictors fitted to each part, by rows and split."""
        return {
            n: [
                Residuals(
                    np.concatenate(
                        [
                            np.stack([predictor.residuals(episodes) for predictor in of_part], axis=-1)
                            for of_part, episodes in zip(fitted, folds, strict=True)
                        ]
                    ),
                    np.concatenate([np.repeat(episodes.task, episodes.n_query) for episodes in folds]),
                )
                for folds in splits
            ]
            for n, splits in self.trials.items()
        }


class Residuals(NamedTuple):
    """Residuals of query rows by several predictors, and the task of each row.

    Parameters
    ----------
    values : (n_rows, n_targets, n_predictors)
    task : (n_rows,)
    """

    values: FloatArray
    task: IntArray

    def products(self) -> FloatArray:
        """Return the mean product of any two predictors' residuals over each task's rows and targets.

        Returns
        -------
        (n_tasks, n_predictors, n_predictors)
            Of the tasks that occur, in the order of their numbers.
        """
        tasks, place = np.unique(self.task, return_inverse=True)
        order = np.argsort(place, kind="stable")
        first = np.searchsorted(place[order], np.arange(len(tasks)))
        values = self.values[order]
        by_row = np.einsum("ikp,ikq->ipq", values, values) / values.shape[1]
        return np.asarray(np.add.reduceat(by_row, first) / np.bincount(place)[:, None, None])


def split_tasks(
    tasks: TaskSet, fold: IntArray, support_sizes: Sequence[int], seed: int, *, in_order: bool = False
) -> dict[int, list[list[Episodes]]]:
    """Return the `trials` of a `Comparison`, for every number of rows that some task exceeds.

    Rows are dealt at random, several times where tasks are few; or support rows are the first of each task, and those
    that are scored are drawn from all later ones.
    """
    scored = np.sort(stream(seed, Stream.SCORED_TASKS).permutation(len(tasks))[:_MOST_SCORED_TASKS])
    tasks, fold, n_folds = tasks.select(scored), fold[scored], int(fold.max()) + 1
    trials: dict[int, list[list[Episodes]]] = {n: [] for n in support_sizes if (tasks.sizes > n).any()}
    most_query = int(np.clip(_MOST_NUMBERS // (len(tasks) * tasks.n_features), *_SCORED_ROWS))
    for split in range(1 if in_order else min(-(-_EPISODES // len(tasks)), _MOST_SPLITS)):
        shuffled = tasks.shuffled(seed + split)
        for n, splits in trials.items():
            order = _first_rows_first(tasks, shuffled, n) if in_order else shuffled
            episodes = tasks.hold_out(n, order, most_query)
            splits.append([episodes.select(fold == f) for f in range(n_folds)])
    return trials


def _first_rows_first(tasks: TaskSet, order: IntArray, n: int) -> IntArray:
    """Return an order of rows, task by task, with the first n rows of each task moved to its front."""
    place = np.arange(tasks.n_rows) - tasks.starts[:-1][tasks.task_of_row]
    return order[np.lexsort((np.minimum(place, n)[order], tasks.task_of_row[order]))]


def training_sample(tasks: TaskSet, fold: IntArray, f: int, seed: int) -> TaskSet:
    """Return the tasks outside a fold (all where there is one fold) from which variances are estimated."""
    return variance_sample(tasks, seed, fold != f if fold.any() else None)

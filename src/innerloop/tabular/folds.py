"""Cross-validation over folds of whole tasks: held-out losses of every inner rate and penalty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, final

import numpy as np

from innerloop._base.checks import IntArray, as_positions
from innerloop._base.seeds import Stream, stream
from innerloop.data.episodes import Episodes
from innerloop.data.tasks import TaskSet
from innerloop.exact.objective import MetaObjective
from innerloop.exact.query_loss import bundle_size, bundled_curves, held_out_curves
from innerloop.exact.solve import ridge_candidates
from innerloop.tabular.rate_choice import HeldOut
from innerloop.tabular.settings import Settings

# Multiples of the natural rate that "auto" compares: dense near zero, up to 8 on either side, where the optimum of
# long supports lies by isotropic theory.
INNER_GRID = 8 * np.sinh(np.linspace(-4, 4, 41)) / np.sinh(4)
L2_GRID = np.append(0.0, np.logspace(-4, 2, 7))


def natural_rate(episodes: Episodes) -> float:
    """Return the rate at which one gradient step reduces an isotropic error most, the unit of the search.

    For one support it minimises ``|I - a S|^2`` with ``S = X'X / n``: ``tr S / tr S^2``, about
    1 / (1 + (p + 1) / n) for isotropic unit features. The median over supports is robust to outlying rows.
    """
    ratios = [np.ones(1)]
    for block in episodes.blocks(max_rows=2**14):
        X = block.X_support
        if n := X.shape[1]:
            gram = X @ X.transpose(0, 2, 1) if n <= X.shape[2] else X.transpose(0, 2, 1) @ X
            trace, square = np.einsum("ijk,ijk->i", X, X), np.einsum("ijk,ijk->i", gram, gram)
            ratios.append(n * trace[square > 0] / square[square > 0])
    return float(np.median(np.concatenate(ratios[1:] if len(ratios) > 1 else ratios)))


def folds_as_tasks(tasks: TaskSet, fold: IntArray, settings: Settings) -> tuple[TaskSet, IntArray]:
    """Return folds of rows as tasks, to choose a penalty where there is only one task, and the fold of each.

    `fold` are those of rows where the user gave any, else that of the task.
    """
    if len(fold) > 1:
        parts = TaskSet.from_arrays(tasks.X, tasks.y, fold)
        return parts, np.arange(len(parts))
    rows = stream(settings.seed, Stream.ROW_FOLDS).permutation(np.arange(tasks.n_rows) % 10)
    parts = TaskSet.from_arrays(tasks.X, tasks.y, rows)
    return parts, folds_of_tasks(len(parts), settings)


def folds_of_tasks(n_tasks: int, settings: Settings) -> IntArray:
    """Assign tasks to folds at random: (n_tasks,)."""
    folds = np.arange(n_tasks) % min(settings.n_folds, n_tasks)
    return stream(settings.seed, Stream.TASK_FOLDS).permutation(folds)


def fold_of_rows(splits: Any, X: Any, y: Any, groups: Any) -> IntArray:
    """Return the fold that holds each row out: (n_rows,).

    Parameters
    ----------
    splits
        A splitter of scikit-learn, or pairs of arrays: positions of the training rows, and of the rows held out.
    X, y, groups
        For the splitter; `groups` are the ids of tasks.

    Raises
    ------
    ValueError
        Unless every row is held out once, and the others are training rows then.
    """
    n_rows = len(y)
    fold, pairs = np.full(n_rows, -1), splits.split(X, y, groups) if hasattr(splits, "split") else splits
    n_splits = 0
    for f, pair in enumerate(pairs):
        try:
            train, test = (as_positions(part, "cv", n_rows) for part in pair)
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"`cv` must be a number of folds, a splitter, or pairs of arrays (training rows, rows held out) of "
                f"positions below {n_rows}, got split {f}: {error}"
            ) from None
        if (fold[test] >= 0).any() or not np.array_equal(np.sort(np.append(train, test)), np.arange(n_rows)):
            raise ValueError(
                f"`cv` must hold every row out once and train on all others then, which split {f} does not; take "
                "GroupKFold or the like."
            )
        fold[test], n_splits = f, f + 1
    if n_splits < 2 or (fold < 0).any():
        raise ValueError(
            f"`cv` must make at least two splits that hold every row out once, got {n_splits} which leave "
            f"{int((fold < 0).sum())} of {n_rows} rows out of all tests."
        )
    return fold


def fold_of_tasks(fold: IntArray, tasks: TaskSet) -> IntArray:
    """Return the fold of each task, (n_tasks,), given that of each row; of one task, that of each row.

    Raises
    ------
    ValueError
        If a task lies in several folds.
    """
    if len(tasks) == 1:
        return fold
    of_task = fold[tasks.starts[:-1]]
    divided = np.flatnonzero(fold != of_task[tasks.task_of_row])
    if len(divided):
        name = tasks.ids[tasks.task_of_row[divided[0]]].item()
        raise ValueError(
            f"`cv` divides the rows of group {name!r} among folds, but whole groups are held out; take GroupKFold "
            "or another splitter by groups."
        )
    return np.unique(of_task, return_inverse=True)[1]


@final
@dataclass(frozen=True, eq=False)
class TaskFolds:
    """Folds of tasks, and the meta-training objective of each.

    Parameters
    ----------
    tasks
        In scaled units.
    fold : (n_tasks,)
    episodes
        Of the tasks in training.
    objectives
        One per fold.
    """

    tasks: TaskSet
    fold: IntArray
    episodes: Episodes
    objectives: list[MetaObjective]

    @classmethod
    def of(cls, tasks: TaskSet, fold: IntArray, episodes: Episodes, settings: Settings) -> TaskFolds:
        """Gather the objective of each fold, given the tasks' training episodes."""
        parts = [episodes.select(fold == f) for f in range(fold.max() + 1)]
        return cls(tasks, fold, episodes, [MetaObjective.from_episodes(part, settings.n_steps) for part in parts])

    def training_objectives(self) -> Iterator[MetaObjective]:
        """Yield for every fold the objective of the others (of all tasks where there is one fold)."""
        for held_out in self.objectives:
            yield reduce(add, [other for other in self.objectives if other is not held_out] or self.objectives)

    def training_episodes(self) -> Iterator[Episodes]:
        """Yield for every fold the episodes of the others (of all tasks where there is one fold)."""
        for f in range(len(self.objectives)):
            yield self.episodes.select(self.fold != f) if self.fold.any() else self.episodes


def cross_validate(folds: TaskFolds, episodes: Episodes, settings: Settings, tick: Callable[[], None]) -> HeldOut:
    """Return the losses of every candidate on all rows of held-out tasks."""
    unit, n_tasks, n_steps = natural_rate(episodes), len(folds.tasks), settings.n_steps
    inner = unit * INNER_GRID if settings.inner_lr is None else np.array([settings.inner_lr])
    l2s = L2_GRID if settings.l2 is None else np.array([settings.l2])
    size = bundle_size(np.bincount(folds.fold))
    drawn = stream(settings.seed, Stream.BUNDLES).permutation(n_tasks)
    curves = []
    for f, objective in enumerate(folds.training_objectives()):
        coef = ridge_candidates(objective, inner, l2s).reshape(-1, episodes.n_features, episodes.n_targets)
        if size == 1:
            curves.append(held_out_curves(episodes.select(folds.fold == f), coef, n_steps, unit)[1])
        else:
            held_out = drawn[folds.fold[drawn] == f]
            n_bundles = len(held_out) // size  # remaining tasks are left out
            bundle = np.full(n_tasks, -1)
            bundle[held_out[: n_bundles * size]] = np.arange(n_bundles * size) // size
            curves.append(bundled_curves(episodes, coef, n_steps, unit, bundle, n_bundles))
        tick()
    shape = (-1, len(inner), len(l2s), 2 * n_steps + 1)
    return HeldOut(inner, l2s, unit, np.concatenate(curves).reshape(shape), settings.adapt_lr)

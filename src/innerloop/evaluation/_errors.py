"""Errors of predictions on episodes: after adaptation, and from a task's own rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.ragged import ragged_ranges, row_starts
from innerloop._base.seeds import Stream, stream
from innerloop.adaptation.predictor import Predictor
from innerloop.data.episodes import Episodes
from innerloop.data.tasks import TaskSet

PER_TASK_L2_GRID = np.logspace(-3, 3, 13)
# Of many or long tasks, so many tasks and rows of each are scored over the numbers of adaptation rows.
_MOST_TASKS = 400
_MOST_ROWS = 200
_ROWS_AT_ONCE = 2**16


def rungs(tasks: TaskSet, ladder: Sequence[int], seed: int) -> Iterator[tuple[int, IntArray, Episodes]]:
    """Yield each number of adaptation rows, the tasks that have more rows, and their episodes.

    Every row is scored once, after adaptation on so many others of its task, as `TaskSet.deal` does it.
    """
    some = np.sort(stream(seed, Stream.CURVE_TASKS).permutation(len(tasks))[:_MOST_TASKS])
    short = _shortened(tasks.select(some), seed)
    for n in ladder:
        chosen = np.flatnonzero(short.sizes > n)
        if len(chosen):
            own = short.select(chosen)
            yield n, some[chosen], own.deal(n, seed) if n else _unadapted(own)


def _shortened(tasks: TaskSet, seed: int) -> TaskSet:
    """Return at most `_MOST_ROWS` rows of each task."""
    if (tasks.sizes <= _MOST_ROWS).all():
        return tasks
    sizes = np.minimum(tasks.sizes, _MOST_ROWS)
    rows = tasks.shuffled(seed)[ragged_ranges(tasks.starts[:-1], sizes)]
    return TaskSet(tasks.X[rows], tasks.y[rows], row_starts(sizes), tasks.ids)


def _unadapted(tasks: TaskSet) -> Episodes:
    nothing, everything = np.arange(0), np.arange(tasks.n_rows)
    none = np.zeros(len(tasks), dtype=np.intp)
    return Episodes.from_rows(tasks.X, tasks.y, (nothing, none), (everything, tasks.sizes), np.arange(len(tasks)))


def adapted_errors(episodes: Episodes, predictors: Sequence[Predictor]) -> FloatArray:
    """Return each task's mean squared error, over its query rows and targets: (n_tasks, n_predictors)."""
    y, adapts = _columns(episodes), np.flatnonzero(episodes.n_support)
    rows = episodes.support_rows
    support = TaskSet(episodes.X[rows], y[rows], row_starts(episodes.n_support[adapts]), adapts)
    episode, errors = np.repeat(np.arange(len(episodes)), episodes.n_query), []
    for predictor in predictors:
        theta = np.repeat(predictor.unseen[None], len(episodes), axis=0)
        if len(adapts):
            theta[adapts] = predictor.rule.adapt(predictor.coef, support)
        squares = np.empty(len(episode))
        for i in range(0, len(episode), _ROWS_AT_ONCE):
            part = slice(i, i + _ROWS_AT_ONCE)
            query = episodes.query_rows[part]
            predicted = np.einsum("ij,ijk->ik", episodes.X[query], theta[episode[part]])
            squares[part] = np.square(y[query] - predicted).mean(axis=1)
        errors.append(_over_tasks(episodes, squares))
    return np.stack(errors, axis=1)


def mean_errors(episodes: Episodes, population: FloatArray) -> FloatArray:
    """Return each task's error when its support rows' mean, or without any `population`, is predicted: (n_tasks,)."""
    y, adapts = _columns(episodes), np.flatnonzero(episodes.n_support)
    level = np.repeat(population.reshape(1, -1), len(episodes), axis=0)
    if len(adapts):
        n_support = episodes.n_support[adapts]
        level[adapts] = np.add.reduceat(y[episodes.support_rows], row_starts(n_support)[:-1]) / n_support[:, None]
    left = y[episodes.query_rows] - np.repeat(level, episodes.n_query, axis=0)
    return _over_tasks(episodes, np.square(left).mean(axis=1))


def ridge_errors(episodes: Episodes, intercept: bool) -> FloatArray:
    """Return each task's error when a ridge is fitted to its support rows alone: (n_tasks, len(PER_TASK_L2_GRID))."""
    n_tasks = int(episodes.task.max()) + 1
    total = np.zeros((n_tasks, len(PER_TASK_L2_GRID)))
    for block in episodes.blocks(max_rows=2**12):
        X, y, X_query, error = block.X_support, block.y_support, block.X_query, block.y_query
        n = X.shape[1]
        if intercept and n:
            error = error - y.mean(axis=1, keepdims=True)
            X_query = X_query - X.mean(axis=1, keepdims=True)
            y = y - y.mean(axis=1, keepdims=True)
            X = X - X.mean(axis=1, keepdims=True)
        Xt = X.transpose(0, 2, 1)
        values, vectors = np.linalg.eigh(X @ Xt)
        projected = vectors.transpose(0, 2, 1) @ y
        query = (X_query @ Xt) @ vectors
        for j, l2 in enumerate(PER_TASK_L2_GRID):
            left = error - query @ (projected / (np.maximum(values, 0) + l2 * max(n, 1))[..., None])
            np.add.at(total[:, j], episodes.task[block.members], np.square(left).mean(axis=2).sum(axis=1))
    return np.asarray(total / np.bincount(episodes.task, episodes.n_query)[:, None])


def _columns(episodes: Episodes) -> FloatArray:
    return episodes.y.reshape(len(episodes.y), -1)


def _over_tasks(episodes: Episodes, values: FloatArray) -> FloatArray:
    """Return the means over each task's query rows."""
    task = np.repeat(episodes.task, episodes.n_query)
    return np.asarray(np.bincount(task, values) / np.bincount(task))

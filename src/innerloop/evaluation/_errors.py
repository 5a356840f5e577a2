"""Episodes at several numbers of adaptation rows, and errors of predictions by a task's rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.ragged import ragged_ranges, row_starts
from innerloop._base.seeds import Stream, stream
from innerloop.adaptation.predictor import mean_squares
from innerloop.data.episodes import Episodes
from innerloop.data.tasks import TaskSet

PER_TASK_L2_GRID = np.logspace(-3, 3, 13)
# Learning curves use at most this many tasks, and rows of each.
_MOST_TASKS = 400
_MOST_ROWS = 200


def dealt(tasks: TaskSet, n_support: int, seed: int, in_order: bool) -> Episodes:
    """Return episodes in which every row is a query row once; in order, every row after the first ones.

    A task of no more rows than `n_support` adapts on all its rows but one.
    """
    if not in_order:
        return tasks.deal(n_support, seed)
    support = np.minimum(tasks.sizes - 1, n_support)
    first, query = tasks.starts[:-1], tasks.sizes - support
    support_rows, query_rows = ragged_ranges(first, support), ragged_ranges(first + support, query)
    task, n_tasks = np.arange(len(tasks)), len(tasks)
    rows = (support_rows, support), (query_rows, query)
    return Episodes.from_rows(tasks.X, tasks.y, *rows, task, n_tasks, tasks.weights)


def episodes_by_size(
    tasks: TaskSet, support_sizes: Sequence[int], seed: int, in_order: bool = False
) -> Iterator[tuple[int, IntArray, Episodes]]:
    """Yield each number of support rows, the positions of the tasks that have more rows, and their episodes.

    Every row is a query row once, or, in order, all after the first; see `dealt`. Of many or long tasks a part is used.
    """
    chosen = np.sort(stream(seed, Stream.CURVE_TASKS).permutation(len(tasks))[:_MOST_TASKS])
    short = _shortened(tasks.select(chosen), seed, in_order)
    for n in support_sizes:
        longer = np.flatnonzero(short.sizes > n)
        if len(longer):
            part = short.select(longer)
            yield n, chosen[longer], dealt(part, n, seed, in_order or n == 0)


def _shortened(tasks: TaskSet, seed: int, in_order: bool) -> TaskSet:
    """Return at most `_MOST_ROWS` rows of each task."""
    if (tasks.sizes <= _MOST_ROWS).all():
        return tasks
    sizes = np.minimum(tasks.sizes, _MOST_ROWS)
    order = np.arange(tasks.n_rows) if in_order else tasks.shuffled(seed)
    rows = order[ragged_ranges(tasks.starts[:-1], sizes)]
    weights = None if tasks.weights is None else tasks.weights[rows]
    return TaskSet(tasks.X[rows], tasks.y[rows], row_starts(sizes), tasks.ids, weights=weights)


def mean_errors(episodes: Episodes, population: FloatArray) -> FloatArray:
    """Return each task's mean squared error if the mean of the support rows is predicted: (n_tasks,).

    Episodes without support rows are predicted by the mean `population`.
    """
    y, adapts = episodes.y.reshape(len(episodes.y), -1), np.flatnonzero(episodes.n_support)
    weights = np.ones(len(y)) if episodes.weights is None else episodes.weights
    mean = np.repeat(population.reshape(1, -1), len(episodes), axis=0)
    if len(adapts):
        rows, first = episodes.support_rows, row_starts(episodes.n_support[adapts])[:-1]
        of_rows = weights[rows]
        mean[adapts] = np.add.reduceat(of_rows[:, None] * y[rows], first) / np.add.reduceat(of_rows, first)[:, None]
    error = y[episodes.query_rows] - np.repeat(mean, episodes.n_query, axis=0)
    return mean_squares(episodes, np.sqrt(weights[episodes.query_rows])[:, None] * error)


def ridge_errors(episodes: Episodes, intercept: bool) -> FloatArray:
    """Return each task's mean squared error by ridges fitted to the support rows alone.

    Returns
    -------
    (n_tasks, n_penalties)
        For the penalties `PER_TASK_L2_GRID`.
    """
    n_tasks = int(episodes.task.max()) + 1
    total = np.zeros((n_tasks, len(PER_TASK_L2_GRID)))
    weights = np.ones(len(episodes.y)) if episodes.weights is None else episodes.weights
    for block in episodes.blocks(max_rows=2**12):
        X, y, X_query, error = block.X_support, block.y_support, block.X_query, block.y_query
        n, w, w_query = X.shape[1], weights[block.support][..., None], weights[block.query][..., None]
        if intercept and n:
            X_mean, y_mean = ((w * part).sum(axis=1, keepdims=True) / w.sum(axis=1, keepdims=True) for part in (X, y))
            X, y, X_query, error = X - X_mean, y - y_mean, X_query - X_mean, error - y_mean
        X, y = np.sqrt(w) * X, np.sqrt(w) * y
        Xt = X.transpose(0, 2, 1)
        values, vectors = np.linalg.eigh(X @ Xt)
        projected = vectors.transpose(0, 2, 1) @ y
        query = (X_query @ Xt) @ vectors
        for j, l2 in enumerate(PER_TASK_L2_GRID):
            residual = error - query @ (projected / (np.maximum(values, 0) + l2 * max(n, 1))[..., None])
            residual = np.sqrt(w_query) * residual
            np.add.at(total[:, j], episodes.task[block.members], np.square(residual).mean(axis=2).sum(axis=1))
    return np.asarray(total / np.bincount(episodes.task, episodes.n_query)[:, None])

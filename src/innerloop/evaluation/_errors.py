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


def episodes_by_size(
    tasks: TaskSet, support_sizes: Sequence[int], seed: int
) -> Iterator[tuple[int, IntArray, Episodes]]:
    """Yield each number of support rows, the positions of the tasks that have more rows, and their episodes.

    As `TaskSet.deal` does it, every row is a query row once. Of many or long tasks a random part is used.
    """
    chosen = np.sort(stream(seed, Stream.CURVE_TASKS).permutation(len(tasks))[:_MOST_TASKS])
    short = _shortened(tasks.select(chosen), seed)
    for n in support_sizes:
        longer = np.flatnonzero(short.sizes > n)
        if len(longer):
            part = short.select(longer)
            yield n, chosen[longer], part.deal(n, seed) if n else part.hold_out(0, np.arange(part.n_rows))


def _shortened(tasks: TaskSet, seed: int) -> TaskSet:
    """Return at most `_MOST_ROWS` rows of each task."""
    if (tasks.sizes <= _MOST_ROWS).all():
        return tasks
    sizes = np.minimum(tasks.sizes, _MOST_ROWS)
    rows = tasks.shuffled(seed)[ragged_ranges(tasks.starts[:-1], sizes)]
    return TaskSet(tasks.X[rows], tasks.y[rows], row_starts(sizes), tasks.ids)


def mean_errors(episodes: Episodes, population: FloatArray) -> FloatArray:
    """Return each task's mean squared error if the mean of the support rows is predicted: (n_tasks,).

    Episodes without support rows are predicted by the mean `population`.
    """
    y, adapts = episodes.y.reshape(len(episodes.y), -1), np.flatnonzero(episodes.n_support)
    mean = np.repeat(population.reshape(1, -1), len(episodes), axis=0)
    if len(adapts):
        n_support = episodes.n_support[adapts]
        mean[adapts] = np.add.reduceat(y[episodes.support_rows], row_starts(n_support)[:-1]) / n_support[:, None]
    return mean_squares(episodes, y[episodes.query_rows] - np.repeat(mean, episodes.n_query, axis=0))


def ridge_errors(episodes: Episodes, intercept: bool) -> FloatArray:
    """Return each task's mean squared error by ridges fitted to the support rows alone.

    Returns
    -------
    (n_tasks, n_penalties)
        For the penalties `PER_TASK_L2_GRID`.
    """
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
            residual = error - query @ (projected / (np.maximum(values, 0) + l2 * max(n, 1))[..., None])
            np.add.at(total[:, j], episodes.task[block.members], np.square(residual).mean(axis=2).sum(axis=1))
    return np.asarray(total / np.bincount(episodes.task, episodes.n_query)[:, None])

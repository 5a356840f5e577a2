"""Blocks of tasks of similar size, each task's rows reduced by QR to as few as determine the same moments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.ragged import of_similar_size, padded_rows, ragged_ranges, row_starts
from innerloop.data.tasks import TaskSet

MOST_NUMBERS = 2**22
# Blocks of so many numbers stay in the cache of a core.
IN_CACHE = 2**18


@final
@dataclass(frozen=True, eq=False)
class RowBlock:
    """Rows of some tasks, reduced to at most p + k rows that are not zero, for p features and k targets.

    Reducing a task's rows, ``[X y] -> Q'[X y]`` with orthogonal Q, changes neither ``X'X``, ``X'y`` and ``y'y`` nor
    anything that is computed from them; nor do rows of zeros.

    Parameters
    ----------
    members : (n_members,)
        Positions of the tasks.
    n_rows : (n_members,)
        Number of rows of each task, before it was reduced.
    both : (n_members, n_reduced, n_features + n_targets)
        X and y, side by side.
    n_features
    """

    members: IntArray
    n_rows: IntArray
    both: FloatArray
    n_features: int

    @property
    def X(self) -> FloatArray:
        """Features: (n_members, n_reduced, n_features)."""
        return self.both[..., : self.n_features]

    @property
    def y(self) -> FloatArray:
        """Targets: (n_members, n_reduced, n_targets)."""
        return self.both[..., self.n_features :]


def row_blocks(tasks: TaskSet, most_numbers: int = MOST_NUMBERS) -> Iterator[RowBlock]:
    """Yield all tasks in blocks of at most about `most_numbers` numbers each (or of one task)."""
    for members in _members_of_blocks(tasks, most_numbers):
        both = _padded(tasks, members)
        if both.shape[1] > both.shape[2]:
            both = np.asarray(np.linalg.qr(both, mode="r"))
        yield RowBlock(members, tasks.original_sizes[members], both, tasks.n_features)


def _members_of_blocks(tasks: TaskSet, most_numbers: int) -> Iterator[IntArray]:
    sizes = tasks.sizes
    width = tasks.n_features + (1 if tasks.y.ndim == 1 else tasks.y.shape[1])
    for similar in of_similar_size(sizes):
        # Those who ask for blocks make matrices of p x p of each task.
        step = max(1, most_numbers // (max(int(sizes[similar[-1]]), width) * width))
        for i in range(0, len(similar), step):
            yield similar[i : i + step]


def _padded(tasks: TaskSet, members: IntArray) -> FloatArray:
    """Return the rows [X y] of some tasks, with rows of zeros below those of the shorter ones."""
    sizes = tasks.sizes[members]
    rows = padded_rows(tasks.starts[members], sizes)
    y = np.take(tasks.y, rows, axis=0).reshape(*rows.shape, -1)
    both = np.concatenate((np.take(tasks.X, rows, axis=0), y), axis=2)
    both[np.arange(rows.shape[1]) >= sizes[:, None]] = 0.0
    return both


def reduced(tasks: TaskSet) -> TaskSet:
    """Return the same tasks with at most p + k rows each (see `RowBlock`) and the number of rows they stand for.

    Targets of the result have two dimensions. The rows of every task are a triangle, or the upper part of one: they
    hold its moments, and are not rows of the data.
    """
    p, n_targets = tasks.n_features, tasks.y[:1].size
    starts = row_starts(np.minimum(tasks.sizes, p + n_targets))
    X, y = np.empty((starts[-1], p)), np.empty((starts[-1], n_targets))
    for members in _members_of_blocks(tasks, IN_CACHE):
        sizes = np.diff(starts)[members]
        rows = ragged_ranges(starts[members], sizes)
        place = np.repeat(np.arange(len(sizes)), sizes), ragged_ranges(np.zeros_like(sizes), sizes)
        # Rows of zeros below those of a task stay zero.
        triangle = np.asarray(np.linalg.qr(_padded(tasks, members), mode="r"))[place]
        X[rows], y[rows] = triangle[:, :p], triangle[:, p:]
    return TaskSet(X, y, starts, tasks.ids, tasks.feature_names, tasks.original_sizes)

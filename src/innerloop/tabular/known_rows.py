"""The rows by which known tasks adapted, as far as the accuracy of their coefficients depends on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.ragged import ragged_ranges, row_starts
from innerloop.data.row_blocks import row_blocks
from innerloop.data.tasks import TaskSet


@final
@dataclass(frozen=True, eq=False)
class KnownRows:
    """Tasks' rows, turned (see `RowBlock`) so that no task has more than it has features and targets.

    Parameters
    ----------
    X : (n_turned, n_features)
        Tasks one after the other.
    y : (n_turned, n_targets)
    starts : (n_tasks + 1,)
        Task i holds the rows ``starts[i]:starts[i + 1]``.
    n_rows : (n_tasks,)
        How many rows each had.
    """

    X: FloatArray = field(repr=False)
    y: FloatArray = field(repr=False)
    starts: IntArray
    n_rows: IntArray

    @classmethod
    def of(cls, tasks: TaskSet) -> KnownRows:
        """Turn the rows of tasks."""
        p, n_targets = tasks.n_features, tasks.y[:1].size
        starts = row_starts(np.minimum(tasks.sizes, p + n_targets))
        X, y = np.empty((starts[-1], p)), np.empty((starts[-1], n_targets))
        for block in row_blocks(tasks):
            own = np.diff(starts)[block.members]
            rows = ragged_ranges(starts[block.members], own)
            place = np.repeat(np.arange(len(own)), own), ragged_ranges(np.zeros_like(own), own)
            X[rows], y[rows] = block.X[place], block.y[place]
        return cls(X, y, starts, tasks.sizes)

    def take(self, order: IntArray) -> KnownRows:
        """Return some tasks, in this order."""
        sizes = np.diff(self.starts)[order]
        rows = ragged_ranges(self.starts[:-1][order], sizes)
        return KnownRows(self.X[rows], self.y[rows], row_starts(sizes), self.n_rows[order])

    def __add__(self, other: KnownRows) -> KnownRows:
        starts = np.concatenate((self.starts, self.starts[-1] + other.starts[1:]))
        X, y, n_rows = (np.concatenate((getattr(self, n), getattr(other, n))) for n in ("X", "y", "n_rows"))
        return KnownRows(X, y, starts, n_rows)

    def as_tasks(self) -> TaskSet:
        """Return the rows as tasks."""
        return TaskSet(self.X, self.y, self.starts, np.arange(len(self.n_rows)))

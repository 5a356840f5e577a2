"""The rows by which known tasks adapted, as far as the accuracy of their coefficients depends on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from innerloop._checks import FloatArray, IntArray
from innerloop._task_rows import row_blocks
from innerloop.episodes import ragged_ranges, row_starts
from innerloop.tasks import TaskSet


@final
@dataclass(frozen=True, eq=False)
class KnownRows:
    """Features of tasks' rows, turned (see `RowBlock`) so that no task has more than it has features.

    Parameters
    ----------
    X : (n_turned, n_features)
        Tasks one after the other.
    starts : (n_tasks + 1,)
        Task i holds the rows ``starts[i]:starts[i + 1]``.
    n_rows : (n_tasks,)
        How many rows each had.
    """

    X: FloatArray = field(repr=False)
    starts: IntArray
    n_rows: IntArray

    @classmethod
    def of(cls, tasks: TaskSet) -> KnownRows:
        """Turn the rows of tasks."""
        p, n_targets = tasks.n_features, tasks.y[:1].size
        blocks = list(row_blocks(tasks))
        kept = np.empty(len(tasks), dtype=np.intp)
        for block in blocks:
            is_turned = block.X.shape[1] == p + n_targets  # what is below the first p rows is then zero
            kept[block.members] = p if is_turned else block.n_rows
        starts = row_starts(kept)
        X = np.empty((starts[-1], p))
        for block in blocks:
            own = kept[block.members]
            member = np.repeat(np.arange(len(own)), own)
            place = ragged_ranges(np.zeros_like(own), own)
            X[ragged_ranges(starts[block.members], own)] = block.X[member, place]
        return cls(X, starts, tasks.sizes)

    def take(self, order: IntArray) -> KnownRows:
        """Return some tasks, in this order."""
        sizes = np.diff(self.starts)[order]
        rows = ragged_ranges(self.starts[:-1][order], sizes)
        return KnownRows(self.X[rows], row_starts(sizes), self.n_rows[order])

    def __add__(self, other: KnownRows) -> KnownRows:
        starts = np.concatenate((self.starts, self.starts[-1] + other.starts[1:]))
        return KnownRows(np.concatenate((self.X, other.X)), starts, np.concatenate((self.n_rows, other.n_rows)))

    def as_tasks(self) -> TaskSet:
        """Return the rows as tasks, without targets."""
        return TaskSet(self.X, np.zeros(len(self.X)), self.starts, np.arange(len(self.n_rows)))

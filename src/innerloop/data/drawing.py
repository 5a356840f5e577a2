"""The sample of tasks that choices are made on, drawn from chunks of rows in any order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.ragged import row_starts
from innerloop.data.fragments import Table
from innerloop.data.ids import comparable
from innerloop.data.population import SampleSize, canonical_order
from innerloop.data.tasks import TaskSet
from innerloop.data.words import Words, draws


class DrawnRows(NamedTuple):
    """Rows whose tasks may be in the sample.

    Parameters
    ----------
    drawn : (n_rows,)
        The draw of each row's task.
    ids : (n_rows,)
    values : (n_rows, n_features + n_targets)
    n_left_out
        1 if there were rows of other tasks, else 0.
    """

    drawn: Words
    ids: NDArray[Any]
    values: FloatArray
    n_left_out: int

    def joined(self, other: DrawnRows) -> DrawnRows:
        """Return the rows of both."""
        ids, more = comparable(self.ids, other.ids)
        return DrawnRows(
            np.concatenate((self.drawn, other.drawn)),
            np.concatenate((ids, more)),
            np.concatenate((self.values, other.values)),
            max(self.n_left_out, other.n_left_out),
        )


@final
@dataclass(frozen=True)
class Draw:
    """How tasks are drawn: by the mixed words of their ids, the lowest first.

    The highest draw that is still in falls as rows come. Of a task that ends in the sample no row was left out before:
    so parts of a table can be drawn from in any order, and apart.
    """

    seed: int
    size: SampleSize

    def rows(self, words: Words, ids: NDArray[Any], values: FloatArray) -> DrawnRows:
        """Return those of some rows whose tasks may be in the sample."""
        return self.lowest(DrawnRows(draws(words, self.seed), ids, values, 0))

    def lowest(self, rows: DrawnRows) -> DrawnRows:
        """Return rows without those of tasks that are not in the sample, whatever is still to come."""
        distinct, n_rows = np.unique(rows.drawn, return_counts=True)
        if len(distinct) <= self.size.most_tasks and not rows.n_left_out:
            return rows
        n = self.size.n_tasks(n_rows * rows.values.shape[1])
        if n >= len(distinct) - 1:  # one more, as equal words may be those of several tasks
            return rows
        kept = rows.drawn <= distinct[n]
        return DrawnRows(rows.drawn[kept], rows.ids[kept], rows.values[kept], 1)

    def tasks(self, rows: DrawnRows, table: Table, is_text: bool) -> tuple[TaskSet, bool]:
        """Return the sample, and whether the table has more tasks, given the lowest of all rows.

        `is_text`: whether an id of the table is text, as whole numbers among the ids then are too.
        """
        distinct, task, chosen, is_part = self.chosen(rows, is_text)
        return in_order(distinct, task, rows.values, table).select(chosen), is_part

    def chosen(self, rows: DrawnRows, is_text: bool) -> tuple[NDArray[Any], IntArray, IntArray, bool]:
        """Return the ids of tasks, the position of each row's, positions of the sample, and whether there are more."""
        ids = rows.ids.astype(np.str_) if is_text else rows.ids
        distinct, first, task = np.unique(ids, return_index=True, return_inverse=True)
        numbers = np.bincount(task, minlength=len(distinct)) * rows.values.shape[1]
        chosen = self.size.choose(rows.drawn[first], numbers, bool(rows.n_left_out))
        return distinct, task, chosen, bool(rows.n_left_out) or len(chosen) < len(distinct)


def in_order(ids: NDArray[Any], task: NDArray[Any], values: FloatArray, table: Table) -> TaskSet:
    """Return the tasks with these ids, given the position of each row's; rows get their canonical order."""
    p, end = len(table.feature_names), len(table.feature_names) + len(table.targets)
    order = canonical_order(task, *values[:, p:].T, *values[:, :p].T)
    values = np.take(values, order, axis=0)
    values += 0.0  # zeros lose their sign
    X, y = (np.ascontiguousarray(values[:, part]) for part in (slice(p), p if table.single_target else slice(p, end)))
    starts = row_starts(np.bincount(task, minlength=len(ids)))
    weights = None if table.weights is None else np.ascontiguousarray(values[:, end])
    return TaskSet(X, y, starts, ids, table.feature_names, column_map=table.encoding, weights=weights)

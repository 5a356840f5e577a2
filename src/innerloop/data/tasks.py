"""The rows of many tasks, and their split into support and query rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from innerloop._base.checks import FloatArray, IntArray, as_count, as_matrix, as_positions, as_targets, as_weights
from innerloop._base.ragged import ragged_ranges, row_starts
from innerloop.data.episodes import Episodes, Protocol
from innerloop.data.ids import distinct_ids
from innerloop.data.shuffle import RowContents, order_of_contents

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrame

    from innerloop.data.columns import ColumnMap, Columns


def check_task_set(tasks: object) -> None:
    """Refuse what is no `TaskSet`, and say how to make one."""
    if not isinstance(tasks, TaskSet):
        raise TypeError(
            f"`tasks` must be a TaskSet, got {type(tasks).__name__}; make one with "
            "TaskSet.from_table(frame, group=..., target=...) or TaskSet.from_arrays(X, y, groups)."
        )


@final
@dataclass(frozen=True, eq=False, repr=False)
class TaskSet:
    """Rows of many tasks, of any sizes, kept together task by task.

    Make one with `from_arrays` or `from_table`.

    Parameters
    ----------
    X : (n_rows, n_features)
        Features, the tasks one after the other.
    y : (n_rows,) or (n_rows, n_targets)
        Targets.
    starts : (n_tasks + 1,)
        Task i holds the rows ``starts[i]:starts[i + 1]``.
    ids : (n_tasks,)
        Task ids: whole numbers where all of them are, else text. `from_arrays` and `from_table` sort them; `select`
        keeps the order in which it is asked.
    feature_names
        Names of the columns of X, where they have names.
    reduced_from : (n_tasks,) or None
        Number of rows that each task had before `innerloop.data.row_blocks.reduced` replaced them by fewer; None: the
        rows are the task's own.
    columns
        What X was encoded from, where that took estimates that other rows would change.
    column_map
        How it was encoded.
    weights : (n_rows,) or None
        Precisions of the rows, above 0: a row of weight w has noise of 1 / w times the variance. None: all are equal.

    Examples
    --------
    >>> import innerloop as il
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"school": ["b", "b", "a"], "hours": [1.0, 2.0, 3.0], "score": [4.0, 5.0, 6.0]})
    >>> tasks = il.TaskSet.from_table(frame, group="school", target="score")
    >>> tasks.ids, tasks.sizes, tasks.feature_names
    (array(['a', 'b'], dtype='<U1'), array([1, 2]), ('hours',))
    >>> il.TaskSet.from_arrays([[1.0], [2.0], [3.0]], [4.0, 5.0, 6.0], ["b", "b", "a"]).ids
    array(['a', 'b'], dtype='<U1')
    """

    X: FloatArray
    y: FloatArray
    starts: IntArray
    ids: NDArray[Any]
    feature_names: tuple[str, ...] | None = None
    reduced_from: IntArray | None = None
    columns: Columns | None = None
    column_map: ColumnMap | None = None
    weights: FloatArray | None = None

    @classmethod
    def from_arrays(
        cls,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike,
        feature_names: Sequence[str] | None = None,
        weights: ArrayLike | None = None,
        *,
        copy: bool = True,
    ) -> TaskSet:
        """Group rows by task.

        Parameters
        ----------
        X : (n_rows, n_features)
            Features, any numeric dtype.
        y : (n_rows,) or (n_rows, n_targets)
            Targets, any numeric dtype.
        groups : (n_rows,)
            Task id of each row: numbers, text or dates. Whole numbers are the same ids as numbers and as text: 12,
            12.0 and "12"; `innerloop.data.ids` says the rule.
        feature_names
            Names for messages and reports.
        weights : (n_rows,)
            Precisions of the rows; see `TaskSet`. Rows of weight 0 are left out.
        copy
            False: rows that come task by task, in the order of the ids, stay where they are.

        Raises
        ------
        TypeError, ValueError
            If something is not a number, is missing, or differs in length, or a weight is negative.
        """
        names = tuple(feature_names) if feature_names is not None else None
        matrix = as_matrix(X, "X", names)
        if len(matrix) == 0:
            raise ValueError(f"`X` must have at least one row, got shape {matrix.shape}.")
        if names is not None and len(names) != matrix.shape[1]:
            raise ValueError(f"`feature_names` must name {matrix.shape[1]} features, got {len(names)}.")
        targets = as_targets(y, "y", len(matrix))
        of_rows = None
        if weights is not None:
            of_rows = as_weights(weights, "weights", len(matrix))
            used = np.flatnonzero(of_rows)
            matrix, targets, groups, of_rows = matrix[used], targets[used], np.asarray(groups)[used], of_rows[used]
        ids, task = distinct_ids(groups, "groups", len(matrix))
        starts = row_starts(np.bincount(task, minlength=len(ids)))
        if not copy and (task[1:] >= task[:-1]).all():
            return cls(np.ascontiguousarray(matrix), targets, starts, ids, names, weights=of_rows)
        order = np.argsort(task, kind="stable")
        of_rows = None if of_rows is None else of_rows[order]
        return cls(np.take(matrix, order, axis=0), targets[order], starts, ids, names, weights=of_rows)

    @classmethod
    def from_table(
        cls,
        frame: IntoDataFrame,
        group: str,
        target: str | Sequence[str],
        features: Sequence[str] | None = None,
        drop: Sequence[str] = (),
        weights: str | None = None,
    ) -> TaskSet:
        """Group the rows of a data frame by task.

        Columns may be of any kind. Text and categories become columns of 0 and 1, dates days; missing values are set to
        the median, with a column that says where. Columns that number the rows or the groups are left out, as are rows
        without target; a warning says so. ``column_map.notes`` says all that was done.

        Parameters
        ----------
        frame
            Any eager data frame that narwhals knows: pandas, polars, pyarrow, modin, ...
        group
            Name of the column with the task ids.
        target
            Name of the target column, or names for several targets. Two different texts are read as 0 and 1.
        features
            Names of the feature columns, used whatever they look like; None takes all the others.
        drop
            Names of columns to leave out.
        weights
            Name of a column with the precisions of the rows; see `TaskSet`. Rows of weight 0, or of none, are left out.

        Raises
        ------
        TypeError, ValueError
            If a column does not exist, or cells cannot be read; one message names all such columns.
        """
        from innerloop.data.task_table import read_task_rows

        rows = read_task_rows(frame, group, target, features, drop, weights=weights)
        tasks = cls.from_columns(rows.columns, rows.y, rows.ids, rows.task, rows.weights)
        if notes := (*rows.notes, *rows.columns.notes):
            warnings.warn(f"{'; '.join(notes)}.", UserWarning, stacklevel=2)
        return tasks

    @classmethod
    def from_columns(
        cls, columns: Columns, y: FloatArray, ids: NDArray[Any], task: IntArray, weights: FloatArray | None = None
    ) -> TaskSet:
        """Group rows by task, and fit a map from their columns to features.

        Parameters
        ----------
        columns
            Features as read from a table.
        y : (n_rows,) or (n_rows, n_targets)
        ids : (n_tasks,)
            Distinct ids, sorted.
        task : (n_rows,)
            Position of each row's id.
        weights : (n_rows,)
            Above 0.
        """
        order = np.argsort(task, kind="stable")
        starts = row_starts(np.bincount(task, minlength=len(ids)))
        tasks = cls(
            np.empty((len(y), 0)),
            y[order],
            starts,
            ids,
            (),
            columns=columns.take(order),
            weights=None if weights is None else weights[order],
        ).fit_columns()
        assert tasks.column_map is not None
        return tasks if tasks.column_map.estimates else replace(tasks, columns=None)

    def fit_columns(self) -> TaskSet:
        """Return the same tasks with the map from columns to features estimated on their rows.

        For honest errors on unseen tasks: do so for the training tasks of a fold, and `encode` the others by that map.
        """
        if self.columns is None:
            return self
        from innerloop.data.columns import ColumnMap

        return self.encode(ColumnMap.fit(self.columns, self.task_of_row))

    def encode(self, column_map: ColumnMap | None) -> TaskSet:
        """Return the same tasks with the features that a map fitted on others gives."""
        if self.columns is None or column_map is None:
            return self
        X = column_map.transform(self.columns)
        return replace(self, X=X, feature_names=column_map.feature_names, column_map=column_map)

    def __repr__(self) -> str:
        return (
            f"TaskSet(n_tasks={len(self)}, n_rows={self.n_rows}, n_features={self.n_features}, "
            f"n_targets={1 if self.y.ndim == 1 else self.y.shape[1]})"
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[Any, FloatArray, FloatArray]]:
        """Yield (id, X, y) task by task."""
        for i, task_id in enumerate(self.ids.tolist()):
            rows = slice(self.starts[i], self.starts[i + 1])
            yield task_id, self.X[rows], self.y[rows]

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(self.ids)

    @property
    def n_rows(self) -> int:
        """Number of rows of all tasks together."""
        return len(self.X)

    @property
    def n_features(self) -> int:
        """Number of feature columns."""
        return int(self.X.shape[1])

    @property
    def sizes(self) -> IntArray:
        """Number of rows of each task: (n_tasks,)."""
        return np.diff(self.starts)

    @property
    def original_sizes(self) -> IntArray:
        """Number of rows that each task's rows stand for; `sizes` unless the tasks were reduced: (n_tasks,)."""
        return self.sizes if self.reduced_from is None else self.reduced_from

    @property
    def task_of_row(self) -> IntArray:
        """Index of the task of each row: (n_rows,)."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def select(self, tasks: ArrayLike) -> TaskSet:
        """Return some of the tasks, whose rows may be views of these.

        Parameters
        ----------
        tasks
            Positions (order and repeats are kept, negative ones count from the end), or one bool per task: as numpy.

        Raises
        ------
        TypeError, ValueError, IndexError
            If `tasks` is neither, holds too few or too many bools, or a position that is not there.
        """
        chosen = as_positions(tasks, "tasks", len(self))
        if len(chosen) == len(self) and (chosen == np.arange(len(self))).all():
            return self
        sizes = self.starts[chosen + 1] - self.starts[chosen]
        rows: slice | IntArray
        if len(chosen) and (np.diff(chosen) == 1).all():
            rows = slice(self.starts[chosen[0]], self.starts[chosen[-1] + 1])
            X = self.X[rows]  # no copies
        else:
            rows = ragged_ranges(self.starts[chosen], sizes)
            X = np.take(self.X, rows, axis=0)  # faster than an index
        original = None if self.reduced_from is None else self.reduced_from[chosen]
        columns = None if self.columns is None else self.columns.take(rows)
        weights = None if self.weights is None else self.weights[rows]
        return TaskSet(
            X,
            self.y[rows],
            row_starts(sizes),
            self.ids[chosen],
            self.feature_names,
            original,
            columns,
            self.column_map,
            weights,
        )

    def whitened(self) -> TaskSet:
        """Return the tasks with rows, a column of ones among them, multiplied by the roots of their weights.

        Rows then have equal noise, and no weights.
        """
        if self.weights is None:
            return self
        root = np.sqrt(self.weights)
        return replace(self, X=self.X * root[:, None], y=(self.y.T * root).T, weights=None)

    def sorted_by(self, feature: int) -> TaskSet:
        """Return the tasks with the rows of each in the order of a feature; equal rows keep theirs."""
        order = np.lexsort((self.X[:, feature], self.task_of_row))
        columns = None if self.columns is None else self.columns.take(order)
        weights = None if self.weights is None else self.weights[order]
        return replace(self, X=self.X[order], y=self.y[order], columns=columns, weights=weights)

    def split(self, n_support: int | None = None, n_query: int | None = None, seed: int = 0) -> Episodes:
        """Draw one episode per task: support rows to adapt on, and other rows to score.

        Which rows are drawn depends on the seed, the task's id and its rows only: not on the order of the
        rows in the file, nor on the units, signs and order of the features, nor on the other tasks.

        Parameters
        ----------
        n_support, n_query
            Rows per task. None takes all the rows that the other leaves; one of the two must be given.
        seed
            Any whole number from 0.

        Raises
        ------
        ValueError
            If a task has too few rows.
        """
        if n_support is None and n_query is None:
            raise ValueError("one of `n_support` and `n_query` must be a number; None means all other rows.")
        given = [("n_support", n_support), ("n_query", n_query)]
        asked = [1 if n is None else as_count(n, name) for name, n in given]
        sizes = self.sizes
        if (sizes < sum(asked)).any():
            small = int(np.argmax(sizes < sum(asked)))
            raise ValueError(
                f"task {self.ids[small].item()!r} has {sizes[small]} row(s), too few for a split into at "
                f"least {asked[0]} support and {asked[1]} query rows; ask for fewer rows or leave out small "
                "tasks."
            )
        support = sizes - asked[1] if n_support is None else np.full(len(self), asked[0])
        query = sizes - support if n_query is None else np.full(len(self), asked[1])
        order = self.shuffled(seed)
        return Episodes.from_rows(
            self.X,
            self.y,
            (order[ragged_ranges(self.starts[:-1], support)], support),
            (order[ragged_ranges(self.starts[:-1] + support, query)], query),
            np.arange(len(self)),
            len(self),
            self.weights,
        )

    def hold_out(self, n_support: int, order: IntArray, most_query: int | None = None) -> Episodes:
        """Return one episode of every task that has more than `n_support` rows.

        Parameters
        ----------
        n_support
            The first rows of a task that are support, from 0.
        order : (n_rows,)
            Of the rows, task by task; see `shuffled`.
        most_query
            Query rows of a task, at most: those that follow. None: all the others.

        Returns
        -------
        Episodes
            Whose `task` are positions among these tasks.
        """
        chosen = np.flatnonzero(self.sizes > n_support)
        first, n_query = self.starts[chosen], self.sizes[chosen] - n_support
        if most_query is not None:
            n_query = np.minimum(n_query, most_query)
        support = np.full(len(chosen), n_support)
        return Episodes.from_rows(
            self.X,
            self.y,
            (order[ragged_ranges(first, support)], support),
            (order[ragged_ranges(first + n_support, n_query)], n_query),
            chosen,
            len(self),
            self.weights,
        )

    def deal(self, n_support: int | None = None, seed: int = 0) -> Episodes:
        """Deal each task into several episodes, so that every row is a query row exactly once.

        A task's rows, in shuffled order, are cut into consecutive folds; the support of a fold is the
        `n_support` rows that follow it, the last fold being followed by the first. A fold holds about as
        many rows as the support, so that each row also supports about once.

        Parameters
        ----------
        n_support
            Support rows per episode, at most the task's rows but one. None: `default_support`.
        seed
            Any whole number from 0; see `split`.

        Notes
        -----
        A task of one row becomes one episode without support rows: nothing to adapt on.
        """
        sizes = self.sizes
        wanted = self.default_support() if n_support is None else as_count(n_support, "n_support")
        support = np.minimum(np.maximum(sizes - 1, 0), wanted)
        n_folds = np.maximum(np.rint(sizes / np.maximum(support, 1)), -(-sizes // (sizes - support)))
        n_folds = n_folds.astype(np.intp)
        task = np.repeat(np.arange(len(self)), n_folds)
        fold = np.arange(len(task)) - np.repeat(row_starts(n_folds)[:-1], n_folds)
        first = fold * sizes[task] // n_folds[task]
        end = (fold + 1) * sizes[task] // n_folds[task]
        order = self.shuffled(seed)
        offset = ragged_ranges(end, support[task]) % np.repeat(sizes[task], support[task])
        return Episodes.from_rows(
            self.X,
            self.y,
            (order[offset + np.repeat(self.starts[task], support[task])], support[task]),
            (order[ragged_ranges(self.starts[task] + first, end - first)], end - first),
            task,
            len(self),
            self.weights,
        )

    def episodes(
        self, protocol: Protocol, n_support: int | None = None, n_query: int | None = None, seed: int = 0
    ) -> Episodes:
        """Return the episodes of a protocol.

        Parameters
        ----------
        protocol
            "split" and "deal": those methods. "train": all rows of a task support and score it. "leave-one-out": every
            row scores its task after adaptation on all others, so that a task of n rows has n episodes.
        n_support, n_query, seed
            As in `split`; the protocols "train" and "leave-one-out" take none.
        """
        if protocol == "split":
            return self.split(n_support, n_query, seed)
        if protocol == "deal":
            return self.deal(n_support, seed)
        sizes, rows = self.sizes, np.arange(self.n_rows)
        if protocol == "train":
            every = rows, sizes
            return Episodes.from_rows(self.X, self.y, every, every, np.arange(len(self)), len(self), self.weights)
        task = self.task_of_row
        others = ragged_ranges(self.starts[task], sizes[task])
        others = others[others != np.repeat(rows, sizes[task])]
        support, query = (others, sizes[task] - 1), (rows, np.ones_like(rows))
        return Episodes.from_rows(self.X, self.y, support, query, task, len(self), self.weights)

    def default_support(self) -> int:
        """Return the usual number of support rows: half the median task, at least 1 and at most 10."""
        return int(np.clip(np.median(self.sizes) // 2, 1, 10))

    def with_derived(self, X: FloatArray) -> TaskSet:
        """Return the same tasks with columns that follow from these, so that their rows are shuffled alike."""
        tasks = replace(self, X=X, feature_names=None)
        tasks.__dict__["_derived_from"] = self
        return tasks

    @cached_property
    def _derived_from(self) -> TaskSet | None:
        """The tasks that these have further columns of."""
        return None

    @cached_property
    def _contents(self) -> RowContents:
        source = self._derived_from
        return RowContents(*self._columns(), self.starts) if source is None else source._contents

    @cached_property
    def _orders(self) -> dict[int, IntArray]:
        """Orders that `shuffled` has made, by seed."""
        return {}

    def shuffled(self, seed: int) -> IntArray:
        """Return an order of all rows, task by task, that is shuffled within each; see `split`."""
        if seed not in self._orders:
            order = self._contents.shuffled(self.ids, seed)
            order.flags.writeable = False  # it serves again
            self._orders[seed] = order
        return self._orders[seed]

    def nameless(self) -> TaskSet:
        """Return the same tasks with numbers for ids that follow from the tasks' contents, whatever they are called.

        What is drawn for these ids depends neither on names nor on the order of names; see
        `innerloop.data.shuffle.order_of_contents`.
        """
        return replace(self, ids=order_of_contents(*self._columns(), self.starts))

    def _columns(self) -> tuple[list[FloatArray], list[FloatArray]]:
        weights = [] if self.weights is None else [self.weights]
        return [*np.atleast_2d(self.y.T), *weights], list(self.X.T)


def check_unweighted(tasks: TaskSet | Episodes, what: str) -> None:
    """Refuse weights of rows where they would have no effect; `what` takes none."""
    if tasks.weights is not None:
        raise ValueError(f"{what} takes no weights of rows, and these rows have some; make the tasks without.")


def as_episodes(
    tasks: TaskSet | Episodes, n_support: int | None = None, n_query: int | None = None, seed: int = 0
) -> Episodes:
    """Return episodes of a task set, dealt (without `n_query`) or split; return episodes unchanged."""
    if isinstance(tasks, TaskSet):
        return tasks.deal(n_support, seed) if n_query is None else tasks.split(n_support, n_query, seed)
    if not isinstance(tasks, Episodes):
        raise TypeError(
            f"`tasks` must be a TaskSet or Episodes, got {type(tasks).__name__}; make a TaskSet with "
            "TaskSet.from_table(frame, group=..., target=...), or Episodes with Episodes([...])."
        )
    if n_support is not None or n_query is not None:
        raise ValueError("`n_support` and `n_query` are sizes of episodes still to be made of a TaskSet; got Episodes.")
    return tasks

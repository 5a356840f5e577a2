"""Tasks and episodes: the rows of many tasks, and their split into support and query rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from innerloop._checks import FloatArray, IntArray, as_count, as_labels, as_matrix, as_targets
from innerloop._random import shuffled_order

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrame

Episode = tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]


def _starts(sizes: IntArray) -> IntArray:
    """Return where each run of rows starts, and the end of the last: (n + 1,)."""
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.intp)


def ragged_ranges(first: IntArray, sizes: IntArray) -> IntArray:
    """Return range(first[0], first[0] + sizes[0]), then the next range, and so on, as one array."""
    return np.repeat(first - _starts(sizes)[:-1], sizes) + np.arange(int(sizes.sum()))


@final
@dataclass(frozen=True, eq=False)
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
        Task ids, sorted.
    feature_names
        Names of the columns of X, where they have names.
    """

    X: FloatArray = field(repr=False)
    y: FloatArray = field(repr=False)
    starts: IntArray = field(repr=False)
    ids: NDArray[Any]
    feature_names: tuple[str, ...] | None = field(default=None, repr=False)

    @classmethod
    def from_arrays(
        cls,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike,
        feature_names: Sequence[str] | None = None,
    ) -> TaskSet:
        """Group rows by task.

        Parameters
        ----------
        X : (n_rows, n_features)
            Features, any numeric dtype.
        y : (n_rows,) or (n_rows, n_targets)
            Targets, any numeric dtype.
        groups : (n_rows,)
            Task id of each row, all numbers or all text.
        feature_names
            Names for messages and reports.

        Raises
        ------
        TypeError, ValueError
            If something is not a number, is missing, or differs in length.
        """
        names = tuple(feature_names) if feature_names is not None else None
        matrix = as_matrix(X, "X", names)
        if matrix.shape[0] == 0 or matrix.shape[1] == 0:
            raise ValueError(f"`X` must have at least one row and one feature, got shape {matrix.shape}.")
        if names is not None and len(names) != matrix.shape[1]:
            raise ValueError(f"`feature_names` must name {matrix.shape[1]} features, got {len(names)}.")
        targets = as_targets(y, "y", len(matrix))
        ids, task = np.unique(as_labels(groups, "groups", len(matrix)), return_inverse=True)
        order = np.argsort(task, kind="stable")
        sizes = np.bincount(task, minlength=len(ids))
        return cls(matrix[order], targets[order], _starts(sizes), ids, names)

    @classmethod
    def from_table(
        cls,
        frame: IntoDataFrame,
        group: str,
        target: str | Sequence[str],
        features: Sequence[str] | None = None,
    ) -> TaskSet:
        """Group the rows of a data frame by task.

        Parameters
        ----------
        frame
            Any eager data frame that narwhals knows: pandas, polars, pyarrow, modin, ...
        group
            Name of the column with the task ids.
        target
            Name of the target column, or names for several targets.
        features
            Names of the feature columns; None takes all the others.

        Raises
        ------
        TypeError, ValueError
            If a column does not exist, is not numeric or has missing values.
        """
        import narwhals as nw

        from innerloop._frames import column_names, numeric_columns

        table = nw.from_native(frame, eager_only=True)
        targets = [target] if isinstance(target, str) else list(target)
        taken = {group, *targets}
        chosen = [c for c in table.columns if c not in taken] if features is None else list(features)
        column_names(table, [group, *targets, *chosen])
        if not targets or not chosen:
            raise ValueError("`frame` must have at least one target and one feature column beside the group.")
        if overlap := taken.intersection(chosen):
            raise ValueError(
                f"`features` must leave out the group and target columns, got {sorted(overlap)}."
            )
        y = numeric_columns(table, targets, "frame")
        return cls.from_arrays(
            numeric_columns(table, chosen, "frame"),
            y[:, 0] if isinstance(target, str) else y,
            table[group].to_numpy(),
            feature_names=chosen,
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
        return self.X.shape[1]

    @property
    def sizes(self) -> IntArray:
        """Number of rows of each task: (n_tasks,)."""
        return np.diff(self.starts)

    @property
    def task_of_row(self) -> IntArray:
        """Index of the task of each row: (n_rows,)."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def select(self, tasks: ArrayLike) -> TaskSet:
        """Return the tasks at these positions (whole numbers, or one bool per task)."""
        chosen = np.sort(np.arange(len(self))[np.asarray(tasks)])
        sizes = self.sizes[chosen]
        rows = ragged_ranges(self.starts[chosen], sizes)
        return TaskSet(self.X[rows], self.y[rows], _starts(sizes), self.ids[chosen], self.feature_names)

    def split(self, n_support: int | None = None, n_query: int | None = None, seed: int = 0) -> Episodes:
        """Draw one episode per task: support rows to adapt on, and other rows to score.

        Which rows are drawn depends on the seed, the task's id and its rows only: not on the order of the
        rows in the file, nor on the other tasks.

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
        order = self._shuffled(seed)
        return Episodes._from_rows(
            self,
            (order[ragged_ranges(self.starts[:-1], support)], support),
            (order[ragged_ranges(self.starts[:-1] + support, query)], query),
            np.arange(len(self)),
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
        fold = np.arange(len(task)) - np.repeat(_starts(n_folds)[:-1], n_folds)
        first = fold * sizes[task] // n_folds[task]
        end = (fold + 1) * sizes[task] // n_folds[task]
        order = self._shuffled(seed)
        offset = ragged_ranges(end, support[task]) % np.repeat(sizes[task], support[task])
        return Episodes._from_rows(
            self,
            (order[offset + np.repeat(self.starts[task], support[task])], support[task]),
            (order[ragged_ranges(self.starts[task] + first, end - first)], end - first),
            task,
        )

    def default_support(self) -> int:
        """Return the usual number of support rows: half the median task, at least 1 and at most 10."""
        return int(np.clip(np.median(self.sizes) // 2, 1, 10))

    def _shuffled(self, seed: int) -> IntArray:
        columns = [*self.X.T, *np.atleast_2d(self.y.T)]
        return shuffled_order(columns, self.task_of_row, self.ids, seed)


@final
class Episodes:
    """Support and query rows of tasks, of any sizes.

    Parameters
    ----------
    episodes
        One tuple ``(X_support, y_support, X_query, y_query)`` a task. Sizes may differ, and a task may have
        no support rows; the numbers of features and targets are the same everywhere.

    Attributes
    ----------
    X : (n_rows, n_features)
        Features of all rows.
    y : (n_rows,) or (n_rows, n_targets)
        Targets of all rows.
    support_rows, query_rows
        Positions in X of the support rows and of the query rows, episode by episode.
    n_support, n_query : (n_episodes,)
        How many rows each episode has of them.
    task : (n_episodes,)
        Index of the task that each episode belongs to.
    """

    X: FloatArray
    y: FloatArray
    support_rows: IntArray
    query_rows: IntArray
    n_support: IntArray
    n_query: IntArray
    task: IntArray

    def __init__(self, episodes: Iterable[Episode]) -> None:
        parts = [_check_episode(i, *episode) for i, episode in enumerate(episodes)]
        if not parts:
            raise ValueError("`episodes` must hold at least one episode, got none.")
        for i, part in enumerate(parts):
            if part[0].shape[1:] != parts[0][0].shape[1:] or part[1].shape[1:] != parts[0][1].shape[1:]:
                raise ValueError(
                    "`episodes` must agree in features and targets: episode 0 has shapes "
                    f"{parts[0][0].shape} and {parts[0][1].shape}, episode {i} {part[0].shape} and "
                    f"{part[1].shape}."
                )
        sizes = np.array([(len(part[0]), len(part[2])) for part in parts], dtype=np.intp)
        first = _starts(sizes.ravel())[:-1].reshape(-1, 2)
        self.X = np.concatenate([rows for part in parts for rows in part[::2]])
        self.y = np.concatenate([rows for part in parts for rows in part[1::2]])
        self.n_support, self.n_query = np.ascontiguousarray(sizes.T)
        self.support_rows = ragged_ranges(first[:, 0], self.n_support)
        self.query_rows = ragged_ranges(first[:, 1], self.n_query)
        self.task = np.arange(len(parts))

    @classmethod
    def _from_rows(
        cls,
        tasks: TaskSet,
        support: tuple[IntArray, IntArray],
        query: tuple[IntArray, IntArray],
        task: IntArray,
    ) -> Episodes:
        """Make episodes from positions of rows in `tasks`: (positions, rows per episode) twice."""
        episodes = cls.__new__(cls)
        episodes.X, episodes.y, episodes.task = tasks.X, tasks.y, task
        episodes.support_rows, episodes.n_support = support
        episodes.query_rows, episodes.n_query = query
        return episodes

    def __len__(self) -> int:
        return len(self.n_query)

    def __iter__(self) -> Iterator[tuple[FloatArray, FloatArray, FloatArray, FloatArray]]:
        """Yield (X_support, y_support, X_query, y_query) episode by episode."""
        supports, queries = (_starts(self.n_support), _starts(self.n_query))
        for i in range(len(self)):
            support = self.support_rows[supports[i] : supports[i + 1]]
            query = self.query_rows[queries[i] : queries[i + 1]]
            yield self.X[support], self.y[support], self.X[query], self.y[query]

    def __repr__(self) -> str:
        return f"Episodes(n_episodes={len(self)}, n_features={self.n_features}, n_targets={self.n_targets})"

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.X.shape[1]

    @property
    def n_targets(self) -> int:
        """Number of targets; 1 also where y has one dimension."""
        return 1 if self.y.ndim == 1 else self.y.shape[1]

    def select(self, tasks: ArrayLike) -> Episodes:
        """Return the episodes of the tasks where `tasks` (one bool per task) is true."""
        keep = np.asarray(tasks, dtype=bool)[self.task]
        chosen = Episodes.__new__(Episodes)
        chosen.X, chosen.y, chosen.task = self.X, self.y, self.task[keep]
        chosen.support_rows = self.support_rows[np.repeat(keep, self.n_support)]
        chosen.query_rows = self.query_rows[np.repeat(keep, self.n_query)]
        chosen.n_support, chosen.n_query = self.n_support[keep], self.n_query[keep]
        return chosen

    def blocks(self, max_rows: int) -> Iterator[EpisodeBlock]:
        """Yield blocks of episodes of equal shape, of at most `max_rows` query rows.

        The order of the blocks depends on the shapes of the episodes alone. An episode with more query rows
        than that comes in several pieces.
        """
        supports, queries = (_starts(self.n_support), _starts(self.n_query))
        order = np.lexsort((self.n_query, self.n_support))
        shapes = np.column_stack((self.n_support, self.n_query))[order]
        changes = np.flatnonzero((shapes[1:] != shapes[:-1]).any(axis=1)) + 1
        for start, end in zip([0, *changes], [*changes, len(order)], strict=True):
            n_support, n_query = shapes[start].tolist()
            step = max(1, max_rows // n_query)
            for i in range(start, end, step):
                members = order[i : min(i + step, end)]
                support = self.support_rows[supports[members, None] + np.arange(n_support)]
                for j in range(0, n_query, max_rows):
                    piece = np.arange(j, min(j + max_rows, n_query))
                    yield EpisodeBlock(
                        self, members, support, self.query_rows[queries[members, None] + piece]
                    )


@final
@dataclass(frozen=True)
class EpisodeBlock:
    """Some episodes of equal shape, their rows gathered on first use.

    `members` are their positions among all episodes; `support` and `query` the positions of their rows,
    (n_members, n_support) and (n_members, n_query).
    """

    episodes: Episodes
    members: IntArray
    support: IntArray
    query: IntArray

    @cached_property
    def X_support(self) -> FloatArray:
        """Support features: (n_members, n_support, n_features)."""
        return np.take(self.episodes.X, self.support, axis=0)

    @cached_property
    def y_support(self) -> FloatArray:
        """Support targets: (n_members, n_support, n_targets)."""
        return np.take(self.episodes.y, self.support, axis=0).reshape(
            *self.support.shape, self.episodes.n_targets
        )

    @cached_property
    def X_query(self) -> FloatArray:
        """Query features: (n_members, n_query, n_features)."""
        return np.take(self.episodes.X, self.query, axis=0)

    @cached_property
    def y_query(self) -> FloatArray:
        """Query targets: (n_members, n_query, n_targets)."""
        return np.take(self.episodes.y, self.query, axis=0).reshape(
            *self.query.shape, self.episodes.n_targets
        )


def _check_episode(
    i: int, X_support: ArrayLike, y_support: ArrayLike, X_query: ArrayLike, y_query: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return the four parts of episode `i` as checked float64 arrays."""
    where = f"of episode {i}"
    parts = as_matrix(X_support, f"X_support {where}"), as_matrix(X_query, f"X_query {where}")
    if len(parts[1]) == 0:
        raise ValueError(f"`X_query {where}` must have at least one row, got none.")
    if parts[0].shape[1] != parts[1].shape[1]:
        raise ValueError(
            f"`X_support {where}` and its `X_query` must have the same features, got {parts[0].shape[1]} "
            f"and {parts[1].shape[1]}."
        )
    targets = (
        as_targets(y_support, f"y_support {where}", len(parts[0])),
        as_targets(y_query, f"y_query {where}", len(parts[1])),
    )
    if targets[0].shape[1:] != targets[1].shape[1:]:
        raise ValueError(f"`y_support {where}` and its `y_query` must have the same number of targets.")
    return parts[0], targets[0], parts[1], targets[1]

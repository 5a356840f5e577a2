"""Episodes: support and query rows of many tasks, of any sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, final

import numpy as np
from numpy.typing import ArrayLike

from innerloop._base.checks import FloatArray, IntArray, as_matrix, as_positions, as_targets
from innerloop._base.ragged import ragged_ranges, row_starts

Episode = tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]
# What scores a training task; see `innerloop.Design`.
Protocol = Literal["split", "train", "leave-one-out", "deal"]
PROTOCOLS = ("split", "train", "leave-one-out", "deal")


@final
class Episodes:
    """Support and query rows of tasks, of any sizes.

    Parameters
    ----------
    episodes
        One tuple ``(X_support, y_support, X_query, y_query)`` per task. Sizes may differ, and a task may have
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
        Numbers of support and of query rows of each episode.
    task : (n_episodes,)
        Index of the task that each episode belongs to.
    n_tasks
        Number of tasks that `task` counts.
    weights : (n_rows,) or None
        Precisions of all rows; see `TaskSet`.

    Examples
    --------
    >>> import innerloop as il
    >>> import numpy as np
    >>> X, y = np.eye(4), np.arange(4.0)
    >>> episodes = il.Episodes([(X[:3], y[:3], X[3:], y[3:]), (X[:1], y[:1], X[1:], y[1:])])
    >>> episodes.n_support, episodes.n_query
    (array([3, 1]), array([1, 3]))
    """

    X: FloatArray
    y: FloatArray
    support_rows: IntArray
    query_rows: IntArray
    n_support: IntArray
    n_query: IntArray
    task: IntArray
    n_tasks: int
    weights: FloatArray | None = None

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
        first = row_starts(sizes.ravel())[:-1].reshape(-1, 2)
        self.X = np.concatenate([rows for part in parts for rows in part[::2]])
        self.y = np.concatenate([rows for part in parts for rows in part[1::2]])
        self.n_support, self.n_query = np.ascontiguousarray(sizes.T)
        self.support_rows = ragged_ranges(first[:, 0], self.n_support)
        self.query_rows = ragged_ranges(first[:, 1], self.n_query)
        self.task, self.n_tasks = np.arange(len(parts)), len(parts)

    @classmethod
    def from_rows(
        cls,
        X: FloatArray,
        y: FloatArray,
        support: tuple[IntArray, IntArray],
        query: tuple[IntArray, IntArray],
        task: IntArray,
        n_tasks: int | None = None,
        weights: FloatArray | None = None,
    ) -> Episodes:
        """Make episodes of rows of X and y: (positions, rows per episode) for support and for query.

        `n_tasks` None: the tasks up to the last that has an episode.
        """
        episodes = cls.__new__(cls)
        episodes.X, episodes.y, episodes.task, episodes.weights = X, y, task, weights
        episodes.support_rows, episodes.n_support = support
        episodes.query_rows, episodes.n_query = query
        episodes.n_tasks = int(task.max(initial=-1)) + 1 if n_tasks is None else n_tasks
        return episodes

    def __len__(self) -> int:
        return len(self.n_query)

    def __iter__(self) -> Iterator[tuple[FloatArray, FloatArray, FloatArray, FloatArray]]:
        """Yield (X_support, y_support, X_query, y_query) episode by episode."""
        supports, queries = (row_starts(self.n_support), row_starts(self.n_query))
        for i in range(len(self)):
            support = self.support_rows[supports[i] : supports[i + 1]]
            query = self.query_rows[queries[i] : queries[i + 1]]
            yield self.X[support], self.y[support], self.X[query], self.y[query]

    def __repr__(self) -> str:
        return f"Episodes(n_episodes={len(self)}, n_features={self.n_features}, n_targets={self.n_targets})"

    @property
    def n_features(self) -> int:
        """Number of features."""
        return int(self.X.shape[1])

    @property
    def n_targets(self) -> int:
        """Number of targets; 1 also where y has one dimension."""
        return 1 if self.y.ndim == 1 else int(self.y.shape[1])

    def select(self, tasks: ArrayLike) -> Episodes:
        """Return the episodes of some tasks.

        `task` and `n_tasks` of the result still count the tasks of all.

        Parameters
        ----------
        tasks
            Positions (order and repeats are kept, negative ones count from the end), or one bool per task: as numpy.

        Raises
        ------
        TypeError, ValueError, IndexError
            If `tasks` is neither, holds too few or too many bools, or a position that is not there.
        """
        chosen = as_positions(tasks, "tasks", self.n_tasks)
        by_task, n_episodes = np.argsort(self.task, kind="stable"), np.bincount(self.task, minlength=self.n_tasks)
        members = by_task[ragged_ranges(row_starts(n_episodes)[chosen], n_episodes[chosen])]
        n_support, n_query = self.n_support[members], self.n_query[members]
        return Episodes.from_rows(
            self.X,
            self.y,
            (self.support_rows[ragged_ranges(row_starts(self.n_support)[members], n_support)], n_support),
            (self.query_rows[ragged_ranges(row_starts(self.n_query)[members], n_query)], n_query),
            self.task[members],
            self.n_tasks,
            self.weights,
        )

    def whitened(self) -> Episodes:
        """Return the episodes with rows multiplied by the roots of their weights; see `TaskSet.whitened`."""
        if self.weights is None:
            return self
        root = np.sqrt(self.weights)
        support, query = (self.support_rows, self.n_support), (self.query_rows, self.n_query)
        X, y = self.X * root[:, None], (self.y.T * root).T
        return Episodes.from_rows(X, y, support, query, self.task, self.n_tasks)

    def blocks(self, max_rows: int) -> Iterator[EpisodeBlock]:
        """Yield blocks of episodes of equal shape, of at most `max_rows` query rows.

        The order of the blocks depends on the shapes of the episodes alone. An episode with more query rows than
        `max_rows` is divided among several blocks.
        """
        supports, queries = (row_starts(self.n_support), row_starts(self.n_query))
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
                    yield EpisodeBlock(self, members, support, self.query_rows[queries[members, None] + piece])


@final
@dataclass(frozen=True)
class EpisodeBlock:
    """A block of episodes of equal shape, whose rows are gathered on first use.

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
        return np.take(self.episodes.y, self.support, axis=0).reshape(*self.support.shape, self.episodes.n_targets)

    @cached_property
    def X_query(self) -> FloatArray:
        """Query features: (n_members, n_query, n_features)."""
        return np.take(self.episodes.X, self.query, axis=0)

    @cached_property
    def y_query(self) -> FloatArray:
        """Query targets: (n_members, n_query, n_targets)."""
        return np.take(self.episodes.y, self.query, axis=0).reshape(*self.query.shape, self.episodes.n_targets)


def check_episodes(episodes: object) -> None:
    """Refuse what is not `Episodes`, and say how to make them."""
    if not isinstance(episodes, Episodes):
        raise TypeError(
            f"`episodes` must be innerloop.Episodes, got {type(episodes).__name__}; "
            "make them with TaskSet.split or Episodes([...])."
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

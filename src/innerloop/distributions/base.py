"""What every distribution of tasks offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from innerloop._base.checks import FloatArray, as_count
from innerloop._base.seeds import stream
from innerloop.data.tasks import TaskSet

Rows = tuple[FloatArray, FloatArray]


class EpisodeArrays(NamedTuple):
    """Support and query rows of tasks of equal sizes.

    X_support and X_query have the shape (n_tasks, n_rows, n_features), y_support and y_query (n_tasks, n_rows), or
    (n_tasks, n_rows, n_targets) where a table has several targets.
    """

    X_support: FloatArray
    y_support: FloatArray
    X_query: FloatArray
    y_query: FloatArray


class TaskDistribution(ABC):
    """A distribution of regression tasks.

    A subclass says how the rows of one task are drawn; a frozen dataclass can also be stored by name and fields. One
    with finitely many tasks says how they are split, too.

    Examples
    --------
    >>> import innerloop as il
    >>> class Lines(il.TaskDistribution):
    ...     n_features = 1
    ...
    ...     def draw_task(self, n_rows, rng):
    ...         x = rng.uniform(size=(n_rows, 1))
    ...         return x, rng.standard_normal() * x[:, 0]
    ...
    >>> Lines().sample_tasks(n_tasks=3, n_rows=4, seed=0).sizes
    array([4, 4, 4])
    """

    n_features: int

    @abstractmethod
    def draw_task(self, n_rows: int, rng: np.random.Generator) -> Rows:
        """Return features (n_rows, n_features) and targets (n_rows,) of one task."""

    def draw_tasks(self, sizes: Sequence[int], rng: np.random.Generator) -> list[Rows]:
        """Return the rows of different tasks of these sizes."""
        return [self.draw_task(size, rng) for size in sizes]

    def draw_episodes(self, n_tasks: int, n_support: int, n_query: int, rng: np.random.Generator) -> EpisodeArrays:
        """Return support and query rows of tasks of equal sizes."""
        drawn = self.draw_tasks([n_support + n_query] * n_tasks, rng)
        X, y = (np.stack(parts) for parts in zip(*drawn, strict=True))
        return EpisodeArrays(X[:, :n_support], y[:, :n_support], X[:, n_support:], y[:, n_support:])

    def split(self, shares: Sequence[float], seed: int = 0) -> list[TaskDistribution]:  # noqa: ARG002
        """Split into distributions without a common task: one of the remaining tasks, then one for each share.

        A distribution that never draws the same task twice, as is the rule, stands for each part itself.

        Parameters
        ----------
        shares
            Fractions of the tasks.
        seed
            Any whole number from 0.
        """
        return [self] * (len(shares) + 1)

    def sample_tasks(self, n_tasks: int, n_rows: int, seed: int = 0) -> TaskSet:
        """Draw tasks of `n_rows` rows each; task i is the same whatever the number of tasks.

        Parameters
        ----------
        n_tasks, n_rows
            Sizes.
        seed
            Any whole number from 0.
        """
        as_count(n_rows, "n_rows")
        drawn = [self.draw_task(n_rows, stream(seed, i)) for i in range(as_count(n_tasks, "n_tasks"))]
        X, y = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        return TaskSet.from_arrays(X, y, np.repeat(np.arange(n_tasks), n_rows))

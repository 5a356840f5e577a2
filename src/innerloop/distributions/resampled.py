"""A table of real tasks as a distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from innerloop._base.checks import as_floats
from innerloop.data.shuffle import uniform_of_ids
from innerloop.data.tasks import TaskSet, check_task_set, check_unweighted
from innerloop.distributions.base import EpisodeArrays, Rows, TaskDistribution


def as_distribution(tasks: TaskDistribution | TaskSet, name: str = "tasks") -> TaskDistribution:
    """Return a distribution as it is, and the tasks of a table as the distribution that draws them.

    Raises
    ------
    TypeError
        If `tasks` is neither; `name` is what the message calls it.
    """
    if isinstance(tasks, TaskSet):
        return ResampledTasks(tasks)
    if not isinstance(tasks, TaskDistribution):
        raise TypeError(
            f"`{name}` must be a TaskDistribution, such as innerloop.Sinusoid(), or a TaskSet, got "
            f"{type(tasks).__name__}."
        )
    return tasks


@final
@dataclass(frozen=True)
class ResampledTasks(TaskDistribution):
    """Tasks drawn from a table: different tasks within a draw, different rows within a task.

    Draws take the same tasks again, so that standard errors are those of the table at hand: they do not say how
    another table of other tasks would have come out.

    Parameters
    ----------
    tasks
        The table.

    Examples
    --------
    >>> import innerloop as il
    >>> table = il.MixedLinearRegression(3).sample_tasks(n_tasks=10, n_rows=8, seed=0)  # or your table, a TaskSet
    >>> il.ResampledTasks(table).sample_tasks(n_tasks=4, n_rows=5, seed=0).sizes
    array([5, 5, 5, 5])
    """

    tasks: TaskSet

    def __post_init__(self) -> None:
        check_task_set(self.tasks)
        check_unweighted(self.tasks, "`ResampledTasks`, which networks draw from,")

    @property
    def n_features(self) -> int:  # type: ignore[override]
        """Number of features."""
        return self.tasks.n_features

    def draw_task(self, n_rows: int, rng: np.random.Generator) -> Rows:
        """Return features and targets of some rows of one task."""
        return self.draw_tasks([n_rows], rng)[0]

    def n_available(self, size: int, sizes: Sequence[int]) -> int:
        """Return how many tasks of `size` rows can be drawn together with tasks of the given sizes."""
        available, wanted = self.tasks.sizes, np.asarray(sizes)
        limits = [size, *(other for other in sizes if other < size)]
        return min(int((available >= limit).sum()) - int((wanted >= limit).sum()) for limit in limits)

    def draw_tasks(self, sizes: Sequence[int], rng: np.random.Generator) -> list[Rows]:
        """Return rows of different tasks; the largest sizes choose first among the tasks, in random order.

        Raises
        ------
        ValueError
            If the table has too few tasks with so many rows.
        """
        available = self.tasks.sizes
        free = rng.permutation(len(self.tasks))
        drawn: dict[int, Rows] = {}
        for place in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
            fits = np.flatnonzero(available[free] >= sizes[place])
            if len(fits) == 0:
                raise ValueError(
                    f"`tasks` must have {sum(size >= sizes[place] for size in sizes)} tasks of {sizes[place]} rows or "
                    f"more for a run, got {int((available >= sizes[place]).sum())}; ask for fewer. "
                    "New tasks that score a run count too: see `n_test_tasks` and `n_test_rows`."
                )
            task, free = free[fits[0]], np.delete(free, fits[0])
            rows = self.tasks.starts[task] + rng.permutation(available[task])[: sizes[place]]
            drawn[place] = self.tasks.X[rows], self.tasks.y[rows]
        return [drawn[place] for place in range(len(sizes))]

    def draw_episodes(self, n_tasks: int, n_support: int, n_query: int, rng: np.random.Generator) -> EpisodeArrays:
        """Return support and query rows of tasks of equal sizes.

        No task comes again before all others have come; its rows are then drawn anew.

        Raises
        ------
        ValueError
            If a task has too few rows.
        """
        sizes, n_rows = self.tasks.sizes, n_support + n_query
        if (sizes < n_rows).any():
            small = int(np.argmin(sizes))
            raise ValueError(
                f"task {self.tasks.ids[small].item()!r} has {sizes[small]} row(s), too few for {n_support} support and "
                f"{n_query} query rows; ask for fewer rows or leave out small tasks."
            )
        rounds = range(0, n_tasks, len(sizes))
        drawn = [
            super(ResampledTasks, self).draw_episodes(min(len(sizes), n_tasks - i), n_support, n_query, rng)
            for i in rounds
        ]
        return EpisodeArrays(*(np.concatenate(parts) for parts in zip(*drawn, strict=True)))

    def split(self, shares: Sequence[float], seed: int = 0) -> list[TaskDistribution]:
        """Split the tasks into a remainder and one part for each share.

        The part of a task depends on its id and the seed alone: further tasks in the table move no other task.

        Parameters
        ----------
        shares
            Fractions of the tasks, positive and together below 1.
        seed
            Any whole number from 0.

        Raises
        ------
        ValueError
            If a part would have no task.
        """
        bounds = np.cumsum(as_floats(shares, "shares"))
        if not (np.diff(bounds, prepend=0.0) > 0).all() or not (bounds < 1).all():
            raise ValueError(f"`shares` must be positive and together below 1, got {list(shares)}.")
        part = np.searchsorted(bounds, uniform_of_ids(self.tasks.ids, seed), side="right")
        counts = np.bincount(part, minlength=len(bounds) + 1)
        if (counts == 0).any():
            empty = int(np.argmin(counts))
            which = f"the share {shares[empty]:g}" if empty < len(shares) else "the rest"
            raise ValueError(
                f"`tasks` has {len(self.tasks)} task(s), of which none falls into {which} with seed {seed}; take "
                "another seed, other shares, or give the tasks of each part yourself."
            )
        return [ResampledTasks(self.tasks.select(part == k)) for k in (len(bounds), *range(len(bounds)))]

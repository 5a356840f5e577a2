"""A table of real tasks as a distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from innerloop.data.tasks import TaskSet
from innerloop.distributions.base import Rows, TaskDistribution


@final
@dataclass(frozen=True)
class ResampledTasks(TaskDistribution):
    """Tasks drawn from a table: different tasks within a run, different rows within a task.

    Runs draw from the same tasks again, so that standard errors are those of the table at hand: they do not say how
    another table of other tasks would have come out.

    Parameters
    ----------
    tasks
        The table.
    """

    tasks: TaskSet

    def __post_init__(self) -> None:
        if not isinstance(self.tasks, TaskSet):
            raise TypeError(f"`tasks` must be innerloop.TaskSet, got {type(self.tasks).__name__}.")

    @property
    def n_features(self) -> int:  # type: ignore[override]
        """Number of features."""
        return self.tasks.n_features

    def draw_task(self, n_rows: int, rng: np.random.Generator) -> Rows:
        """Return features and targets of some rows of one task."""
        return self.draw_tasks([n_rows], rng)[0]

    def room(self, size: int, taken: Sequence[int]) -> int:
        """Return how many tasks of `size` rows a run can have beside those whose numbers of rows are taken."""
        have, used = self.tasks.sizes, np.asarray(taken)
        limits = [size, *(own for own in taken if own < size)]
        return min(int((have >= limit).sum()) - int((used >= limit).sum()) for limit in limits)

    def draw_tasks(self, sizes: Sequence[int], rng: np.random.Generator) -> list[Rows]:
        """Return rows of different tasks; the largest sizes choose first among the tasks, in random order.

        Raises
        ------
        ValueError
            If the table has too few tasks with so many rows.
        """
        have = self.tasks.sizes
        free = rng.permutation(len(self.tasks))
        drawn: dict[int, Rows] = {}
        for place in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
            fits = np.flatnonzero(have[free] >= sizes[place])
            if len(fits) == 0:
                raise ValueError(
                    f"`tasks` must have {sum(size >= sizes[place] for size in sizes)} tasks of {sizes[place]} rows or "
                    f"more for a run, got {int((have >= sizes[place]).sum())}; ask for fewer. "
                    "New tasks that score a run count too: see `n_test_tasks` and `n_test_rows`."
                )
            task, free = free[fits[0]], np.delete(free, fits[0])
            rows = self.tasks.starts[task] + rng.permutation(have[task])[: sizes[place]]
            drawn[place] = self.tasks.X[rows], self.tasks.y[rows]
        return [drawn[place] for place in range(len(sizes))]

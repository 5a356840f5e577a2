"""Where tasks come from: the same index gives the same tasks, and different stages have no task in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import combinations
from typing import Protocol, final

import numpy as np

from innerloop._base.checks import as_count, as_rate
from innerloop._base.seeds import stream
from innerloop.data.ids import places
from innerloop.data.tasks import TaskSet
from innerloop.distributions import Design, ResampledTasks, Sinusoid, TaskDistribution
from innerloop.distributions.resampled import as_distribution
from innerloop.neural.batch import TaskBatch


class Stage(IntEnum):
    """What tasks are for. No task serves two stages.

    Examples
    --------
    >>> from innerloop.neural import TEST, TRAINING, SinusoidTasks
    >>> source = SinusoidTasks()
    >>> trained, tested = (source.sample(4, 5, 2, (stage, 0)) for stage in (TRAINING, TEST))
    >>> bool((trained.y_query == tested.y_query).any())  # stages never share a task
    False
    """

    TRAINING = 0
    VALIDATION = 1
    TEST = 2

    def __str__(self) -> str:
        """Return the stage in lower case."""
        return self.name.lower()


TRAINING, VALIDATION, TEST = Stage
# Validation and test tasks that share an index, and so are drawn together whatever their number.
TASKS_AT_ONCE = 25


class TaskSource(Protocol):
    """Where tasks come from.

    The same index gives the same tasks, whatever was drawn before. Its first number is a `Stage`: a source never gives
    rows of one stage to another, and refuses a stage for which it has no tasks.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import MetaTrainer, TaskBatch
    >>> class Lines:
    ...     def sample(self, n_tasks, n_support, n_query, index):
    ...         generator = torch.Generator().manual_seed(hash(index) % 2**31)
    ...         slope = torch.randn(n_tasks, 1, 1, generator=generator)
    ...         X = torch.randn(n_tasks, n_support + n_query, 1, generator=generator)
    ...         y = slope * X
    ...         return TaskBatch(X[:, :n_support], y[:, :n_support], X[:, n_support:], y[:, n_support:])
    ...
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> MetaTrainer(torch.nn.Linear(1, 1), Lines(), design, inner_lr=0.1).train(2)
    """

    def sample(self, n_tasks: int, n_support: int, n_query: int, index: tuple[int, ...]) -> TaskBatch:
        """Draw the tasks number `index`."""
        ...


Tasks = TaskDistribution | TaskSet | TaskSource


@final
@dataclass(frozen=True)
class DistributionTasks:
    """Tasks drawn from a distribution or from a table, with separate ones for training, validation and test.

    Parameters
    ----------
    tasks
        Any `TaskDistribution`, or a `TaskSet`. Of a table each draw takes every task once before it takes one again,
        and deals its rows anew.
    seed
        Any whole number from 0.
    validation, test
        Which tasks these stages have. A number is a fraction of the tasks of a table, chosen by their ids and the
        seed, so that further tasks move none to another stage; distributions that never draw the same task twice need
        no fraction and serve every stage. Otherwise a distribution or table for that stage, or None for no such stage.

    Raises
    ------
    ValueError
        If a stage would have no task, or if two tables have an id in common.

    Examples
    --------
    >>> import innerloop as il
    >>> from innerloop.neural import TEST, TRAINING, DistributionTasks
    >>> table = il.MixedLinearRegression(3).sample_tasks(n_tasks=30, n_rows=10, seed=0)
    >>> source = DistributionTasks(table, validation=0.2, test=0.3)
    >>> source.sample(4, 5, 2, (TRAINING, 0)).X_query.shape, source.sample(4, 5, 2, (TEST, 0)).X_query.shape
    (torch.Size([4, 2, 3]), torch.Size([4, 2, 3]))
    """

    tasks: TaskDistribution | TaskSet
    seed: int = 0
    validation: TaskDistribution | TaskSet | float | None = 0.2
    test: TaskDistribution | TaskSet | float | None = 0.2

    def __post_init__(self) -> None:
        as_count(self.seed, "seed", 0)
        self._check_ids()

    @cached_property
    def by_stage(self) -> dict[Stage, TaskDistribution]:
        """The distribution of each stage that has tasks."""
        given = {TEST: self.test, VALIDATION: self.validation}
        shares: dict[Stage, float] = {}
        given_parts: dict[Stage, TaskDistribution] = {}
        for stage, value in given.items():
            if isinstance(value, TaskDistribution | TaskSet):
                given_parts[stage] = as_distribution(value)
            elif value is not None:
                shares[stage] = as_share(value, str(stage))
        if sum(shares.values()) >= 1:
            raise ValueError(f"`validation` and `test` must leave tasks to train on, got {list(shares.values())}.")
        parts = as_distribution(self.tasks).split(list(shares.values()), self.seed)
        return {**dict(zip((TRAINING, *shares), parts, strict=True)), **given_parts}

    def _check_ids(self) -> None:
        tables = {stage: dist.tasks.ids for stage, dist in self.by_stage.items() if isinstance(dist, ResampledTasks)}
        for (first, ids), (second, others) in combinations(tables.items(), 2):
            known = places(others, ids)
            if (known >= 0).any():
                common = others[int(np.argmax(known >= 0))].item()
                raise ValueError(
                    f"the {first} and the {second} tasks both hold task {common!r}; a task belongs to one stage. "
                    "Give different tasks different ids."
                )

    def sample(self, n_tasks: int, n_support: int, n_query: int, index: tuple[int, ...]) -> TaskBatch:
        """Draw the tasks number `index`; targets have the shape (n_tasks, n_rows, n_targets)."""
        stage = Stage(index[0])
        if stage not in self.by_stage:
            raise ValueError(f"there are no {stage} tasks; give `{stage}`: a fraction of the tasks, or other tasks.")
        X_support, y_support, X_query, y_query = self.by_stage[stage].draw_episodes(
            as_count(n_tasks, "n_tasks"),
            as_count(n_support, "n_support", 0),
            as_count(n_query, "n_query"),
            stream(self.seed, *index),
        )
        y_support, y_query = (y.reshape(*y.shape[:2], -1) for y in (y_support, y_query))
        return TaskBatch.from_arrays(X_support, y_support, X_query, y_query)


def SinusoidTasks(seed: int = 0) -> DistributionTasks:
    """Return a source of `innerloop.Sinusoid` tasks, the sine waves of Finn, Abbeel and Levine (2017).

    Examples
    --------
    >>> from innerloop.neural import TEST, SinusoidTasks
    >>> SinusoidTasks().sample(4, 5, 2, (TEST, 0)).X_support.shape
    torch.Size([4, 5, 1])
    """
    return DistributionTasks(Sinusoid(), seed)


def TaskSetTasks(
    tasks: TaskSet,
    seed: int = 0,
    validation: TaskSet | float | None = 0.2,
    test: TaskSet | float | None = 0.2,
) -> DistributionTasks:
    """Return a source of the tasks of a table; see `DistributionTasks`.

    Examples
    --------
    >>> import innerloop as il
    >>> from innerloop.neural import TRAINING, TaskSetTasks
    >>> table = il.MixedLinearRegression(3).sample_tasks(n_tasks=30, n_rows=10, seed=0)
    >>> TaskSetTasks(table).sample(4, 5, 2, (TRAINING, 0)).X_support.shape
    torch.Size([4, 5, 3])
    """
    return DistributionTasks(ResampledTasks(tasks), seed, validation, test)


def as_source(tasks: Tasks, seed: int) -> TaskSource:
    """Return the source of tasks that are given as a distribution, as a table or as a source.

    Raises
    ------
    TypeError
        If they are none of these.
    """
    if isinstance(tasks, TaskDistribution | TaskSet):
        return DistributionTasks(tasks, seed)
    if isinstance(tasks, type) or not callable(getattr(tasks, "sample", None)):
        given = tasks.__name__ if isinstance(tasks, type) else type(tasks).__name__
        raise TypeError(
            "`tasks` must be a TaskDistribution, such as innerloop.Sinusoid(), a TaskSet, or an object with a method "
            f"`sample`, as TaskSource describes, got {given}{', a class' if isinstance(tasks, type) else ''}."
        )
    return tasks


@final
@dataclass(frozen=True)
class EpisodeSampler:
    """Tasks of a source, with the numbers of rows that a design asks for.

    Parameters
    ----------
    source
        Where tasks come from.
    design
        The sizes. Training tasks of different sizes are padded; tasks to be scored have the largest number of query
        rows.
    """

    source: TaskSource
    design: Design

    def __post_init__(self) -> None:
        check_design(self.design)

    def iteration(self, number: int) -> TaskBatch:
        """Draw the training tasks of an iteration."""
        if len(self.design.groups) == 1:
            return self.draw(TRAINING, self.design.n_tasks, number)
        return TaskBatch.padded(
            [
                self.source.sample(group.n_tasks, group.n_support, group.n_query, (TRAINING, number, i))
                for i, group in enumerate(self.design.groups)
            ]
        )

    def draw(self, stage: Stage, n_tasks: int, *number: int) -> TaskBatch:
        """Draw tasks of equal sizes of a stage with index ``(stage, *number)``."""
        n_support = self.design.groups[-1].n_support if stage == TRAINING else self.design.n_adapt
        n_query = max(group.n_query for group in self.design.groups)
        return self.source.sample(n_tasks, n_support, n_query, (stage, *number))

    def batches(self, stage: Stage, n_tasks: int, at_once: int) -> Iterator[TaskBatch]:
        """Yield `n_tasks` tasks of a stage, at most so many at once."""
        for number, first in enumerate(range(0, n_tasks, at_once)):
            yield self.draw(stage, min(at_once, n_tasks - first), number)


def check_design(design: Design) -> None:
    """Refuse a design that networks cannot follow.

    Raises
    ------
    TypeError
        If it is no design.
    ValueError
        If it asks for a penalty, an inner rule other than gradient steps, infinitely many
        of these, or a protocol other than support and query rows apart.
    """
    if not isinstance(design, Design):
        raise TypeError(
            "`design` must be innerloop.Design, such as Design(n_tasks=25, n_support=10, n_query=10), got "
            f"{type(design).__name__}."
        )
    if design.l2 != 0:
        raise ValueError(f"`l2` of a network's design must be 0, got {design.l2:g}; add the penalty to the `loss`.")
    if design.inner_rule != "gradient":
        raise ValueError(
            f"`inner_rule` of a network's design must be 'gradient', got {design.inner_rule!r}; for implicit MAML "
            "give Training(algorithm=ImplicitMAML())."
        )
    if design.protocol != "split":
        raise ValueError(f"`protocol` of a network's design must be 'split', got {design.protocol!r}.")
    if np.inf in (design.n_steps, design.adapt_steps):
        raise ValueError("`n_steps` and `n_adapt_steps` of a network's design must be finite, got infinity.")


def as_share(value: float, name: str) -> float:
    """Return a fraction strictly between 0 and 1."""
    share = as_rate(value, name)
    if not 0 < share < 1:
        raise ValueError(f"`{name}` must be a fraction between 0 and 1, tasks, or None, got {share:g}.")
    return share

"""All tasks of a table, too many to hold several times: a sample of them to choose on, and leaves to pass over.

Tasks are in the order of the words of their ids (`innerloop.data.words`). A leaf holds the tasks whose words share
their first bits; how many bits follows from the number of rows alone, so that a leaf, and whatever is computed from it,
is the same however the table is stored and whoever computes it. What is summed over tasks is summed in the order of
leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, Protocol, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop.data.tasks import TaskSet
from innerloop.data.words import Words, draws, words_of_ids

# Numbers in a leaf, about; more where one task has more.
_NUMBERS_OF_LEAF = 2**20
# Narrow rows are laid side by side to rows of about so many numbers.
_NUMBERS_TOGETHER = 1024
_LOW_HIGH = (np.minimum.reduce, np.maximum.reduce)


class Extremes(NamedTuple):
    """Smallest and largest value of each feature and of each target, over all rows."""

    X_low: FloatArray
    X_high: FloatArray
    y_low: FloatArray
    y_high: FloatArray

    @classmethod
    def of(cls, X: FloatArray, y: FloatArray) -> Extremes:
        """Return those of some rows, at least one."""
        return cls(*_extremes(X), *_extremes(y))

    def joined(self, other: Extremes) -> Extremes:
        """Return those of the rows of both."""
        low = np.minimum(self.X_low, other.X_low), np.minimum(self.y_low, other.y_low)
        high = np.maximum(self.X_high, other.X_high), np.maximum(self.y_high, other.y_high)
        return Extremes(low[0], high[0], low[1], high[1])


def _extremes(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the smallest and the largest number of each column."""
    width = rows[0].size
    together = _NUMBERS_TOGETHER // width if width else 0
    if together > 1 and len(rows) >= together and rows.flags.c_contiguous:  # numpy is slow on narrow rows
        whole = len(rows) // together * together
        wide = rows[:whole].reshape(-1, together * width)
        of_wide = (f(wide, axis=0).reshape(together, *rows.shape[1:]) for f in _LOW_HIGH)
        parts = [np.concatenate((part, rows[whole:])) for part in of_wide]
    else:
        parts = [rows, rows]
    low, high = (np.asarray(f(part, axis=0)) for f, part in zip(_LOW_HIGH, parts, strict=True))
    return low, high


@final
@dataclass(frozen=True)
class SampleSize:
    """How many tasks choices are made on; of a table of at most `most_tasks` all.

    Parameters
    ----------
    most_tasks
    most_numbers
        Numbers in the rows of the sample, unless that leaves fewer than `least_tasks`.
    least_tasks
    """

    most_tasks: int = 2**14
    most_numbers: int = 2**25
    least_tasks: int = 2_000

    def choose(self, drawn: Words, numbers: IntArray, is_part: bool = False) -> IntArray:
        """Return the positions of the sampled tasks, given the draw of each and how many numbers its rows hold.

        With `is_part` there are more tasks, of higher draws.

        They are those of lowest draws. So one task more changes the sample by one task, and of the tasks of any part of
        a table those that the sample can hold are known without the others.
        """
        if len(drawn) <= self.most_tasks and not is_part:
            return np.arange(len(drawn))
        order = np.argsort(drawn, kind="stable")
        return np.sort(order[: self.n_tasks(numbers[order])])

    def n_tasks(self, numbers: IntArray) -> int:
        """Return how many tasks are sampled, given how many numbers each holds, in the order of their draws."""
        n = int(np.searchsorted(np.cumsum(numbers), self.most_numbers, side="right"))
        return min(max(n, self.least_tasks), self.most_tasks)


_SAMPLE_SIZE = SampleSize()


def sample_size() -> SampleSize:
    """Return on how many tasks choices are made."""
    return _SAMPLE_SIZE


class Population(Protocol):
    """Tasks that are passed over unit by unit, leaf by leaf."""

    @property
    def n_units(self) -> int:
        """Number of units of work; each holds whole leaves, in their order."""
        ...

    def leaves(self, unit: int) -> Iterator[TaskSet]:
        """Yield the leaves of a unit that hold tasks, the rows of each task in canonical order."""
        ...


@final
@dataclass(frozen=True, eq=False)
class TasksInMemory:
    """A population of tasks that are in memory."""

    tasks: TaskSet = field(repr=False)

    def sample(self, seed: int, size: SampleSize) -> TaskSet:
        """Return the tasks that choices are made on."""
        tasks = self.tasks
        chosen = size.choose(draws(words_of_ids(tasks.ids), seed), tasks.sizes * _numbers_of_row(tasks))
        return canonical(tasks.select(chosen))

    def extremes(self) -> Extremes:
        """Return the extremes of all rows."""
        return Extremes.of(self.tasks.X, self.tasks.y)

    @property
    def n_units(self) -> int:
        """Number of leaves: each is a unit."""
        return 1 << leaf_depth(self.tasks.n_rows, _numbers_of_row(self.tasks))

    def leaves(self, unit: int) -> Iterator[TaskSet]:
        """Yield the leaf."""
        order, first = self._leaf_starts
        if first[unit] < first[unit + 1]:
            yield canonical(replace(self.tasks, columns=None).select(order[first[unit] : first[unit + 1]]))

    @cached_property
    def _leaf_starts(self) -> tuple[IntArray, IntArray]:
        """Positions of tasks in the order of words, and the first of each leaf among them."""
        words = words_of_ids(self.tasks.ids)
        order = np.argsort(words, kind="stable")
        leaf = first_bits(words[order], self.n_units.bit_length() - 1)
        return order, np.searchsorted(leaf, np.arange(self.n_units + 1, dtype=np.uint64))


def _numbers_of_row(tasks: TaskSet) -> int:
    """Return how many numbers a row holds: features, targets, and its weight if there are weights."""
    return tasks.n_features + (1 if tasks.y.ndim == 1 else tasks.y.shape[1]) + (tasks.weights is not None)


def leaf_depth(n_rows: int, n_numbers: int) -> int:
    """Return by how many first bits of words tasks are divided into leaves, given rows and the numbers of each."""
    return max(0, -(-n_rows * n_numbers // _NUMBERS_OF_LEAF) - 1).bit_length()


def first_bits(words: Words, n: int) -> Words:
    """Return the first n bits of each word as a number."""
    return words >> np.uint64(64 - n) if n else np.zeros_like(words)


def canonical(tasks: TaskSet) -> TaskSet:
    """Return the tasks with the rows of each in an order that follows from their numbers: the same from any file.

    Rows are in the order of their targets; then, where those are equal, of the other numbers. Zeros lose their sign.
    """
    order = canonical_order(tasks.task_of_row, *_keys(tasks))
    weights = None if tasks.weights is None else tasks.weights[order]
    columns = None if tasks.columns is None else tasks.columns.take(order)
    return replace(
        tasks, X=np.take(tasks.X, order, axis=0) + 0.0, y=tasks.y[order] + 0.0, weights=weights, columns=columns
    )


def _keys(tasks: TaskSet) -> list[NDArray[np.float64]]:
    weights = [] if tasks.weights is None else [tasks.weights]
    return [*np.atleast_2d(tasks.y.T), *weights, *tasks.X.T]


def canonical_order(task: IntArray, first: FloatArray, *others: FloatArray) -> IntArray:
    """Return the order of rows by their tasks, in a task by these numbers: as `numpy.lexsort`, but most rows differ."""
    order = np.argsort(first)
    small = task.astype(np.uint16) if len(task) and task.max() < 2**16 else task  # numpy sorts these in linear time
    order = order[np.argsort(small[order], kind="stable")]
    same = (np.diff(task[order]) == 0) & (np.diff(first[order]) == 0)
    if same.any():
        tied = np.append(same, False) | np.append(False, same)
        rows = order[tied]
        keys = (*(key[rows] for key in reversed(others)), first[rows], task[rows])
        order[tied] = rows[np.lexsort(keys)]
    return order

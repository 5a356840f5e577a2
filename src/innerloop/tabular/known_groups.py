"""Groups that a fitted table knows: their ids, the rows on which they adapted, and their coefficients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.ragged import row_starts
from innerloop.data.ids import comparable, places_in_order, sorting
from innerloop.data.tasks import TaskSet
from innerloop.data.words import Words, places_by_word


@final
@dataclass(frozen=True, eq=False)
class KnownGroups:
    """Groups with their coefficients, in scaled units, with the columns of curves.

    Groups that adapt one after the other are kept in front of the others, which may be millions: one more then costs
    nothing that grows with these. Positions count the groups behind first, and then those in front.

    Parameters
    ----------
    tasks
        Ids, and the rows on which the groups adapted, reduced; no rows where only coefficients were kept.
    coef : (n_groups, n_columns, n_targets)
    words : (n_groups,) or None
        Words of the ids, where the groups are in the order of their words; None: they are in that of their ids.
    recent
        Groups in front, each instead of one of the same id behind.
    """

    tasks: TaskSet
    coef: FloatArray
    words: Words | None = None
    recent: KnownGroups | None = None

    @classmethod
    def none(cls, n_columns: int, n_targets: int) -> KnownGroups:
        """Return no groups."""
        none = np.arange(0)
        rows = TaskSet(np.empty((0, n_columns)), np.empty((0, n_targets)), row_starts(none), none, reduced_from=none)
        return cls(rows, np.empty((0, n_columns, n_targets)))

    @classmethod
    def of_rows(cls, tasks: TaskSet) -> KnownGroups:
        """Return groups of which rows are kept alone, to be found by their ids."""
        return cls(tasks, np.empty((len(tasks), 0, 0)))

    @cached_property
    def whole(self) -> KnownGroups:
        """The same groups, none of them in front, in the order of their ids unless none were."""
        if self.recent is None:
            return self
        ids, new_ids = comparable(self.tasks.ids, self.recent.tasks.ids)
        kept = np.flatnonzero(~np.isin(ids, new_ids))
        ids = np.concatenate((ids[kept], new_ids))
        order = np.argsort(ids, kind="stable")
        coef = np.concatenate((self.coef[kept], self.recent.coef))[order]
        rows = _joined(self.tasks.select(kept), self.recent.tasks)
        return KnownGroups(replace(rows, ids=ids).select(order), coef)

    def places(self, ids: NDArray[Any]) -> IntArray:
        """Return the positions of groups, given by `distinct_ids`; -1 for those that are not known."""
        if self.words is not None:
            behind = places_by_word(ids, self.words, self.tasks.ids)
        else:
            known, order = self._as_text if ids.dtype.kind == "U" else self._in_order
            behind = places_in_order(comparable(ids, known)[0], known, order)
        if self.recent is None:
            return behind
        front = self.recent.places(ids)
        return np.where(front >= 0, len(self.tasks) + front, behind)

    def coef_of(self, place: IntArray) -> FloatArray:
        """Return the coefficients of groups at some positions: (n, n_columns, n_targets)."""
        if self.recent is None:
            return self.coef[place]
        coef, front = np.empty((len(place), *self.coef.shape[1:])), place >= len(self.tasks)
        coef[~front], coef[front] = self.coef[place[~front]], self.recent.coef[place[front] - len(self.tasks)]
        return coef

    def rows_of(self, place: IntArray) -> TaskSet:
        """Return the groups at some positions with their rows.

        Raises
        ------
        ValueError
            If no rows of one were kept, as after `fit_dataset` of very many.
        """
        tasks = self.kept_rows(place)
        without = is_without_rows(tasks)
        if without.any():
            raise ValueError(
                f"the model keeps no rows of group {tasks.ids[np.argmax(without)].item()!r}, only its coefficients; "
                "call `adapt` with its rows first."
            )
        return tasks

    def kept_rows(self, place: IntArray) -> TaskSet:
        """Return the groups at some positions with the rows that were kept of them, which may be none."""
        if self.recent is None:
            return self.tasks.select(place)
        front = place >= len(self.tasks)
        parts = self.tasks.select(place[~front]), self.recent.tasks.select(place[front] - len(self.tasks))
        order = np.argsort(np.argsort(front, kind="stable"))
        ids = np.concatenate(comparable(*(part.ids for part in parts)))
        return replace(_joined(*parts), ids=ids).select(order)

    def joined_with(self, tasks: TaskSet) -> tuple[TaskSet, TaskSet]:
        """Return those of some tasks that are known, with their kept rows, and all tasks, these rows before theirs.

        Raises
        ------
        ValueError
            If no rows of one were kept.
        """
        place = self.places(tasks.ids)
        has = np.flatnonzero(place >= 0)
        if len(has) == 0:
            return tasks.select(has), tasks
        before, position = self.rows_of(place[has]), np.full(len(place), -1)
        position[has] = np.arange(len(has))
        return before, with_rows_of(before, position, tasks)

    def with_groups(self, rows: TaskSet, coef: FloatArray) -> KnownGroups:
        """Return these groups with others in front of them, given their reduced rows and coefficients."""
        new = KnownGroups(rows, coef)
        if self.recent is not None:
            new = replace(self.recent, recent=new).whole
        both = replace(self, recent=new)
        # Groups in front are copied by each call, all groups by the few calls that join them.
        return both if len(new.tasks) ** 2 <= len(self.tasks) else both.whole

    def readapted(self, adapt: Callable[[TaskSet], FloatArray]) -> KnownGroups:
        """Return the groups with coefficients by a function of their rows; those without rows keep theirs."""
        recent = None if self.recent is None else self.recent.readapted(adapt)
        has = np.flatnonzero(~is_without_rows(self.tasks)) if self.tasks.n_rows else np.arange(0)
        if len(has) == len(self.tasks):
            return replace(self, coef=adapt(self.tasks), recent=recent)
        if len(has) == 0:
            return replace(self, recent=recent)
        coef = self.coef.copy()
        coef[has] = adapt(self.tasks.select(has))
        return replace(self, coef=coef, recent=recent)

    @cached_property
    def _in_order(self) -> tuple[NDArray[Any], IntArray | None]:
        """Ids, and the positions that sort them; None where they are in order."""
        return self.tasks.ids, sorting(self.tasks.ids)

    @cached_property
    def _as_text(self) -> tuple[NDArray[Any], IntArray | None]:
        """The same of ids as text."""
        if self.tasks.ids.dtype.kind == "U":
            return self._in_order
        texts = self.tasks.ids.astype(np.str_)
        return texts, sorting(texts)


def is_without_rows(tasks: TaskSet) -> NDArray[np.bool_]:
    """Return whether no rows were kept of each task: (n_tasks,)."""
    return np.asarray((tasks.sizes == 0) & (tasks.original_sizes > 0))


def _joined(tasks: TaskSet, others: TaskSet) -> TaskSet:
    """Return the rows of both, with the ids of neither."""
    X, y, sizes = (np.concatenate((getattr(tasks, n), getattr(others, n))) for n in ("X", "y", "original_sizes"))
    starts = np.concatenate((tasks.starts, tasks.starts[-1] + others.starts[1:]))
    return TaskSet(X, y, starts, np.arange(len(sizes)), reduced_from=sizes)


def with_rows_of(known: TaskSet, place: IntArray, tasks: TaskSet) -> TaskSet:
    """Return tasks with the reduced rows of known ones before theirs.

    Parameters
    ----------
    known
    place : (n_tasks,)
        Position of each task in `known`; -1 for one that is not there.
    tasks
    """
    has = np.flatnonzero(place >= 0)
    before = known.select(place[has])
    X, y = np.concatenate((before.X, tasks.X)), np.concatenate((before.y, tasks.y.reshape(len(tasks.y), -1)))
    task = np.concatenate((has[before.task_of_row], tasks.task_of_row))
    order = np.argsort(task, kind="stable")
    n_rows = tasks.original_sizes.copy()
    n_rows[has] += before.original_sizes
    starts = row_starts(np.bincount(task, minlength=len(tasks)))
    return TaskSet(X[order], y[order], starts, tasks.ids, reduced_from=n_rows)

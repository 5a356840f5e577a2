"""Tasks that join a population of which groups are known on disk: their sums, and the groups of both together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.ragged import ragged_ranges, row_starts
from innerloop._base.threads import arithmetic, one_thread
from innerloop._blocks.store import Arrays
from innerloop.adaptation.predictor import Mixture
from innerloop.data.population import Population
from innerloop.data.row_blocks import reduced
from innerloop.data.tasks import TaskSet
from innerloop.data.words import words_of_ids
from innerloop.tabular.known_groups import KnownGroups, is_without_rows
from innerloop.tabular.population_sums import Protocols, flat_sums, n_sums
from innerloop.tabular.totals import Design

# Known groups that adapt at once.
_AT_ONCE = 2**14


class Stored(Protocol):
    """Known groups on disk, in the order of their words."""

    @property
    def keeps_rows(self) -> bool:
        """Whether rows are kept."""
        ...

    @property
    def known(self) -> KnownGroups:
        """The groups."""
        ...


@final
@dataclass(frozen=True, eq=False)
class JoinSums:
    """What the tasks of a unit add to the sums of a population, as a function of the unit's number.

    Parameters
    ----------
    population
        Of the tasks that join.
    design
    covariances : (n_models, n_targets, n_columns, n_columns)
        At which the sums are made.
    episodes
        For the objective of gradient steps; None where none is needed.
    stored
        Groups that are in the sums; of one that joins, all rows take the place of those it had.
    """

    population: Population
    design: Design
    covariances: FloatArray
    episodes: Protocols | None
    stored: Stored

    def __call__(self, unit: int) -> Arrays:
        """Return "totals", "counts" (new tasks, rows, bytes of an id), "lost", and the factor of the objective.

        Groups in "lost" are known, and cannot be joined: of them there are no rows.
        """
        shape = self.covariances.shape
        totals, counts = np.zeros((*shape[:2], n_sums(shape[-1]))), np.zeros(3, dtype=np.int64)
        lost, found = [np.empty(0, dtype=np.int64)], dict[str, Any]()
        objective = None
        with one_thread(shape[-1]):
            for leaf in self.population.leaves(unit):
                self.design.scaling.check_weights(leaf)
                tasks = self.design.tasks(leaf)
                place = self.stored.known.places(tasks.ids)
                kept = self.stored.known.kept_rows(place[place >= 0])
                cannot = is_without_rows(kept) if self.episodes is None else np.ones(len(kept), dtype=bool)
                counts += (len(tasks) - len(kept), leaf.n_rows, 0)
                counts[2] = max(counts[2], leaf.ids.dtype.itemsize)
                if cannot.any():
                    lost.append(kept.ids[cannot])
                    continue
                before, after = self.stored.known.joined_with(reduced(tasks.whitened()))
                totals += flat_sums(self.covariances, after)
                totals -= flat_sums(self.covariances, before)
                if self.episodes is not None:
                    of_leaf = self.episodes.objective(tasks, by_ids=True)
                    objective = of_leaf if objective is None else objective + of_leaf
        if objective is not None:
            found = {"factor": objective.factor, "weight": np.array([objective.weight, objective.n_tasks])}
        lost = [part for part in lost if len(part)] or lost
        return {
            "totals": totals,
            "counts": counts,
            "lost": joined_ids(lost),
            "arithmetic": np.array([arithmetic()]),
            **found,
        }


@final
@dataclass(frozen=True, eq=False)
class JoinGroups:
    """The known groups of a unit with the tasks that join, in the order of words, as a function of the unit's number.

    Parameters
    ----------
    population, design, stored
        As of `JoinSums`.
    predictor
        In scaled units; groups of which no rows are kept keep their coefficients.
    """

    population: Population
    design: Design
    predictor: Mixture
    stored: Stored

    @property
    def keeps_rows(self) -> bool:
        """Whether reduced rows are returned too."""
        return self.stored.keeps_rows

    def __call__(self, unit: int) -> Arrays:
        """Return what `innerloop.tabular.totals.AdaptLeaves` does of the groups of both."""
        known = self.stored.known
        first, end = self._range(unit)
        stays, parts = np.ones(end - first, dtype=bool), list[tuple[TaskSet, FloatArray]]()
        with one_thread(len(self.predictor.unseen)):
            for leaf in self.population.leaves(unit):
                place = known.places(leaf.ids)
                stays[place[place >= 0] - first] = False
                tasks = reduced(known.joined_with(reduced(self.design.tasks(leaf).whitened()))[1])
                parts.append((tasks, self.predictor.adapt(tasks)))
            parts += self._others(first + np.flatnonzero(stays))
        return _in_order_of_words(parts, self.keeps_rows)

    def _range(self, unit: int) -> tuple[int, int]:
        """Return the positions of the unit's first known group, and of that after its last."""
        words = self.stored.known.words
        assert words is not None
        n_bits = self.population.n_units.bit_length() - 1
        first, end = (
            np.searchsorted(words, np.uint64(at << (64 - n_bits))) if at < self.population.n_units else len(words)
            for at in (unit, unit + 1)
        )
        return int(first), int(end)

    def _others(self, place: IntArray) -> Iterator[tuple[TaskSet, FloatArray]]:
        """Yield groups that no task joins, and their coefficients."""
        known = self.stored.known
        for part in np.array_split(place, -(-len(place) // _AT_ONCE) or 1):
            group = KnownGroups(known.tasks.select(part), np.array(known.coef[part]))
            yield group.tasks, group.readapted(self.predictor.adapt).coef


def joined_ids(ids: list[NDArray[Any]]) -> NDArray[Any]:
    """Return ids of several arrays in one, as text where one of them is."""
    if any(part.dtype.kind == "U" for part in ids):
        ids = [part.astype(np.str_) for part in ids]
    return np.concatenate(ids)


def _in_order_of_words(parts: list[tuple[TaskSet, FloatArray]], keeps_rows: bool) -> Arrays:
    parts = [part for part in parts if len(part[0])]
    if not parts:
        return {}
    tasks = [part[0] for part in parts]
    ids, sizes, n_rows = (
        joined_ids([t.ids for t in tasks]),
        *(np.concatenate([getattr(t, name) for t in tasks]) for name in ("sizes", "original_sizes")),
    )
    order = np.argsort(words_of_ids(ids), kind="stable")
    found = {"ids": ids[order], "n_rows": n_rows[order], "coef": np.concatenate([coef for _, coef in parts])[order]}
    if keeps_rows:
        rows = ragged_ranges(row_starts(sizes)[order], sizes[order])
        found |= {name: np.concatenate([getattr(t, name) for t in tasks])[rows] for name in ("X", "y")}
        found["sizes"] = sizes[order]
    return found

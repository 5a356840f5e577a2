"""The sizes of a meta-learning experiment."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, final

import numpy as np

from innerloop._base.checks import IntArray, as_count, check_nonnegative_number
from innerloop.data.episodes import PROTOCOLS, Protocol
from innerloop.distributions.inner_rules import InnerRule, InnerRuleName, inner_rule

Size = int | Sequence[int]


class Fold(NamedTuple):
    """Query rows of a task, and the rows that support them."""

    query: IntArray
    support: IntArray


class Group(NamedTuple):
    """Training tasks of the same sizes."""

    n_support: int
    n_query: int
    n_tasks: int


@final
@dataclass(frozen=True)
class Design:
    r"""Numbers of tasks and rows, and how tasks adapt.

    Parameters
    ----------
    n_tasks
        m, training tasks.
    n_support : int or (n_tasks,)
        n_t, rows of each training task that the inner loop sees.
    n_query : int or (n_tasks,)
        n_v, rows of each training task that score it.
    n_adapt
        n_r, rows on which a new task adapts; None is `n_support`.
    n_steps : int or math.inf
        K, inner steps in meta-training; infinity is gradient flow, whose rates are times.
    n_adapt_steps : int or math.inf
        Inner steps on a new task; None is `n_steps`.
    l2
        Penalty ``(l2 / 2) |coef - init|^2`` beside half the mean squared error, as in `solve`.
    inner_rule
        "gradient" steps, or "implicit": the inner minimiser of
        ``half the mean squared error + |coef - init|^2 / (2 inner_lr)``, as in implicit MAML, for rates from 0.
    protocol
        What scores the n = n_support + n_query rows of a training task. "split", as in the paper: its query rows alone.
        The others score every row once: "train" after adaptation on all n rows, itself included; "leave-one-out" on all
        others; "deal" on the `n_support` rows that follow its fold, as `TaskSet.deal` does.

    Examples
    --------
    >>> import innerloop as il
    >>> design = il.Design(n_tasks=3, n_support=30, n_query=2)
    >>> design.n_adapt, design.n_query_rows
    (30, 6)
    >>> il.Design(n_tasks=3, n_support=30, n_query=2, protocol="leave-one-out").n_query_rows
    96
    """

    n_tasks: int
    n_support: Size
    n_query: Size
    n_adapt: int = None  # type: ignore[assignment]  # None becomes a number at once
    n_steps: float = 1
    n_adapt_steps: float | None = None
    l2: float = 0.0
    inner_rule: InnerRuleName = "gradient"
    protocol: Protocol = "split"

    def __post_init__(self) -> None:
        if self.n_adapt is None:
            object.__setattr__(self, "n_adapt", self._default_n_adapt())
        for name in ("n_tasks", "n_adapt"):
            as_count(getattr(self, name), name)
        for name in ("n_steps", "n_adapt_steps"):
            if getattr(self, name) not in (None, math.inf):
                as_count(getattr(self, name), name)
        for name in ("n_support", "n_query"):
            self._sizes(name)
        check_nonnegative_number(self.l2, "l2")
        rule = inner_rule(self.inner_rule, 1)
        if rule.degree is None and (self.n_steps, self.adapt_steps) != (1, 1):
            raise ValueError("`n_steps` must be 1 with inner_rule='implicit', which solves the inner problem exactly.")

        if self.protocol not in PROTOCOLS:
            raise ValueError(f"`protocol` must be one of {', '.join(map(repr, PROTOCOLS))}, got {self.protocol!r}.")

    def _default_n_adapt(self) -> int:
        if isinstance(self.n_support, Sequence) or hasattr(self.n_support, "__len__"):
            raise ValueError("`n_adapt` must be given where `n_support` differs from task to task.")
        return as_count(self.n_support, "n_support")

    def _sizes(self, name: str) -> list[int]:
        value = getattr(self, name)
        if not isinstance(value, Sequence) and not hasattr(value, "__len__"):
            return [as_count(value, name)] * self.n_tasks
        if len(value) != self.n_tasks:
            raise ValueError(f"`{name}` must be one number or one per task ({self.n_tasks}), got {len(value)}.")
        return [as_count(size, name) for size in value]

    @property
    def rule(self) -> InnerRule:
        """How tasks adapt in meta-training."""
        return inner_rule(self.inner_rule, self.n_steps)

    @property
    def adapt_rule(self) -> InnerRule:
        """How a new task adapts."""
        return inner_rule(self.inner_rule, self.adapt_steps)

    @property
    def adapt_steps(self) -> float:
        """Inner steps on a new task."""
        return self.n_steps if self.n_adapt_steps is None else self.n_adapt_steps

    @property
    def groups(self) -> tuple[Group, ...]:
        """Training tasks grouped by their sizes."""
        counts = Counter(zip(self._sizes("n_support"), self._sizes("n_query"), strict=True))
        return tuple(Group(n_support, n_query, n) for (n_support, n_query), n in sorted(counts.items()))

    @property
    def n_query_rows(self) -> int:
        """N, query rows of all training tasks together."""
        return sum(self.n_scored(group) * group.n_tasks for group in self.groups)

    def n_scored(self, group: Group) -> int:
        """Return how many rows of a task score it."""
        return group.n_query if self.protocol == "split" else group.n_support + group.n_query

    def episodes(self, group: Group) -> list[Fold]:
        """Return the folds of a task's rows: which rows are queries, and which support them."""
        n, n_support = group.n_support + group.n_query, group.n_support
        rows = np.arange(n)
        if self.protocol == "split":
            return [Fold(rows[n_support:], rows[:n_support])]
        if self.protocol == "train":
            return [Fold(rows, rows)]
        if self.protocol == "leave-one-out":
            return [Fold(rows[i : i + 1], np.delete(rows, i)) for i in range(n)]
        n_folds = max(round(n / n_support), -(-n // (n - n_support)))
        ends = [fold * n // n_folds for fold in range(n_folds + 1)]
        return [Fold(rows[i:j], (j + np.arange(n_support)) % n) for i, j in pairwise(ends)]

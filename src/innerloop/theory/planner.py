"""How to split a fixed number of labelled rows between tasks, support and query."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, final

import numpy as np
from numpy.typing import ArrayLike

from innerloop._base.checks import FloatArray, as_count
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.theory.optimum import RateOptimum, optimal_rates

# Numbers of tasks, and shares of support rows, on the first grid and on the finer one around its best.
_TASKS, _SHARES = 12, 11
_FINE_TASKS, _FINE_SHARES = 7, 5


@final
@dataclass(frozen=True)
class Plan:
    """A split of the rows, and its best rates."""

    design: Design
    best: RateOptimum


def plan_design(
    dist: MixedLinearRegression,
    design: Design,
    n_rows: int,
    init: ArrayLike | None = None,
    n_plans: int = 5,
    l2: Literal["best"] | None = None,
) -> list[Plan]:
    """Return the best splits of `n_rows` labelled rows into tasks, support and query rows of a task.

    Parameters
    ----------
    dist, init
        As in `expected_loss`.
    design
        What does not change: rows and steps of adaptation, penalty, inner rule.
    n_rows
        Rows in all, support and query together; at least 4.
    n_plans
        How many to return.
    l2
        As in `optimal_rates`; "best" is found for the splits that are returned.

    Returns
    -------
    list of Plan
        Lowest expected loss first, each at its best pair of rates. Splits into at least two tasks are tried on a grid,
        and on a finer one around its best.
    """
    budget = as_count(n_rows, "n_rows", 4)
    n_tasks, shares = np.geomspace(2, budget // 2, _TASKS), np.linspace(0, 1, _SHARES)
    plans: dict[_Split, Plan] = {}

    def add(splits: set[_Split]) -> None:
        for split in sorted(splits - plans.keys()):
            sized = replace(design, **split._asdict())
            if design.l2 > 0 or abs(sized.n_query_rows - dist.n_features) > 1:
                plans[split] = Plan(sized, optimal_rates(dist, sized, init))

    add(_splits(budget, n_tasks, shares))
    if plans:
        best = min(plans, key=lambda split: plans[split].best.loss)
        ratio, width = n_tasks[1] / n_tasks[0], shares[1] - shares[0]
        share = best.n_support / (best.n_support + best.n_query)
        near = np.geomspace(best.n_tasks / ratio, best.n_tasks * ratio, _FINE_TASKS)
        add(_splits(budget, near, np.linspace(share - width, share + width, _FINE_SHARES)))
    best_plans = sorted(plans.values(), key=lambda plan: plan.best.loss)[:n_plans]
    if l2 == "best":
        best_plans = [Plan(plan.design, optimal_rates(dist, plan.design, init, l2=l2)) for plan in best_plans]
    return sorted(best_plans, key=lambda plan: plan.best.loss)


class _Split(NamedTuple):
    n_tasks: int
    n_support: int
    n_query: int


def _splits(budget: int, n_tasks: FloatArray, shares: FloatArray) -> set[_Split]:
    """Return the splits of so many rows, at numbers of tasks and shares of support rows that are rounded."""
    splits = set()
    for tasks in np.clip(n_tasks.round().astype(int), 2, budget // 2).tolist():
        rows = budget // tasks
        for share in shares:
            n_support = min(max(round(share * rows), 1), rows - 1)
            splits.add(_Split(tasks, n_support, rows - n_support))
    return splits

"""How to split a fixed number of labelled rows between tasks, support and query."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import ArrayLike

from innerloop._checks import as_count
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.theory.optimum import RateOptimum, optimal_rates

_N_SPLITS = 9


@final
@dataclass(frozen=True)
class Plan:
    """A split of the rows, and its best rates."""

    design: Design
    best: RateOptimum


def plan_design(
    dist: MixedLinearRegression, design: Design, n_rows: int, init: ArrayLike | None = None, n_plans: int = 5
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

    Returns
    -------
    list of Plan
        Lowest expected loss first, each at its best pair of rates. Splits are tried on a grid: at least two tasks,
        shares of support from 1/10 to 9/10.
    """
    budget = as_count(n_rows, "n_rows", 4)
    candidates = set()
    for n_tasks in np.unique(np.geomspace(2, budget // 2, 12).round().astype(int)).tolist():
        for share in np.linspace(0.1, 0.9, _N_SPLITS):
            per_task = budget // n_tasks
            n_support = min(max(round(share * per_task), 1), per_task - 1)
            candidates.add((n_tasks, n_support, per_task - n_support))
    plans = []
    for n_tasks, n_support, n_query in sorted(candidates):
        if design.l2 == 0 and abs(n_tasks * n_query - dist.n_features) <= 1:
            continue
        split = replace(design, n_tasks=n_tasks, n_support=n_support, n_query=n_query)
        plans.append(Plan(split, optimal_rates(dist, split, init)))
    return sorted(plans, key=lambda plan: plan.best.loss)[:n_plans]

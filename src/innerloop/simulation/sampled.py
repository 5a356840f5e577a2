"""Runs in which everything is drawn: tasks to train on, and new tasks to score on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.seeds import stream
from innerloop.data.episodes import Episodes
from innerloop.distributions import Design, TaskDistribution
from innerloop.distributions.base import Rows
from innerloop.exact.objective import MetaObjective
from innerloop.exact.query_loss import adapted_losses
from innerloop.exact.solve import solve_unwarned


@final
@dataclass(frozen=True, eq=False)
class SampledRuns:
    """Test losses of runs on drawn tasks, for all rates on the same draws.

    Parameters
    ----------
    dist, design
        The tasks, and the sizes.
    inner_lrs, adapt_lrs : (n_inner,), (n_adapt,)
        Rates.
    init : (n_features,)
        Where meta-training starts.
    n_test_tasks, n_test_rows
        New tasks of a run, and rows that score each.
    """

    dist: TaskDistribution
    design: Design
    inner_lrs: FloatArray
    adapt_lrs: FloatArray
    init: FloatArray
    n_test_tasks: int
    n_test_rows: int

    def losses(self, seed: int, runs: range) -> FloatArray:
        """Return the losses of runs: (n_runs, n_inner, n_adapt)."""
        return np.array([self._loss(stream(seed, run)) for run in runs])

    def cost(self) -> float:
        """Return about how many floating-point operations a run takes."""
        p, N = self.dist.n_features, self.design.n_query_rows
        small, width = min(N, p), (int(self.design.n_steps) + 1) * p
        tests = self.n_test_tasks * self.n_test_rows * 2.0 * p * (2 * len(self.inner_lrs) + self.design.n_adapt)
        return tests + len(self.inner_lrs) * (20.0 * small**2 * p + 1e6) + 4.0 * N * width * min(N, width)

    def _loss(self, rng: np.random.Generator) -> FloatArray:
        train = [(g.n_support, g.n_query) for g in self.design.groups for _ in range(g.n_tasks)]
        test = [(self.design.n_adapt, self.n_test_rows)] * self.n_test_tasks
        drawn = self.dist.draw_tasks([sum(sizes) for sizes in train + test], rng)
        objective = MetaObjective.from_episodes(
            training_episodes(drawn[: len(train)], self.design), int(self.design.n_steps)
        )
        start = self.init if objective.single_target else np.repeat(self.init[:, None], objective.n_targets, axis=1)
        # Warnings are expected near N = p, where they say nothing about the average over runs.
        coef = solve_unwarned(objective, self.inner_lrs, start, self.design.l2).coef
        return adapted_losses(_episodes(drawn[len(train) :], test), coef, self.adapt_lrs, int(self.design.adapt_steps))


def training_episodes(drawn: list[Rows], design: Design) -> Episodes:
    """Return the episodes of training tasks, in the order of the design's groups, under its protocol."""
    X, y = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    groups = [group for group in design.groups for _ in range(group.n_tasks)]
    first = np.cumsum([0, *(len(rows) for rows, _ in drawn)])
    folds = [(task, fold) for task, group in enumerate(groups) for fold in design.episodes(group)]
    support, query = (
        (np.concatenate(rows), np.array([len(part) for part in rows], dtype=np.intp))
        for rows in zip(*((first[task] + fold.support, first[task] + fold.query) for task, fold in folds), strict=True)
    )
    return Episodes.from_rows(X, y, support, query, np.array([task for task, _ in folds], dtype=np.intp))


def _episodes(drawn: list[Rows], sizes: list[tuple[int, int]]) -> Episodes:
    """Return episodes whose first rows support and whose other rows are queries."""
    X, y = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    support, query = (np.array(part, dtype=np.intp) for part in zip(*sizes, strict=True))
    first = np.cumsum(support + query) - support - query
    places = np.arange(len(X)) - np.repeat(first, support + query)
    is_support = places < np.repeat(support, support + query)
    return Episodes.from_rows(
        X,
        y,
        (np.flatnonzero(is_support), support),
        (np.flatnonzero(~is_support), query),
        np.arange(len(sizes)),
    )

"""Coverage of prediction intervals on unseen tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.standard_errors import standard_errors
from innerloop.data.episodes import Episodes
from innerloop.data.tasks import TaskSet
from innerloop.tabular.training import TrainedTable

LEVELS = (0.5, 0.8, 0.9, 0.95)
# Most unseen tasks of a fold by which coverage is measured.
_MOST_TASKS = 400


@final
@dataclass(frozen=True, eq=False)
class Coverage:
    """Share of the targets of unseen tasks that lie in their prediction intervals, mean over tasks.

    Parameters
    ----------
    n_rows : (n_points,)
        Numbers of adaptation rows.
    share, share_se : (n_points, n_levels)
        At each of the levels `LEVELS`, with standard errors over tasks.
    """

    n_rows: FloatArray
    share: FloatArray
    share_se: FloatArray

    @classmethod
    def of(cls, n_rows: FloatArray, shares: FloatArray) -> Coverage:
        """Summarise shares (n_points, n_tasks, n_levels), NaN for tasks that were not looked at."""
        of_tasks = [of_point[np.isfinite(of_point[:, 0])] for of_point in shares]
        used = [i for i, of_point in enumerate(of_tasks) if len(of_point)]
        return cls(
            n_rows[used],
            np.array([of_tasks[i].mean(axis=0) for i in used]),
            np.array([standard_errors(of_tasks[i]) for i in used]),
        )


def shares_inside(trained: TrainedTable, unseen: TaskSet, support_sizes: Sequence[int]) -> FloatArray:
    """Return the share of each unseen task's targets that lie in their intervals, after numbers of rows.

    Parameters
    ----------
    trained
    unseen
        In the units of the data; the first 400 are looked at.
    support_sizes
        Numbers of rows that they adapt on.

    Returns
    -------
    (n_sizes, n_tasks, n_levels)
        NaN for tasks that have no more rows than that, or were not looked at.
    """
    shares = np.full((len(support_sizes), len(unseen), len(LEVELS)), np.nan)
    tasks = trained.expand(unseen.select(np.arange(min(len(unseen), _MOST_TASKS))))
    training = trained.training
    order = np.arange(tasks.n_rows) if training.order is not None else tasks.shuffled(training.settings.seed)
    for i, n in enumerate(support_sizes):
        episodes = tasks.hold_out(n, order)
        if len(episodes):
            shares[i, episodes.task] = _shares(trained, episodes, n)
    return shares


def _shares(trained: TrainedTable, episodes: Episodes, n: int) -> FloatArray:
    """Return the share of each task's query rows in their intervals, after n support rows: (n_tasks, n_levels)."""
    predictor, task = trained.predictor, np.repeat(np.arange(len(episodes)), episodes.n_query)
    left, variance = predictor.episode_moments(episodes)
    standardised = np.abs(left) / np.sqrt(variance)
    shares = np.empty((len(episodes), len(LEVELS)))
    for j, level in enumerate(LEVELS):
        half_width = trained.choice.calibration.half_width(np.array([n]), level)
        share = (standardised <= half_width).mean(axis=1)
        shares[:, j] = np.bincount(task, share) / np.bincount(task)
    return shares

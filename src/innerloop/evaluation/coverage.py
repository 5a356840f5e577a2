"""Coverage of prediction intervals on unseen tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.seeds import Stream, stream
from innerloop._base.standard_errors import standard_errors
from innerloop._base.threads import on_threads, one_thread
from innerloop.data.tasks import TaskSet
from innerloop.tabular.settings import Settings
from innerloop.tabular.training import MetaTraining, TrainedTable

LEVELS = (0.5, 0.8, 0.9, 0.95)
N_FOLDS = 3
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


def coverage(
    settings: Settings, tasks: TaskSet, support_sizes: Sequence[float], tick: Callable[[], None] = lambda: None
) -> Coverage:
    """Fit on the tasks outside each fold, and count the targets of the fold's tasks that lie in their intervals.

    Parameters
    ----------
    settings
        Of the model.
    tasks
        In the units of the data.
    support_sizes
        Numbers of rows that unseen tasks adapt on.
    tick
        Called after each fold.
    """
    fold = stream(settings.seed, Stream.COVERAGE_FOLDS).permutation(np.arange(len(tasks)) % min(N_FOLDS, len(tasks)))

    def of_fold(f: int) -> dict[int, FloatArray]:
        """Return the shares of the fold's tasks, by the number of adaptation rows."""
        rest, unseen = tasks.select(fold != f), tasks.select(np.flatnonzero(fold == f)[:_MOST_TASKS])
        trained = MetaTraining.prepare(rest, settings).choose()
        sizes = [int(n) for n in support_sizes if (unseen.sizes > n).any()]
        return {n: _shares(trained, unseen.select(unseen.sizes > n), n) for n in sizes}

    inside: dict[int, list[FloatArray]] = {int(n): [] for n in support_sizes}
    with one_thread(tasks.n_features):
        for shares in on_threads(of_fold, range(int(fold.max()) + 1)):
            for n, of_tasks in shares.items():
                inside[n].append(of_tasks)
            tick()
    points = [(n, np.concatenate(shares)) for n, shares in inside.items() if shares]
    return Coverage(
        np.array([n for n, _ in points], dtype=float),
        np.array([shares.mean(axis=0) for _, shares in points]),
        np.array([standard_errors(shares) for _, shares in points]),
    )


def _shares(trained: TrainedTable, unseen: TaskSet, n: int) -> FloatArray:
    """Return the share of each task's query rows in their intervals, after n support rows: (n_tasks, n_levels)."""
    tasks, predictor = trained.expand(unseen), trained.predictor
    settings = trained.training.settings
    order = tasks.shuffled(settings.seed) if settings.order is None else np.arange(tasks.n_rows)
    episodes = tasks.hold_out(n, order)
    standardised = np.abs(predictor.residuals(episodes)) / np.sqrt(predictor.episode_variance(episodes))
    task = np.repeat(np.arange(len(unseen)), episodes.n_query)
    shares = np.empty((len(unseen), len(LEVELS)))
    for j, level in enumerate(LEVELS):
        half_width = trained.choice.calibration.half_width(np.array([n]), level)
        share = (standardised <= half_width).mean(axis=1)
        shares[:, j] = np.bincount(task, share) / np.bincount(task)
    return shares

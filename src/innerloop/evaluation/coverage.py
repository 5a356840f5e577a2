"""How often prediction intervals hold the targets of unseen tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.seeds import Stream, stream
from innerloop._base.standard_errors import standard_errors
from innerloop.data.tasks import TaskSet
from innerloop.estimators import MetaRegressor

LEVELS = (0.5, 0.8, 0.9, 0.95)
N_FOLDS = 3
# Tasks that the coverage of intervals is measured on, at most.
_MOST_TASKS = 400


@final
@dataclass(frozen=True, eq=False)
class Coverage:
    """How many targets of unseen tasks lie in their intervals, averaged over tasks.

    Parameters
    ----------
    n_rows : (n_points,)
        Numbers of adaptation rows.
    share, share_se : (n_points, n_levels)
        Of targets inside, at each of `LEVELS`.
    """

    n_rows: FloatArray
    share: FloatArray
    share_se: FloatArray


def coverage(
    model: MetaRegressor, tasks: TaskSet, ladder: FloatArray, tick: Callable[[], None] = lambda: None
) -> Coverage:
    """Fit on some tasks, and count the targets of the others inside their intervals."""
    seed = model.settings().seed
    fold = stream(seed, Stream.COVERAGE_FOLDS).permutation(np.arange(len(tasks)) % min(N_FOLDS, len(tasks)))
    inside: dict[int, list[FloatArray]] = {int(n): [] for n in ladder}
    for f in range(int(fold.max()) + 1):
        rest, unseen = tasks.select(fold != f), tasks.select(np.flatnonzero(fold == f)[:_MOST_TASKS])
        fitted = MetaRegressor(**model.get_params()).set_params(group=None)
        fitted.fit(rest.X, rest.y, groups=rest.task_of_row)
        for n, shares in inside.items():
            own = unseen.select(unseen.sizes > n)
            if len(own):
                shares.append(_shares(fitted, own, n, seed))
        tick()
    points = [(n, np.concatenate(shares)) for n, shares in inside.items() if shares]
    return Coverage(
        np.array([n for n, _ in points], dtype=float),
        np.array([shares.mean(axis=0) for _, shares in points]),
        np.array([standard_errors(shares) for _, shares in points]),
    )


def _shares(model: MetaRegressor, unseen: TaskSet, n: int, seed: int) -> FloatArray:
    """Return the share of each task's other rows inside its intervals: (n_tasks, n_levels)."""
    order = unseen.shuffled(seed)
    place = np.arange(unseen.n_rows) - np.repeat(unseen.starts[:-1], unseen.sizes)
    task = unseen.task_of_row
    known = model
    if n:
        rows = order[place < n]
        known = model.adapt(unseen.X[rows], unseen.y[rows], groups=task[place < n])
    rest = order[place >= n]
    owner = task[place >= n] if n else None
    shares = np.empty((len(unseen), len(LEVELS)))
    for j, level in enumerate(LEVELS):
        low, high = known.predict_interval(unseen.X[rest], groups=owner, level=level)
        hit = (unseen.y[rest] >= low) & (unseen.y[rest] <= high)
        share = hit if hit.ndim == 1 else hit.mean(axis=1)
        shares[:, j] = np.bincount(task[place >= n], share, len(unseen)) / np.bincount(task[place >= n])
    return shares

"""The rows of many tasks in blocks of equal shape, each task reduced to as few rows as say the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop.data.tasks import TaskSet

_MOST_NUMBERS = 2**22


@final
@dataclass(frozen=True, eq=False)
class RowBlock:
    """Some tasks' rows, turned so that at most p + k are not zero, for p features and k targets.

    Turning a task's rows, ``[X y] -> Q'[X y]`` with orthogonal Q, changes neither ``X'X``, ``X'y`` and ``y'y`` nor
    anything that is computed of them; nor do rows of zeros.

    Parameters
    ----------
    members : (n_members,)
        Positions of the tasks.
    n_rows : (n_members,)
        How many rows each has.
    X : (n_members, n_turned, n_features)
    y : (n_members, n_turned, n_targets)

    Notes
    -----
    Rows that were turned before may be turned again; `n_rows` is then their number, not that of the task.
    """

    members: IntArray
    n_rows: IntArray
    X: FloatArray
    y: FloatArray


def row_blocks(tasks: TaskSet, most_numbers: int = _MOST_NUMBERS) -> Iterator[RowBlock]:
    """Yield all tasks in blocks, of which each holds about `most_numbers` numbers at most (or one task)."""
    sizes = tasks.sizes
    order = np.argsort(sizes, kind="stable")
    # Padding to the largest of a block costs less than twice the rows where sizes of a block are within a power of 2.
    power = np.ceil(np.log2(np.maximum(sizes[order], 1)))
    width = tasks.n_features + (1 if tasks.y.ndim == 1 else tasks.y.shape[1])
    for alike in np.split(order, np.flatnonzero(np.diff(power)) + 1):
        if len(alike) == 0:
            continue
        # Those who ask for blocks make matrices of p x p of each task.
        step = max(1, most_numbers // (max(int(sizes[alike[-1]]), width) * width))
        for i in range(0, len(alike), step):
            yield _block(tasks, alike[i : i + step])


def _block(tasks: TaskSet, members: IntArray) -> RowBlock:
    sizes, p = tasks.sizes[members], tasks.n_features
    place = np.arange(sizes.max())
    rows = tasks.starts[members, None] + np.minimum(place, sizes[:, None] - 1)
    y = np.take(tasks.y, rows, axis=0).reshape(*rows.shape, -1)
    turned = np.concatenate((np.take(tasks.X, rows, axis=0), y), axis=2)
    turned[place >= sizes[:, None]] = 0.0
    if turned.shape[1] > turned.shape[2]:
        turned = np.asarray(np.linalg.qr(turned, mode="r"))
    return RowBlock(members, sizes, turned[:, :, :p], turned[:, :, p:])

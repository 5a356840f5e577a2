"""Seeds to random numbers that do not depend on the order of work.

Streams are addressed by index, never by the order in which they are asked for. A draw is addressed in one of two ways:
``stream(seed, i)`` is the i-th of many equal draws (run i of a simulation, task i of a sample), and
``stream(seed, Stream.X, ...)`` is a draw of one purpose while a table is fitted, evaluated or reported.
"""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np

from innerloop._base.checks import as_count


@unique
class Stream(IntEnum):
    """Purposes of random draws from one seed. A number, once given, is not given again: results depend on it."""

    ROW_FOLDS = 0
    TASK_FOLDS = 1
    NESTED_FOLDS = 2
    VARIANCE_SAMPLE = 3
    SCORED_TASKS = 4
    BUNDLES = 5
    COVERAGE_FOLDS = 6
    CURVE_TASKS = 7
    BOOTSTRAP = 8
    ADVICE_TASKS = 9
    ADVICE_ROWS = 10
    ADVICE_ORDER = 11


def stream(seed: int, *index: int) -> np.random.Generator:
    """Return the random generator number `index` of `seed`."""
    return np.random.default_rng(np.random.SeedSequence(as_count(seed, "seed", 0), spawn_key=index))

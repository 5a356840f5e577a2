"""Targets that least squares does not suit as they are: positive ones, two classes, counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.data.frames import row_name

# Squares of squared errors, of which standard errors are made, must be finite.
LARGEST = 1e75


def log_targets(y: FloatArray, name: str, place: Callable[[int], str] = row_name) -> FloatArray:
    """Return logarithms of targets; NaN, where there is no target, stays.

    Raises
    ------
    ValueError
        If targets are not positive; the message says how many, and where the first is.
    """
    bad = np.asarray(y <= 0).reshape(len(y), math.prod(y.shape[1:])).any(axis=1)
    if bad.any():
        row, n = int(np.argmax(bad)), int(bad.sum())
        value = float(np.min(y[row]))
        rows = f"{place(row)}" + (f" and {n - 1} more row{'s' if n > 2 else ''}" if n > 1 else "")
        raise ValueError(
            f"{name} must be positive for logarithms, got {value:g}, {rows}; leave such rows out, or fit without the "
            "transform."
        )
    return np.asarray(np.log(y))


def target_notes(y: FloatArray) -> tuple[str, ...]:
    """Return what to know about a fit by least squares to targets of two classes or counts; often nothing."""
    columns = y.reshape(len(y), math.prod(y.shape[1:])).T
    return tuple(_notes(columns)) if len(y) else ()


def _notes(columns: FloatArray) -> Iterator[str]:
    for k, column in enumerate(columns):
        name = "the target" if len(columns) == 1 else f"target {k}"
        if not (column == np.trunc(column)).all() or column.min() != 0 or column.max() == 0:
            continue
        if column.max() == 1:
            yield (
                f"{name} has only 0 and 1: predictions are probabilities by least squares and may lie beyond 0 and 1; "
                "ignore intervals, and take a logistic mixed model where probabilities near 0 or 1 matter"
            )
        else:
            yield (
                f"{name} has whole numbers from 0 up: if it counts, its noise grows with its level, and intervals are "
                "too wide where it is low, too narrow where it is high; fit its square root or log(1 + y) instead"
            )


def check_size(largest: float) -> None:
    """Refuse targets of which the largest in size is too large to square."""
    if not largest < LARGEST:
        raise ValueError(f"`y` must lie between -{LARGEST:g} and {LARGEST:g}; rescale it.")

"""Argument checks shared by the whole package: one place for each message.

Every error names the argument in backticks, says what was expected, what came, where, and what to do.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]


def as_floats(value: ArrayLike, name: str) -> FloatArray:
    """Return `value` as a float64 array; refuse what is not real numbers."""
    raw = np.asarray(value)
    if raw.dtype.kind in "cmM":
        raise TypeError(f"`{name}` must hold real numbers, got dtype {raw.dtype}; convert it first.")
    try:
        return np.asarray(raw, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must hold numbers only, got dtype {raw.dtype} ({error}); encode or drop what is not a number."
        ) from error


def check_finite(array: FloatArray, name: str, columns: Sequence[str] | None = None) -> None:
    """Refuse NaN and infinity, naming the first row and column that hold one."""
    if np.isfinite(array).all():
        return
    index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
    kind = "missing (NaN)" if np.isnan(array[index]) else "infinite"
    if not index:
        raise ValueError(f"`{name}` must be finite, got {float(array)}.")
    where = f"row {index[0]}"
    if len(index) > 1:
        column = index[1]
        where += f", column {columns[column]!r}" if columns is not None else f", column {column}"
    raise ValueError(
        f"`{name}` must be finite, got a value that is {kind} at {where} (counted from 0); drop or fill such rows."
    )


def as_matrix(value: ArrayLike, name: str, columns: Sequence[str] | None = None) -> FloatArray:
    """Return a finite float64 matrix (rows, columns)."""
    matrix = as_floats(value, name)
    if matrix.ndim != 2:
        raise ValueError(
            f"`{name}` must be 2-dimensional (rows, features), got {matrix.ndim} dimension(s); "
            "use reshape(-1, 1) for one feature."
        )
    check_finite(matrix, name, columns)
    return matrix


def as_targets(value: ArrayLike, name: str, n_rows: int) -> FloatArray:
    """Return finite targets, one per row: (n_rows,) or (n_rows, n_targets)."""
    targets = as_floats(value, name)
    if targets.ndim not in (1, 2) or (targets.ndim == 2 and targets.shape[1] == 0):
        raise ValueError(f"`{name}` must have shape (rows,) or (rows, targets), got shape {targets.shape}.")
    if len(targets) != n_rows:
        raise ValueError(f"`{name}` must have one row per row of features ({n_rows}), got {len(targets)}.")
    check_finite(targets, name)
    return targets


def as_count(value: SupportsIndex, name: str, minimum: int = 1) -> int:
    """Return a whole number of at least `minimum`."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be a whole number, got {value!r}.") from None
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be a whole number, got {value!r}.")
    if count < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {count}.")
    return count


def as_number(value: Any, name: str) -> float:
    """Return a real number."""
    number = as_floats(value, name)
    if number.ndim != 0:
        raise ValueError(f"`{name}` must be a single number, got shape {number.shape}.")
    return float(number)


def as_rate(value: Any, name: str) -> float:
    """Return a learning rate: any finite real number, of either sign."""
    rate = as_number(value, name)
    if not np.isfinite(rate):
        raise ValueError(f"`{name}` must be a finite number (zero and negative are fine), got {rate}.")
    return rate


def as_nonnegative(value: ArrayLike, name: str) -> FloatArray:
    """Return finite numbers that are zero or positive."""
    array = as_floats(value, name)
    check_finite(array, name)
    if (array < 0).any():
        raise ValueError(f"`{name}` must be zero or positive, got {float(array.min())}.")
    return array


def as_weights(value: ArrayLike, name: str, n_rows: int) -> FloatArray:
    """Return the weights of rows, finite and none negative: (n_rows,). One number is the weight of every row."""
    weights = as_floats(value, name)
    if weights.ndim == 0:
        weights = np.full(n_rows, float(weights))
    if weights.shape != (n_rows,):
        raise ValueError(f"`{name}` must have one number for each of the {n_rows} rows, got shape {weights.shape}.")
    check_finite(weights, name)
    if (weights < 0).any():
        row = int(np.argmax(weights < 0))
        raise ValueError(f"`{name}` must be zero or positive, got {weights[row]:g} at row {row} (counted from 0).")
    if not weights.any():
        raise ValueError(f"`{name}` must be positive in some row, but it is zero in all, which leaves no rows.")
    return weights


def as_positions(value: ArrayLike, name: str, n: int) -> IntArray:
    """Return the positions among `n` things that `value` names, as numpy does.

    Whole numbers are positions, negative ones counted from the end; order and repeats are kept. Bools are one for each
    of the `n`.
    """
    given = np.asarray(value)
    if given.size == 0 and given.ndim == 1 and given.dtype != bool:
        return np.empty(0, dtype=np.intp)
    if given.ndim != 1 or given.dtype.kind not in "biu":
        raise TypeError(
            f"`{name}` must be a list of positions (whole numbers) or of bools, got dtype {given.dtype} of shape "
            f"{given.shape}."
        )
    if given.dtype == bool:
        if len(given) != n:
            raise ValueError(f"`{name}` must hold one bool for each of {n}, got {len(given)}.")
        return np.flatnonzero(given)
    outside = (given < -n) | (given >= n)
    if outside.any():
        raise IndexError(f"`{name}` must hold positions from {-n} to {n - 1}, got {given[outside][0]}.")
    return given.astype(np.intp) % max(n, 1)


def check_nonnegative_number(value: Any, name: str) -> None:
    """Refuse anything but one finite number that is zero or positive."""
    if as_nonnegative(value, name).ndim:
        raise ValueError(f"`{name}` must be a single number.")

"""Argument checks shared by all rooms: one place for each message.

Every error names the argument in backticks, says what was expected, what came, where, and what to do.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

# How whole numbers are written, also where they come from a column of floats; 007 is no number.
_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0)?")
_LARGEST_EXACT = 2**53


def as_floats(value: ArrayLike, name: str) -> FloatArray:
    """Return `value` as a float64 array, or say why it is not one."""
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
    """Refuse NaN and infinity, naming the first place."""
    if np.isfinite(array).all():
        return
    place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
    kind = "missing (NaN)" if np.isnan(array[place]) else "infinite"
    if not place:
        raise ValueError(f"`{name}` must be finite, got {float(array)}.")
    where = f"row {place[0]}"
    if len(place) > 1:
        column = place[1]
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


def check_nonnegative_number(value: Any, name: str) -> None:
    """Refuse what is not one finite number that is zero or positive."""
    if as_nonnegative(value, name).ndim:
        raise ValueError(f"`{name}` must be a single number.")


def as_labels(value: Any, name: str, n_rows: int) -> NDArray[Any]:
    """Return task ids, one per row, as an array of numbers or of text that can be sorted."""
    # A list goes through the checks of its objects: numpy would turn [1, "a"] and [nan, "a"] into text.
    labels = np.asarray(value, dtype=object if isinstance(value, list | tuple) else None)
    if labels.ndim != 1 or len(labels) != n_rows:
        raise ValueError(f"`{name}` must hold one task id per row ({n_rows}), got shape {labels.shape}.")
    if labels.dtype.kind == "O":
        labels = _labels_from_objects(labels, name)
    if labels.dtype.kind in "fcmM" and (labels != labels).any():
        raise ValueError(f"`{name}` has a missing task id at row {int(np.argmax(labels != labels))}.")
    if labels.dtype.kind not in "iufbU":
        raise TypeError(f"`{name}` must hold numbers or text, got dtype {labels.dtype}; convert it to text.")
    return labels


def whole_numbers(ids: NDArray[Any]) -> NDArray[Any]:
    """Return ids as whole numbers where every one is, a float or text such as "12" or "12.0" too; else unchanged."""
    if ids.dtype.kind == "f" and (np.abs(ids) < _LARGEST_EXACT).all() and (ids == np.trunc(ids)).all():
        return ids.astype(np.int64)
    if ids.dtype.kind == "U" and len(ids):
        texts = ids.tolist()
        different = set(texts)
        if all(map(_WHOLE.fullmatch, different)):
            number = {text: int(plain_id(text)) for text in different}
            return np.array([number[text] for text in texts], dtype=np.int64)
    return ids


def plain_id(text: str) -> str:
    """Return "12" for "12.0", and other text as it is."""
    return text.removesuffix(".0") if _WHOLE.fullmatch(text) else text


def id_texts(ids: NDArray[Any]) -> list[str]:
    """Return each id as text, the same for a whole number of any type."""
    if ids.dtype.kind != "f":
        return [str(i) for i in ids.tolist()]
    return [str(int(i)) if i.is_integer() else str(i) for i in ids.tolist()]


def _is_missing(label: Any) -> bool:
    """Return whether a task id is None, NaN, NaT or NA, which alone are not equal to themselves."""
    equal = label is not None and label == label
    return not (isinstance(equal, bool | np.bool_) and equal)


def _labels_from_objects(labels: NDArray[Any], name: str) -> NDArray[Any]:
    for row, label in enumerate(labels):
        if _is_missing(label):
            raise ValueError(f"`{name}` has a missing task id at row {row}; drop the row or name its task.")
    if all(isinstance(label, str) for label in labels):
        return labels.astype(np.str_)
    if any(isinstance(label, str) for label in labels):
        raise TypeError(f"`{name}` mixes text and numbers; convert all task ids to text.")
    try:
        return np.array(labels.tolist())
    except ValueError as error:
        raise TypeError(f"`{name}` must hold numbers or text, got {type(labels[0]).__name__}.") from error

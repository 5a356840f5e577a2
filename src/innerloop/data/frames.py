"""Numbers out of data frames of any library, with messages that name the row and the column."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import narwhals as nw
import numpy as np

from innerloop._base.checks import FloatArray


def _row(row: int) -> str:
    return f"row {row} (counted from 0)"


def column_names(frame: nw.DataFrame[Any], wanted: Sequence[str], name: str) -> None:
    """Refuse columns that `frame` does not have."""
    for column in wanted:
        if column not in frame.columns:
            raise ValueError(missing_column(column, frame.columns, name))


def missing_column(column: str, columns: Sequence[str], name: str) -> str:
    """Return the message for a column that is not there."""
    close = get_close_matches(str(column), [str(c) for c in columns], n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(repr, columns[:30]))}."
    return f"{name} has no column {column!r}; {hint}"


def numeric_columns(
    frame: nw.DataFrame[Any], columns: Sequence[str], name: str, place: Callable[[int], str] = _row
) -> FloatArray:
    """Return these columns as a finite float64 matrix (rows, columns).

    `name` is what messages call the frame, and ``place(i)`` its row i.
    """
    matrix = np.empty((len(frame), len(columns)))
    for j, column in enumerate(columns):
        try:
            matrix[:, j] = _numbers(frame.get_column(column))
        except _BadCellError as bad:
            raise bad.kind(f"{name} has {bad.what} in column {column!r}, {place(bad.row)}; {bad.remedy}.") from None
        except TypeError as error:
            raise TypeError(f"column {column!r} of {name} {error}") from None
    return matrix


class _BadCellError(Exception):
    """A cell that is no finite number: what it is, where, and what to do."""

    def __init__(self, kind: type[Exception], what: str, row: int, remedy: str) -> None:
        super().__init__(what)
        self.kind, self.what, self.row, self.remedy = kind, what, row, remedy


def _numbers(series: nw.Series[Any]) -> FloatArray:
    """Return one column as finite floats."""
    if not (series.dtype.is_numeric() or series.dtype in (nw.Boolean, nw.Object, nw.String, nw.Unknown)):
        raise TypeError(f"must hold numbers, got {series.dtype}; drop or encode it.")
    absent = series.is_null().to_numpy()
    if absent.any():
        raise _BadCellError(ValueError, "a missing value", int(np.argmax(absent)), "fill it in or drop the row")
    values = series.to_numpy()
    if values.dtype.kind == "c":
        raise TypeError("must hold real numbers, got complex ones; take the real part.")
    if values.dtype.kind not in "iufb":
        values = np.array([_number(value, row) for row, value in enumerate(values)])
    floats: FloatArray = values.astype(np.float64)
    if not np.isfinite(floats).all():
        row = int(np.argmin(np.isfinite(floats)))
        what = "a missing value" if np.isnan(floats[row]) else f"an infinite value ({floats[row]})"
        raise _BadCellError(ValueError, what, row, "fill it in or drop the row")
    return floats


def _number(value: Any, row: int) -> float:
    """Return one cell as a float."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise _BadCellError(TypeError, f"the text {str(value)!r}", row, "drop or encode the column") from None


def take_groups(group: str | None, X: Any, groups: Any, required: bool = True) -> tuple[Any, Any]:
    """Return X without the column `group` of task ids, and the task ids."""
    if group is None:
        return X, groups
    import narwhals as nw

    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if not isinstance(frame, nw.DataFrame):
        if groups is None and required:
            raise ValueError(
                f"`group` names the column {group!r}, but X is not a data frame; pass a frame, or the task ids as "
                "groups=..."
            )
        return X, groups
    if group not in frame.columns:
        if groups is None and required:
            raise ValueError(missing_column(group, frame.columns, "`X`"))
        if groups is None:
            warnings.warn(
                f"`X` has no column {group!r} and `groups` is None: all rows are predicted with the meta-parameters, "
                "as rows of unseen tasks. Keep the column, or pass groups=...",
                UserWarning,
                stacklevel=4,  # of `predict` and `predict_interval`
            )
        return X, groups
    if groups is None:
        groups = frame[group].to_numpy()
    return frame.drop(group).to_native(), groups

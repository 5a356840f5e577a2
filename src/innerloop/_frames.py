"""Numbers out of data frames of any library, with messages that name the row and the column."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import narwhals as nw
import numpy as np

from innerloop._checks import FloatArray


def column_names(frame: nw.DataFrame[Any], wanted: Sequence[str], name: str = "frame") -> None:
    """Refuse columns that `frame` does not have."""
    for column in wanted:
        if column not in frame.columns:
            raise ValueError(missing_column(column, frame.columns, name))


def missing_column(column: str, columns: Sequence[str], name: str) -> str:
    """Return the message for a column that is not there."""
    close = get_close_matches(str(column), [str(c) for c in columns], n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(repr, columns[:30]))}."
    return f"`{name}` has no column {column!r}; {hint}"


def numeric_columns(frame: nw.DataFrame[Any], columns: Sequence[str], name: str) -> FloatArray:
    """Return these columns as a finite float64 matrix (rows, columns)."""
    matrix = np.empty((len(frame), len(columns)))
    for j, column in enumerate(columns):
        matrix[:, j] = _numbers(frame[column], column, name)
    return matrix


def _numbers(series: nw.Series[Any], column: str, name: str) -> FloatArray:
    """Return one column as finite floats."""
    if not (series.dtype.is_numeric() or series.dtype in (nw.Boolean, nw.Object, nw.String, nw.Unknown)):
        raise TypeError(
            f"column {column!r} of `{name}` must hold numbers, got {series.dtype}; drop or encode it."
        )
    missing = series.is_null().to_numpy()
    if missing.any():
        raise ValueError(_bad_cell("a missing value", int(np.argmax(missing)), column, name))
    values = series.to_numpy()
    if values.dtype.kind not in "iufb":
        values = np.array([_number(value, row, column, name) for row, value in enumerate(values)])
    floats: FloatArray = values.astype(np.float64)
    if not np.isfinite(floats).all():
        row = int(np.argmin(np.isfinite(floats)))
        kind = "a missing value" if np.isnan(floats[row]) else f"an infinite value ({floats[row]})"
        raise ValueError(_bad_cell(kind, row, column, name))
    return floats


def _number(value: Any, row: int, column: str, name: str) -> float:
    """Return one cell as a float."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(_bad_cell(f"the text {value!r}", row, column, name, "drop or encode")) from None


def _bad_cell(what: str, row: int, column: str, name: str, remedy: str = "fill in or drop") -> str:
    return f"`{name}` has {what} in column {column!r}, row {row} (counted from 0); {remedy} it."

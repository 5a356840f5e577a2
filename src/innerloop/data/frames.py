"""Data frames of any library: their columns by name, and the task ids among them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import narwhals as nw
import numpy as np

from innerloop.data.ids import distinct_ids, places


def row_name(row: int) -> str:
    """Return what a row is called that has no line."""
    return f"row {row} (counted from 0)"


def as_frame(value: Any, name: str) -> nw.DataFrame[Any]:
    """Return a data frame in memory whose columns are named by text, or say what else came."""
    if isinstance(value, nw.DataFrame):
        return value
    try:
        if type(value).__module__.split(".")[0] == "pandas" and getattr(value, "ndim", 0) == 2:
            names = [str(column) for column in value.columns]
            value = value if names == list(value.columns) else value.set_axis(names, axis=1)
        return nw.from_native(value, eager_only=True)
    except (TypeError, nw.exceptions.NarwhalsError) as error:
        kind = f"{type(value).__module__.partition('.')[0]} {type(value).__name__}"
        if type(value).__module__.partition(".")[0] in ("numpy", "builtins", "scipy"):
            raise TypeError(
                f"`{name.strip('`')}` must be a data frame, got {kind}; pandas.DataFrame(...) makes one."
            ) from None
        if "uplicate" in str(error) or "unique" in str(error):
            raise ValueError(f"{name} has two columns of one name; rename one.") from None
        raise TypeError(
            f"{name} must be a data frame in memory (pandas, polars, pyarrow), got {kind}; collect it first, with "
            ".collect() in polars, .compute() in dask, .toPandas() in Spark."
        ) from None


def column_names(frame: nw.DataFrame[Any], wanted: Sequence[str], name: str) -> None:
    """Refuse columns that `frame` does not have."""
    columns = frame.columns
    known = set(columns)
    for column in wanted:
        if column not in known:
            raise ValueError(missing_column(column, columns, name))


def missing_column(column: str, columns: Sequence[str], name: str) -> str:
    """Return the message for a column that is not there."""
    close = get_close_matches(str(column), [str(c) for c in columns], n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(repr, columns[:30]))}."
    return f"{name} has no column {column!r}; {hint}"


def is_frame(value: Any) -> bool:
    """Return whether a value is a data frame in memory."""
    return isinstance(nw.from_native(value, eager_only=True, pass_through=True), nw.DataFrame)


def take_groups(group: str | None, X: Any, groups: Any, required: bool = True) -> tuple[Any, Any]:
    """Return X without the column `group` of task ids, and the task ids.

    Raises
    ------
    ValueError
        If `groups` is given too and says otherwise than that column, so that one of the two is a mistake.
    """
    if group is None:
        return X, groups
    if not is_frame(X):
        if groups is None and required:
            raise ValueError(
                f"`group` names the column {group!r}, but X is not a data frame; pass a frame, or the task ids as "
                "groups=..."
            )
        return X, groups
    frame, group = as_frame(X, "`X`"), str(group)
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
    column = frame.get_column(group).to_numpy()
    if groups is not None:
        _check_same_ids(groups, column, group)
    return frame.drop(group).to_native(), column


def _check_same_ids(groups: Any, column: Any, group: str) -> None:
    n_rows = len(column)
    given, of_column = distinct_ids(groups, "groups", n_rows), distinct_ids(column, f"group={group!r}", n_rows)
    differ = places(given[0], of_column[0])[given[1]] != of_column[1]
    if differ.any():
        row = int(np.argmax(differ))
        raise ValueError(
            f"`groups` and the column {group!r} that `group` names differ in {int(differ.sum())} of {n_rows} rows, "
            f"first in row {row}: {given[0][given[1][row]].item()!r} and {of_column[0][of_column[1][row]].item()!r}; "
            "give one of the two. Where metadata routing passes the groups of a splitter on, "
            "model.set_fit_request(groups=False).set_predict_request(groups=False).set_score_request(groups=False) "
            "keeps them from the model."
        )

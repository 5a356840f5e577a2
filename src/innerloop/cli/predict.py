"""`innerloop predict`: adapt to the groups that have targets, predict the rows that have none."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from innerloop._files import write_whole
from innerloop.estimators import MetaRegressor
from innerloop.storage import load_details, load_model
from innerloop.tables import missing, numbers, read_table


def predict(model: Path, table: Path, /, *, out: Path | None = None, delimiter: str | None = None) -> None:
    """Predict the rows of a table that have no target.

    Groups with labelled rows in the table adapt on them first. Groups seen in training need none; other groups
    are predicted with the meta-parameters. Writes CSV: the group, the row of the table (counted from 1), the
    prediction, and what it rests on ("adapted", "seen" or "meta").

    Parameters
    ----------
    model
        Folder made by `innerloop fit --out`.
    table
        CSV or Parquet file with the group and feature columns; its target column may be absent or partly empty.
    out
        CSV file to write; standard output unless given.
    delimiter
        Between CSV cells of the table.
    """
    regressor, names = load_model(model), load_details(model)
    if not {"group", "target", "features"} <= set(names):
        raise ValueError(f"{model} was not made by `innerloop fit`; it does not say which columns to read.")
    frame = read_table(table, names["group"], delimiter)
    missing(frame, names["features"], table)
    X = pd.DataFrame(numbers(frame, names["features"], table), columns=names["features"])
    groups = frame[names["group"]].to_numpy(dtype=str)
    labelled = np.zeros(len(frame), dtype=bool)
    if names["target"] in frame.columns:
        labelled = frame[names["target"]].notna().to_numpy()
    if labelled.all():
        raise ValueError(
            f"every row of {table} has a value of {names['target']!r}, so none is left to predict; empty those "
            "cells, or leave the column out."
        )
    result = _predict_unlabelled(regressor, frame, X, groups, labelled, names["target"], table)
    content = result.to_csv(index=False)
    if out is None:
        sys.stdout.write(content)
    else:
        write_whole(out, content.encode())


def _predict_unlabelled(
    regressor: MetaRegressor,
    frame: pd.DataFrame,
    X: pd.DataFrame,
    groups: np.ndarray[tuple[int], np.dtype[np.str_]],
    labelled: np.ndarray[tuple[int], np.dtype[np.bool_]],
    target: str,
    table: Path,
) -> pd.DataFrame:
    """Return group, row, prediction and its ground for the rows without targets."""
    seen = regressor.groups_
    if labelled.any():
        # Numbers are read from the whole column, so that a bad cell is named by its place in the file.
        y = numbers(frame.fillna({target: 0.0}), [target], table)[labelled, 0]
        regressor = regressor.adapt(X[labelled], y, groups=groups[labelled])
    rows = ~labelled
    based_on = np.where(np.isin(groups[rows], seen), "seen", "meta")
    based_on[np.isin(groups[rows], groups[labelled])] = "adapted"
    return pd.DataFrame(
        {
            "group": groups[rows],
            "row": np.flatnonzero(rows) + 1,
            "prediction": regressor.predict(X[rows], groups=groups[rows]),
            "based_on": based_on,
        }
    )

"""`innerloop predict`: adapt to the groups that have targets, predict the rows that have none."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.files import check_file, write_whole
from innerloop.cli._output import messages
from innerloop.data.frames import as_frame
from innerloop.data.ids import places
from innerloop.data.table_files import read_table
from innerloop.data.task_table import TargetCode, read_ids
from innerloop.estimators import MetaRegressor
from innerloop.estimators.storage import load_details, load_model
from innerloop.tabular.intervals import as_level

# What a spreadsheet runs as a formula, with the quotes that `_as_text` puts before it; numbers it does not run.
_FORMULA = re.compile(r"[\s']*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def predict(
    model: Path,
    table: Path,
    /,
    *,
    out: Path | None = None,
    level: float | None = None,
    delimiter: str | None = None,
) -> None:
    """Predict the rows of a table that have no target.

    A group with labelled rows in the table adapts on these alone, also if it was seen in training. Groups seen in
    training need no labelled rows; other groups are predicted with the meta-parameters. Writes CSV: the group, the row
    of the table (counted from 1), the prediction, its basis ("adapted", "seen" or "meta"); with `level` an interval.
    A group whose id a spreadsheet would run as a formula (it begins with =, +, - or @ and is no number) is written with
    a ' before it.

    Parameters
    ----------
    model
        Folder made by `innerloop fit --out`.
    table
        CSV or Parquet file with the group and feature columns; its target column may be absent or partly empty.
    out
        CSV file to write; standard output unless given.
    level
        Add columns "lower" and "upper": intervals that contain the target with this probability, 0.9 for instance.
    delimiter
        Between CSV cells of the table.
    """
    if level is not None:
        as_level(level)
    if out is not None:
        check_file(out, "--out")
    regressor, names = load_model(model), load_details(model)
    columns = regressor.columns_
    if columns is None or not {"group", "target"} <= set(names):
        raise ValueError(f"{model} was not made by `innerloop fit`; it does not say which columns to read.")
    if out is not None and out.exists() and out.samefile(table):
        raise ValueError(f"--out names the table itself, {table}; name another file.")
    file = read_table(table, names["group"], delimiter)
    columns.read(file.frame, file.name, file.place)  # whose messages name lines
    target = TargetCode.from_state(names["target"])
    X = file.frame[list(columns.inputs)]
    distinct, task = read_ids(as_frame(file.frame, file.name), names["group"], file.name, file.place)
    seen = places(distinct, regressor.groups_)[task] >= 0
    y = target.read(file.frame, file.name, file.place)
    labelled = ~np.isnan(y)
    if labelled.all():
        raise ValueError(
            f"every row of {table} has a value of {target.name!r}, so there is no row to predict; empty those "
            "cells, or leave the column out."
        )
    if len(regressor.groups_) and not labelled.any() and not seen.any():
        messages.print(
            f"No group of {table} was seen in training and none has labelled rows: all rows are predicted with the "
            "meta-parameters.",
            markup=False,
        )
    predictions = _predict_unlabelled(regressor, X, y, (distinct, task), labelled, level)
    ids = file.frame[names["group"]][~labelled].to_numpy()
    predictions.insert(0, "group", [_as_text(i) for i in ids] if ids.dtype.kind == "O" else ids)
    content = predictions.to_csv(index=False)
    if out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # ids are written as they were read, whatever the terminal
        sys.stdout.write(content)
    else:
        write_whole(out, content.encode())


def _as_text(group: Any) -> Any:
    """Return an id that no spreadsheet runs as a formula.

    It has a quote before it; as ids that begin with quotes and then a formula have one more too, to take one quote off
    what is written is to have what was read.
    """
    is_formula = isinstance(group, str) and _FORMULA.match(group) and not _NUMBER.fullmatch(group)
    return f"'{group}" if is_formula else group


def _predict_unlabelled(
    regressor: MetaRegressor,
    X: pd.DataFrame,
    y: FloatArray,
    ids: tuple[NDArray[Any], IntArray],
    labelled: NDArray[np.bool_],
    level: float | None,
) -> pd.DataFrame:
    """Return row, prediction and its basis for the rows without targets.

    `y` is NaN for the unlabelled, `ids` holds distinct ids and the position of each row's among them.
    """
    distinct, task = ids
    groups, seen = distinct[task], places(distinct, regressor.groups_)[task] >= 0
    if labelled.any():
        regressor = regressor.adapt(X[labelled], y[labelled], groups=groups[labelled])
    rows = ~labelled
    based_on = np.where(seen[rows], "seen", "meta")
    based_on = np.where(np.isin(task[rows], task[labelled]), "adapted", based_on)
    columns = {
        "row": np.flatnonzero(rows) + 1,
        "prediction": regressor.predict(X[rows], groups=groups[rows]),
        "based_on": based_on,
    }
    if level is not None:
        columns["lower"], columns["upper"] = regressor.predict_interval(X[rows], groups=groups[rows], level=level)
    return pd.DataFrame(columns)

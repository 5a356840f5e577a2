"""`innerloop predict`: adapt to the groups that have targets, predict the rows that have none."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, final

import numpy as np
import pandas as pd
from cyclopts import Parameter
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.files import check_file, write_whole
from innerloop.cli._datasets import predict_files, predicts_files
from innerloop.cli._fewshot import SETTINGS
from innerloop.cli._output import messages
from innerloop.data.columns import ColumnMap, Columns
from innerloop.data.frames import as_frame
from innerloop.data.ids import places
from innerloop.data.table_files import read_table
from innerloop.data.task_table import TargetCode, read_ids
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
    update: Annotated[bool, Parameter(negative="")] = False,
    delimiter: str | None = None,
) -> None:
    """Predict the rows of a table that have no target.

    A group with labelled rows in the table adapts on them. Groups seen in training need no labelled rows (a network,
    and a model made with --forget-groups, keep nothing of them); other groups are predicted with the meta-parameters.
    Writes CSV: the group, the row of the table (counted from 1), the prediction, its basis ("adapted", "seen" or
    "meta"); with `level` an interval.
    A group whose id a spreadsheet would run as a formula (it begins with =, +, - or @ and is no number) is written with
    a ' before it.

    Parameters
    ----------
    model
        Folder made by `innerloop fit --out`, or by `innerloop train --out` of a table.
    table
        CSV or Parquet file with the group and feature columns; its target column may be absent or partly empty. With a
        model of files that were not read into memory, a folder of such files: all their rows are predicted.
    out
        CSV file to write; standard output unless given. For a folder of files, the folder for their predictions: a file
        for each, its rows in their order.
    level
        Add columns "lower" and "upper": intervals that contain the target with this probability, 0.9 for instance.
    update
        Let a group that was seen in training adapt on its rows there too, not on the labelled rows of the table alone;
        the table then holds no rows of training.
    delimiter
        Between CSV cells of the table.
    """
    if level is not None:
        as_level(level)
    is_network = (model / SETTINGS).exists()
    if not is_network and predicts_files(model, table):
        predict_files(model, table, out, {"--level": level, "--update": update, "--delimiter": delimiter})
        return
    if out is not None:
        check_file(out, "--out")
    predictor = _network(model, level, update) if is_network else _regressor(model, level, update)
    if out is not None and out.exists() and out.samefile(table):
        raise ValueError(f"--out names the table itself, {table}; name another file.")
    group = predictor.names["group"]
    file = read_table(table, group, delimiter)
    read = predictor.columns.read(file.frame, file.name, file.place)  # whose messages name lines
    target = TargetCode.from_state(predictor.names["target"])
    distinct, task = read_ids(as_frame(file.frame, file.name), group, file.name, file.place)
    y = target.read(file.frame, file.name, file.place)
    labelled = ~np.isnan(y)
    if labelled.all():
        raise ValueError(
            f"every row of {table} has a value of {target.name!r}, so there is no row to predict; empty those "
            "cells, or leave the column out."
        )
    seen = places(distinct, predictor.groups)[task] >= 0
    if len(predictor.groups) and not labelled.any() and not seen.any():
        messages.print(
            f"No group of {table} was seen in training and none has labelled rows: all rows are predicted with the "
            "meta-parameters.",
            markup=False,
        )
    rows = ~labelled
    based_on = np.where(np.isin(task, task[labelled]), "adapted", np.where(seen, "seen", "meta"))
    prediction, interval = predictor.predict(_Rows(file.frame, read, y, distinct, task))
    ids = file.frame[group][rows].to_numpy()
    columns = {
        "group": [_as_text(i) for i in ids] if ids.dtype.kind == "O" else ids,
        "row": np.flatnonzero(rows) + 1,
        "prediction": prediction,
        "based_on": based_on[rows],
    }
    if interval is not None:
        columns["lower"], columns["upper"] = interval
    # Where spreadsheets split at semicolons, what follows one in an id would be a cell, and maybe a formula.
    splits = any(isinstance(i, str) and ";" in i for i in columns["group"])
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if splits else csv.QUOTE_MINIMAL
    content = pd.DataFrame(columns).to_csv(index=False, quoting=quoting)
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


@final
@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a table: features, targets (NaN where there are none), distinct ids and each row's among them."""

    frame: pd.DataFrame
    columns: Columns
    y: FloatArray
    ids: NDArray[Any]
    task: IntArray


Predictions = tuple[FloatArray, tuple[FloatArray, FloatArray] | None]


@final
@dataclass(frozen=True, eq=False)
class _Predictor:
    """What the folder of a model holds: columns, groups of training, and how rows without targets are predicted."""

    names: dict[str, Any]
    columns: ColumnMap
    groups: NDArray[Any]
    predict: Callable[[_Rows], Predictions]


def _regressor(model: Path, level: float | None, update: bool) -> _Predictor:
    """Return the predictor of `innerloop fit --out`."""
    regressor, names = load_model(model), load_details(model)
    columns = regressor.columns_
    if columns is None or not {"group", "target"} <= set(names):
        raise ValueError(f"{model} was not made by `innerloop fit`; it does not say which columns to read.")

    def predict(rows: _Rows) -> Predictions:
        X, groups, labelled = rows.frame[list(columns.inputs)], rows.ids[rows.task], ~np.isnan(rows.y)
        fitted = regressor
        if labelled.any():
            adapt = fitted.update if update else fitted.adapt
            fitted = adapt(X[labelled], rows.y[labelled], groups=groups[labelled])
        X, groups = X[~labelled], groups[~labelled]
        interval = None if level is None else fitted.predict_interval(X, groups=groups, level=level)
        return np.asarray(fitted.predict(X, groups=groups)), interval

    return _Predictor(names, columns, regressor.groups_, predict)


def _network(folder: Path, level: float | None, update: bool) -> _Predictor:
    """Return the predictor of `innerloop train --out`."""
    if level is not None:
        raise ValueError(f"`--level` needs a model of `innerloop fit`; {folder} is a network, which has no intervals.")
    if update:
        raise ValueError(f"`--update` needs a model of `innerloop fit`; {folder} is a network, which keeps no rows.")
    try:
        from innerloop.neural.storage import load_network
    except ImportError:
        raise ValueError("the prediction of a network needs PyTorch: pip install 'innerloop[neural]'.") from None
    network = load_network(folder)
    if "columns" not in network.details:
        raise ValueError(
            f"{folder} was not trained on a table; take `innerloop.neural.load_network` to adapt and call its module."
        )
    columns = ColumnMap.from_state(network.details["columns"])

    def predict(rows: _Rows) -> Predictions:
        X, labelled = columns.transform(rows.columns), ~np.isnan(rows.y)
        prediction = np.full(len(X), np.nan)
        for members in np.split(np.argsort(rows.task, kind="stable"), np.cumsum(np.bincount(rows.task))[:-1]):
            known, asked = members[labelled[members]], members[~labelled[members]]
            if len(asked):
                prediction[asked] = network.predict(X[asked], (X[known], rows.y[known]) if len(known) else None)
        return prediction[~labelled], None

    return _Predictor(network.details, columns, np.empty(0, dtype=object), predict)

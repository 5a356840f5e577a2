"""`innerloop update`: fold new rows and new groups into a saved model, without the rows that it was fitted to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from innerloop.cli._datasets import is_large, update_files
from innerloop.cli._fewshot import SETTINGS
from innerloop.cli._output import console
from innerloop.data.dataset import TaskDataset
from innerloop.data.frames import as_frame, column_names
from innerloop.data.table_files import read_table
from innerloop.data.targets import log_targets
from innerloop.data.task_table import TargetCode, read_ids, read_weights
from innerloop.estimators import MetaRegressor
from innerloop.estimators.storage import check_writable, load_details, load_model, save_model


def update(
    model: Path,
    table: Path,
    /,
    *,
    out: Path,
    weights: str | None = None,
    delimiter: str | None = None,
    work: Path | None = None,
    n_jobs: int = 1,
    scheduler: str | None = None,
) -> None:
    """Add the rows of a table to a saved model, without the rows that it was fitted to.

    The population's coefficients and the noise are estimated anew from old and new rows together, new groups join, and
    known groups adapt anew. Scales, curves, weights of candidates, variances between groups and the calibration of
    intervals stay as they were chosen; fit anew to choose again. Each row is to be given once.

    Parameters
    ----------
    model
        Folder made by `innerloop fit --out`.
    table
        CSV or Parquet file with the group, feature and target columns of the fit, or a folder of such files. Rows
        without target are left out; in files that are not read into memory, as those for a model of such files, they
        are refused.
    out
        Folder to save the updated model to; it may be that of the model.
    weights
        Column with the precisions of the rows, in the unit of those of the fit; that of the fit unless given.
    delimiter
        Between CSV cells.
    work
        Folder for what is finished of a folder of files, from which an update that was stopped goes on.
    n_jobs
        Processes for a folder of files; -1 takes all cores.
    scheduler
        Address of a Dask scheduler, whose workers then compute: tcp://host:8786.
    """
    if (model / SETTINGS).exists():
        raise ValueError(f"{model} is a network, which keeps no sums of its rows; train it again.")
    fitted, names = load_model(model), load_details(model)
    columns = fitted.columns_
    if columns is None or not {"group", "target"} <= set(names):
        raise ValueError(f"{model} was not made by `innerloop fit`; it does not say which columns to read.")
    before, group, target = fitted.coef_, names["group"], TargetCode.from_state(names["target"])
    of_fit = names.get("dataset", {"weights": names.get("weights")})
    weights = of_fit.get("weights") if weights is None else weights
    in_files = "dataset" in names or work is not None or n_jobs != 1 or scheduler is not None
    if in_files or is_large(table):
        data = TaskDataset(table, group, target.name, of_fit.get("features", columns.inputs), weights=weights)
        updated = update_files(fitted, data, out, work, n_jobs, scheduler, {"--delimiter": delimiter})
    else:
        check_writable(out)
        updated = fitted.update(*_rows(fitted, table, group, target, weights, delimiter), population=True)
        save_model(updated, out, {name: names[name] for name in ("group", "target", "weights") if name in names})
    _show(fitted, updated, before, out)


def _rows(
    fitted: MetaRegressor, table: Path, group: str, target: TargetCode, weights: str | None, delimiter: str | None
) -> tuple[Any, Any, Any, Any]:
    """Return features, targets, ids and weights of the rows that have a target."""
    assert fitted.columns_ is not None
    file = read_table(table, group, delimiter)
    fitted.columns_.read(file.frame, file.name, file.place)  # whose messages name lines
    frame = as_frame(file.frame, file.name)
    ids, task = read_ids(frame, group, file.name, file.place)
    y = target.read(file.frame, file.name, file.place)
    if fitted.target_transform == "log":
        log_targets(y, f"column {target.name!r} of {file.name}", file.place)  # whose message names a line
    known, of_rows = ~np.isnan(y), None
    if weights is not None:
        column_names(frame, [weights], file.name)
        of_rows = read_weights(frame, weights, file.name, file.place)
        known &= of_rows > 0
        of_rows = of_rows[known]
    if not known.any():
        raise ValueError(f"{table} has no row with a value of {target.name!r}, so there is nothing to add.")
    return file.frame[list(fitted.columns_.inputs)][known], y[known], ids[task[known]], of_rows


def _show(fitted: MetaRegressor, updated: MetaRegressor, before: Any, out: Path) -> None:
    sums = updated._table.population_sums()
    names, moved = updated.feature_labels(), zip(before.reshape(-1), updated.coef_.reshape(-1), strict=True)
    coef = [f"{name} {old:.4g} -> {new:.4g}" for name, (old, new) in zip(names[:10], moved, strict=False)]
    n_new = len(updated.groups_) - len(fitted.groups_)
    for line in (
        f"{n_new} new group{'' if n_new == 1 else 's'}; in all {sums.n_tasks} groups, {sums.n_rows} rows",
        f"population: intercept {float(fitted.intercept_):.4g} -> {float(updated.intercept_):.4g}, {', '.join(coef)}"
        + (", ..." if len(names) > 10 else ""),
        f"\nSaved the model to {out}",
    ):
        console.print(line, soft_wrap=True, markup=False)

"""Updates of a fitted model by a dataset: its rows join the sums of the population, its groups those that are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from innerloop._base.checks import IntArray
from innerloop._blocks.store import Arrays
from innerloop.data.buckets import bucket_bits
from innerloop.data.columns import ColumnMap
from innerloop.data.dataset import TaskDataset
from innerloop.data.frames import missing_column
from innerloop.estimators.dataset_fit import (
    Workers,
    check_room,
    details_of,
    divide,
    gather_sums,
    sweep,
    work_folder,
    write_groups,
)
from innerloop.estimators.model_folder import check_writable, write_folder
from innerloop.estimators.stored_groups import StoredGroups, with_groups
from innerloop.tabular.fitted_table import FittedTable, no_rows_kept
from innerloop.tabular.joining import JoinGroups, JoinSums, joined_ids
from innerloop.tabular.population_sums import PopulationSums
from innerloop.tabular.settings import read_settings
from innerloop.tabular.totals import Design


def update_dataset(
    parameters: Mapping[str, Any],
    table: FittedTable,
    features: Sequence[str] | None,
    data: TaskDataset,
    out: Path,
    work: Path | None,
    workers: Workers,
    is_log: bool,
) -> FittedTable:
    """Update a fitted table by a dataset and write the model to a folder; see `MetaRegressor.update_dataset`.

    Parameters
    ----------
    parameters
        Of the `MetaRegressor`.
    table
    features
        Names of the columns of X.
    data
    out, work, workers
        As in `innerloop.estimators.dataset_fit.fit_dataset`.
    is_log
        Whether targets are replaced by their logarithms.
    """
    columns = _check_columns(table, data)
    settings = read_settings(parameters)
    table.check_exchange(np.empty(0, dtype=np.int64))
    sweep(out)
    check_writable(out)
    rows = replace(data.table, features=columns.inputs, is_log=is_log, encoding=columns)
    p, n_targets = table.predictor.unseen.shape
    with work_folder(work, out) as folder:
        table = table if table.counted is None else table.recounted()
        stored = StoredGroups.of(table.known, folder)
        n_known, n_kept = len(stored.known.tasks), stored.known.tasks.n_rows
        # As many units as keep the known groups of one in memory.
        least_bits = bucket_bits(n_known * (p * n_targets + 3) + n_kept * (p + n_targets), 1)
        divided = divide(data, rows, folder, settings, workers, least_bits)
        table.check_extremes(divided.extremes)
        population = divided.population
        sums, design = table.population_sums(), Design(table.scaling, table.curves)
        units = gather_sums(
            JoinSums(population, design, sums.task_cov, sums.episodes, stored), population, folder, workers
        )
        counts = _check_counts(units, sums)
        table = table.with_sums(_joined(sums, units, counts))
        kinds = [stored.known.tasks.ids.dtype, np.dtype(f"<U{counts[2] // 4}" if population.is_text else np.int64)]
        id_type = np.promote_types(*kinds)  # of whole numbers as text it is wide enough for all
        n_groups = n_known + int(counts[0])
        n_rows = min(n_kept + population.n_rows, n_groups * (p + n_targets))
        check_room(folder, out, (n_groups, n_rows), table, id_type, stored.keeps_rows)
        join = JoinGroups(population, design, table.predictor, stored)
        description = write_groups(join, population, folder, out, workers, id_type, (p, n_targets))
        write_folder(out, parameters, table.forget_groups(), features, details_of(rows), description)
        return with_groups(table, out, description)


def _check_columns(table: FittedTable, data: TaskDataset) -> ColumnMap:
    """Return how columns become features, or refuse a dataset that is not like that of the fit."""
    if table.columns is None:
        raise ValueError(
            "`update_dataset` needs the names of the features; fit a dataset or a frame, or update by arrays with "
            "`update`."
        )
    for name in table.columns.inputs:
        if name not in data.features:
            raise ValueError(missing_column(name, list(data.features), "`data`"))
    n_targets = len(table.effects.noise)
    if (len(data.table.targets), data.table.single_target) != (n_targets, table.single_target):
        raise ValueError(f"`data` must have the {n_targets} target(s) seen in fit, got {list(data.table.targets)}.")
    return table.columns


def _check_counts(units: Sequence[Arrays], sums: PopulationSums) -> IntArray:
    """Return the numbers of new tasks and of rows, and the most bytes of an id; refuse groups that cannot be joined."""
    if lost := [unit["lost"] for unit in units if len(unit["lost"])]:
        ids = joined_ids(lost)
        raise no_rows_kept(ids[0].item(), len(ids), is_of_steps=sums.objective is not None)
    counts = np.array([unit["counts"] for unit in units])
    return np.append(counts[:, :2].sum(axis=0), counts[:, 2].max())


def _joined(sums: PopulationSums, units: Sequence[Arrays], counts: IntArray) -> PopulationSums:
    """Return the sums with what all units add, in their order."""
    objective = None
    if sums.objective is not None:
        objectives = [
            replace(
                sums.objective, factor=unit["factor"], weight=float(unit["weight"][0]), n_tasks=int(unit["weight"][1])
            )
            for unit in units
            if "factor" in unit
        ]
        objective = sum(objectives[1:], objectives[0]) if objectives else None
    totals = np.sum([unit["totals"] for unit in units], axis=0)
    return sums.joined(totals, int(counts[0]), int(counts[1]), objective)
